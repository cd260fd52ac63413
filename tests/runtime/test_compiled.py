"""C that is compiled on first use: once, with torch's threads; and where it cannot be, nothing breaks."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
from pathlib import Path

import pytest
import torch

from nano_gpt.runtime import compiled

load = compiled.load.__wrapped__  # not what an earlier call found

SOURCE = """
#include "factor.h"
int twice(int number) { return FACTOR * number; }
int threads(int wanted) {
    int found = 0;
    #pragma omp parallel num_threads(wanted)
    #pragma omp atomic
    found++;
    return found;
}
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "factor.h").write_text("enum { FACTOR = 2 };")
    (tmp_path / "some" / "it.c").write_text(SOURCE)
    return tmp_path / "some"


@pytest.fixture
def compiler(source: Path) -> str:
    found = shutil.which("cc")
    if found is None or load(source) is None:
        pytest.skip("nothing can be compiled here")
    return found


def libraries(source: Path) -> list[Path]:
    return sorted((source.parent / "cache" / "nano-gpt").glob("*"))


def test_it_is_compiled_once(source: Path, compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = libraries(source)
    library = load(source)
    assert library is not None and library.twice(21) == 42
    monkeypatch.setattr(compiled, "_compile", lambda *_: pytest.fail("compiled again"))
    assert load(source) is not None
    assert libraries(source) == first and len(first) == 1  # nothing is left beside it


def test_another_source_and_other_flags_are_another_library(source: Path, compiler: str) -> None:
    load(source, ("-O1", "-march=native"))
    (source / "factor.h").write_text("enum { FACTOR = 3 };")
    changed = load(source)
    assert changed is not None and changed.twice(2) == 6
    assert len(libraries(source)) == 3


def test_its_threads_are_those_of_torch(source: Path, compiler: str) -> None:
    """A second OpenMP would keep the cores busy that torch's threads wait for."""
    library = load(source)
    assert library is not None
    assert [library.threads(count) for count in (1, 2, 3)] == [1, 2, 3]
    assert b"libgomp" not in libraries(source)[0].read_bytes()
    assert torch.get_num_threads() >= 1


@pytest.mark.parametrize("variables", [{compiled.SWITCH: "0"}, {"CC": "no-such-compiler"}])
def test_without_a_compiler_there_is_none(
    source: Path, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load(source) is None
    assert not caplog.messages  # nothing is wrong


def test_what_the_compiler_refuses_is_told(
    source: Path, compiler: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiled.logger, "propagate", True)
    (source / "other.c").write_text("int broken( {")
    with caplog.at_level(logging.WARNING):
        assert load(source) is None
    assert "some could not be compiled" in caplog.messages[0] and "error" in caplog.messages[0]
    assert compiler in caplog.messages[1]
    assert len(libraries(source)) == 1  # the first, of the fixture


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_cache_that_cannot_be_written_is_told(source: Path, compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc")
    assert load(source) is None


def test_a_library_that_does_not_open_is_none(source: Path, compiler: str) -> None:
    """Symbols of an OpenMP that torch has not loaded, for one."""
    (source / "other.c").write_text("int missing(void); int call(void) { return missing(); }")
    assert load(source) is None


def test_that_of_the_model_opens_where_it_is_promised(compiler: str) -> None:
    assert isinstance(load(Path(compiled.__file__).parents[1] / "model" / "native"), ctypes.CDLL)
