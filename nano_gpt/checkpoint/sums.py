"""SHA256SUMS, by which an export says of itself what its files are: `sha256sum -c SHA256SUMS` checks them as well."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from nano_gpt.errors import CheckpointError
from nano_gpt.runtime.files import sha256

SUMS = "SHA256SUMS"


def write_sums(folder: Path, names: Iterable[str]) -> None:
    (folder / SUMS).write_text("".join(f"{sha256(folder / name)}  {name}\n" for name in names), encoding="utf-8")


def check_sums(folder: Path) -> None:
    """Raises CheckpointError for the first file that is not there, or not as it was when its sum was taken."""
    hint = f"export it again, or copy it anew; if the change was meant, remove {folder / SUMS}"
    for line in (folder / SUMS).read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n"):
        digest, _, name = line.partition("  ")
        named = PurePosixPath(name)
        if not name.isprintable() or named.is_absolute() or not named.parts or ".." in named.parts:
            raise CheckpointError(f"{folder / SUMS} names {name[:80]!r}, which cannot be a file of the folder", hint)
        file = folder / named
        if not file.is_file() and name.startswith("."):  # `cp FOLDER/* ELSEWHERE` leaves those behind
            continue
        if not file.is_file():
            raise CheckpointError(f"{file} is missing, which {SUMS} names", hint)
        if sha256(file) != digest:
            raise CheckpointError(f"{file} is not what was exported: its sha256 differs", hint)
