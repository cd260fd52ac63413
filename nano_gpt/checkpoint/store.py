"""The checkpoints of one run: written whole, verified by hash, pruned, and found again.

    checkpoints/step_000500/            a plain model folder (folder.py), or adapters only (adapter.py), and beside it
    checkpoints/step_000500/training/   optimizer.safetensors, state.json, manifest.json (sha256 of every file, last)
    checkpoints/step_000500/training/   also config.yaml, the run's settings: a checkpoint may lie far from its run
    checkpoints/step_000500/ema/        the same kind of folder with the average of the weights, if the run keeps one
    checkpoints/latest, best            the name of a checkpoint
    checkpoints/run                     the path of the run, where this folder is not RUN/checkpoints

Optimizer state is kept whole and by parameter name, so it does not depend on ranks or on the order of parameters,
and no pickle is needed to read it. There is no random-number state: every seed is derived (runtime/seeding.py).
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nano_gpt.checkpoint.adapter import Adapter, is_adapter_folder, read_adapter, write_adapter_folder
from nano_gpt.checkpoint.folder import read_json, read_model_folder, write_model_folder
from nano_gpt.config.loading import read_yaml
from nano_gpt.config.model import GPTConfig
from nano_gpt.errors import CheckpointError, ConfigError
from nano_gpt.runtime.files import atomic_directory, sha256, write_text
from nano_gpt.runtime.logs import logger
from nano_gpt.tokenizer.base import Tokenizer

TRAINING = Path("training")
OPTIMIZER, STATE, MANIFEST = TRAINING / "optimizer.safetensors", TRAINING / "state.json", TRAINING / "manifest.json"
SETTINGS = "config.yaml"
RUN_POINTER = "run"
AVERAGE = "ema"
_LEFTOVER = re.compile(r"\.(tmp|old)-(step_\d+)")  # of runtime/files.atomic_directory


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on."""

    model: dict[str, Tensor]
    """A GPT's state dict, or only its adapters."""
    optimizer: dict[str, Tensor]
    """`exp_avg/wte.weight` and so on: kind of moment, then the parameter's name."""
    state: dict[str, Any]
    """Plain JSON: `step` at least."""
    settings: str | None = None
    """The run's config.yaml."""
    average: dict[str, Tensor] | None = None
    """The exponential moving average of `model`."""
    adapter: Adapter | None = None
    """Where `model` holds adapters: of what."""


