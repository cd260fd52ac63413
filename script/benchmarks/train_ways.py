"""One way to make a training step, in a process of its own that makes steps when it is told to.

    train_ways.py ours b --threads 2

On its standard input a line is a command: `steps 3` makes three of them, `peak` multiplies matrices. Each is answered
by one line of JSON. Whoever has several such processes can let them take turns, so that all of them meet the same
machine, and none meets the memory or the settings of another.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import resource
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from turns import answer

from nano_gpt.config import GPTConfig
from nano_gpt.config.training import OptimizerConfig, TrainingConfig
from nano_gpt.data.loader import Batch
from nano_gpt.model.gpt import GPT
from nano_gpt.runtime.device import autocast, resolve_dtype
from nano_gpt.runtime.distributed import Ranks
from nano_gpt.runtime.memory import keep_freed_memory
from nano_gpt.training.guard import StepGuard
from nano_gpt.training.optim import build_optimizer
from nano_gpt.training.step import TrainStep
from nano_gpt.training.strategies import make_strategy

OURS = "ours"
WAYS = {
    OURS: "`nano-gpt train`",
    "nanogpt": "nanoGPT's `train.py` as it is: fp32 on a CPU",
    "predecessor": "the predecessor's, written anew: bf16 autocast, fused attention, plain AdamW",
    "common": "the common way, written anew: the same in fp32",
}

CPU = torch.device("cpu")
OPTIMIZER = OptimizerConfig(learning_rate=1e-3)
Step = Callable[[], float]  # makes one and returns its loss


@dataclass(frozen=True)
class Size:
    """A model and its batch."""

    name: str
    model: GPTConfig
    windows: int

    @property
    def tokens(self) -> int:
        return self.windows * self.model.n_positions

    def batch(self) -> Batch:
        """Random ids: what they are does not change what a step costs."""
        shape = (self.windows, self.model.n_positions + 1)
        ids = torch.randint(self.model.vocab_size or 0, shape, generator=torch.Generator().manual_seed(0))
        return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())


SIZES = {
    "a": Size(
        "nanoGPT's recipe for a laptop: 4 layers of 128, 12 windows of 64 characters",
        GPTConfig(vocab_size=65, n_positions=64, n_embd=128, n_layer=4, n_head=4),
        12,
    ),
    "b": Size(
        "nanoGPT's Shakespeare model, 10.7M parameters: 6 layers of 384, 16 windows of 256 characters",
        GPTConfig(vocab_size=65, n_positions=256, n_embd=384, n_layer=6, n_head=6),
        16,
    ),
    "c": Size("GPT-2 124M: one window of 512 tokens", GPTConfig(vocab_size=50257, n_positions=512), 1),
}


def ours(size: Size) -> Step:
    """The project's own step, of the parts that `nano-gpt train` puts together."""
    keep_freed_memory()  # as training/setup.py does on a CPU
    training = TrainingConfig(optimizer=OPTIMIZER)
    dtype = resolve_dtype(training.dtype, CPU)
    strategy = make_strategy(GPT(size.model), training, Ranks(), CPU, dtype)
    train_step = TrainStep(
        strategy=strategy,
        optimizer=build_optimizer(strategy.model, training.optimizer),
        device=CPU,
        dtype=dtype,
        ranks=Ranks(),
        seed=training.seed,
        gradient_clip=training.optimizer.gradient_clip,
        guard=StepGuard(CPU, training.spike_threshold),
    )
    batches, steps = [size.batch()], itertools.count()
    return lambda: train_step(next(steps), batches, size.tokens, OPTIMIZER.learning_rate).loss.item()


def plain(size: Size, dtype: torch.dtype) -> Step:
    """The usual model and AdamW; with bf16, what the predecessor does on a CPU."""
    model = PlainGPT(size.model)
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": OPTIMIZER.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (OPTIMIZER.beta1, OPTIMIZER.beta2)
    optimizer = torch.optim.AdamW(groups, lr=OPTIMIZER.learning_rate, betas=betas, eps=OPTIMIZER.eps)
    return _their_step(model, model, optimizer, size.batch(), dtype)


def nanogpt(size: Size, checkout: Path) -> Step:
    """`train.py` of a checkout of karpathy/nanoGPT on a CPU, with its own model and optimizer, from one batch on."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", checkout / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    shape = size.model
    model = module.GPT(
        module.GPTConfig(
            block_size=shape.n_positions,
            vocab_size=shape.vocab_size,
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            n_embd=shape.n_embd,
            dropout=0.0,
            bias=False,  # train.py's default
        )
    )
    betas = (OPTIMIZER.beta1, OPTIMIZER.beta2)
    optimizer = model.configure_optimizers(OPTIMIZER.weight_decay, OPTIMIZER.learning_rate, betas, "cpu")
    return _their_step(lambda ids, targets: model(ids, targets)[1], model, optimizer, size.batch(), torch.float32)


def _their_step(
    loss_of: Callable[[Tensor, Tensor], Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    dtype: torch.dtype,
) -> Step:
    model.train()

    def step() -> float:
        for group in optimizer.param_groups:
            group["lr"] = OPTIMIZER.learning_rate
        with autocast(CPU, dtype):
            loss = loss_of(batch.ids, batch.targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER.gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


class PlainGPT(nn.Module):
    """GPT-2 as it is usually written in PyTorch: fused attention, tanh GELU, tied head, nothing made for CPUs."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        C, V = config.n_embd, config.vocab_size or 0
        self.wte, self.wpe = nn.Embedding(V, C), nn.Embedding(config.n_positions, C)
        self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(C)
        for parameter in self.parameters():
            if parameter.dim() >= 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.size(1)))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class PlainBlock(nn.Module):
    """Its attention and its MLP."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        C, self.n_head = config.n_embd, config.n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.qkv, self.out = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.up, self.down = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(self.ln_1(x)).view(B, T, 3, self.n_head, -1).permute(2, 0, 3, 1, 4)  # (B, nh, T, hs) each
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, C)
        x = x + self.out(y)
        return x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))  # type: ignore[no-any-return]


def peak_flops(dtype: torch.dtype, repeats: int = 5) -> float:
    """FLOP/s of the fastest of some products of matrices that fit into the caches."""
    rows, columns = torch.randn(2048, 1024, dtype=dtype), torch.randn(1024, 1024, dtype=dtype)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        F.linear(rows, columns)
        seconds.append(time.perf_counter() - start)
    return 2 * 2048 * 1024 * 1024 / min(seconds)


def peak_rss() -> int:
    """Bytes of resident memory, the most that this process has had."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def peak() -> dict[str, Any]:
    return {"bf16": peak_flops(torch.bfloat16), "fp32": peak_flops(torch.float32)}


def timed(step: Step, steps: int) -> dict[str, Any]:
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return {"seconds": (time.perf_counter() - start) / steps, "peak_rss": peak_rss()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--nanogpt", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    size = SIZES[asked.size]
    makers: dict[str, Callable[[], Step]] = {
        OURS: lambda: ours(size),
        "nanogpt": lambda: nanogpt(size, asked.nanogpt),
        "predecessor": lambda: plain(size, resolve_dtype("auto", CPU)),
        "common": lambda: plain(size, torch.float32),
    }
    with redirect_stdout(sys.stderr):  # nanoGPT's model prints
        step = makers[asked.way]()
    answer({"steps": lambda steps: timed(step, steps), "peak": peak})


if __name__ == "__main__":
    main()
