"""Export: a folder that opens everywhere, and the proof that it does.

    model.safetensors  config.json  generation_config.json  + tokenizer files  README.md  SHA256SUMS

Written aside; loaded from there by `transformers`, as a stranger would; compared with our own model; only then given
its name. So a folder that is there is whole, and right. At most two copies of the weights are in memory at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nano_gpt.checkpoint.folder import MODEL_FILES, is_model_folder, write_model_folder
from nano_gpt.checkpoint.source import LoadedModel
from nano_gpt.checkpoint.store import MANIFEST, verify
from nano_gpt.errors import CheckpointError
from nano_gpt.hub.card import model_card
from nano_gpt.hub.verify import compare_with_transformers
from nano_gpt.runtime.files import atomic_directory, sha256

README, SUMS = "README.md", "SHA256SUMS"
EXPORT_FILES = (*MODEL_FILES, README, SUMS)


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how far its logits are from ours."""

    folder: Path
    files: dict[str, int]
    """Name -> bytes."""
    largest_difference: float
    """Largest absolute difference of a logit between `transformers` on this folder and our model, both in fp32."""
    compared_tokens: int
    """Length of the text on which they were compared."""


def export(loaded: LoadedModel, folder: Path, *, overwrite: bool = False) -> ExportReport:
    """Write `loaded` (in fp32) as a plain GPT-2 folder, verified with `transformers`.

    Raises CheckpointError, with nothing left behind, where the target exists (unless `overwrite` and it holds nothing
    but a model), is the source, or where what was written does not load, round-trip and agree.
    """
    target = folder.resolve()
    _check_target(target, loaded.folder, overwrite=overwrite)
    if loaded.folder is not None and (loaded.folder / MANIFEST).is_file():
        verify(loaded.folder)
    try:
        with atomic_directory(target) as temporary:
            write_model_folder(temporary, loaded.model.config, dict(loaded.model.state_dict()), loaded.tokenizer)
            difference, tokens = compare_with_transformers(loaded, temporary)
            (temporary / README).write_text(model_card(loaded), encoding="utf-8")
            _write_sums(temporary)
            files = {file.name: file.stat().st_size for file in sorted(temporary.iterdir())}
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error.strerror or error}") from error
    return ExportReport(folder, files, difference, tokens)


def _check_target(target: Path, source: Path | None, *, overwrite: bool) -> None:
    if not target.name:
        raise CheckpointError(f"{target} cannot be replaced by an export", "name a new folder")
    if source is not None and (target.is_relative_to(source.resolve()) or source.resolve().is_relative_to(target)):
        raise CheckpointError(f"the export would replace, or lie in, what is exported: {source}", "name another folder")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not target.is_dir():
        raise CheckpointError(f"{target} is a file", "name another folder")
    foreign = sorted(entry.name for entry in target.iterdir() if entry.name not in EXPORT_FILES or not entry.is_file())
    if foreign:  # replacing removes: --overwrite must not cost anyone a home directory or a run
        raise CheckpointError(f"{target} exists and holds more than a model: {foreign[0]}", "name a new folder")
    if not overwrite:
        raise CheckpointError(f"{target} exists", "--overwrite replaces it")


def _write_sums(folder: Path) -> None:
    """`sha256sum -c SHA256SUMS` checks them. Without the README, which its author goes on writing."""
    files = [file for file in sorted(folder.iterdir()) if file.name != README]
    (folder / SUMS).write_text("".join(f"{sha256(file)}  {file.name}\n" for file in files), encoding="utf-8")


def check_sums(folder: Path) -> None:
    """Compare the files of an export with its SHA256SUMS. Raises CheckpointError for the first that differs."""
    for line in (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        if name not in EXPORT_FILES:
            raise CheckpointError(f"{folder / SUMS} names {name!r}, which is not part of an export", "export it again")
        file = folder / name
        if not file.is_file() or sha256(file) != digest:
            raise CheckpointError(f"{file} is not what was exported: its sha256 differs", "export it again")


def is_export(folder: Path) -> bool:
    """Whether `export` made it (and not a training run, or another tool)."""
    return is_model_folder(folder) and (folder / README).is_file() and (folder / SUMS).is_file()
