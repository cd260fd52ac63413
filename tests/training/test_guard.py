"""Steps that must not be applied, and those that only look strange."""

from __future__ import annotations

import math

import pytest
import torch

from nano_gpt.training.guard import StepGuard
from nano_gpt.training.scaling import LossScale

CPU = torch.device("cpu")


def judge(guard: StepGuard, norm: float, loss: float = 3.0) -> bool:
    return bool(guard.judge(torch.tensor(loss), torch.tensor(norm)))


@pytest.mark.parametrize("threshold", [None, 4.0])
def test_what_is_no_number_is_skipped_and_counted(threshold: float | None) -> None:
    guard = StepGuard(CPU, threshold)
    assert not judge(guard, 1.0)
    assert judge(guard, math.nan) and judge(guard, 1.0, loss=math.inf) and judge(guard, math.inf, loss=math.nan)
    assert (float(guard.skipped), float(guard.in_a_row)) == (3, 3)
    assert not judge(guard, 1.0)
    assert (float(guard.skipped), float(guard.in_a_row)) == (3, 0)


def norms(count: int) -> list[float]:
    return torch.randn(count, generator=torch.Generator().manual_seed(1)).mul(0.1).exp().tolist()


def test_a_spike_is_skipped_and_does_not_change_what_is_usual() -> None:
    guard = StepGuard(CPU, spike_threshold=6.0)
    assert not any(judge(guard, norm) for norm in norms(60))
    before = guard.state_dict()
    assert judge(guard, 5.0)
    after = guard.state_dict()
    assert {name for name in before if before[name] != after[name]} == {"skipped", "in_a_row"}
    assert judge(guard, math.nan)
    assert guard.state_dict()["mean"] == before["mean"]
    assert not judge(guard, 1.2), "a little above the mean"
    assert not judge(guard, 0.01), "below it"


def test_nothing_stands_out_before_there_is_something_to_compare_with() -> None:
    guard = StepGuard(CPU, spike_threshold=6.0)
    assert not any(judge(guard, norm) for norm in [1.0] * 40 + [100.0])
    assert not judge(StepGuard(CPU), 1e9), "nobody asked for it"


def test_mean_and_variance_are_those_of_the_recent_norms() -> None:
    guard = StepGuard(CPU, spike_threshold=50.0)
    values = norms(40)
    for norm in values:
        judge(guard, norm)
    logs = torch.tensor(values).log()
    state = guard.state_dict()
    assert state["mean"] == pytest.approx(float(logs.mean()), abs=1e-6)
    assert state["variance"] == pytest.approx(float(logs.var(correction=0)), rel=1e-4)


def test_it_goes_on_where_it_was_stopped() -> None:
    straight, stopped = StepGuard(CPU, 3.0), StepGuard(CPU, 3.0)
    values = norms(200)
    for norm in values[:120]:
        straight.judge(torch.tensor(1.0), torch.tensor(norm))
        stopped.judge(torch.tensor(1.0), torch.tensor(norm))
    resumed = StepGuard(CPU, 3.0)
    resumed.load_state_dict(stopped.state_dict())
    assert [judge(straight, norm) for norm in values[120:]] == [judge(resumed, norm) for norm in values[120:]]
    assert straight.state_dict() == resumed.state_dict()


def test_the_scale_halves_after_an_overflow_and_grows_when_all_is_well() -> None:
    scale = LossScale(CPU, initial=8.0)
    gradients = [torch.tensor([8.0, 16.0])]
    scale.remove(gradients)
    assert gradients[0].tolist() == [1.0, 2.0] and float(scale.apply(torch.tensor(2.0))) == 16.0
    scale.update(torch.tensor(1.0))
    assert scale.state_dict() == {"scale": 4.0, "without_overflow": 0.0}
    for _ in range(1999):
        scale.update(torch.tensor(0.0))
    resumed = LossScale(CPU)
    resumed.load_state_dict(scale.state_dict())
    resumed.update(torch.tensor(0.0))
    assert resumed.state_dict() == {"scale": 8.0, "without_overflow": 0.0}
