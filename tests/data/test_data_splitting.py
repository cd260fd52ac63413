"""Which documents validate: by their text alone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nano_gpt.data.preparing.splitting import SMALL_CORPUS, SplitRule, cleaned, measure, split_rule
from nano_gpt.data.sources.texts import LongText
from nano_gpt.errors import DataError


def validation(texts: list[str], fraction: float) -> list[str]:
    rule = split_rule(texts, fraction)
    return [document.text for text in texts for document in rule.apply(text) if document.split == "validation"]


def halves(text: str, fraction: float) -> tuple[str, str]:
    """What becomes of a corpus that is this one document."""
    train, kept = split_rule([text], fraction).apply(text)
    assert (train.split, kept.split) == ("train", "validation")
    assert isinstance(train.text, str) and isinstance(kept.text, str)
    return train.text, kept.text


def test_the_hash_is_the_same_on_every_machine() -> None:
    digest, size = measure("naïve")
    assert size == 6
    # Another hash would move documents of every corpus to the other split.
    assert digest.hex() == "7b633f5f88cb0dd8617039f481fe52e9"


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
    assert all(
        {document.split for document in rule.apply(text)} == {"validation" if text in kept else "train"}
        for text in texts
    )


def test_one_document_is_cut_at_the_last_break_before_the_share() -> None:
    paragraphs = "\n\n".join(f"paragraph {number} of the text" for number in range(100))
    train, kept = halves(paragraphs, 0.1)
    assert train + kept == paragraphs
    assert train.endswith("\n\n")
    assert kept.startswith("paragraph 89 ")  # 90 begins just after the share
    lines = paragraphs.replace("\n\n", "\n")
    train, kept = halves(lines, 0.1)
    assert train.endswith("\n") and train + kept == lines
    letters = "x" * 1000
    assert [len(text) for text in halves(letters, 0.1)] == [900, 100]
    early = "title\n\n" + "x" * 1000  # a break far from the share does not give nearly everything to validation
    assert [len(text) for text in halves(early, 0.1)] == [906, 101]


@given(st.text(min_size=2, max_size=50), st.floats(min_value=0.001, max_value=0.999))
def test_both_parts_of_one_document_hold_something(text: str, fraction: float) -> None:
    train, kept = halves(text, fraction)
    assert train and kept and train + kept == text


def test_nothing_to_split_is_an_error() -> None:
    with pytest.raises(DataError, match="0 documents"):
        split_rule([], 0.1)
    with pytest.raises(DataError, match="single character"):
        halves("x", 0.1)


def test_a_source_that_says_the_split_is_believed() -> None:
    assert SplitRule().apply("text", "validation")[0].split == "validation"
    assert SplitRule(below=2**64).apply("text", "train")[0].split == "train"
    assert SplitRule(cut=0.5).apply("text", "train")[0].text == "text"


def test_a_long_text_has_the_digest_of_the_same_string(tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text("skipped" + "naïve 漢字 " * 300_000, encoding="utf-8")
    text = file.read_text(encoding="utf-8").removeprefix("skipped")
    assert measure(LongText(file, len("skipped"), file.stat().st_size)) == measure(text)


def test_white_space_is_no_document_and_lone_surrogates_are_replaced(tmp_path: Path) -> None:
    file = tmp_path / "blank.txt"
    file.write_text(" \n" * 10)
    texts = ["a", "", " \n\u3000", "\ud83d", "\ud83d\ude42", LongText(file, 0, 20)]
    assert list(cleaned(texts)) == ["a", None, None, "\ufffd", "🙂", None]