class CheckpointStore:
    """`keep` is how many of the newest stay; the one that `best` names stays besides."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def path(self, step: int) -> Path:
        return self.folder / f"step_{step:06d}"

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, oldest first."""
        names = (path.name.removeprefix("step_") for path in self.folder.glob("step_*") if path.is_dir())
        return sorted(int(name) for name in names if name.isdigit())

    def save(self, checkpoint: Checkpoint, config: GPTConfig, tokenizer: Tokenizer, *, best: bool) -> Path:
        """Write, then move `latest` (and `best`), then prune. Raises DiskFullError with the older ones untouched."""
        path = self.path(checkpoint.state["step"])
        self.remove_leftovers()
        with atomic_directory(path) as temporary:
            if checkpoint.adapter is not None:
                write_adapter_folder(temporary, checkpoint.adapter, checkpoint.model, tokenizer)
            else:
                write_model_folder(temporary, config, checkpoint.model, tokenizer)
            if checkpoint.average is not None:
                (temporary / AVERAGE).mkdir()
                write_model_folder(temporary / AVERAGE, config, checkpoint.average, tokenizer)
            (temporary / TRAINING).mkdir()
            save_file(checkpoint.optimizer, temporary / OPTIMIZER)
            (temporary / STATE).write_text(json.dumps(checkpoint.state, indent=2, allow_nan=False), encoding="utf-8")
            if checkpoint.settings is not None:
                (temporary / TRAINING / SETTINGS).write_text(checkpoint.settings, encoding="utf-8")
            files = [file.relative_to(temporary) for file in sorted(temporary.rglob("*")) if file.is_file()]
            manifest = {file.as_posix(): _describe(temporary / file) for file in files}
            (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        write_text(self.folder / "latest", path.name + "\n")
        if best:
            write_text(self.folder / "best", path.name + "\n")
        self._prune()
        return path

    def remove_leftovers(self) -> None:
        """Of a writer that was killed. A checkpoint that it had moved aside, and not yet replaced, is put back."""
        for path in self.folder.glob(".*-step_*"):
            found = _LEFTOVER.fullmatch(path.name)
            if found is None:
                continue
            checkpoint = self.folder / found[2]
            if found[1] == "old" and not checkpoint.exists():
                path.rename(checkpoint)
            else:
                shutil.rmtree(path, ignore_errors=True)

    def never_saved(self) -> bool:
        """Whether there is no trace of a checkpoint, damaged ones included."""
        return not (self.folder / "latest").exists() and not any(self.folder.glob("step_*"))

    def _prune(self) -> None:
        best = self._best()
        for step in self.steps()[: -self.keep]:
            if self.path(step).name != best:
                shutil.rmtree(self.path(step), ignore_errors=True)

    def _best(self) -> str | None:
        pointer = self.folder / "best"
        return pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else None

    def newest_valid(self) -> Path:
        """The newest checkpoint whose files are all as they were written; damaged ones are named and passed over."""
        for step in reversed(self.steps()):
            try:
                verify(self.path(step))
            except CheckpointError as error:
                logger.warning(f"{error.message}: trying the one before")
            else:
                return self.path(step)
        raise CheckpointError(
            f"there is no whole checkpoint in {self.folder}", "start the run anew in another --run-dir"
        )

    def abandon_after(self, step: int) -> None:
        """A run that goes on from `step` leaves the later checkpoints behind, under another name.

        `latest` then names the one of `step`, and `best` nothing until a checkpoint earns it.
        """
        later = [self.path(found) for found in self.steps() if found > step]
        if later and self.path(step).is_dir():
            write_text(self.folder / "latest", self.path(step).name + "\n")
        if self._best() in {path.name for path in later}:
            (self.folder / "best").unlink()
        for path in later:
            aside = self.folder / f"abandoned_{path.name}"
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            logger.info(f"set aside {path} as {aside.name}")


def checkpoints_of(run: Path) -> Path:
    """Where a run keeps its checkpoints: where its config.yaml says, or else RUN/checkpoints."""
    try:
        training = read_yaml(run / SETTINGS).get("training")
    except ConfigError:
        training = None
    named = training.get("checkpoint_dir") if isinstance(training, dict) else None
    return Path(named) if isinstance(named, str) and named else run / "checkpoints"


def run_folder_of(checkpoint: Path) -> Path | None:
    """RUN for RUN/checkpoints/step_000500, or for DIR/step_000500 if RUN says that it keeps them there; else None."""
    folder = checkpoint.resolve().parent
    if (folder.parent / SETTINGS).is_file():
        return folder.parent
    pointer = folder / RUN_POINTER
    if not pointer.is_file():
        return None
    run = Path(pointer.read_text(encoding="utf-8", errors="replace").strip())
    return run if (run / SETTINGS).is_file() and checkpoints_of(run).resolve() == folder else None


def run_of(checkpoint: Path) -> Path | None:
    """The folder with a checkpoint's config.yaml: its run's, with the measurements, or else its own `training`.

    None for a checkpoint that has neither.
    """
    own = checkpoint / TRAINING
    return run_folder_of(checkpoint) or (own if (own / SETTINGS).is_file() else None)


def verify(path: Path, model: Path | None = None) -> None:
    """Compare every file of a checkpoint with its manifest. Raises CheckpointError for the first that differs.

    `model`, the checkpoint itself or its `ema`: only what reading the model in that folder takes. Its moments, twice as
    large, may then be damaged, or removed.
    """
    unreadable = CheckpointError(f"{path} has no readable {MANIFEST}, so it is not a whole checkpoint")
    try:
        manifest = read_json(path / MANIFEST)
    except (FileNotFoundError, CheckpointError):
        raise unreadable from None
    for name, entry in manifest.items():
        if not name.isprintable() or not isinstance(entry, dict):
            raise unreadable
        file = path / name
        if (model is None or file.parent == model or file == path / STATE) and (fault := _fault(file, entry)):
            others = [step for step in CheckpointStore(path.parent, keep=1).steps() if path.name != f"step_{step:06d}"]
            hint = f"take another of the run's: {path.parent / f'step_{others[-1]:06d}'}" if others else "copy it anew"
            raise CheckpointError(f"{file} {fault}", hint)


def _fault(file: Path, entry: dict[str, Any]) -> str | None:
    if not file.is_file():
        return "is missing"
    if (size := file.stat().st_size) != entry.get("bytes"):
        return f"holds {size:,} bytes, and {entry.get('bytes')!r} were written"
    return None if sha256(file) == entry.get("sha256") else "is not what was written: its sha256 differs"


def load(path: Path) -> Checkpoint:
    """A verified checkpoint, on the CPU."""
    verify(path)
    try:
        optimizer = load_file(path / OPTIMIZER)
    except SafetensorError as error:
        raise CheckpointError(f"{path / OPTIMIZER} is damaged: {error}") from None
    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    average = dict(read_model_folder(path / AVERAGE).state_dict()) if (path / AVERAGE).is_dir() else None
    model = read_adapter(path).state if is_adapter_folder(path) else dict(read_model_folder(path).state_dict())
    return Checkpoint(model, optimizer, state, average=average)


def _describe(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}
