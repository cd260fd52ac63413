"""Accumulated = big batch, ranks = big batch, and dropout that does not depend on what was drawn before."""

from __future__ import annotations

import pytest
import torch

from nano_gpt.config import GPTConfig
from nano_gpt.config.training import OptimizerConfig
from nano_gpt.data.loader import Batch
from nano_gpt.errors import NanoGPTError
from nano_gpt.model.gpt import GPT, IGNORED_TARGET
from nano_gpt.runtime.distributed import Ranks
from nano_gpt.training.optim import build_optimizer
from nano_gpt.training.step import StepResult, TrainStep

CPU = torch.device("cpu")


def batches(rows: int, micro: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 70, (rows, 8), generator=generator)
    targets = torch.randint(0, 70, (rows, 8), generator=generator)
    targets[-1, 3:] = IGNORED_TARGET  # a short last window, so that micro-batches differ in their number of targets
    return [Batch(ids[start : start + micro], targets[start : start + micro]) for start in range(0, rows, micro)]


def one_step(micro: int, dropout: float = 0.0, rank: int = 0, burn: int = 0) -> tuple[GPT, StepResult]:
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=70, n_positions=8, n_embd=16, n_layer=2, n_head=2, dropout=dropout))
    torch.rand(burn)
    optimizer = build_optimizer(model, OptimizerConfig())
    step = TrainStep(model, optimizer, CPU, torch.float32, Ranks(rank), seed=5, gradient_clip=1.0)
    return model, step(3, batches(8, micro), num_targets=59, learning_rate=0.1)


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_accumulation_equals_the_big_batch(micro: int) -> None:
    (big, expected), (small, result) = one_step(8), one_step(micro)
    assert float(result.loss_sum) == pytest.approx(float(expected.loss_sum), rel=1e-6)
    assert float(result.grad_norm) == pytest.approx(float(expected.grad_norm), rel=1e-5)
    # AdamW's first step has the size of the learning rate whatever the gradient, so compare against that.
    for name, tensor in big.state_dict().items():
        assert torch.allclose(tensor, small.state_dict()[name], atol=2e-3), name


def test_the_loss_is_the_mean_over_the_targets_that_count() -> None:
    model = one_step(8)[0]
    ids, targets = batches(8, 8)[0].ids, batches(8, 8)[0].targets
    kept = targets != IGNORED_TARGET
    logits = model(ids)
    plain = torch.nn.functional.cross_entropy(logits[kept], targets[kept])
    assert int(kept.sum()) == 59
    assert model(ids, targets).item() / 59 == pytest.approx(plain.item(), rel=1e-6)


def test_dropout_is_a_function_of_seed_step_and_rank() -> None:
    loss = {key: float(one_step(4, dropout=0.5, **key_)[1].loss_sum) for key, key_ in
            {"plain": {}, "burnt": {"burn": 100}, "rank 1": {"rank": 1}}.items()}  # fmt: skip
    assert loss["plain"] == loss["burnt"]
    assert loss["plain"] != loss["rank 1"]


@pytest.mark.parametrize(("micro", "hint"), [(6, "--micro-batch-size 3:"), (1, "a smaller model")])
def test_too_little_memory_is_one_line_with_the_micro_batch_to_try(micro: int, hint: str) -> None:
    class Full(torch.nn.Linear):
        def forward(self, *_: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    model = Full(1, 1)
    step = TrainStep(
        model, build_optimizer(model, OptimizerConfig()), CPU, torch.float32, Ranks(), seed=5, gradient_clip=1.0
    )
    with pytest.raises(NanoGPTError, match=f"out of memory on cpu with micro-batches of {micro} windows") as caught:
        step(0, batches(6, micro), num_targets=40, learning_rate=0.1)
    assert (caught.value.hint or "").startswith(hint)
