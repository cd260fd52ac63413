"""Which files a list of files, folders and globs means, and of what kind a file is.

Imports nothing heavy: the catalog asks for sizes before anything is read.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from nano_gpt.errors import ConfigError, DataError

KINDS = ("txt", "jsonl", "parquet")
COMPRESSIONS = ("gz", "zst")
KINDS_IN_WORDS = "used are .txt, .jsonl and .parquet, each also with .gz or .zst behind it"


def expand(patterns: Sequence[Path]) -> list[Path]:
    """Files as given, the files of folders and their subfolders, and those that globs (also with `**`) match.

    In the order of the arguments, sorted within each, none twice; hidden files and files of other kinds are left out of
    folders and globs. Raises DataError where an argument leads to no file, ConfigError for a file of another kind that
    is given by its name.
    """
    files: dict[str, Path] = {}
    for pattern in patterns:
        for file in _files(Path(pattern).expanduser()):
            files.setdefault(os.path.realpath(file), file)
    return list(files.values())


def kind_of(path: PurePath) -> tuple[str, str | None]:
    """One of KINDS, and one of COMPRESSIONS or None, by the name. Raises ConfigError for any other ending."""
    kind = _kind(path)
    if kind is None:
        raise ConfigError(f"{path}: neither a .txt nor a .jsonl nor a .parquet file", KINDS_IN_WORDS)
    return kind


def _kind(path: PurePath) -> tuple[str, str | None] | None:
    endings = [ending[1:].lower() for ending in path.suffixes[-2:]]
    compression = endings.pop() if endings and endings[-1] in COMPRESSIONS else None
    return (endings[-1], compression) if endings and endings[-1] in KINDS else None


def _files(path: Path) -> list[Path]:
    if path.is_file():
        kind_of(path)
        return [path]
    if path.is_dir():
        found = sorted(_below(path), key=PurePath.as_posix)
        what = f"the folder {path}"
    elif glob.has_magic(str(path)):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]  # noqa: PTH207 (takes absolute ones)
        found = sorted({file for match in matches for file in _expanded(match)}, key=PurePath.as_posix)
        if not found:
            raise DataError(f"no file matches {path}")
        what = str(path)
    else:
        raise DataError(f"there is no file {path}")
    usable = [file for file in found if _kind(file) is not None]
    if not usable:
        raise DataError(f"{what} has no file that can be used; it has {_in_words(found)}", KINDS_IN_WORDS)
    return usable


def _expanded(match: Path) -> Iterator[Path]:
    if match.is_dir():
        yield from _below(match)
    elif match.is_file():
        yield match


def _below(folder: Path) -> Iterator[Path]:
    """All files that are not hidden, also behind links, but no folder twice."""
    seen: set[str] = set()
    for name, folders, files in os.walk(folder, followlinks=True, onerror=_unreadable):
        real = os.path.realpath(name)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
        yield from (Path(name, file) for file in files if not file.startswith(".") and Path(name, file).is_file())


def _unreadable(error: OSError) -> None:
    raise DataError(f"the folder {error.filename} cannot be read: {error.strerror}")


def _in_words(files: Sequence[Path]) -> str:
    """`3 .csv, 1 .md`; `nothing`"""
    endings = Counter(file.suffix.lower() or "without an ending" for file in files)
    return ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common(5)) or "nothing"
