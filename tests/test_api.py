"""The Python that README.md shows, run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_readmes_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    shorter = code.replace('"training.max_steps": 200', '"training.max_steps": 3')
    assert shorter != code
    names: dict[str, object] = {}
    exec(compile(shorter, "README.md", "exec"), names)
    result, text = capsys.readouterr().out.split("\n", 1)
    step, loss = result.split()
    assert step == "3"
    assert 6.0 < float(loss) < 8.3  # it has begun to learn: ln(4096) = 8.32
    assert text.startswith("Return the")
    assert tuple(names["logits"].shape) == (1, 3, 4096)  # type: ignore[attr-defined]
    assert list(tmp_path.glob("runs/python_docs-*/config.yaml"))
