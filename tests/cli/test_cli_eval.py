"""`nano-gpt eval` as a user types it."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nano_gpt.checkpoint import evaluations
from nano_gpt.checkpoint.folder import write_model_folder
from nano_gpt.cli.main import run
from nano_gpt.config import DataConfig, GPTConfig, RunConfig, to_yaml
from nano_gpt.data.preparing.prepare import ensure_prepared
from nano_gpt.errors import NetworkError
from nano_gpt.evaluation import hellaswag_items
from nano_gpt.model.gpt import GPT
from nano_gpt.tokenizer import load_tokenizer, train_tokenizer
from nano_gpt.tokenizer.base import Tokenizer

Capture = pytest.CaptureFixture[str]
LINE = r"val: loss: (\d+\.\d{4}) \| perplexity: \d+\.\d{4} \| bits_per_byte: (\d+\.\d{4}) \| tokens_evaluated: (\d+)"
LINE += r" \| stderr: (?:\d\.\d{4}|-) \| bits_per_byte_stderr: (?:\d\.\d{4}|-)"


@pytest.fixture(autouse=True)
def empty_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No runs, no prepared sets, and a hub that cannot be reached."""
    monkeypatch.chdir(tmp_path)

    def unreachable(repository: str) -> str:
        raise NetworkError(f"cannot reach the hub for {repository}")

    monkeypatch.setattr(hellaswag_items, "newest_commit", unreachable)


