"""Going on with a run: which one, from which checkpoint, and what may have changed since."""

from __future__ import annotations

from pathlib import Path

from nano_gpt.checkpoint.source import RUNS
from nano_gpt.checkpoint.store import RUN_POINTER, CheckpointStore, checkpoints_of, run_folder_of
from nano_gpt.config import RunConfig
from nano_gpt.config.presets import Values
from nano_gpt.errors import CheckpointError, ConfigError
from nano_gpt.runtime.logs import logger

# What makes it another run: the network (all of `model`), the tokens and their order. Where the tokens lie may change:
# the prepared set itself is compared by its fingerprint.
_FIXED = {
    "training.batch_ramp_start",
    "training.batch_ramp_steps",
    "training.document_masking",
    "training.freeze",
    "training.optimizer.name",
    "training.pretrained",
    "data.dataset",
    "data.files",
    "data.tokenizer",
    "data.shuffle",
    "training.total_batch_size",
    "training.seed",
}


def find_run(reference: str, run_dir: Path | None) -> tuple[Path, Path | None]:
    """`--resume [PATH]`, `--run-dir DIR` -> the run's folder, and the checkpoint if one is named.

    `auto` is `run_dir`, or else the newest run in runs/.
    """
    if reference == "auto":
        run = run_dir or _newest_started()
        if run is None:
            raise CheckpointError("there is no run in runs/ to go on with", "--run-dir DIR names one elsewhere")
        return _checked(run), None
    path = Path(reference)
    if (path / "config.yaml").is_file():
        return path, None
    if path.parent.name == "checkpoints" and path.is_dir():
        return _checked(path.parent.parent), path
    if path.is_dir() and (run := run_folder_of(path)) is not None:
        return run, path
    raise CheckpointError(
        f"{path} is neither a run folder nor a checkpoint in one", "runs/NAME or runs/NAME/checkpoints/step_NNNNNN"
    )


def _newest_started(runs: Path = RUNS) -> Path | None:
    """The run that was begun or saved last, so that one without a checkpoint counts as well."""

    def last_written(run: Path) -> float:
        files = (run / "config.yaml", checkpoints_of(run) / "latest")
        return max(file.stat().st_mtime for file in files if file.is_file())

    return max((file.parent for file in runs.glob("*/config.yaml")), key=last_written, default=None)


def starting_point(run: Path) -> Path | None:
    """The newest whole checkpoint of a run; None where it was killed before it saved one, so that it starts anew.

    Raises CheckpointError where there are damaged ones only, and where the folder that `--checkpoint-dir` named is not
    the one that the run began with: a disk may be missing.
    """
    store = CheckpointStore(checkpoints_of(run), keep=1)
    store.remove_leftovers()
    in_place = store.folder == run / "checkpoints" or (store.folder / RUN_POINTER).is_file()
    if in_place and store.never_saved():
        logger.info(f"{run} was stopped before its first checkpoint: starting at step 0")
        return None
    return store.newest_valid()


def _checked(run: Path) -> Path:
    if not (run / "config.yaml").is_file():
        raise CheckpointError(f"{run} is not a run folder: it has no config.yaml")
    return run


def changed_settings(old: RunConfig, new: RunConfig) -> list[str]:
    """What differs, as `setting: old -> new`. Raises ConfigError for a change that would make it another run."""
    before, after = flat_settings(old.model_dump(mode="json")), flat_settings(new.model_dump(mode="json"))
    changes = []
    for name in before:
        if before[name] != after[name]:
            if name in _FIXED or name.startswith(("model.", "training.lora.")):
                raise ConfigError(
                    f"{name} was {before[name]!r} in this run and cannot become {after[name]!r}",
                    "leave it as it was, or start a new run from these weights: --pretrained RUN",
                )
            changes.append(f"{name}: {before[name]} -> {after[name]}")
    return changes


def flat_settings(values: Values, prefix: str = "") -> Values:
    """Nested values by their dotted paths."""
    flat: Values = {}
    for key, value in values.items():
        flat |= flat_settings(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
