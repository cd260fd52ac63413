"""Choice scoring: rows as lm-eval makes them, and scores that do not depend on the company that a row is in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_evaluation_models import redrawn_model

from nano_gpt.errors import DataError
from nano_gpt.evaluation import scoring
from nano_gpt.evaluation.choices import Accuracy, Row, encode_choices, log_likelihoods, windows
from nano_gpt.model.gpt import GPT
from nano_gpt.tokenizer import load_tokenizer

BYTE = load_tokenizer("byte")


def alone(model: GPT, row: Row) -> float:
    """The plain way: one row, all logits, no padding."""
    ids = torch.tensor([row.ids])
    with torch.no_grad():
        log_probabilities = model(ids[:, :-1]).log_softmax(dim=-1)[0]
    return sum(log_probabilities[i - 1, row.ids[i]].item() for i in range(len(row.ids) - row.scored, len(row.ids)))


row_strategy = st.lists(st.integers(0, 49), min_size=2, max_size=17).flatmap(
    lambda ids: st.integers(1, len(ids) - 1).map(lambda scored: Row(ids, scored))
)


@settings(max_examples=30, deadline=None)
@given(st.lists(row_strategy, min_size=1, max_size=12), st.integers(1, 13), st.integers(1, 9))
def test_batched_is_one_at_a_time(rows: list[Row], batch_size: int, head_positions: int) -> None:
    model = redrawn_model(50, n_positions=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "HEAD_POSITIONS", head_positions)
        batched = log_likelihoods(model, rows, batch_size=batch_size)
    np.testing.assert_allclose(batched, [alone(model, row) for row in rows], atol=1e-4)


def test_no_rows_and_progress() -> None:
    model = redrawn_model(50)
    assert log_likelihoods(model, []).shape == (0,)
    seen: list[tuple[int, int]] = []
    rows = [Row([1, 2, 3], 1)] * 5
    log_likelihoods(model, rows, batch_size=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_bf16_scores_are_near() -> None:
    model = redrawn_model(50)
    rows = [Row(list(range(n)), n // 2) for n in (4, 8, 12)]
    exact, rounded = log_likelihoods(model, rows), log_likelihoods(model, rows, dtype=torch.bfloat16)
    assert not np.array_equal(exact, rounded)
    np.testing.assert_allclose(rounded, exact, rtol=0.05)


def test_a_row_is_context_then_continuation() -> None:
    (row, other) = encode_choices(BYTE, "ab", [" c", " de"])
    assert row == Row(list(b"ab c"), 2)
    assert other == Row(list(b"ab de"), 3)


def test_white_space_at_the_end_of_the_context_is_scored() -> None:
    assert encode_choices(BYTE, "ab \n", [" c"]) == [Row(list(b"ab \n c"), 4)]


@pytest.mark.parametrize("context", ["", "  "])
def test_an_empty_context_is_end_of_text(context: str) -> None:
    (row,) = encode_choices(BYTE, context, [" c"])
    assert row == Row([BYTE.eot_id, *context.encode(), *b" c"], len(context) + 2)


def test_a_long_context_loses_its_left() -> None:
    row = Row(list(b"abcdefgh xy"), 3)
    assert list(windows(row, 100)) == [row]
    assert list(windows(row, 10)) == [row]  # ten are read, the eleventh is predicted only
    assert list(windows(row, 5)) == [Row(list(b"fgh xy"), 3)]
    assert list(windows(row, 3)) == [Row(list(b"h xy"), 3)]


def test_a_continuation_longer_than_the_model_reads_comes_in_windows() -> None:
    row = Row(list(b"abcdefgh"), 6)
    assert list(windows(row, 4)) == [Row(list(b"bcdef"), 4), Row(list(b"defgh"), 2)]
    model = redrawn_model(257, n_positions=4)
    whole, first, second = log_likelihoods(model, [row, *windows(row, 4)], batch_size=2)
    assert whole == pytest.approx(first + second, abs=1e-4)


def test_a_continuation_without_a_token() -> None:
    with pytest.raises(DataError, match="'' adds no token to 'ab'"):
        encode_choices(BYTE, "ab", [""])


def test_standard_error_is_that_of_the_sample() -> None:
    outcomes = [1.0] * 3 + [0.0] * 7
    assert Accuracy(3, 10).value == pytest.approx(0.3)
    assert Accuracy(3, 10).stderr == pytest.approx(np.std(outcomes, ddof=1) / np.sqrt(10))
    assert Accuracy(1, 1).stderr is None
