"""Sliding windows: every token once, with enough before it, whatever the stride and the ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_evaluation_models import redrawn_model

from nano_gpt.evaluation.sliding import count_windows, sliding_batches
from nano_gpt.evaluation.validation import validation_loss
from nano_gpt.model.loss import IGNORED_TARGET


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 60), st.integers(1, 12), st.data())
def test_every_token_is_scored_once_with_enough_before_it(tokens: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context))
    world_size = data.draw(st.integers(1, 3))
    text = np.arange(tokens)  # every token is its own place
    windows = count_windows(tokens, context, stride)
    scored: list[int] = []
    for rank in range(world_size):
        batches = sliding_batches(
            lambda start, stop: text[start:stop], windows, context, stride,
            batch_size=data.draw(st.integers(1, 4)), rank=rank, world_size=world_size,
        )  # fmt: skip
        for batch in batches:
            for ids, targets in zip(batch.ids, batch.targets, strict=True):
                (places,) = torch.nonzero(targets != IGNORED_TARGET, as_tuple=True)
                assert len(places) > 0
                for place in places.tolist():
                    target = int(targets[place])
                    assert ids[: place + 1].tolist() == list(range(target - place - 1, target))
                    assert place + 1 >= min(target, context - stride)
                    scored.append(target)
    assert scored == list(range(1, tokens))


def test_nothing_to_predict() -> None:
    assert count_windows(1, 8, 8) == count_windows(0, 8, 4) == 0


@pytest.mark.parametrize("stride", [1, 3, 8])
def test_the_loss_is_that_of_every_token_in_its_window(stride: int) -> None:
    model, context = redrawn_model(50, n_positions=8), 8
    text = np.random.default_rng(0).integers(50, size=30)
    windows = count_windows(len(text), context, stride)
    batches = sliding_batches(lambda a, b: text[a:b], windows, context, stride, batch_size=3)
    total = 0.0
    for target in range(1, len(text)):
        window = max(0, -(-(target - context) // stride))  # the first one that reaches it
        with torch.no_grad():
            logits = model(torch.from_numpy(text[None, window * stride : target]))[0, -1]
        total -= float(logits.log_softmax(-1)[text[target]])
    result = validation_loss(model, batches)
    assert result.tokens == len(text) - 1
    assert result.loss == pytest.approx(total / (len(text) - 1), rel=1e-5)
