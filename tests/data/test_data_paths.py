"""Which files an argument means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nano_gpt.data.sources import paths
from nano_gpt.data.sources.paths import expand, kind_of
from nano_gpt.errors import ConfigError, DataError


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    names = ["b.txt", "a.jsonl.gz", "notes.md", ".hidden.txt", "in/c.parquet", "in/deep/d.TXT.ZST", "in/e.csv"]
    for name in [*names, ".git/f.txt", "in/.g/h.txt", "other/i.gz", "[x].txt"]:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


EVERYTHING = ["data/[x].txt", "data/a.jsonl.gz", "data/b.txt", "data/in/c.parquet", "data/in/deep/d.TXT.ZST"]


def names(*patterns: str) -> list[str]:
    return [path.as_posix() for path in expand([Path(pattern) for pattern in patterns])]


def test_a_folder_is_gone_through_in_order(tree: Path) -> None:
    assert names("data") == EVERYTHING


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("data/*.txt", ["data/[x].txt", "data/b.txt"]),
        ("data/**/*.parquet", ["data/in/c.parquet"]),
        ("data/in/**", ["data/in/c.parquet", "data/in/deep/d.TXT.ZST"]),
        ("data/i*", ["data/in/c.parquet", "data/in/deep/d.TXT.ZST"]),
        ("data/[x].txt", ["data/[x].txt"]),
        ("data/[ab].*", ["data/a.jsonl.gz", "data/b.txt"]),
        ("data/.hidden.txt", ["data/.hidden.txt"]),
        ("data/.git", ["data/.git/f.txt"]),
    ],
)
def test_patterns(tree: Path, pattern: str, found: list[str]) -> None:
    assert names(pattern) == found


def test_arguments_keep_their_order_and_no_file_comes_twice(tree: Path) -> None:
    again = ["data/*.txt", str(tree / "b.txt"), "./data/in/../b.txt"]
    assert names("data/b.txt", *again) == ["data/b.txt", "data/[x].txt"]
    (tree / "link.txt").symlink_to(tree / "b.txt")
    assert names("data/*.txt") == ["data/[x].txt", "data/b.txt"]
    assert expand([]) == []


def test_links_to_folders_are_followed_but_not_round_and_round(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "to").symlink_to(tree / "in")
    (tree / "in" / "up").symlink_to(tmp_path / "set")
    assert names("set") == ["set/to/c.parquet", "set/to/deep/d.TXT.ZST"]
    assert len(list(paths._below(Path("set")))) == 3  # with e.csv


def test_a_home_folder_is_understood(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tree))
    assert expand([Path("~/b.txt")]) == [tree / "b.txt"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("nothing.txt", "there is no file nothing.txt"),
        ("data/*.zip", r"no file matches data/\*.zip"),
        ("data/other", "the folder data/other has no file that can be used; it has 1 .gz"),
        ("data/in/*.csv", "it has 1 .csv"),
        ("data/*.md", "it has 1 .md"),
        ("empty", "the folder empty has no file that can be used; it has nothing"),
    ],
)
def test_an_argument_that_leads_to_nothing_is_an_error(tree: Path, pattern: str, message: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(DataError, match=message):
        names("data/b.txt", pattern)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_may_not_be_read_is_an_error(tree: Path) -> None:
    (tree / "in").chmod(0)
    with pytest.raises(DataError, match="in cannot be read: Permission denied"):
        names("data")
    (tree / "in").chmod(0o755)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.txt", ("txt", None)),
        ("a.b.JSONL", ("jsonl", None)),
        ("a.parquet.gz", ("parquet", "gz")),
        ("a.txt.zst", ("txt", "zst")),
        ("a.gz.txt", ("txt", None)),
    ],
)
def test_the_kind_is_in_the_name(name: str, kind: tuple[str, str | None]) -> None:
    assert kind_of(Path(name)) == kind


@pytest.mark.parametrize("name", ["a.csv", "a", "txt", ".txt", "a.gz", "a.txt.bz2", "a.txt.gz.zst", "a.json"])
def test_other_kinds_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither a \.txt nor a \.jsonl nor a \.parquet file") as caught:
        kind_of(Path(name))
    assert ".zst" in (caught.value.hint or "")
    (tmp_path / name).write_text("text")
    with pytest.raises(ConfigError):
        expand([tmp_path / name])
