"""What every tokenizer promises: round trips, hostile text, ids in range, files that bring it back."""

from __future__ import annotations

import pickle
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from conftest import HOSTILE, SURROGATES
from hypothesis import given
from hypothesis import strategies as st

from nano_gpt.errors import DataError
from nano_gpt.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from nano_gpt.tokenizer.base import well_formed

ANY_TEXT = st.text(st.characters())  # surrogates too
KINDS = ("byte", "bpe")


def test_the_package_imports_nothing_heavy() -> None:
    code = "import sys, nano_gpt.tokenizer; print([m for m in ('numpy', 'tiktoken', 'tokenizers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_round_trips_without_end_of_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.eot_id not in ids
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


@pytest.mark.parametrize("text", SURROGATES, ids=range(len(SURROGATES)))
@pytest.mark.parametrize("kind", ["gpt2", "byte", "bpe"])
def test_lone_surrogates_are_replaced_and_pairs_are_joined(
    kind: str, text: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(kind)
    assert tokenizer.decode(tokenizer.encode(text)) == text.encode("utf-16", "surrogatepass").decode(
        "utf-16", "replace"
    )


@given(text=ANY_TEXT)
def test_any_text_round_trips_through_bytes(byte: Tokenizer, text: str) -> None:
    assert byte.decode(byte.encode(text)) == well_formed(text)


@given(text=ANY_TEXT)
def test_any_text_round_trips_through_bpe(bpe: Tokenizer, text: str) -> None:
    assert bpe.decode(bpe.encode(text)) == well_formed(text)


@given(text=ANY_TEXT)
def test_any_text_round_trips_through_its_own_characters(text: str) -> None:
    if text:
        tokenizer = train_tokenizer("char", [text])
        assert tokenizer.decode(tokenizer.encode(text)) == well_formed(text)
        assert tokenizer.vocab_size == len(set(well_formed(text))) + 1


def test_documents_are_encoded_as_one_by_one(tokenizer: Tokenizer) -> None:
    one_by_one = [[tokenizer.eot_id, *tokenizer.encode(text)] for text in HOSTILE]
    for _ in range(2):  # it has learnt them the second time
        ids, lengths = tokenizer.document_encoder(HOSTILE)
        assert ids.dtype == np.uint32
        assert ids.tolist() == list(chain.from_iterable(one_by_one))
        assert lengths.tolist() == list(map(len, one_by_one))
    ids, lengths = tokenizer.document_encoder([])
    assert (len(ids), len(lengths)) == (0, 0)


def test_end_of_text_is_the_last_id_and_is_spelt_out(tokenizer: Tokenizer) -> None:
    assert tokenizer.eot_id == tokenizer.vocab_size - 1
    assert tokenizer.decode([tokenizer.eot_id]) == "<|endoftext|>"


@pytest.mark.parametrize("offset", [0, 47, 10**12])
def test_decoding_an_id_that_is_none_names_it(tokenizer: Tokenizer, offset: int) -> None:
    stranger = tokenizer.vocab_size + offset
    for ids in ([0, stranger, 1], np.array([0, stranger, 1])):
        with pytest.raises(DataError, match=f"token id {stranger} .*{tokenizer.vocab_size} of tokenizer"):
            tokenizer.decode(ids)
    with pytest.raises(DataError, match="token id -1 "):
        tokenizer.decode([-1])


def test_a_saved_tokenizer_is_the_same_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    for source in (tmp_path, str(tmp_path), tmp_path / "tokenizer.json"):
        loaded = load_tokenizer(source)
        assert (loaded.name, loaded.fingerprint) == (tokenizer.name, tokenizer.fingerprint)
        assert (loaded.vocab_size, loaded.eot_id) == (tokenizer.vocab_size, tokenizer.eot_id)
        assert [loaded.encode(text) for text in HOSTILE] == [tokenizer.encode(text) for text in HOSTILE]


@pytest.mark.parametrize("kind", ["gpt2", "byte", "bpe"])
def test_vocabulary_and_merges_alone_are_enough(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint


def test_it_can_be_sent_to_another_process(tokenizer: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.fingerprint == tokenizer.fingerprint
    assert copy.encode(HOSTILE[5]) == tokenizer.encode(HOSTILE[5])


def test_fingerprints_tell_tokenizers_apart(byte: Tokenizer, bpe: Tokenizer, char: Tokenizer) -> None:
    others = [train_tokenizer(spec, ["other text other text"]) for spec in ("char", "bpe:257", "bpe:258")]
    assert len({t.fingerprint for t in (byte, bpe, char, *others)}) == 6
    assert byte.fingerprint == load_tokenizer("byte").fingerprint


def test_unknown_character_is_shown(char: Tokenizer) -> None:
    with pytest.raises(DataError) as error:
        char.encode("ab\u20ac")
    assert "'\u20ac' (U+20AC)" in error.value.message
    assert error.value.hint is not None and "byte" in error.value.hint


def test_characters_are_in_sorted_order() -> None:
    tokenizer = train_tokenizer("char", ["hello", "\u00e9\n"])
    assert tokenizer.encode("\nehlo\u00e9") == [0, 1, 2, 3, 4, 5]
    assert tokenizer.eot_id == 6


def test_byte_ids_are_byte_values(byte: Tokenizer) -> None:
    assert byte.encode("A\u00e9\n") == [65, 0xC3, 0xA9, 10]
    assert (byte.name, byte.vocab_size, byte.eot_id) == ("byte", 257, 256)
    assert byte.decode([0xC3]) == "\ufffd"
    assert byte.decode_bytes([0xC3]) == b"\xc3"
