"""One way to write text, in a process of its own that writes when it is told to.

    decode_ways.py bf16 --threads 2

Commands on its standard input: `write 5 8 128` continues 5 prompts of 8 tokens by 128 each; `bandwidth` reads memory.
All ways have the same random weights, of GPT-2 124M. Written anew: the predecessor's and nanoGPT's loops, which keep
no keys and values.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from turns import answer

from nano_gpt.config import GPTConfig, SamplingConfig
from nano_gpt.inference.engine import Engine
from nano_gpt.model.gpt import GPT
from nano_gpt.model.hf import to_hf, to_hf_config
from nano_gpt.model.packed import pack

OURS = ("fp32", "bf16", "int8")
WAYS = {
    "fp32": "`nano-gpt sample`",
    "bf16": "`nano-gpt sample --dtype bf16`",
    "int8": "`nano-gpt sample --quantize int8`",
    "hf": "transformers' `generate`, fp32",
    "hf_bf16": "transformers' `generate`, bf16",
    "nanogpt": "nanoGPT's loop, written anew: no cache, one sequence at a time, fp32",
    "predecessor": "the predecessor's, written anew: no cache, logits of all positions, fp32",
}
TOP_K = 50
Write = Callable[[torch.Tensor, int], None]  # (B, T) prompts, new tokens


def ours(model: GPT, way: str) -> Write:
    packed = {
        "fp32": lambda: pack(model),
        "bf16": lambda: pack(model, torch.bfloat16),
        "int8": lambda: pack(model, quantize="int8"),
    }[way]()
    engine = Engine(packed, eot_id=-1)  # never drawn: all write to the end
    config = SamplingConfig(num_sequences=1, top_k=TOP_K)

    def write(prompts: torch.Tensor, new: int) -> None:
        rows = engine.generate(prompts.tolist(), config, max_new_tokens=new)
        assert all(len(row.ids) == new for row in rows)

    return write


def hugging_face(model: GPT, dtype: torch.dtype) -> Write:
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**to_hf_config(model.config, 0)))
    weights = to_hf(model.state_dict(), model.config)
    theirs.load_state_dict({f"transformer.{name}": weight for name, weight in weights.items()}, strict=False)
    theirs = theirs.to(dtype).eval()
    settings = {"do_sample": True, "top_k": TOP_K, "eos_token_id": None, "pad_token_id": 0}

    def write(prompts: torch.Tensor, new: int) -> None:
        written = theirs.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=new, **settings)
        assert written.size(1) == prompts.size(1) + new

    return write


@torch.inference_mode()
def without_cache(model: GPT, prompts: torch.Tensor, new: int, *, all_logits: bool) -> None:
    for _ in range(new):
        hidden = model.hidden(prompts)
        logits = model.head(hidden)[:, -1] if all_logits else model.head(hidden[:, -1])
        values, ids = logits.topk(TOP_K)
        drawn = ids.gather(1, torch.multinomial(values.softmax(dim=-1), 1))
        prompts = torch.cat((prompts, drawn), dim=1)


def nanogpt(model: GPT) -> Write:
    def write(prompts: torch.Tensor, new: int) -> None:
        for prompt in prompts:
            without_cache(model, prompt[None], new, all_logits=False)

    return write


def timed(write: Write, rows: int, prompt: int, new: int) -> dict[str, Any]:
    prompts = torch.randint(50257, (rows, prompt), generator=torch.Generator().manual_seed(rows))
    start = time.perf_counter()
    write(prompts, new)
    return {"seconds": time.perf_counter() - start}


def bandwidth(repeats: int = 5) -> dict[str, Any]:
    """Bytes a second of reading memory, the best of some sums over 512 MiB."""
    numbers = torch.ones(2**27)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        numbers.sum()
        seconds.append(time.perf_counter() - start)
    return {"bytes": numbers.nbytes / min(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("--threads", type=int, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=50257)).eval()
    makers: dict[str, Callable[[], Write]] = {
        **{way: lambda: ours(model, asked.way) for way in OURS},
        "hf": lambda: hugging_face(model, torch.float32),
        "hf_bf16": lambda: hugging_face(model, torch.bfloat16),
        "nanogpt": lambda: nanogpt(model),
        "predecessor": lambda: lambda prompts, new: without_cache(model, prompts, new, all_logits=True),
    }
    write = makers[asked.way]()
    answer({"write": lambda rows, prompt, new: timed(write, rows, prompt, new), "bandwidth": bandwidth})


if __name__ == "__main__":
    main()
