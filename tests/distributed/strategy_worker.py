"""What every rank of test_strategies.py does, under torchrun and in a process alone; rank 0 writes what came out.

torchrun --nproc_per_node=4 tests/distributed/strategy_worker.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from nano_gpt.config import GPTConfig
from nano_gpt.config.training import OptimizerConfig, TrainingConfig
from nano_gpt.errors import ConfigError
from nano_gpt.model.gpt import GPT
from nano_gpt.runtime import distributed
from nano_gpt.runtime.device import autocast
from nano_gpt.runtime.distributed import Ranks
from nano_gpt.training.optim import build_optimizer, load_optimizer_tensors, optimizer_tensors
from nano_gpt.training.strategies import Strategy, make_strategy

SEQUENCES, LENGTH, VOCABULARY = 8, 8, 70
MAX_NORM = 0.05  # half of what the norms are
Outcome = dict[str, Any]


class Run:
    """A few AdamW steps over the same windows in any topology: one micro-batch per window."""

    def __init__(
        self,
        ranks: Ranks,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        dropout: float = 0.0,
        **settings: Any,
    ) -> None:
        torch.manual_seed(0)
        shape = GPTConfig(vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=16, n_layer=3, n_head=2, dropout=dropout)
        model = GPT(shape)
        for name, parameter in model.named_parameters():  # at its initial scale nothing much would show
            torch.nn.init.normal_(parameter, mean=float(".ln_" in name and "weight" in name), std=0.1)
        self.ranks, self.device, self.dtype = ranks, torch.device(device), dtype
        config = TrainingConfig(**{"compile": False, **settings})
        self.strategy = make_strategy(model, config, ranks, self.device, dtype)
        # A large eps: where gradients are noise around zero, AdamW would make steps of it.
        self.optimizer = build_optimizer(self.strategy.model, OptimizerConfig(eps=1e-4, learning_rate=0.01))
        self.done = 0

    def steps(self, count: int) -> Outcome:
        """Losses and norms of `count` steps, and all that a checkpoint would keep after them."""
        losses, norms = zip(*(self._step() for _ in range(count)), strict=True)
        return {"losses": list(losses), "norms": list(norms), **self.checkpoint()}

    def checkpoint(self) -> Outcome:
        strategy = self.strategy
        return {
            "weights": strategy.to_host(strategy.model.state_dict()),
            "moments": strategy.to_host(optimizer_tensors(self.optimizer, strategy.model)),
        }

    def load(self, saved: Outcome) -> None:
        self.strategy.load_weights(saved["weights"])
        load_optimizer_tensors(self.optimizer, self.strategy.model, saved["moments"])
        self.done = len(saved["losses"])

    def logits(self) -> torch.Tensor:
        with self.strategy.whole_model() as model, torch.no_grad():
            if self.ranks.is_main:  # the others do nothing meanwhile
                return model.eval()(windows(9).to(self.device)).cpu()
            return torch.empty(0)

    def _step(self) -> tuple[float, float]:
        torch.manual_seed(1000 * self.done + self.ranks.rank)  # for dropout
        mine = windows(self.done)[self.ranks.rank :: self.ranks.world_size].to(self.device)
        total = torch.zeros((), device=self.device)
        for index, window in enumerate(mine):
            with self.strategy.last_backward(index == len(mine) - 1):
                with autocast(self.device, self.dtype):
                    loss = self.strategy.forward(window[None, :], window[None, :].roll(-1, 1))
                (loss * self.strategy.gradient_factor / (SEQUENCES * LENGTH)).backward()
            total += loss.detach()
        norm = self.strategy.clip_grad_norm(MAX_NORM)
        assert type(norm) is torch.Tensor
        assert norm.shape == ()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        return float(distributed.all_reduce_sum(total)) / (SEQUENCES * LENGTH), float(norm)


def windows(step: int) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(step))


def everything(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """By name, what test_strategies.py asks about this number of ranks."""
    topologies: dict[str, dict[str, Any]] = {"ddp": {"strategy": "ddp"}, "fsdp": {"strategy": "fsdp"}}
    if ranks.world_size == 4:
        topologies["hsdp"] = {"strategy": "fsdp", "fsdp_ranks": 2}
    found: dict[str, Any] = {}
    for name, settings in topologies.items():
        run = Run(ranks, **settings)
        found[name] = run.steps(3)
        found[name]["names"] = [parameter for parameter, _ in run.strategy.model.named_parameters()]
        found[name]["logits"] = run.logits()
        found[name]["exchanged early"] = exchanged_early(run.strategy, ranks)
        if ranks.world_size == 2:
            found[f"{name} bf16"] = Run(ranks, dtype=torch.bfloat16, **settings).steps(2)
            found[f"{name} dropout"] = Run(ranks, dropout=0.3, **settings).steps(2)
            found[f"{name} recomputed"] = Run(ranks, dropout=0.3, gradient_checkpointing=True, **settings).steps(2)
            found[f"{name} compiled"] = compiled(ranks, **settings)
            resumed = Run(ranks, **settings)
            resumed.load(torch.load(folder / "4.pt", weights_only=True)["fsdp"])
            found[f"{name} resumed"] = resumed.steps(1)
    for name, settings in {"single": {"strategy": "single"}, "fsdp 3": {"strategy": "fsdp", "fsdp_ranks": 3}}.items():
        try:
            Run(ranks, **settings)
        except ConfigError as error:
            found[f"{name} refused"] = str(error)
    return found


def compiled(ranks: Ranks, **settings: Any) -> Outcome:
    """With a backend that traces as inductor does, and needs no compiler."""
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter, compile_ = CompileCounterWithBackend("aot_eager"), torch.compile
    torch.compile = lambda function, **options: compile_(function, backend=counter, **options)
    try:
        outcome = Run(ranks, compile=True, gradient_checkpointing=True, **settings).steps(3)
    finally:
        torch.compile = compile_
    return {**outcome, "graphs": counter.frame_count}


def exchanged_early(strategy: Strategy, ranks: Ranks) -> bool:
    """Whether other ranks' gradients have come after a micro-batch that is not the last one."""
    window = windows(ranks.rank)
    with strategy.last_backward(False):
        strategy.forward(window, window).backward()
    if strategy.shards > 1:
        return bool(strategy.gradients())  # as yet there are none that belong to shards
    norms = torch.zeros(ranks.world_size)
    norms[ranks.rank] = strategy.clip_grad_norm(float("inf"))
    return len(set(distributed.all_reduce_sum(norms).tolist())) == 1


def main() -> None:
    ranks, folder = distributed.from_environment(), Path(sys.argv[1])
    with distributed.process_group(ranks, torch.device("cpu"), 60.0):
        found = everything(ranks, folder)
        everyone: list[Any] = [None] * ranks.world_size
        torch.distributed.all_gather_object(everyone, [found[name]["norms"] for name in ("ddp", "fsdp")])
        found["norms of all ranks"] = everyone
        if ranks.is_main:
            torch.save(found, folder / f"{ranks.world_size}.pt")


if __name__ == "__main__":
    main()
