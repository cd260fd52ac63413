"""Tokenizers made from a corpus."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import HOSTILE, corpus

from nano_gpt.errors import ConfigError, DataError
from nano_gpt.tokenizer import Tokenizer, load_tokenizer, needs_corpus, train_tokenizer
from nano_gpt.tokenizer.base import END_OF_TEXT
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


def test_what_goes_wrong_with_the_texts_is_raised() -> None:
    def texts() -> Iterator[str]:
        yield "some text"
        raise DataError("file.txt: byte 9 is not UTF-8")

    with pytest.raises(DataError, match="byte 9"):
        train_tokenizer("bpe:300", texts())


def test_who_waits_is_called_and_may_stop_it() -> None:
    """As Ctrl-C does, which raises where the waiting thread is."""
    calls, read = 0, 0

    def waiting() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    def texts() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "a text that never ends "
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        train_tokenizer("bpe:300", texts(), waiting)
    assert calls == 3
    end = read
    time.sleep(0.1)
    assert read == end > 3, "somebody reads on"


# Distinct random words keep the library at merging for minutes, where it is deaf to everything.
MANY_WORDS = """
import os, random
from nano_gpt.tokenizer import train_tokenizer

draw = random.Random(0)

def texts(number):
    for i in range(number):
        yield " ".join("".join(draw.choices("abcdefgh", k=9)) for _ in range(400))
        if i == 20:
            print("reading", flush=True)
    print("merging", flush=True)
    {then}

try:
    train_tokenizer("bpe:200000", texts({number}))
except {error}:
    os._exit(130)  # as the command does: the thread may still be at it
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("phase", "number"), [("reading", 10**9), ("merging", 2_000)])
def test_ctrl_c(phase: str, number: int) -> None:
    code = MANY_WORDS.format(number=number, then="", error="KeyboardInterrupt")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while process.stdout.readline().strip() != phase:
        assert process.poll() is None
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    assert time.monotonic() - begun < 4


def test_an_error_of_the_source_does_not_wait_for_the_merging() -> None:
    code = MANY_WORDS.format(number=2_000, then="raise FileNotFoundError", error="FileNotFoundError")
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (130, "")
    assert time.monotonic() - begun < 20


def test_tokenizers_of_the_library_itself_are_loaded(tmp_path: Path) -> None:
    """Made as its own documentation does it; their ids are ours."""
    from tokenizers import ByteLevelBPETokenizer

    made = ByteLevelBPETokenizer()
    made.train_from_iterator(corpus(), vocab_size=600, special_tokens=[END_OF_TEXT], show_progress=False)
    made.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path / "tokenizer.json")
    assert (ours.vocab_size, ours.eot_id) == (600, 0)
    for text in HOSTILE:
        if END_OF_TEXT not in text:  # which theirs takes for the token
            assert ours.encode(text) == made.encode(text).ids


def test_a_gpt2_retrained_by_transformers_is_loaded(tmp_path: Path, bpe: Tokenizer) -> None:
    from transformers import PreTrainedTokenizerFast

    bpe.save(tmp_path / "first")
    first = PreTrainedTokenizerFast.from_pretrained(tmp_path / "first")
    made = first.train_new_from_iterator(corpus(), 600, show_progress=False)
    made.save_pretrained(tmp_path / "second")
    ours = load_tokenizer(tmp_path / "second")
    assert (ours.vocab_size, ours.eot_id) == (600, made.eos_token_id)
    for text in HOSTILE:
        if END_OF_TEXT not in text:
            assert ours.encode(text) == made.encode(text)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"lowercase": True}, "it normalizes text"),
        ({"add_prefix_space": True}, "does not cut text into words as GPT-2 does"),
        ({"specials": []}, r"it has no <\|endoftext\|>"),
        ({"specials": [END_OF_TEXT, "[PAD]"]}, r"special tokens besides <\|endoftext\|>: '\[PAD\]'"),
    ],
)
def test_tokenizers_of_the_library_with_other_ids_are_refused(how: dict[str, Any], reason: str, tmp_path: Path) -> None:
    from tokenizers import ByteLevelBPETokenizer

    specials = how.pop("specials", [END_OF_TEXT])
    made = ByteLevelBPETokenizer(**how)
    made.train_from_iterator(corpus(), vocab_size=400, special_tokens=specials, show_progress=False)
    made.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match=reason):
        load_tokenizer(tmp_path)
