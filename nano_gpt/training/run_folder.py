"""A run's folder: what is in it, that nobody else writes to it, and what it remembers of its machine.

runs/NAME/  config.yaml  environment.json  metrics.jsonl  samples.jsonl  train.log  checkpoints/
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

import nano_gpt
from nano_gpt.checkpoint.source import RUNS
from nano_gpt.checkpoint.store import RUN_POINTER, checkpoints_of
from nano_gpt.config import RunConfig, to_yaml
from nano_gpt.data.catalog import HUB, safe_name
from nano_gpt.errors import ConfigError
from nano_gpt.runtime import files
from nano_gpt.training.state import RunState


class RunFolder:
    """Paths of one run. `lock` is held for as long as the run writes."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.metrics_file = path / "metrics.jsonl"
        self.samples_file = path / "samples.jsonl"
        self.environment_file = path / "environment.json"
        self.log_file = config.training.log_file or path / "train.log"
        self.checkpoints = config.training.checkpoint_dir or path / "checkpoints"
        self._lock = FileLock(path / ".lock", timeout=0)

    def claim(self) -> None:
        """Hold the folder until `release`. Raises ConfigError if another process does, or if it cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise ConfigError(f"another process is training in {self.path}", "choose another --run-dir") from None
        except OSError as error:
            raise ConfigError(f"cannot write to {self.path}: {error.strerror}", "another place: --run-dir") from None

    def release(self) -> None:
        """Nothing happens on a rank that has claimed nothing."""
        self._lock.release()

    def check_new(self) -> None:
        """Raises ConfigError where a run is already."""
        if self.config_file.exists():
            raise ConfigError(
                f"{self.path} already holds a run", f"go on with it: --resume {self.path}; or choose another --run-dir"
            )

    def check_checkpoints(self) -> None:
        """Raises ConfigError where checkpoints are that are not this run's: it would prune them."""
        if self.checkpoints.resolve() != checkpoints_of(self.path).resolve() and any(self.checkpoints.glob("step_*")):
            raise ConfigError(f"{self.checkpoints} already holds checkpoints", "choose another --checkpoint-dir")

    def begin(self, config: RunConfig, state: RunState) -> None:
        """Write down what will run, from `state` on; what an interrupted run recorded after it is recorded again."""
        if self.checkpoints != self.path / "checkpoints":
            files.write_text(self.checkpoints / RUN_POINTER, f"{self.path.resolve()}\n")
        files.write_text(self.config_file, to_yaml(config))
        about = {**environment(), "data_fingerprint": state.data_fingerprint}
        files.write_text(self.environment_file, json.dumps(about, indent=2) + "\n")
        self._truncate_events(state)

    def _truncate_events(self, state: RunState) -> None:
        for path in (self.metrics_file, self.samples_file):
            if path.exists():
                kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _happened_by(line, state)]
                files.write_text(path, "".join(line + "\n" for line in kept))


def _happened_by(line: str, state: RunState) -> bool:
    try:
        event = json.loads(line)
    except ValueError:  # a line that a kill cut short
        return False
    if event["step"] != state.step:
        return bool(event["step"] < state.step)
    # Training step s makes the state s + 1; everything else at s is about the state s.
    return event["kind"] == "checkpoint" or (event["kind"] != "train" and state.evaluated)


def new_run_path(dataset: str) -> Path:
    """runs/DATASET-DATE-TIME, with a number behind it if that exists."""
    dataset = safe_name(dataset.removeprefix(HUB).replace("/", "--"))
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    path = RUNS / f"{dataset}-{stamp}"
    number = 2
    while path.exists():
        path = RUNS / f"{dataset}-{stamp}-{number}"
        number += 1
    return path


def environment() -> dict[str, Any]:
    """Versions and hardware, enough to explain a difference later."""
    return {
        "nano_gpt": nano_gpt.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "git_revision": _git_revision(),
        "arguments": sys.argv[1:],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _git_revision() -> str | None:
    """Of the source that runs, if it is a checkout."""
    folder = Path(nano_gpt.__file__).parent
    try:
        output = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return output.stdout.strip()
