"""The learning rate at each step, against values worked out by hand from the formula."""

from __future__ import annotations

import pytest

from nano_gpt.config import TrainingConfig, build
from nano_gpt.training.lr import learning_rate


def config(max_steps: int, warmup_steps: int | None = None, min_ratio: float = 0.1) -> TrainingConfig:
    schedule = {"warmup_steps": warmup_steps, "min_ratio": min_ratio}
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
