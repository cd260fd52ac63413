"""`nano-gpt inspect`: on sets and runs that the other commands made."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from nano_gpt.cli.main import run
from nano_gpt.config import resolve
from nano_gpt.data.manifest import open_prepared
from nano_gpt.model.gpt import GPT
from nano_gpt.training.plan import Plan
from nano_gpt.training.replay import open_replay

T, ROWS = 16, 8
WORDS = "na\u00efve \u4e2d\u6587 words "
DOCUMENTS = [f"document {number}: {WORDS * (number % 5)}end" for number in range(30)]
SETTINGS = {
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": T},
    "data": {"dataset": "rows", "tokenizer": "byte"},
    "training": {
        "max_steps": 30, "total_batch_size": ROWS * T, "micro_batch_size": 2, "checkpoint_steps": 30,
        "device": "cpu", "dtype": "fp32", "compile": False,
    },
    "evaluation": {"eval_steps": 10, "validation_steps": 1},
    "sampling": {"num_sequences": 0},
}  # fmt: skip


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set, a run of 30 steps (more than an epoch) on it, and the ids that its model was given."""
    place = tmp_path_factory.mktemp("inspect")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        Path("rows.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in DOCUMENTS))
        assert run(["prepare_dataset", "--files", "rows.jsonl", "--tokenizer", "byte", "--num-procs", "1"]) == 0
        Path("run.yaml").write_text(yaml.safe_dump(SETTINGS))
        seen: list[list[list[int]]] = []
        forward = GPT.forward

        def recorded(self: GPT, ids: Tensor, *arguments: Any, **more: Any) -> Any:
            if self.training:
                seen.append(ids.tolist())
            return forward(self, ids, *arguments, **more)

        patch.setattr(GPT, "forward", recorded)
        assert run(["train", "--config", "run.yaml", "--run-dir", "runs/a"]) == 0
    per_step = ROWS // 2  # micro-batches of 2 rows
    steps = [[row for batch in seen[i : i + per_step] for row in batch] for i in range(0, len(seen), per_step)]
    (place / "seen.json").write_text(json.dumps(steps))
    return place


@pytest.fixture(autouse=True)
def here(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)


def inspect_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run(["inspect", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# ---------------------------------------------------------------------------------------------------- steps


def test_a_step_shows_what_the_model_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    """All ids of all steps of a real run, the short window at the end of the split and a second epoch among them."""
    steps = json.loads(Path("seen.json").read_text())
    assert len(steps) == 30
    short, epochs = 0, set()
    for step, rows in enumerate(steps):
        shown = inspect_json(capsys, "runs/a", "--step", str(step))
        assert [window["row"] for window in shown["windows"]] == list(range(ROWS))
        for window, given in zip(shown["windows"], rows, strict=True):
            assert window["ids"] == given[: len(window["ids"])]
            assert given[len(window["ids"]) :] == [0] * (T - len(window["ids"]))  # filled up
            short += len(window["ids"]) < T
            epochs.add(window["epoch"])
    assert short >= 1 and len(epochs) >= 2


@pytest.mark.parametrize("world_size", [2, 4])
def test_it_is_the_same_for_several_ranks(world_size: int, capsys: pytest.CaptureFixture[str]) -> None:
    config = resolve(file=Path("runs/a/config.yaml"))
    reader = open_prepared(Path("dataset_cache/rows-byte")).reader("train")
    for step in (0, 7, 29):
        shown = inspect_json(capsys, "runs/a", "--step", str(step))["windows"]
        loaders = [Plan(config, world_size, micro_batch_size=2).loader(reader, rank) for rank in range(world_size)]
        rows = torch.cat([batch.ids for loader in loaders for batch in loader.batches(step)]).tolist()
        assert [window["ids"] for window in shown] == [
            row[: len(window["ids"])] for window, row in zip(shown, rows, strict=True)
        ]


def test_a_step_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Line by line what the tokens say: half a character at an edge is U+FFFD, the end of a document is spelt out."""
    shown = inspect_json(capsys, "runs/a", "--step", "3")["windows"]
    assert run(["inspect", "--step", "3", "--config", "runs/a/config.yaml"]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"step 3 of runs/a/config.yaml: 8 windows of {T} tokens from dataset_cache/rows-byte\n"
    expected = ""
    for window in shown:
        stop = window["start"] + len(window["ids"]) - 1
        title = f"── row {window['row']} of 8 · window {window['window']} · tokens {window['start']}-{stop} · epoch 0 "
        raw = b"".join(b"<|endoftext|>" if i == 256 else bytes([i]) for i in window["ids"])
        expected += f"{title.ljust(80, '─')}\n{raw.decode('utf-8', 'replace')}\n"
        assert window["start"] == window["window"] * T
    assert captured.out == expected
    everything = "".join(
        window["text"] for step in range(5) for window in inspect_json(capsys, "runs/a", "--step", str(step))["windows"]
    )
    assert "<|endoftext|>" in everything and "\ufffd" in everything and "na\u00efve" in everything


def test_the_ways_to_name_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    expected = inspect_json(capsys, "runs/a", "--step", "1")["windows"]
    for arguments in (
        ["--config", "runs/a"],
        ["--config", "runs/a/config.yaml"],
        ["--config", "run.yaml"],
        ["rows-byte", "--config", "runs/a"],
        ["dataset_cache/rows-byte", "--config", "runs/a"],
        ["--config", "runs/a", "--dataset-dir", "dataset_cache"],
    ):
        assert inspect_json(capsys, *arguments, "--step", "1")["windows"] == expected
    other = Path("other.yaml")
    other.write_text(yaml.safe_dump({**SETTINGS, "training": {**SETTINGS["training"], "seed": 5}}))
    assert inspect_json(capsys, "--config", "other.yaml", "--step", "1")["windows"] != expected


def test_a_run_leads_to_its_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "runs/a"]) == 0
    assert capsys.readouterr().out.startswith("dataset_cache/rows-byte\n")
    assert run(["inspect", "runs/a", "--verify"]) == 0


def test_another_set_than_the_runs_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Path("rows.jsonl").read_text().splitlines()[1:]
    Path("moved").mkdir()
    Path("moved/rows.jsonl").write_text("\n".join(lines))
    changed = ["prepare_dataset", "--files", "moved/rows.jsonl", "--tokenizer", "byte", "--dataset-dir", "moved"]
    assert run(changed) == 0
    capsys.readouterr()
    assert run(["inspect", "moved/rows-byte", "--config", "runs/a", "--step", "0"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "moved/rows-byte is not what runs/a was trained on" in captured.err
    assert run(["inspect", "moved/rows-byte", "--config", "run.yaml", "--step", "0"]) == 0  # no run: nothing recorded


# ---------------------------------------------------------------------------------------------------- sets


@pytest.mark.parametrize(("split", "number"), [("train", 4), ("validation", 0)])
def test_nothing_but_the_document_is_on_stdout(split: str, number: int) -> None:
    command = ["inspect", "rows-byte", "--document", str(number), "--split", split]
    done = subprocess.run([sys.executable, "-m", "nano_gpt", *command], capture_output=True, check=True)
    assert done.stdout.decode() in DOCUMENTS
    assert f"{split} document {number}: {len(done.stdout)} tokens from " in done.stderr.decode()


def test_all_documents_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    found = {
        split: [inspect_json(capsys, "rows-byte", "--document", str(n), "--split", split)["text"] for n in range(count)]
        for split, count in (("train", 27), ("validation", 3))
    }
    assert sorted([*found["train"], *found["validation"]]) == sorted(DOCUMENTS)
    assert found["train"] == [text for text in DOCUMENTS if text in found["train"]]
    one = inspect_json(capsys, "rows-byte", "--document", "1")
    assert one["tokens"] == len(one["ids"]) == len(one["text"].encode()) and one["start"] > 0


def test_what_a_set_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "dataset_cache/rows-byte"]) == 0
    out = capsys.readouterr().out
    for words in ("your own files", "byte, 257 ids", "validation_fraction 0.1", "train documents", "█"):
        assert words in out
    assert "\x1b" not in out
    values = inspect_json(capsys, "rows-byte")
    prepared = open_prepared(Path("dataset_cache/rows-byte"))
    assert values["fingerprint"] == prepared.fingerprint and values["splits"]["train"]["documents"] == 27
    assert sum(values["splits"]["train"]["lengths"]) == 27


def test_the_list_of_sets(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("dataset_cache\n") and "rows-byte" in out
    (entry,) = inspect_json(capsys)
    assert (entry["name"], entry["problem"]) == ("rows-byte", None)
    assert run(["inspect", "--dataset-dir", "nothing"]) == 0
    assert "nothing holds no prepared set" in capsys.readouterr().out


def test_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "rows-byte", "--verify"]) == 0
    assert capsys.readouterr().out.startswith("OK: dataset_cache/rows-byte, 2 shards")
    assert inspect_json(capsys, "rows-byte", "--verify")["ok"] is True
    copy = tmp_path / "rows-byte"
    shutil.copytree("dataset_cache/rows-byte", copy)
    data = bytearray((copy / "train_000000.npy").read_bytes())
    data[300] ^= 4
    (copy / "train_000000.npy").write_bytes(data)
    assert run(["inspect", str(copy), "--verify"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and f"{copy}/train_000000.npy is not what was written" in captured.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["rows-bite"], 1, ["unknown prepared set 'rows-bite'", "did you mean 'rows-byte'?"]),
        (["rows-byte", "--document", "27"], 1, ["no train document 27: it holds 27", "the last one is 26"]),
        (["rows-byte", "--document", "-1"], 2, ["--document"]),
        (["rows-byte", "--document", "0", "--split", "trian"], 1, ["did you mean 'train'"]),
        (["runs/a", "--step", "30"], 1, ["there is no step 30", "0 to 29"]),
        (["rows-byte", "--step", "0"], 2, ["--step of which run?", "--config"]),
        (["--verify"], 2, ["which set?"]),
        (["rows-byte", "--verify", "--document", "1"], 2, ["one at a time"]),
        (["--config", "nowhere.yaml", "--step", "1"], 1, ["cannot read nowhere.yaml"]),
        (["--config", "runs/a", "--dataset-dir", "x", "--step", "1"], 1, ["no prepared set in x/rows-byte"]),
    ],
)
def test_mistakes_are_one_clear_line(
    arguments: list[str], code: int, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    for word in words:
        assert word in captured.err


def test_another_vocabulary_than_the_configs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(
        yaml.safe_dump({**SETTINGS, "model": {**SETTINGS["model"], "vocab_size": 50257}})
    )
    with pytest.raises(Exception, match="is about 50,257 ids, and dataset_cache/rows-byte has 257"):
        open_replay(tmp_path / "run.yaml")
