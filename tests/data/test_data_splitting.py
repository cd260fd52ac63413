"""Which documents validate: by their text alone."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nano_gpt.data.splitting import SMALL_CORPUS, split_rule, text_hash
from nano_gpt.errors import DataError


def validation(texts: list[str], fraction: float) -> list[str]:
    rule = split_rule(texts, fraction)
    return [text for document in texts for split, text in rule(document) if split == "validation"]


def test_the_hash_is_the_same_on_every_machine() -> None:
    assert text_hash("") == 0xE4A6A0577479B2B4
    assert text_hash("naïve") == text_hash("na" + "\u00ef" + "ve")


def test_a_large_corpus_is_split_by_hash_whatever_its_order() -> None:
    texts = [f"document {number}" for number in range(3000)]
    kept = validation(texts, 0.1)
    assert 240 < len(kept) < 360
    random.Random(0).shuffle(texts)
    assert sorted(validation(texts, 0.1)) == sorted(kept)
    assert set(validation(texts, 0.05)) < set(kept)


@given(
    st.lists(st.text(min_size=1, max_size=4), min_size=2, max_size=SMALL_CORPUS - 1),
    st.floats(min_value=0.001, max_value=0.999),
)
def test_a_small_corpus_gives_exactly_the_share_and_keeps_duplicates_together(
    texts: list[str], fraction: float
) -> None:
    distinct = len(set(texts))
    if distinct == 1:
        return
    kept = set(validation(texts, fraction))
    assert len(kept) == min(max(1, round(fraction * distinct)), distinct - 1)
    rule = split_rule(texts, fraction)
    assert all({split for split, _ in rule(text)} == {"validation" if text in kept else "train"} for text in texts)


def test_one_document_is_cut_at_the_last_break_before_the_share() -> None:
    paragraphs = "\n\n".join(f"paragraph {number} of the text" for number in range(100))
    (_, train), (_, kept) = split_rule([paragraphs], 0.1)(paragraphs)
    assert train + kept == paragraphs
    assert train.endswith("\n\n")
    assert kept.startswith("paragraph 89 ")  # 90 begins just after the share
    lines = paragraphs.replace("\n\n", "\n")
    (_, train), (_, kept) = split_rule([lines], 0.1)(lines)
    assert train.endswith("\n") and train + kept == lines
    letters = "x" * 1000
    assert [len(text) for _, text in split_rule([letters], 0.1)(letters)] == [900, 100]
    early = "title\n\n" + "x" * 1000  # a break far from the share does not give nearly everything to validation
    assert [len(text) for _, text in split_rule([early], 0.1)(early)] == [906, 101]


@given(st.text(min_size=2, max_size=50), st.floats(min_value=0.001, max_value=0.999))
def test_both_parts_of_one_document_hold_something(text: str, fraction: float) -> None:
    (_, train), (_, kept) = split_rule([text], fraction)(text)
    assert train and kept and train + kept == text


def test_nothing_to_split_is_an_error() -> None:
    with pytest.raises(DataError, match="0 documents"):
        split_rule([], 0.1)
    with pytest.raises(DataError, match="single character"):
        split_rule(["x"], 0.1)("x")
