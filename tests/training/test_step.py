"""Accumulated = big batch, ranks = big batch, and dropout that does not depend on what was drawn before."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nano_gpt.config import GPTConfig, build
from nano_gpt.config.training import OptimizerConfig
from nano_gpt.data.loader import Batch
from nano_gpt.model.gpt import GPT
from nano_gpt.model.loss import IGNORED_TARGET
from nano_gpt.runtime.distributed import Ranks
from nano_gpt.training.guard import StepGuard
from nano_gpt.training.optim import build_optimizer, optimizer_tensors
from nano_gpt.training.scaling import LossScale, NoScale
from nano_gpt.training.step import OutOfMemory, StepResult, TrainStep
from nano_gpt.training.strategies import Strategy

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
    return model, train_step(model, optimizer, rank)(3, batches(8, micro), num_targets=59, learning_rate=0.1)


def train_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, rank: int = 0) -> TrainStep:
    strategy = Strategy(model, model, Ranks(rank), CPU)  # type: ignore[arg-type]
    return TrainStep(
        strategy, optimizer, CPU, torch.float32, Ranks(rank), seed=5, gradient_clip=1.0, guard=StepGuard(CPU)
    )


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_accumulation_equals_the_big_batch(micro: int) -> None:
    (big, expected), (small, result) = one_step(8), one_step(micro)
    assert float(result.loss) == pytest.approx(float(expected.loss), rel=1e-6)
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
    loss = {key: float(one_step(4, dropout=0.5, **key_)[1].loss) for key, key_ in
            {"plain": {}, "burnt": {"burn": 100}, "rank 1": {"rank": 1}}.items()}  # fmt: skip
    assert loss["plain"] == loss["burnt"]
    assert loss["plain"] != loss["rank 1"]


@pytest.mark.parametrize(("micro", "hint"), [(6, "--micro-batch-size 3:"), (1, "a smaller model")])
def test_too_little_memory_is_one_line_with_the_micro_batch_to_try(micro: int, hint: str) -> None:
    class Full(torch.nn.Linear):
        def forward(self, *_: torch.Tensor, **named: None) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    model = Full(1, 1)
    step = train_step(model, build_optimizer(model, OptimizerConfig()))
    with pytest.raises(OutOfMemory, match=f"out of memory on cpu with micro-batches of {micro} windows") as caught:
        step(0, batches(6, micro), num_targets=40, learning_rate=0.1)
    assert (caught.value.hint or "").startswith(hint)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_step_without_a_number_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=70, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    optimizer = build_optimizer(model, build(OptimizerConfig, {"name": name}))
    step = train_step(model, optimizer)
    step(0, batches(8, 4), num_targets=59, learning_rate=0.1)
    before = {
        key: tensor.clone() for key, tensor in {**model.state_dict(), **optimizer_tensors(optimizer, model)}.items()
    }
    bad = batches(8, 4)
    hook = model.ln_f.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    result = step(1, bad, num_targets=59, learning_rate=0.1)
    hook.remove()
    assert float(result.skip) == 1.0 and float(step.guard.in_a_row) == 1.0
    after = {**model.state_dict(), **optimizer_tensors(optimizer, model)}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    result = step(2, bad, num_targets=59, learning_rate=0.1)
    assert float(result.skip) == 0.0 and not torch.equal(before["wte.weight"], model.wte.weight)


def test_the_loss_scale_is_taken_out_again() -> None:
    """A power of two: not a bit changes."""
    results = []
    for scale in (NoScale(), LossScale(CPU)):
        torch.manual_seed(0)
        model = GPT(GPTConfig(vocab_size=70, n_positions=8, n_embd=16, n_layer=2, n_head=2))
        step = replace(train_step(model, build_optimizer(model, OptimizerConfig())), scale=scale)
        results.append((step(0, batches(8, 4), num_targets=59, learning_rate=0.1), model))
    (plain, expected), (scaled, model) = results
    assert float(plain.loss) == float(scaled.loss) and float(plain.grad_norm) == float(scaled.grad_norm)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in expected.state_dict().items())


def test_what_it_remembers_comes_back() -> None:
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=70, n_positions=8, n_embd=16, n_layer=2, n_head=2))
    step = train_step(model, build_optimizer(model, OptimizerConfig()))
    step.guard.judge(torch.tensor(float("nan")), torch.tensor(1.0))
    other = train_step(model, step.optimizer)
    other.load_state_dict(step.state_dict())
    assert float(other.guard.skipped) == 1.0
