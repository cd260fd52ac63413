"""The learning rate at each step, against values worked out by hand from the formula."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nano_gpt.config import TrainingConfig, build
from nano_gpt.training.lr import learning_rate


def config(
    max_steps: int, warmup_steps: int | None = None, min_ratio: float = 0.1, **schedule: object
) -> TrainingConfig:
    schedule |= {"warmup_steps": warmup_steps, "min_ratio": min_ratio}
    values = {"max_steps": max_steps, "optimizer": {"learning_rate": 1.0}, "lr_schedule": schedule}
    return build(TrainingConfig, values)


def test_golden_values() -> None:
    golden = {
        0: 0.25,
        1: 0.5,
        3: 1.0,
        4: 1.0,
        8: 0.55,
        12: 0.1,
    }  # 4 warm-up steps, then cos over 8: 1, ..., 0.55, ..., 0.1
    assert {step: learning_rate(step, config(12, 4)) for step in golden} == pytest.approx(golden)
    assert learning_rate(6, config(12, 4)) == pytest.approx(0.1 + 0.9 * 0.8535533905932737)


def test_golden_values_of_the_other_schedules() -> None:
    """4 warm-up steps of 12, then: linear over 8; as high as before, and linear over the last quarter; the peak."""
    golden = {
        "linear": {0: 0.25, 4: 1.0, 6: 0.775, 8: 0.55, 11: 0.2125, 12: 0.1, 20: 0.1},
        "wsd": {0: 0.25, 4: 1.0, 9: 1.0, 10: 0.7, 11: 0.4, 12: 0.1, 20: 0.1},
        "constant": {0: 0.25, 4: 1.0, 11: 1.0, 20: 1.0},
    }
    for name, values in golden.items():
        run = config(12, 4, name=name, decay_fraction=0.25)
        assert {step: learning_rate(step, run) for step in values} == pytest.approx(values), name


@given(
    name=st.sampled_from(["cosine", "linear", "wsd", "constant"]),
    max_steps=st.integers(1, 400),
    warmup=st.floats(0.0, 0.5),
    decay=st.floats(0.05, 0.5),
    floor=st.floats(0.0, 1.0),
)
def test_up_in_the_warmup_then_down_without_a_jump(
    name: str, max_steps: int, warmup: float, decay: float, floor: float
) -> None:
    warmup_steps = int(warmup * max_steps)
    run = config(max_steps, warmup_steps, floor, name=name, decay_fraction=decay)
    rates = [learning_rate(step, run) for step in range(max_steps + 1)]
    up, down = rates[: max(1, warmup_steps)], rates[warmup_steps:]
    assert up == sorted(up) and down == pytest.approx(sorted(down, reverse=True))
    assert max(rates) == pytest.approx(1.0) and rates[warmup_steps] == pytest.approx(1.0)
    assert min(down) == pytest.approx(rates[-1]) == pytest.approx(1.0 if name == "constant" else floor)
    steepest = max(1.0 / decay, 3.2) / max_steps  # the cosine's slope is pi / 2 over at least half of the run
    assert all(before - after <= steepest + 1e-9 for before, after in itertools.pairwise(down))


def test_first_steps_of_the_gpt2_recipe_are_the_predecessors() -> None:
    gpt2 = build(TrainingConfig, {})
    assert gpt2.warmup_steps == 715
    assert f"{learning_rate(3, gpt2):.6f}" == "0.000003"
    assert learning_rate(714, gpt2) == pytest.approx(6e-4)
    assert learning_rate(19073, gpt2) == pytest.approx(6e-5)


def test_a_short_run_leaves_its_warmup() -> None:
    """The predecessor's warm-up was 715 steps whatever the run, so a run of 100 never reached its peak."""
    short = config(100)
    assert max(learning_rate(step, short) for step in range(100)) == 1.0
    assert learning_rate(99, short) < 0.11


def test_no_warmup_and_a_run_of_one_step() -> None:
    assert learning_rate(0, config(10, 0)) == 1.0
    assert learning_rate(0, config(1)) == 1.0
