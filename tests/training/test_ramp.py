"""A batch that doubles: which windows belong to which step."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nano_gpt.config import RunConfig, build
from nano_gpt.training.ramp import BatchRamp, batch_ramp


def test_golden_values() -> None:
    ramp = BatchRamp(start=2, total=16, steps=7)  # 3 sizes in 7 steps, and then the whole
    assert [ramp.windows(step) for step in range(10)] == [2, 2, 2, 4, 4, 8, 8, 16, 16, 16]
    assert [ramp.first(step) for step in (0, 1, 3, 5, 7, 8, 100)] == [0, 2, 6, 14, 30, 46, 30 + 93 * 16]


@given(start=st.integers(1, 9), doublings=st.integers(0, 6), steps=st.integers(0, 50), step=st.integers(0, 200))
def test_steps_are_whole_neighbours_and_sizes_last_equally_long(
    start: int, doublings: int, steps: int, step: int
) -> None:
    ramp = BatchRamp(start, start << doublings, steps)
    sizes = [start << doubling for doubling in range(doublings + 1)]
    assert ramp.windows(step) in sizes
    assert ramp.first(step + 1) == ramp.first(step) + ramp.windows(step)
    assert ramp.windows(step) <= ramp.windows(step + 1)
    assert ramp.first(0) == 0 and ramp.windows(steps) == ramp.total
    assert steps == 0 or doublings == 0 or ramp.windows(steps - 1) < ramp.total
    lasting = [sum(ramp.windows(s) == size for s in range(steps)) for size in sizes[:-1]]
    assert not lasting or max(lasting) - min(lasting) <= 1


def test_from_settings_in_tokens() -> None:
    training = {"total_batch_size": 64, "batch_ramp_start": 16, "batch_ramp_steps": 10}
    assert batch_ramp(build(RunConfig, {"training": training, "model": {"n_positions": 8}})) == BatchRamp(2, 8, 10)
    whole = batch_ramp(build(RunConfig, {"training": {"total_batch_size": 64}, "model": {"n_positions": 8}}))
    assert (whole.windows(0), whole.first(5)) == (8, 40)
