"""How a step divides over ranks and micro-batches, and what is said when it does not."""

from __future__ import annotations

import pytest

from nano_gpt.config import RunConfig, resolve
from nano_gpt.errors import ConfigError
from nano_gpt.training.plan import make_plan


def config(windows: int, micro: int | None = None) -> RunConfig:
    flags = {"model.n_positions": 8, "training.total_batch_size": 8 * windows, "training.micro_batch_size": micro}
    return resolve(flags=flags)


@pytest.mark.parametrize(
    ("windows", "asked", "world", "micro", "accumulation"),
    [(12, None, 1, 12, 1), (12, None, 2, 6, 1), (512, None, 8, 16, 4), (34, None, 1, 2, 17), (24, 3, 2, 3, 4)],
)
def test_what_divides(windows: int, asked: int | None, world: int, micro: int, accumulation: int) -> None:
    plan = make_plan(config(windows, asked), world)
    assert (plan.micro_batch_size, plan.accumulation) == (micro, accumulation)
    assert plan.micro_batch_size * plan.accumulation * world == windows


@pytest.mark.parametrize(
    ("windows", "asked", "world", "hint"),
    [
        (8, 3, 1, "--micro-batch-size 2 or 4"),
        (12, 5, 2, "--micro-batch-size 3 or 6"),
        (12, None, 8, "--total-batch-size 64 or 128"),
        (3, None, 8, "--total-batch-size 64"),
        (10, 2, 4, "--total-batch-size 64 or 128"),
    ],
)
def test_what_does_not_names_what_would(windows: int, asked: int | None, world: int, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(config(windows, asked), world)
    assert caught.value.hint == hint
