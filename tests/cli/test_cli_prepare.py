"""`nano-gpt prepare_dataset`: its options, its summary, its errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nano_gpt.cli.main import run
from nano_gpt.data.manifest import open_prepared

BYTE = ["--tokenizer", "byte"]


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.txt").write_text("To be, or not to be: that is the question.\n" * 50)
    Path("two.txt").write_text("Whether 'tis nobler in the mind to suffer\n" * 50)


def test_files_prints_a_summary_and_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prepare_dataset", "--files", "one.txt", "two.txt", *BYTE]) == 0
    out = capsys.readouterr().out
    assert "dataset_cache/one-byte: 2 files" in out
    assert "1 documents" in out and "bytes per token" in out
    assert "next: nano-gpt train --dataset one --tokenizer byte" in out
    prepared = open_prepared(Path("dataset_cache/one-byte"))
    assert prepared.tokens("train") + prepared.tokens("validation") == 2 + sum(
        Path(name).stat().st_size for name in ("one.txt", "two.txt")
    )


@pytest.mark.parametrize("files", [["--files", "one.txt", "--files", "two.txt"], ["--files=one.txt", "two.txt"]])
def test_both_ways_to_give_several_files(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prepare_dataset", "--dataset", "both", *files, *BYTE, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["folder"] == "dataset_cache/both-byte"
    assert {split: counts["documents"] for split, counts in summary["splits"].items()} == {"train": 1, "validation": 1}
    assert summary["vocab_size"] == 257


@pytest.mark.parametrize("value", ["2000", "2e3", "0.2e4", "2K", "0.002m"])
def test_tokens_per_shard_as_people_write_it(value: str) -> None:
    assert run(["prepare_dataset", "--files", "one.txt", *BYTE, "--tokens_per_shard", value]) == 0
    assert np.load("dataset_cache/one-byte/train_000000.npy").shape == (1936,) or value
    assert open_prepared(Path("dataset_cache/one-byte")).manifest.tokens_per_shard == 2000


def test_every_option_reaches_the_set(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"body": f"document {number} " * 5} for number in range(40)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = "--text-column body --validation-fraction 0.25 --dataset-dir elsewhere --num-procs 1 --splits=train"
    assert run(["prepare_dataset", "--files", "rows.jsonl", *options.split(), *BYTE]) == 0
    manifest = open_prepared(Path("elsewhere/rows-byte")).manifest
    assert manifest.splits["train"].documents == 30 and "validation" not in manifest.splits
    assert "--dataset-dir elsewhere" in capsys.readouterr().out

    Path("cut.txt").write_text("a\n--\nb\n--\nc\n--\nd")
    assert run(["prepare-dataset", "--files", "cut.txt", "--document-separator", r"\n--\n", *BYTE]) == 0
    assert open_prepared(Path("dataset_cache/cut-byte")).manifest.splits["train"].documents == 3


def test_again_and_overwrite(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prepare_dataset", "--files", "one.txt", *BYTE]) == 0
    first = capsys.readouterr()
    assert run(["prepare_dataset", "--files", "one.txt", *BYTE]) == 0
    second = capsys.readouterr()
    assert second.out == first.out
    assert "is finished already" in second.err and "is finished already" not in first.err
    assert run(["prepare_dataset", "--files", "one.txt", *BYTE, "--validation-fraction", "0.5"]) == 1
    assert "validation_fraction 0.1 there, 0.5 asked for" in capsys.readouterr().err
    assert run(["prepare_dataset", "--files", "one.txt", *BYTE, "--validation-fraction", "0.5", "--overwrite"]) == 0


def test_a_sample_and_its_duplicates(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.dumps({"text": f"document {number % 150}"}) for number in range(400)]
    Path("rows.jsonl").write_text("\n".join(rows))
    options = ["--files", "rows.jsonl", *BYTE]
    assert run(["prepare_dataset", *options, "--max-documents", "0.3K", "--dedup", "exact"]) == 0
    out = capsys.readouterr().out
    assert "duplicates dropped: 150" in out
    assert "validation documents that are in train too: 0" in out
    assert run(["prepare_dataset", *options, "--dataset", "few", "--max-tokens", "1e2", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert 100 <= sum(counts["tokens"] for counts in summary["splits"].values()) < 100 + len("document 149") + 1
    assert (summary["duplicates_dropped"], summary["validation_in_train"]) == (0, 0)


def test_invalid_utf8_is_named_or_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    Path("latin.txt").write_bytes(b"caf\xe9 au lait\n\nmerci")
    assert run(["prepare_dataset", "--files", "latin.txt", *BYTE]) == 1
    assert "latin.txt: not UTF-8 at byte 3" in capsys.readouterr().err
    assert run(["prepare_dataset", "--files", "latin.txt", *BYTE, "--encoding-errors", "replace"]) == 0
    assert open_prepared(Path("dataset_cache/latin-byte")).manifest.splits["train"].tokens > 10


def test_a_dry_run_tells_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prepare_dataset", "--files", "one.txt", "two.txt", *BYTE, "--dry-run", "--num-procs", "1"]) == 0
    out = capsys.readouterr().out
    assert "nothing is written" in out
    assert "download   0 bytes" in out
    assert "text       4.2 kB, 2 documents" in out
    assert "tokens     4,252" in out
    assert "written    8.5 kB to dataset_cache/one-byte" in out
    assert "time       0:00 in 1 process\n" in out
    assert run(["prepare_dataset", "--files", "one.txt", "two.txt", *BYTE, "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["text_bytes"], told["tokens"], told["download_bytes"]) == (4250, 4252, 0)
    assert run(["prepare_dataset", "--files", "one.txt", *BYTE, "--dry-run", "--max-tokens", "100", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 100
    assert not Path("dataset_cache/one-byte").exists()


def test_under_torchrun_every_rank_takes_its_share(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["prepare_dataset", "--files", "one.txt", "two.txt", *BYTE]
    for variables in ({"RANK": "1", "WORLD_SIZE": "2"}, {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "4"}):
        with monkeypatch.context() as patch:
            for name, value in {**variables, "SLURM_ARRAY_TASK_COUNT": "2"}.items():
                patch.setenv(name, value)
            assert run(command) == 0
        assert capsys.readouterr().out == ""  # the set is not there yet
        assert not Path("dataset_cache/one-byte/manifest.json").exists()
    with monkeypatch.context() as patch:
        for name, value in {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_MIN": "0"}.items():
            patch.setenv(name, value)
        patch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
        assert run(command) == 1
    assert "its numbers have gaps" in capsys.readouterr().err
    assert run(command) == 0  # whoever comes last
    assert "dataset_cache/one-byte: 2 files" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, ["--dataset", "--files"]),
        (["one.txt"], 2, ["unexpected argument", "--files"]),
        (["--dataset", "python_doc"], 1, ["unknown dataset 'python_doc'", "did you mean 'python_docs'?"]),
        (["--files", "three.txt", *BYTE], 1, ["error: there is no file three.txt"]),
        (["--files", "one.txt", "--tokenizer", "bite"], 1, ["'bite'", "did you mean 'byte'"]),
        (["--files", "one.txt", "--tokens-per-shard", "some"], 2, ["--tokens-per-shard", "100M"]),
        (["--files", "one.txt", "--tokens-per-shard", "1.5"], 2, ["--tokens-per-shard", "100M"]),
        (["--files", "one.txt", "--splits", ","], 2, ["--splits names no split"]),
        (["--files", "one.txt", "--splits", "train,val"], 1, ["unknown split 'val'"]),
        (["--files", "one.txt", "--validation-fraction", "2"], 1, ["validation_fraction = 2.0"]),
        (["--files", "one.txt", "--dataset", "../x"], 1, ["'../x' cannot be the name of a folder"]),
        (["--files", "one.txt", "--sourc", "x"], 2, ["No such option", "--sourc"]),
        (["--files", "one.txt", "--max-documents", "0"], 2, ["--max-documents", "'0' is not a whole number"]),
        (["--files", "one.txt", "--dedup", "fuzzy"], 2, ["--dedup", "'exact'"]),
        (["--prebuilt", "--import", "one.txt"], 2, ["give one of them"]),
    ],
)
def test_mistakes_are_one_clear_line(
    arguments: list[str], code: int, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["prepare_dataset", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    for word in words:
        assert word in captured.err
    assert not list(Path().glob("dataset_cache/*/manifest.json"))


def test_help_states_the_rules(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prepare_dataset", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "cut at lines that hold only <|endoftext|>" in text
    assert "those whose text has a small hash" in text
    assert "A single document is cut once" in text
