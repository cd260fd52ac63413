"""`nano-gpt train_tokenizer`: what it prints and writes, and that the other commands take what it wrote."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nano_gpt.cli.main import run
from nano_gpt.data.manifest import open_prepared
from nano_gpt.tokenizer import load_tokenizer

TEXT = "\n".join(f"{number}: to be, or not to be, that is the question {number * 7919 % 997}" for number in range(300))


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")  # no GPT-2 vocabulary
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("play.txt").write_text(TEXT)


def train_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run(["train_tokenizer", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_built_in_corpus(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--dataset", "python_docs", "--vocab-size", "500", "--max-documents", "300"]
    assert run(["train_tokenizer", *options]) == 0
    out = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "tokenizers/python_docs-500: 500 ids"
    assert lines[1].startswith("learned from the first ")
    assert lines[2] == "(there is more: --max-bytes, --max-documents)"
    assert lines[4].startswith("bytes per token ") and "; - with GPT-2's 50,257 ids" in lines[4]
    assert "HF_HUB_OFFLINE forbids to fetch it" in lines[5]
    assert lines[6] == "next: nano-gpt prepare_dataset --dataset python_docs --tokenizer tokenizers/python_docs-500"
    assert "\x1b" not in out
    assert load_tokenizer("tokenizers/python_docs-500").vocab_size == 500


def test_beside_gpt2(gpt2_bpe: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    summary = train_json(capsys, "--files", "play.txt", "--vocab-size", "400", "-o", "mine")
    assert summary["folder"] == "mine"
    held_out = TEXT.encode()[-summary["held_out_bytes"] :].decode()
    assert summary["gpt2_bytes_per_token"] == pytest.approx(
        len(held_out.encode()) / len(load_tokenizer("gpt2").encode(held_out))
    )
    assert summary["bytes_per_token"] == pytest.approx(
        len(held_out.encode()) / len(load_tokenizer("mine").encode(held_out))
    )
    assert run(["train_tokenizer", "--files", "play.txt", "--vocab-size", "400", "-o", "mine"]) == 0
    captured = capsys.readouterr()
    assert f"{summary['gpt2_bytes_per_token']:.2f} with GPT-2's" in captured.out
    assert "mine holds it already" in captured.err


def test_again_and_overwrite(capsys: pytest.CaptureFixture[str]) -> None:
    first = train_json(capsys, "--files", "play.txt", "--vocab-size", "300", "--tokenizer-dir", "mine")
    assert train_json(capsys, "--files", "play.txt", "--vocab-size", "300", "--tokenizer-dir", "mine") == first
    assert run(["train_tokenizer", "--files", "play.txt", "--vocab-size", "310", "--tokenizer-dir", "mine"]) == 1
    assert "vocab_size 300 there, 310 asked for" in capsys.readouterr().err
    other = train_json(capsys, "--files", "play.txt", "--vocab-size", "310", "-o", "mine", "--overwrite")
    assert load_tokenizer("mine").fingerprint == other["fingerprint"] != first["fingerprint"]


def test_fewer_ids_than_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tiny.txt").write_text("ab ab ab ab\n\nx")
    assert run(["train-tokenizer", "--files", "tiny.txt"]) == 0
    out = capsys.readouterr().out
    assert "tokenizers/tiny-8192: 259 ids and not 8,192: the text has no more pairs" in out
    assert "1 document, 12 bytes, in " in out


def test_the_same_ids_on_any_number_of_threads() -> None:
    """Through the whole command. Hash order of Python and of the library differs from process to process too."""
    draw = random.Random(1)
    words = ["".join(draw.choices("abcd", k=draw.randint(2, 6))) for _ in range(3000)]  # many pairs of equal counts
    Path("rows.jsonl").write_text("\n".join(json.dumps({"text": " ".join(words[i : i + 50])}) for i in range(2900)))
    found = set()
    for threads in (1, 2, 5):
        folder = Path(f"threads-{threads}")
        command = ["train_tokenizer", "--files", "rows.jsonl", "--vocab-size", "900", "-o", str(folder)]
        environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "PYTHONHASHSEED": str(threads)}
        subprocess.run([sys.executable, "-m", "nano_gpt", *command], env=environment, check=True, capture_output=True)
        found.add((folder / "tokenizer.json").read_bytes())
    assert len(found) == 1


def test_it_is_used_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    fingerprint = train_json(capsys, "--files", "play.txt", "--vocab-size", "300", "-o", "mine")["fingerprint"]
    assert run(["prepare_dataset", "--files", "play.txt", "--tokenizer", "mine", "--num-procs", "1"]) == 0
    assert open_prepared(Path("dataset_cache/play-mine")).manifest.tokenizer_fingerprint == fingerprint
    small = "n_layer=1 n_head=1 n_embd=16 n_positions=16".split()  # noqa: SIM905
    settings = [word for setting in small for word in ("--set", f"model.{setting}")]
    options = ["--max-steps", "2", "--total-batch-size", "32", "--validation-steps", "1", "--sample-num-sequences", "0"]
    command = ["train", "--dataset", "play", "--tokenizer", "mine", "--run-dir", "run", "--device", "cpu"]
    assert run([*command, *options, *settings]) == 0
    checkpoint = Path("run/checkpoints/step_000002")
    assert load_tokenizer(checkpoint).fingerprint == fingerprint
    assert json.loads((checkpoint / "config.json").read_text())["vocab_size"] == 300
    assert run(["sample", "--checkpoint", "run", "--num-sequences", "1", "--max-length", "8", "--device", "cpu"]) == 0
    assert run(["export", "--checkpoint", "run", "--export-dir", "exported"]) == 0
    assert load_tokenizer(Path("exported")).fingerprint == fingerprint


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("seconds", [0.0, 1.5])
def test_ctrl_c(seconds: float) -> None:
    """While it reads, and while the library merges and hears nothing: nothing is written, and no noise."""
    draw = random.Random(0)
    rows = (" ".join("".join(draw.choices("abcdefgh", k=9)) for _ in range(400)) for _ in range(2500))
    Path("rows.jsonl").write_text("\n".join(json.dumps({"text": row}) for row in rows))
    command = ["train_tokenizer", "--files", "rows.jsonl", "--vocab-size", "500000"]
    watched = (
        "import runpy, sys, nano_gpt.data.preparing.vocabulary as vocabulary\n"
        "show = vocabulary._Display.show\n"
        "def told(self):\n"
        "    show(self)\n"
        "    print('at work', self._reading.finished, flush=True)\n"
        "vocabulary._Display.show = told\n"
        f"sys.argv = ['nano-gpt', *{command!r}]\n"
        "runpy.run_module('nano_gpt', run_name='__main__')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", watched], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    wanted = f"at work {seconds > 0}"
    while process.stdout.readline().strip() != wanted:
        assert process.poll() is None
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "tokenizer: stopped; nothing was written\ninterrupted\n")
    assert time.monotonic() - begun < 4
    assert not Path("tokenizers").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, ["which text?", "--dataset", "--files"]),
        (["play.txt"], 2, ["unexpected argument", "--files"]),
        (["--files", "play.txt", "--vocab-size", "256"], 1, ["a vocabulary of 256 ids is too small", "257"]),
        (["--files", "play.txt", "--vocab-size", "many"], 2, ["--vocab-size"]),
        (["--files", "play.txt", "--max-bytes", "0"], 2, ["--max-bytes"]),
        (["--files", "empty.txt"], 1, ["0 documents"]),
        (["--files", "nothing.txt"], 1, ["nothing.txt"]),
        (["--dataset", "python_doc"], 1, ["did you mean 'python_docs'?"]),
        (["--files", "play.txt", "-o", "play.txt"], 1, ["play.txt is not a folder", "--tokenizer-dir"]),
    ],
)
def test_mistakes_are_one_clear_line(
    arguments: list[str], code: int, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty.txt").write_text("\n")
    assert run(["train_tokenizer", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    for word in words:
        assert word in captured.err
    assert not Path("tokenizers").exists()
