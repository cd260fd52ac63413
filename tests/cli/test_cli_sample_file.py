"""`nano-gpt sample --input`: prompts of a file, lines of JSON out, stopped and gone on with; a reader that leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nano_gpt.cli.main import run
from nano_gpt.inference.prompt_file import Job

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def arguments(folder: str, tmp_path: Path) -> list[str]:
    prompts = [{"prompt": "abc"[:size], "id": f"n{size}"} for size in range(4)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    settings = ["--num-sequences=2", "--max-new-tokens=5", "--top-k=0"]
    return ["sample", "--pretrained", folder, "--input", "p.jsonl", *settings]


def test_each_prompt_has_the_text_that_it_has_alone(arguments: list[str], capsys: Capture) -> None:
    assert run([*arguments, "--batch-size=6"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["id"], row["index"]) for row in rows] == [(f"n{size}", index) for size in range(4) for index in (0, 1)]
    for row in rows:
        assert row["sampling"]["max_new_tokens"] == 5 and row["model"].endswith("model")
    alone = [argument for argument in arguments if argument not in ("--input", "p.jsonl")]
    assert run([*alone, "--json", "ab"]) == 0
    expected = json.loads(capsys.readouterr().out)["sequences"]
    assert [{name: row[name] for name in expected[0]} for row in rows[4:6]] == expected


def test_a_second_call_goes_on_where_the_first_stopped(
    arguments: list[str], capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(arguments) == 0
    whole = capsys.readouterr().out
    output = tmp_path / "out.jsonl"
    real = Job.lines

    def stopped(*args: object, **kwargs: object) -> object:
        for number, line in enumerate(real(*args, **kwargs)):  # type: ignore[arg-type]
            assert output.read_text().count("\n") == number  # each is there at once
            if number == 3:
                raise KeyboardInterrupt
            yield line

    with monkeypatch.context() as patch:
        patch.setattr(Job, "lines", stopped)
        assert run([*arguments, "--output", "out.jsonl"]) == 130
    assert output.read_text() == "".join(whole.splitlines(keepends=True)[:3])
    assert "out.jsonl has 3 of 8 lines\n  hint: the same command goes on" in capsys.readouterr().err
    for already in (3, 8):
        assert run([*arguments, "--output", "out.jsonl"]) == 0
        assert output.read_text() == whole
        assert f"{already} of 8 lines are there" in capsys.readouterr().err
    assert run([*arguments, "--output", "out.jsonl", "--seed=7"]) == 1
    assert "line 1 has sampling.seed 42, which now is 7\n  hint: --overwrite" in capsys.readouterr().err
    assert output.read_text() == whole
    assert run([*arguments, "--output", "out.jsonl", "--seed=7", "--overwrite"]) == 0
    assert output.read_text() != whole and output.read_text().count("\n") == 8


def test_a_prompt_that_does_not_fit_is_told_before_any_is_continued(
    arguments: list[str], capsys: Capture, tmp_path: Path
) -> None:
    with (tmp_path / "p.jsonl").open("a") as file:
        file.write('\n{"prompt": "' + "x" * 70 + '"}')
    assert run([*arguments, "--output", "out.jsonl"]) == 1
    assert "p.jsonl line 6: the prompt has 70 tokens and the model's context is 64" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
    assert run([*arguments, "--output", "out.jsonl", "--truncate=left"]) == 0
    assert run([*arguments, "--output", "nowhere/out.jsonl", "--truncate=left"]) == 1
    assert run([*arguments, "--input", "nothing.jsonl"]) == 1
    assert "nothing.jsonl cannot be read" in (errors := capsys.readouterr().err) and "nowhere/out.jsonl: No" in errors


def test_a_reader_that_leaves_is_no_error(arguments: list[str], tmp_path: Path) -> None:
    """`nano-gpt sample ... | head -1`"""
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n' * 2000)
    command = [sys.executable, "-m", "nano_gpt", *arguments, "--batch-size=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert json.loads(process.stdout.readline())["prompt"] == "a"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 1
