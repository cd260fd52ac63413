"""GPT-2's own ids, and texts that are too long for tiktoken in one go."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiktoken
from conftest import HOSTILE, whole

from nano_gpt.tokenizer import Tokenizer, load_tokenizer


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello, I'm a language model,", [15496, 11, 314, 1101, 257, 3303, 2746, 11]),
        ("hello world", [31373, 995]),
        ("<|endoftext|>", [27, 91, 437, 1659, 5239, 91, 29]),
        ("\n\n", [628]),
        ("  x", [220, 2124]),
    ],
)
def test_known_ids(gpt2: Tokenizer, text: str, ids: list[int]) -> None:
    assert gpt2.encode(text) == ids
    assert gpt2.decode(ids) == text


@pytest.mark.usefixtures("gpt2_bpe")
def test_ids_are_those_of_tiktoken(gpt2: Tokenizer, shared_dir: Path) -> None:
    reference = tiktoken.get_encoding("gpt2")
    shakespeare = (shared_dir / "data" / "tinyshakespeare.txt").read_text(encoding="utf-8")
    for text in [*HOSTILE, shakespeare]:
        assert gpt2.encode(text) == reference.encode_ordinary(text)
    assert len(gpt2.encode(shakespeare)) == 338_025
    assert (gpt2.vocab_size, gpt2.eot_id) == (reference.n_vocab, reference.eot_token)


@pytest.mark.usefixtures("gpt2_bpe")
def test_name_and_files_need_no_network(gpt2: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpt2.save(tmp_path / "model")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "empty"))
    monkeypatch.setattr("requests.get", None)
    loaded = load_tokenizer(tmp_path / "model")
    assert loaded.name == gpt2.name == "gpt2"
    assert loaded.fingerprint == gpt2.fingerprint


@pytest.mark.parametrize("kind", ["gpt2", "byte", "bpe"])
@pytest.mark.parametrize("space", [" ", "\n", "\t", "\u3000"])
def test_a_million_spaces(kind: str, space: str, request: pytest.FixtureRequest) -> None:
    """tiktoken panics on them where text follows, with an exception that `except Exception` does not catch."""
    tokenizer = request.getfixturevalue(kind)
    run = 1_100_000
    text = "word" + space * run + "word" + space * run
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    if kind != "byte":
        parts = ("word", space * (run - 1), space + "word", space * run)
        assert ids == [i for part in parts for i in whole(tokenizer, part)]


def test_a_long_document_without_spaces(bpe: Tokenizer) -> None:
    text = "ab\u6f22" * 300_000
    assert bpe.decode(bpe.encode(text)) == text
