"""`nano-gpt config`: what it prints is the run, and `--config` takes it back."""

from __future__ import annotations

from pathlib import Path

import pytest

from nano_gpt.cli.main import run
from nano_gpt.config import resolve


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["config", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--dataset", "finewebedu", "--model", "gpt2-medium"],
        ["--recipe", "shakespeare_char", "--set", "training.optimizer.learning_rate=6e-4"],
        ["--set", 'sampling.prompt="É: \\n\\u2028 #"', "--set", "data.files=[a.txt, b.txt]"],
    ],
)
def test_what_is_printed_is_the_same_run(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, *arguments)
    file = tmp_path / "run.yaml"
    file.write_text(text, encoding="utf-8")
    assert printed(capsys, "--config", str(file)) == text


def test_flags_win_over_the_file_and_set_over_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data: {dataset: mine, text_column: body}\n")
    text = printed(capsys, "--config", str(file), "--dataset", "theirs", "--set", "training.seed=7")
    file.write_text(text)
    config = resolve(file=file)
    assert (config.data.dataset, config.data.text_column, config.training.seed) == ("theirs", "body", 7)


def test_a_mistake_prints_nothing_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "--recipe", "shakespeare_chars"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "did you mean 'shakespeare_char'?" in captured.err