def write_model(folder: Path, tokenizer: Tokenizer, n_positions: int = 128, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = GPTConfig(vocab_size=tokenizer.vocab_size, n_positions=n_positions, n_embd=16, n_layer=1, n_head=2)
    folder.mkdir(parents=True)
    write_model_folder(folder, config, GPT(config).state_dict(), tokenizer)
    return folder


def own_text(tokenizer: str) -> DataConfig:
    """A set of one's own, prepared; 40 lines of which each is a document."""
    file = Path("mine.txt")
    file.write_text("".join(f"line {number} of some text, and it goes on\n" for number in range(40)))
    data = DataConfig(
        dataset="mine", files=(file,), tokenizer=tokenizer, document_separator="\n", validation_fraction=0.3
    )
    ensure_prepared(data)
    return data


def write_run(data: DataConfig, *, total_batch_size: int = 128, validation_steps: int | None = 1) -> Path:
    """A run folder as `train` leaves it, with an untrained model."""
    tokenizer = ensure_prepared(data).tokenizer()
    checkpoints = Path("runs/a/checkpoints")
    folder = write_model(checkpoints / "step_000000", tokenizer)
    (folder / "training").mkdir()
    (folder / "training" / "state.json").write_text(json.dumps({"step": 0}))
    (checkpoints / "latest").write_text("step_000000\n")
    config = RunConfig.model_validate(
        {
            "data": data.model_dump(),
            "model": {"n_positions": 128},
            "training": {"total_batch_size": total_batch_size},
            "evaluation": {"validation_steps": validation_steps},
        }
    )
    Path("runs/a/config.yaml").write_text(to_yaml(config))
    return Path("runs/a")


def items_file(count: int = 6) -> str:
    values: list[dict[str, Any]] = [
        {
            "activity_label": "Mowing",
            "ctx_a": f"Man {number} starts a mower.",
            "ctx_b": "he",
            "ctx": f"Man {number} starts a mower. he",
            "endings": ["mows the lawn.", "flies away in it.", "is a lawn.", "eats three."],
            "label": str(number % 4),
        }
        for number in range(count)
    ]
    Path("items.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    return "items.jsonl"


def test_a_run_is_measured_on_its_own_data_set_as_it_was_in_training(capsys: Capture) -> None:
    write_run(own_text("byte"))
    assert run(["eval"]) == 0
    out, err = capsys.readouterr()
    found = re.fullmatch(LINE + "\n", out)
    assert found and found[3] == "128"  # validation_steps of 1, of one window each
    assert float(found[1]) == pytest.approx(5.5, abs=0.3)  # ln 257
    assert "hellaswag: skipped: cannot reach the hub" in err
    assert "--hellaswag-file" in err
    assert run(["eval", "--checkpoint=runs/a", "--validation_steps=10000"]) == 0
    whole = re.match(LINE, capsys.readouterr().out)
    assert whole and int(whole[3]) == len(ensure_prepared(own_text("byte")).reader("validation")) - 1


def test_the_set_is_enough_when_the_files_are_gone(capsys: Capture) -> None:
    write_run(own_text("byte"))
    Path("mine.txt").unlink()
    assert run(["eval", "--hellaswag-samples=0"]) == 0
    assert re.fullmatch(LINE + "\n", capsys.readouterr().out)


def test_batch_size_and_precision(capsys: Capture) -> None:
    write_run(own_text("byte"), validation_steps=None)
    lines = []
    for flags in ([], ["--batch-size=1"], ["--dtype=bf16"]):
        assert run(["eval", "--hellaswag-samples=0", "--device=cpu", *flags]) == 0
        lines.append(capsys.readouterr().out)
    assert lines[0] == lines[1]
    assert run(["eval", "--hellaswag-samples=0", "--dtype=fp8"]) == 2


def test_hellaswag_from_a_file(capsys: Capture) -> None:
    """The predecessor's flags; its line, with more behind it."""
    write_model(Path("model"), load_tokenizer("byte"))
    command = ["eval", "--pretrained=./model", "--validation-steps=0", "--hellaswag-file", items_file()]
    assert run(command) == 0
    all_of_them = capsys.readouterr().out
    form = r"hellaswag: accuracy: [01]\.\d{4} \| total: 6 \| correct: \d \| stderr: .* \| acc_norm_stderr: \S+\n"
    assert re.fullmatch(form, all_of_them)
    assert run([*command, "--hellaswag_samples=2"]) == 0
    assert "total: 2" in capsys.readouterr().out


def test_json(capsys: Capture) -> None:
    write_run(own_text("byte"))
    assert run(["eval", "--json", "--hellaswag-file", items_file()]) == 0
    out = capsys.readouterr().out
    found = json.loads(out)
    assert found["model"] == "runs/a/checkpoints/step_000000"
    assert found["val"]["tokens_evaluated"] == 128
    scores = {"loss", "perplexity", "bits_per_byte", "tokens_evaluated", "stderr", "bits_per_byte_stderr"}
    assert set(found["val"]) == scores
    assert found["hellaswag"]["total"] == 6
    assert out.count("\n") == 1


def test_another_data_set_is_read_with_the_models_tokenizer(capsys: Capture) -> None:
    """`mine-byte`, and not `mine`, which would be in GPT-2 tokens."""
    own_text("byte")
    write_model(Path("model"), load_tokenizer("byte"))
    assert run(["eval", "--pretrained=./model", "--dataset=mine", "--hellaswag-samples=0"]) == 0
    assert re.fullmatch(LINE + "\n", capsys.readouterr().out)


def test_a_set_of_another_tokenizer(capsys: Capture) -> None:
    own_text("char")
    other = Path("other.txt")
    other.write_text("xyz\n" * 50)
    separate = DataConfig(
        dataset="other", files=(other,), tokenizer="char", document_separator="\n", validation_fraction=0.3
    )
    write_model(Path("model"), ensure_prepared(separate).tokenizer())
    assert run(["eval", "--pretrained=./model", "--dataset=mine", "--hellaswag-samples=0"]) == 1
    error = capsys.readouterr().err
    assert re.search(r"mine-char was made with the tokenizer char \(\w{12}\), the model reads char \(\w{12}\)", error)
    assert "prepare_dataset --dataset mine --tokenizer" in error


def test_hellaswag_with_characters(capsys: Capture) -> None:
    """A vocabulary that cannot spell it: skipped by default, an error when it is asked for."""
    write_run(own_text("char"))
    file = items_file()
    assert run(["eval", "--hellaswag-file", file]) == 1
    assert "HellaSwag item 0" in capsys.readouterr().err
    config = Path("runs/a/config.yaml")
    config.write_text(config.read_text().replace("hellaswag_file: null", f"hellaswag_file: {file}"))
    assert run(["eval"]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(LINE + "\n", out)
    assert "hellaswag: skipped: HellaSwag item 0" in err


def test_a_text_file_in_windows_that_slide(capsys: Capture) -> None:
    """With the bytes of the text itself, however they fall into characters."""
    write_model(Path("model"), load_tokenizer("byte"), n_positions=64)
    text = "Über 東京 " * 20
    Path("mine.txt").write_text(text, encoding="utf-8")
    command = ["eval", "model", "--tasks=val", "--text=mine.txt", "--json"]
    assert run(command) == 0
    whole = json.loads(capsys.readouterr().out)["val"]
    assert whole["tokens_evaluated"] == len(text.encode())  # bytes are the tokens, and each is scored
    assert whole["bits_per_byte"] == pytest.approx(whole["loss"] / math.log(2))
    assert run([*command, "--stride=16"]) == 0
    slid = json.loads(capsys.readouterr().out)["val"]
    assert slid["tokens_evaluated"] == whole["tokens_evaluated"]
    assert slid["loss"] != whole["loss"]
    assert run([*command, "--stride=16", "--limit=3"]) == 0
    part = json.loads(capsys.readouterr().out)["val"]
    assert part["tokens_evaluated"] == 64 + 2 * 16
    assert part["bits_per_byte"] == pytest.approx(part["loss"] / math.log(2))


def test_tasks_and_limit(capsys: Capture) -> None:
    write_run(own_text("byte"), validation_steps=None)
    flags = ["eval", "runs/a", "--json", "--hellaswag-file", items_file()]
    assert run([*flags, "--tasks=val", "--limit=2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"model", "val"} and found["val"]["tokens_evaluated"] == 256
    assert run([*flags, "--tasks=hellaswag,val", "--limit=2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["hellaswag"]["total"] == 2 and "val" in found


def test_two_models_are_compared_item_by_item(capsys: Capture) -> None:
    own_text("byte")
    for seed in (0, 1):
        write_model(Path(f"model{seed}"), load_tokenizer("byte"), seed=seed)
    flags = ["eval", "./model0", "model1", "--dataset=mine", "--hellaswag-file", items_file()]
    assert run(flags) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["a", "val", "hellaswag", "b", "val", "hellaswag", *["a - b"] * 5]
    form = r"a - b: hellaswag acc: [+-]\d\.\d{4} \| 95%: [+-]\d\.\d{4} to .* \| items: 6 \| only_a: \d \| only_b: \d"
    assert re.fullmatch(form, lines[-2])
    assert run([*flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [model["model"] for model in found["models"]] == ["model0", "model1"]
    loss = found["differences"]["val loss"]
    assert (
        loss["difference"] == pytest.approx(loss["a"] - loss["b"]) and loss["low"] < loss["difference"] < loss["high"]
    )


def test_a_model_is_compared_with_itself_in_8_bits(capsys: Capture) -> None:
    own_text("byte")
    folder = write_model(Path("model"), load_tokenizer("byte"))
    flags = ["eval", "./model", "--dataset=mine", "--tasks=val", "--quantize=int8"]
    assert run([*flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [model["model"] for model in found["models"]] == ["model", "model in int8"]
    loss = found["differences"]["val loss"]
    assert 0 < abs(loss["difference"]) < 0.01
    assert json.loads((folder / "evaluations.json").read_text())["val mine"]["loss"] == loss["a"]  # not that of 8 bits
    assert run(["eval", "./model", *flags[1:]]) == 2
    assert "name one" in capsys.readouterr().err


def test_different_tokenizers_compare_by_the_byte(capsys: Capture) -> None:
    write_model(Path("bytes"), load_tokenizer("byte"))
    text = "some text of some length, and more of it. " * 12
    write_model(Path("pairs"), train_tokenizer("bpe:280", [text]))
    Path("mine.txt").write_text(text)
    assert run(["eval", "bytes", "pairs", "--tasks=val", "--text=mine.txt"]) == 0
    out, err = capsys.readouterr()
    assert [line.split(":")[1] for line in out.splitlines() if line.startswith("a - b")] == [" val bits_per_byte"]
    assert "different tokenizers" in err


def test_scores_are_kept_beside_the_model(capsys: Capture) -> None:
    run_folder = write_run(own_text("byte"))
    file = run_folder / "checkpoints/step_000000/evaluations.json"
    flags = ["eval", "runs/a", "--hellaswag-file", items_file()]
    assert run(flags) == 0
    kept = json.loads(file.read_text())
    assert set(kept) == {"val mine", "hellaswag"}
    assert kept["hellaswag"]["total"] == 6 and kept["hellaswag"]["precision"] == "fp32"
    Path("text.txt").write_text("some text")
    assert run([*flags, "--text=text.txt", "--limit=2"]) == 0  # a part does not take the place of the whole
    assert json.loads(file.read_text())["hellaswag"] == kept["hellaswag"]
    assert set(json.loads(file.read_text())) == {"val mine", "hellaswag", "val text.txt"}
    assert run([*flags, "--sequence-length=16", "--text=text.txt", "--stride=3"]) == 0  # that is another model
    assert set(json.loads(file.read_text())) == {"val mine", "hellaswag", "val text.txt"}
    capsys.readouterr()


def test_a_folder_that_cannot_be_written_is_told_and_no_more(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(Path("model"), load_tokenizer("byte"))

    def refuse(path: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(evaluations, "write_text", refuse)
    assert run(["eval", "model", "--tasks=hellaswag", "--hellaswag-file", items_file()]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("hellaswag: ")
    assert "the scores are not kept beside the model: model/evaluations.json: Permission denied" in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tasks=val"], "val without a data set"),
        (["--tasks=vall"], "did you mean 'val'?"),
        (["--tasks=val,"], "unknown task ''"),
        (["--text=mine.txt", "--dataset=mine"], "--text and --dataset both name a text"),
        (["--text=nowhere.txt"], "cannot read nowhere.txt"),
        (["--text=items.jsonl", "--stride=129"], "a stride of 129 tokens would leave some out"),
        (["--validation-steps=0"], "cannot reach the hub for Rowan/hellaswag"),  # there is nothing else to measure
        (["--hellaswag-samples=10"], "cannot reach the hub for Rowan/hellaswag"),
        (["--validation-steps=0", "--hellaswag-samples=0"], "nothing to measure"),
        (["--validation-steps=3"], "--validation-steps without a data set"),
        (["--hellaswag-file=nowhere.jsonl"], "nowhere.jsonl"),
        (["--dataset=pyton_docs"], "did you mean 'python_docs'?"),
        (["--dataset=finewebedu", "--hellaswag-samples=0"], "nano-gpt prepare_dataset --dataset finewebedu"),
    ],
)
def test_mistakes_are_one_line_and_a_remedy(flags: list[str], words: str, capsys: Capture) -> None:
    write_model(Path("model"), load_tokenizer("byte"))
    assert run(["eval", "--pretrained=./model", *flags]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert "Traceback" not in err


def test_misuse_of_flags() -> None:
    assert run(["eval", "--batch-size=0"]) == 2
    assert run(["eval", "--hellaswag-sample=2"]) == 2
    assert run(["eval", "a", "b", "c"]) == 2
    assert run(["eval", "a", "--pretrained=b"]) == 2
    assert run(["eval", "a", "b", "--adapter=c"]) == 2


def test_two_ranks_print_once_what_one_prints(capsys: Capture) -> None:
    write_run(own_text("byte"), validation_steps=None)
    flags = ["eval", "--device=cpu", "--hellaswag-file", items_file()]
    assert run(flags) == 0
    alone = capsys.readouterr().out
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "nano_gpt"]
    done = subprocess.run(
        [*launcher, *flags], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == alone
