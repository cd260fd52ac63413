"""The frame of the command: exit codes, one line per mistake, suggestions, spellings."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
import typer

from nano_gpt import __version__
from nano_gpt.cli import main
from nano_gpt.cli.main import run
from nano_gpt.errors import ConfigError, DataError, Interrupted, NanoGPTError


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Every command line ends in `error`, as if a command had raised it."""

    def command(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(main, "app", command)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


def test_no_arguments_print_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) in (0, 2)  # click decides which
    captured = capsys.readouterr()
    assert "prepare_dataset" in captured.out + captured.err


@pytest.mark.parametrize("arguments", [["prepare-dataset", "--help"], ["prepare_dataset", "-h"]])
def test_commands_have_a_dashed_spelling(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 0
    assert "--dataset" in capsys.readouterr().out


def test_underscores_in_flags_are_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--max_steps=0"]) == 2
    assert "--max-steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [(["trian"], "train"), (["config", "--datset", "x"], "--dataset"), (["train", "--max-step", "3"], "--max-steps")],
)
def test_misuse_is_two_with_a_suggestion(
    arguments: list[str], suggestion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert suggestion in captured.err


def test_a_users_mistake_is_one_with_message_and_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, ConfigError("unknown thing 'x'", "did you mean 'y'?"))
    assert run(["train"]) == 1
    assert capsys.readouterr().err == "error: unknown thing 'x'\n  hint: did you mean 'y'?\n"


def test_a_file_that_cannot_be_read_names_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, PermissionError(13, "Permission denied", "/secret"))
    assert run(["train"]) == 1
    assert capsys.readouterr().err == "error: /secret: Permission denied\n"


def test_a_full_disk_is_no_bug(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    raising(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    assert run(["train"]) == 1
    assert capsys.readouterr().err.startswith("error: the disk is full: No space left on device\n  hint: make room")


def shared(error: NanoGPTError) -> NanoGPTError:
    error.on_all_ranks = True
    return error


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (ConfigError("no recipe 'x'"), True),
        (shared(DataError("no such set")), True),
        (typer.BadParameter("not a number"), True),
        (DataError("a damaged shard"), False),
        (RuntimeError("a bug"), False),
    ],
)
def test_rank_0_goes_first_with_what_it_tells_too(
    error: Exception, waits: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eight ranks printed eight copies. A rank that nobody ends while it waits is alone, and must not be silent."""
    said_before_waiting: list[str] = []
    monkeypatch.setattr(main.time, "sleep", lambda seconds: said_before_waiting.append(capsys.readouterr().err))
    raising(monkeypatch, error)
    monkeypatch.setenv("RANK", "3")
    assert run(["train"]) == (2 if isinstance(error, typer.BadParameter) else 1)
    assert said_before_waiting == ([""] if waits else [])
    err = capsys.readouterr().err
    assert err.startswith("rank 3: error: ")
    assert str(error) in err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted("saved", "--resume", 15)])
def test_only_rank_0_says_that_all_were_stopped(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, error)
    monkeypatch.setenv("RANK", "1")
    assert run(["train"]) in (130, 143)
    assert capsys.readouterr().err == ""


def test_two_ranks_tell_a_mistake_once() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "nano_gpt"]
    for arguments, words in ((["--recipe=nowhere"], "'nowhere'"), (["--max-stepz=3"], "--max-stepz")):
        done = subprocess.run(
            [*command, "train", *arguments], env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode != 0
        assert done.stderr.count(words) == 1, done.stderr


def test_a_bug_is_one_line_and_a_traceback_only_with_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, RuntimeError("shapes differ\nand a page of C++"))
    assert run(["train"]) == 1
    quiet = capsys.readouterr().err
    assert quiet.startswith("error: RuntimeError: shapes differ\n  hint: ")
    assert "C++" not in quiet
    assert run(["--debug", "train"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (Interrupted("saved", "--resume", 15), 143)])
def test_being_stopped(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, error)
    assert run(["train"]) == code
    assert "Traceback" not in capsys.readouterr().err


def test_ctrl_c_inside_a_real_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nano_gpt.cli.config.resolve", interrupted)
    assert run(["config"]) == 130


@pytest.mark.parametrize(
    ("given", "understood"),
    [
        (["train", "--resume"], ["train", "--resume=auto"]),
        (["train", "--resume", "--max-steps", "3"], ["train", "--resume=auto", "--max-steps", "3"]),
        (["train", "--resume", "runs/a"], ["train", "--resume", "runs/a"]),
        (["train", "--resume=runs/a"], ["train", "--resume=runs/a"]),
    ],
)
def test_resume_may_stand_alone(given: list[str], understood: list[str]) -> None:
    assert main._optional_values(given) == understood
