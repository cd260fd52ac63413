"""Stop strings and pieces of text, over any split into tokens."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nano_gpt.inference.stops import TextBuilder
from nano_gpt.tokenizer.base import Tokenizer


class Splits(Tokenizer):
    """Whose tokens are the given pieces, one after the other."""

    name = fingerprint = "splits"
    encode_to_numpy = save = None  # type: ignore[assignment]


def pieces_of(text: bytes, cuts: list[int], stops: list[str]) -> tuple[list[str], bool]:
    """What a builder gives for `text`, in tokens that end at `cuts`; and whether it has stopped."""
    bounds = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    tokens = [text[start:end] for start, end in pairwise(bounds)]
    builder = TextBuilder(Splits([*tokens, b"<|endoftext|>"], len(tokens)), stops)
    return [*(builder.add(token) for token in range(len(tokens))), builder.close()], builder.stopped


def before_first(text: str, stops: list[str]) -> str:
    """The slow way: read characters one by one until the text ends in a stop string."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))]
    return text


few_letters = st.text("abé🙂", max_size=12)
cuts = st.lists(st.integers(0, 60), max_size=30)


@given(few_letters, cuts, st.lists(st.text("abé🙂", min_size=1, max_size=4), max_size=3))
@example("abcabd", [1, 2, 3, 4, 5], ["abd"])
@example("xab", [], ["ab", "xab", "b"])
@example("é", [1], ["é"])
def test_the_text_ends_before_the_first_stop_string(text: str, cuts: list[int], stops: list[str]) -> None:
    pieces, stopped = pieces_of(text.encode(), cuts, stops)
    assert "".join(pieces) == before_first(text, stops)
    assert stopped == any(stop in text for stop in stops)


@given(few_letters, cuts, st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_what_is_shown_is_never_taken_back_and_comes_at_once(text: str, cuts: list[int], stops: list[str]) -> None:
    """After every token all is shown but the longest end that could begin a stop string."""
    bounds = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    pieces, _ = pieces_of(text.encode(), [len(text[:bound].encode()) for bound in bounds], stops)
    shown = ""
    for bound, piece in zip(bounds[1:], pieces, strict=False):
        shown += piece
        seen = text[:bound]
        if any(stop in seen for stop in stops):
            break
        begun = [n for n in range(len(seen) + 1) if any(stop.startswith(seen[len(seen) - n :]) for stop in stops)]
        assert shown == seen[: len(seen) - max(begun)]


@given(st.binary(max_size=12), cuts)
def test_bytes_that_are_no_text_come_out_as_they_do_whole(content: bytes, cuts: list[int]) -> None:
    pieces, _ = pieces_of(content, cuts, [])
    assert "".join(pieces) == content.decode("utf-8", errors="replace")


@pytest.mark.parametrize("stop", [[], ["zzz"]])
def test_a_character_comes_with_its_last_byte(stop: list[str]) -> None:
    written = "héllo 🙂 日本"
    pieces, _ = pieces_of(written.encode(), list(range(60)), stop)
    assert [piece for piece in pieces if piece] == list(written)
