"""`nano-gpt plot` through the real command line: the picture, and one line for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from nano_gpt.cli.main import run

RUN = Path(__file__).resolve().parents[2] / "artifacts" / "shakespeare_char"


def test_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "curves.svg"
    options = ["--x", "tokens", "--smooth", "5", "--log-x", "--log-y"]
    assert run(["plot", str(RUN), str(RUN / "train.log"), "-o", str(target), *options]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    assert target.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["runs/typo"], "there is no run runs/typo"),
        ([str(RUN), "-o", "curves.pdf"], "curves.pdf does not end in .png or .svg"),
        (["empty"], "there are no metrics in empty/metrics.jsonl yet"),
        (["."], ". is not a run folder: it has no metrics.jsonl"),
    ],
)
def test_mistakes(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("empty/metrics.jsonl").touch()
    assert run(["plot", *arguments]) == 1
    error = capsys.readouterr().err
    assert said in error.splitlines()[0]
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plot"]) == 2
    assert run(["plot", str(RUN), "--smooth", "0"]) == 2
    assert run(["plot", str(RUN), "--x", "epoch"]) == 2
