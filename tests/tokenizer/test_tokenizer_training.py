"""Tokenizers made from a corpus."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
from conftest import corpus

from nano_gpt.errors import ConfigError, DataError
from nano_gpt.tokenizer import Tokenizer, needs_corpus, train_tokenizer
from nano_gpt.tokenizer.hf_files import BYTE_ORDER


def test_which_need_a_corpus() -> None:
    assert needs_corpus("char") and needs_corpus("bpe:300")
    assert not any(needs_corpus(spec) for spec in ("gpt2", "byte", "some/folder", "chars", "bpe4096"))
    with pytest.raises(ConfigError):
        needs_corpus("bpe:256")


@pytest.mark.parametrize("spec", ["gpt2", "byte", "nonsense"])
def test_others_cannot_be_trained(spec: str) -> None:
    with pytest.raises(ConfigError, match="cannot be made from a corpus"):
        train_tokenizer(spec, ["text"])


@pytest.mark.parametrize("spec", ["char", "bpe:300"])
@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_a_corpus_without_text(spec: str, texts: list[str]) -> None:
    with pytest.raises(DataError, match="without text"):
        train_tokenizer(spec, texts)


def test_size_is_the_whole_vocabulary(bpe: Tokenizer) -> None:
    assert (bpe.name, bpe.vocab_size, bpe.eot_id) == ("bpe:1000", 1000, 999)
    smallest = train_tokenizer("bpe:257", ["aaaa"])
    assert smallest.vocab_size == 257
    assert [smallest.decode_bytes([i]) for i in range(256)] == list(BYTE_ORDER)


def test_the_most_frequent_pairs_come_first() -> None:
    tokenizer = train_tokenizer("bpe:259", ["xyz xyz xyz xy xy"])
    assert [tokenizer.decode([i]) for i in (256, 257)] == ["xy", " xy"]


def test_a_small_corpus_gives_fewer_ids_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="nano_gpt"):
        tokenizer = train_tokenizer("bpe:5000", ["ab ab ab"])
    assert tokenizer.vocab_size < 300
    assert tokenizer.name == f"bpe:{tokenizer.vocab_size}"
    assert [r.getMessage() for r in caplog.records] == [
        f"tokenizer: the corpus has pairs for a vocabulary of {tokenizer.vocab_size}, not of 5000"
    ]


def test_end_of_text_in_the_corpus_is_text() -> None:
    tokenizer = train_tokenizer("bpe:280", ["<|endoftext|> a <|endoftext|> b"] * 9)
    assert tokenizer.eot_id == tokenizer.vocab_size - 1
    assert tokenizer.eot_id not in tokenizer.encode("<|endoftext|>")


@pytest.mark.parametrize(
    "text", [" " * 1_500_000 + "a b a b", "a" * 1_500_000, "\ud800 x"], ids=["spaces", "as", "surrogate"]
)
def test_hostile_corpora_train_quickly(text: str) -> None:
    """The trainer is quadratic in the length of a word: a million spaces took hours."""
    for spec in ("char", "bpe:300"):
        tokenizer = train_tokenizer(spec, [text])
        assert tokenizer.decode(tokenizer.encode(text[-9:])) == text[-9:].replace("\ud800", "\ufffd")


def test_texts_may_come_from_a_generator() -> None:
    assert train_tokenizer("bpe:300", iter(corpus())).fingerprint == train_tokenizer("bpe:300", corpus()).fingerprint


def test_training_is_the_same_in_every_process() -> None:
    """With many pairs of equal frequency, so that hash order or thread order would show."""
    code = (
        "from nano_gpt.tokenizer import train_tokenizer\n"
        "words = [f'{i:b}'.replace('0', 'a').replace('1', 'b') for i in range(4000)]\n"
        "texts = [' '.join(words[k : k + 700]) for k in range(0, 3000, 7)]\n"
        "print(train_tokenizer('bpe:700', texts).fingerprint)"
    )

    def fingerprint(seed: str, threads: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return run.stdout

    assert len({fingerprint("0", "1"), fingerprint("1", "2"), fingerprint("2", "4")}) == 1
