"""`transformers.AutoTokenizer` reads what we save, and gives the same ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import HOSTILE, corpus
from hypothesis import given
from hypothesis import strategies as st

from nano_gpt.tokenizer import Tokenizer, load_tokenizer

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def bpe_pair(bpe: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    folder = tmp_path_factory.mktemp("bpe")
    bpe.save(folder)
    return bpe, transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(params=[False, True], ids=["alone", "beside a model"])
def theirs(request: pytest.FixtureRequest, tokenizer: Tokenizer, tmp_path: Path) -> Any:
    """A model's config.json changes which class AutoTokenizer takes."""
    tokenizer.save(tmp_path, model_max_length=64)
    if request.param:
        config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_positions": 64}
        (tmp_path / "config.json").write_text(json.dumps(config))
    return transformers.AutoTokenizer.from_pretrained(tmp_path)


def test_the_same_ids_and_text_for_all_four_kinds(tokenizer: Tokenizer, theirs: Any) -> None:
    for text in [*HOSTILE, *corpus()]:
        ids = theirs(text, split_special_tokens=True)["input_ids"]
        assert ids == tokenizer.encode(text), repr(text[:40])
        assert theirs.decode(ids) == text


def test_special_tokens_and_sizes(tokenizer: Tokenizer, theirs: Any) -> None:
    assert len(theirs) == tokenizer.vocab_size
    assert theirs.eos_token == theirs.bos_token == "<|endoftext|>"
    assert theirs.eos_token_id == theirs.bos_token_id == tokenizer.eot_id
    assert theirs("a<|endoftext|>")["input_ids"][-1] == tokenizer.eot_id  # as the stock GPT-2 tokenizer does
    assert theirs.decode([tokenizer.eot_id]) == "<|endoftext|>"
    assert theirs.decode([tokenizer.eot_id], skip_special_tokens=True) == ""
    assert theirs.model_max_length == 64


def test_saved_by_transformers_and_loaded_by_us(tokenizer: Tokenizer, theirs: Any, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path / "theirs")
    assert load_tokenizer(tmp_path / "theirs").fingerprint == tokenizer.fingerprint


def test_no_character_is_swallowed_by_the_char_tokenizer(char: Tokenizer, tmp_path: Path) -> None:
    char.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.unk_token_id is None
    with pytest.raises(Exception, match="Missing"):
        theirs("a\u20acb")


@given(text=st.text())
def test_any_text_gives_the_same_ids(bpe_pair: tuple[Tokenizer, Any], text: str) -> None:
    ours, theirs = bpe_pair
    assert theirs(text, split_special_tokens=True)["input_ids"] == ours.encode(text)


@given(text=st.text(st.sampled_from(list("abenrst \n'_.("))))
def test_text_of_common_letters_gives_the_same_ids(bpe_pair: tuple[Tokenizer, Any], text: str) -> None:
    """Much merged, unlike what random characters give."""
    ours, theirs = bpe_pair
    assert theirs(text)["input_ids"] == ours.encode(text)


def test_a_million_spaces_give_the_same_ids(bpe_pair: tuple[Tokenizer, Any]) -> None:
    ours, theirs = bpe_pair
    text = "a" + " " * 1_100_000 + "b"
    assert theirs(text)["input_ids"] == ours.encode(text)
