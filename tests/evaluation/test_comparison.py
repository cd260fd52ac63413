"""Two models, item by item: the interval against what theory says, and what is not compared."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from nano_gpt.evaluation.comparison import compare, difference
from nano_gpt.evaluation.hellaswag import HellaSwagResult
from nano_gpt.evaluation.results import Items
from nano_gpt.evaluation.validation import ValidationResult


def of(values: list[float], weight: float = 1.0) -> Items:
    return np.stack([np.array(values, dtype=float), np.full(len(values), weight)], axis=1)


def val(windows: int, loss: float, text: str = "a", noise: int = 0) -> ValidationResult:
    drawn = np.random.default_rng(noise).normal(loss, 0.5, windows)
    return ValidationResult(np.stack([drawn * 100, np.full(windows, 100.0)], axis=1), 4.0, text)


def test_the_interval_is_that_of_a_paired_mean() -> None:
    """The bootstrap of a mean is normal, as wide as the standard deviation of the differences by the root of n says."""
    draw = np.random.default_rng(1)
    common = draw.normal(size=2000)  # what makes items hard for both
    first, second = common + draw.normal(0.1, 0.3, 2000), common + draw.normal(0.0, 0.3, 2000)
    found = difference("x", of(first.tolist()), of(second.tolist()))
    gap = first - second
    half = 1.96 * gap.std() / np.sqrt(len(gap))
    assert found.interval == pytest.approx((gap.mean() - half, gap.mean() + half), abs=0.05 * half)
    assert found.first - found.second == pytest.approx(gap.mean())


def test_the_known_case_of_right_and_wrong() -> None:
    """Of 100 items one model alone gets 30, the other alone 10: the difference has a standard error of 0.0600."""
    first = of([1.0] * 30 + [0.0] * 10 + [1.0] * 40 + [0.0] * 20)
    second = of([0.0] * 30 + [1.0] * 10 + [1.0] * 40 + [0.0] * 20)
    found = difference("hellaswag acc", first, second)
    assert (found.first, found.second, found.only_first, found.only_second) == (0.7, 0.5, 30, 10)
    error = np.sqrt((0.4 - 0.2**2) / 100)
    assert found.interval == pytest.approx((0.2 - 1.96 * error, 0.2 + 1.96 * error), abs=0.011)  # steps of 0.01
    assert found.summary().startswith("a - b: hellaswag acc: +0.2000 | 95%: +0.08")
    assert found.summary().endswith("a: 0.7000 | b: 0.5000 | items: 100 | only_a: 30 | only_b: 10")
    assert difference("again", first, second).interval == found.interval  # seeded


def test_a_model_with_itself() -> None:
    items = of([0.0, 1.0, 1.0, 0.0, 1.0])
    assert difference("x", items, items).interval == (0.0, 0.0)


def test_all_scores_of_tasks_that_both_have() -> None:
    right = np.eye(3, dtype=bool)
    first, second = [val(40, 3.0), HellaSwagResult(right)], [HellaSwagResult(right), val(40, 3.1)]
    found = list(compare(first, second, same_tokenizer=True))
    assert [one.score for one in found] == [
        "val loss", "val bits_per_byte", "hellaswag accuracy", "hellaswag acc", "hellaswag acc_norm",
    ]  # fmt: skip
    loss, bits = found[:2]
    assert bits.first == pytest.approx(loss.first / np.log(2) / 4)
    assert not list(compare([val(40, 3.0)], [HellaSwagResult(right)], same_tokenizer=True))


def test_what_does_not_compare_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = list(compare([val(40, 3.0)], [val(50, 4.0, noise=1)], same_tokenizer=False))
        assert [one.score for one in found] == ["val bits_per_byte"]
        assert "different tokenizers" in caplog.text
        assert not list(compare([val(40, 3.0)], [val(40, 3.1, "b")], same_tokenizer=True))
    assert "a was measured on a, b on b; --dataset NAME or --text FILE" in caplog.text
    (bits,) = found  # not paired: as wide as two standard errors side by side
    both = np.hypot(*(result.fields()["bits_per_byte_stderr"] for result in (val(40, 3.0), val(50, 4.0, noise=1))))
    assert bits.interval[1] - bits.interval[0] == pytest.approx(2 * 1.96 * both, rel=0.1)
