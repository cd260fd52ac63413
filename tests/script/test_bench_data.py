"""`script/bench data`: its text, its measuring, and the real thing on a very small corpus."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "script" / "benchmarks"
PARAGRAPHS = {"one": [f"The {n}th paragraph of the first source." for n in range(300)], "two": ["And yet, " * 40] * 9}


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.usefixtures("benchmarks")
def test_the_corpus_is_the_same_every_time_and_no_two_documents_are(tmp_path: Path) -> None:
    corpus = module("corpus")
    first = corpus.write_corpus(tmp_path / "a.jsonl", corpus.endless_documents(PARAGRAPHS), 0.1)
    corpus.write_corpus(tmp_path / "b.jsonl", corpus.endless_documents(PARAGRAPHS), 0.1)
    texts = [json.loads(line)["text"] for line in first.path.read_text(encoding="utf-8").splitlines()]
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert len(set(texts)) == len(texts) == first.documents > 20  # the paragraphs alone are 16 kB
    assert 100_000 <= first.bytes == sum(len(text.encode()) for text in texts) < 130_000


@pytest.mark.usefixtures("benchmarks")
def test_all_paragraphs_come_before_any_comes_again() -> None:
    corpus = module("corpus")
    seen: list[str] = []
    for document in corpus.endless_documents(PARAGRAPHS):
        seen += document.split("\n\n")[1:]
        if len(seen) >= 309:
            break
    assert sorted(seen[:309]) == sorted(PARAGRAPHS["one"] + PARAGRAPHS["two"])


@pytest.mark.usefixtures("benchmarks")
def test_own_text_is_taken_as_it_is(tmp_path: Path) -> None:
    corpus = module("corpus")
    (tmp_path / "own.jsonl").write_text('{"text": "one"}\n{"text": "  "}\n{"text": "two"}\n', encoding="utf-8")
    written = corpus.write_corpus(tmp_path / "text.jsonl", corpus.own_documents([tmp_path / "own.jsonl"]), 1)
    assert (written.documents, written.bytes) == (2, 6)  # white space is no document


@pytest.mark.usefixtures("benchmarks")
def test_memory_of_a_command_counts_its_children(tmp_path: Path) -> None:
    measuring = module("measuring")
    child = "import time; block = bytearray(60_000_000); time.sleep(1.2)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    measured = measuring.run([sys.executable, "-c", parent], {}, tmp_path / "log")
    assert len(measured.peak_each) == 2
    assert 60_000_000 < measured.peak_rss < 160_000_000
    assert measured.seconds > 1.2


@pytest.mark.usefixtures("benchmarks")
def test_a_command_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    measuring = module("measuring")
    with pytest.raises(measuring.CommandFailed, match="ended with 3:\nalas"):
        measuring.run([sys.executable, "-c", "print('alas'); raise SystemExit(3)"], {}, tmp_path / "log")


@pytest.mark.usefixtures("benchmarks")
def test_shards_of_a_peer_hold_every_token_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peers, data = module("peers"), module("data")
    monkeypatch.setattr(peers, "TOKENS_PER_SHARD", 10)
    documents = [np.arange(n, dtype=np.uint16) for n in (3, 25, 1, 0, 11)]
    peers.write_shards(iter(documents), tmp_path)
    files = sorted(tmp_path.iterdir())
    assert [len(np.load(file)) for file in files] == [10, 10, 10, 10]
    assert np.concatenate([np.load(file) for file in files]).tolist() == np.concatenate(documents).tolist()
    assert data.count_tokens(tmp_path) == (40, sum(int(ids.sum()) for ids in documents))


@pytest.mark.usefixtures("benchmarks")
def test_ratios_are_taken_within_a_round() -> None:
    measuring = module("measuring")
    assert measuring.median_ratio([9, 2, 40], [1, 4, 10]) == 4  # that of the medians is 9 / 4


@pytest.mark.usefixtures("benchmarks")
def test_documents_are_as_long_as_web_pages() -> None:
    corpus = module("corpus")
    lengths = [len(text) for text in islice(corpus.endless_documents({"one": ["word " * 20] * 2000}), 200)]
    assert 2000 < np.median(lengths) < 3500
    assert max(lengths) > 3 * np.median(lengths)


@pytest.mark.slow
@pytest.mark.usefixtures("gpt2_bpe")
def test_the_whole_benchmark_on_a_little_text(tmp_path: Path) -> None:
    """That it ends well says that all ways gave the same number of tokens and the same sum of ids."""
    with (tmp_path / "own.jsonl").open("w", encoding="utf-8") as file:
        for number in range(400):
            file.write(
                json.dumps({"text": f"{number}: naïve text, <|endoftext|> and all. " * (number % 50 + 1)}) + "\n"
            )
    out = tmp_path / "new" / "data.md"
    command = [sys.executable, str(BENCHMARKS / "data.py"), "--files", str(tmp_path / "own.jsonl"), "--out", str(out)]
    done = subprocess.run(
        [
            *command,
            "--rounds",
            "1",
            "--memory-megabytes",
            "0.1",
            "0.3",
            "--gigabytes",
            "0",
            "--work-dir",
            str(tmp_path),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    table = out.read_text(encoding="utf-8")
    for words in (
        "| `nano-gpt prepare_dataset` |",
        "`Pool.imap`",
        "`datasets.map`",
        "HF tokenizers",
        "limit: 2 x that",
    ):
        assert words in table
    assert "in 400 documents" in table
    assert "at least 1.5 times the best peer" in done.stdout
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("nano-gpt-bench")] == []
