"""One way to score HellaSwag's items, in a process of its own that scores when it is told to.

    hellaswag_ways.py bf16 MODEL_FOLDER ITEMS.jsonl --threads 2

Commands on its standard input: `cleaned 16 200` scores the first 200 items as lm-eval renders them, 16 rows at a time
where the way has batches; `as_is 0 200` the text itself. Every answer has the seconds and the choices by the sum of the
log-probabilities (`cleaned`) or by their mean over the tokens (`as_is`). Written anew: the predecessor's loop.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from turns import answer

from nano_gpt.checkpoint.folder import read_model_folder
from nano_gpt.evaluation.choices import encode_choices, score_rows
from nano_gpt.evaluation.hellaswag_items import Item, load_items
from nano_gpt.evaluation.scoring import packed_for_scoring
from nano_gpt.runtime.device import autocast
from nano_gpt.tokenizer import load_tokenizer

OURS = ("fp32", "bf16")
LM_EVAL = ("lm_eval_fp32", "lm_eval_bf16")
PREDECESSOR = "predecessor"
WAYS = {
    "fp32": "`nano-gpt eval`",
    "bf16": "`nano-gpt eval --dtype bf16`",
    "lm_eval_fp32": "lm-eval's HF backend, fp32",
    "lm_eval_bf16": "lm-eval's HF backend, bf16",
    PREDECESSOR: "the predecessor's loop, written anew: an item at a time, padded to its length in characters, bf16",
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Score = Callable[[list[Item], str, int], list[int]]  # items, rendering, rows at a time -> choices


def ours(folder: Path, dtype: torch.dtype) -> Score:
    model, tokenizer = packed_for_scoring(read_model_folder(folder), dtype), load_tokenizer(folder)

    def score(items: list[Item], rendering: str, _: int) -> list[int]:
        by_item = [
            encode_choices(tokenizer, context, [f" {ending}" for ending in endings])
            for context, endings in (getattr(item, rendering)() for item in items)
        ]
        sums = score_rows(model, [row for rows in by_item for row in rows]).log_likelihoods
        lengths = np.array([row.scored if rendering == "as_is" else 1 for rows in by_item for row in rows])
        return np.argmax((sums / lengths).reshape(len(items), -1), axis=1).tolist()  # type: ignore[no-any-return]

    return score


def lm_eval(folder: Path, dtype: torch.dtype) -> Score:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=str(folder), device="cpu", dtype=str(dtype).removeprefix("torch."), batch_size=1)

    def score(items: list[Item], rendering: str, rows: int) -> list[int]:
        assert rendering == "cleaned"
        model.batch_size_per_gpu = rows
        pairs = [(context, f" {end}") for context, endings in (item.cleaned() for item in items) for end in endings]
        requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
        sums = [found[0] for found in model.loglikelihood(requests, disable_tqdm=True)]
        return np.argmax(np.reshape(sums, (len(items), -1)), axis=1).tolist()  # type: ignore[no-any-return]

    return score


def predecessor(folder: Path) -> Score:
    model, tokenizer = read_model_folder(folder), load_tokenizer(folder)

    @torch.inference_mode()
    def choose(item: Item) -> int:
        context, endings = item.as_is()
        texts = [f"{context} {ending}" for ending in endings]
        width = min(max(map(len, texts)), model.config.n_positions)
        ids, mask = torch.zeros(len(texts), width, dtype=torch.int64), torch.zeros(len(texts), width)
        start = len(tokenizer.encode(context))
        for row, text in enumerate(texts):
            tokens = tokenizer.encode(text)
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, start : len(tokens)] = 1
        with autocast(torch.device("cpu"), torch.bfloat16):
            logits = model(ids)[:, :-1]
        losses = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
        losses = losses.view(len(texts), -1) * mask[:, 1:]
        return int((losses.sum(1) / mask[:, 1:].sum(1)).argmin())

    return lambda items, rendering, rows: [choose(item) for item in items]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("items", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    asked = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(asked.threads)
    dtype = DTYPES.get(asked.way.split("_")[-1], torch.bfloat16)
    makers: dict[str, Callable[[], Score]] = {
        **dict.fromkeys(OURS, lambda: ours(asked.folder, dtype)),
        **dict.fromkeys(LM_EVAL, lambda: lm_eval(asked.folder, dtype)),
        PREDECESSOR: lambda: predecessor(asked.folder),
    }
    items, score = load_items(asked.items), makers[asked.way]()

    def timed(rendering: str, rows: int, count: int, step: int = 1) -> dict[str, Any]:
        some = items[: count * step : step]
        start = time.perf_counter()
        choices = score(some, rendering, rows)
        return {"seconds": (time.perf_counter() - start) / len(some), "choices": choices}

    answer(
        {
            "cleaned": lambda rows, count: timed("cleaned", rows, count),
            "as_is": lambda rows, count, step: timed("as_is", rows, count, step),
        }
    )


if __name__ == "__main__":
    main()
