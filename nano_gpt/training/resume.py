"""Going on with a run: which one, from which checkpoint, and what may have changed since."""

from __future__ import annotations

from pathlib import Path

from nano_gpt.checkpoint.source import newest_run
from nano_gpt.config import RunConfig
from nano_gpt.config.presets import Values
from nano_gpt.errors import CheckpointError, ConfigError

# What makes it another run: the network (all of `model`), the tokens and their order. Where the tokens lie may change:
# the prepared set itself is compared by its fingerprint.
_FIXED = {
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
        run = run_dir or newest_run()
        if run is None:
            raise CheckpointError("there is no run in runs/ to go on with", "--run-dir DIR names one elsewhere")
        return _checked(run), None
    path = Path(reference)
    if (path / "config.yaml").is_file():
        return path, None
    if path.parent.name == "checkpoints" and path.is_dir():
        return _checked(path.parent.parent), path
    raise CheckpointError(
        f"{path} is neither a run folder nor a checkpoint in one", "runs/NAME or runs/NAME/checkpoints/step_NNNNNN"
    )


def _checked(run: Path) -> Path:
    if not (run / "config.yaml").is_file():
        raise CheckpointError(f"{run} is not a run folder: it has no config.yaml")
    return run


def changed_settings(old: RunConfig, new: RunConfig) -> list[str]:
    """What differs, as `setting: old -> new`. Raises ConfigError for a change that would make it another run."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    changes = []
    for name in before:
        if before[name] != after[name]:
            if name in _FIXED or name.startswith("model."):
                raise ConfigError(
                    f"{name} was {before[name]!r} in this run and cannot become {after[name]!r}",
                    "leave it as it was, or start a new run",
                )
            changes.append(f"{name}: {before[name]} -> {after[name]}")
    return changes


def _flat(values: Values, prefix: str = "") -> Values:
    flat: Values = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
