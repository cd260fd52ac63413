"""`nano-gpt verify-resume`: the proof, on this machine, that a run which is stopped and resumed is the same run.

From the run's newest checkpoint, or from its start, two copies go on for a few steps: one straight, the other stopped
in the middle and resumed. Each stretch has a process of its own. Then everything is compared, bit by bit.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_gpt.checkpoint.adapter import ADAPTER_WEIGHTS
from nano_gpt.checkpoint.folder import WEIGHTS
from nano_gpt.checkpoint.store import CheckpointStore, checkpoints_of
from nano_gpt.config import RunConfig, build, resolve, to_yaml
from nano_gpt.errors import NanoGPTError
from nano_gpt.runtime.files import sha256
from nano_gpt.runtime.logs import logger
from nano_gpt.training.resume import starting_point
from nano_gpt.training.setup import train

_BY_THE_CLOCK = ("dt_ms", "tokens_per_second", "eta", "mfu", "memory_gb", "stall_ms", "seconds", "path")
_COMPARED = (WEIGHTS, ADAPTER_WEIGHTS, "training/optimizer.safetensors", "training/state.json")


@dataclass(frozen=True)
class Verification:
    """What was compared, and what was found to differ."""

    first_step: int
    stopped_at: int
    last_step: int
    events: int
    differences: list[str]


def verify_resume(run: Path, steps: int = 10) -> Verification:
    """Go on `steps` steps, stop, resume, and go on as many again. The run itself is not touched.

    Raises NanoGPTError where one of the stretches fails.
    """
    config = resolve(file=run / "config.yaml")
    newest = starting_point(run)
    first = 0 if newest is None else int(newest.name.removeprefix("step_"))
    config = _for_copies(config, first + 2 * steps)
    with tempfile.TemporaryDirectory(prefix="verify-", dir=run) as folder:
        straight, stopped = Path(folder, "straight"), Path(folder, "stopped")
        for copy in (straight, stopped):
            _copy(run, newest, config, copy)
        logger.info(f"straight on: steps {first} to {first + 2 * steps}")
        _in_own_process(config, straight, first + 2 * steps)
        logger.info(f"stopped at step {first + steps}")
        _in_own_process(config, stopped, first + steps)
        logger.info(f"resumed: to step {first + 2 * steps}")
        _in_own_process(config, stopped, first + 2 * steps)
        differences, events = _differences(straight, stopped, first + 2 * steps)
    return Verification(first, first + steps, first + 2 * steps, events, differences)


def _for_copies(config: RunConfig, last_step: int) -> RunConfig:
    """Checkpoints and log beside the copy, no trackers, every step told, and steps enough."""
    values = config.model_dump()
    values["training"] |= {
        "checkpoint_dir": None,
        "log_file": None,
        "trackers": (),
        "log_steps": 1,
        "max_time": None,
        "early_stop": None,
        "max_steps": max(config.training.max_steps, last_step),
    }
    return build(RunConfig, values)


def _copy(run: Path, checkpoint: Path | None, config: RunConfig, target: Path) -> None:
    target.mkdir()
    (target / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    if checkpoint is not None:
        shutil.copytree(checkpoint, checkpoints_of(target) / checkpoint.name)
        (checkpoints_of(target) / "latest").write_text(f"{checkpoint.name}\n", encoding="utf-8")


def _in_own_process(config: RunConfig, folder: Path, until: int) -> None:
    """As after a restart: nothing is left of the process before."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_go_on, args=(config, folder, until, sender.send))
    process.start()
    sender.close()
    process.join()
    if process.exitcode:
        reason = f"its process ended with code {process.exitcode}"
        with suppress(EOFError):  # it had no time to say why
            reason = receiver.recv()
        raise NanoGPTError(f"the copy in {folder} could not be trained to step {until}: {reason}")


def _go_on(config: RunConfig, folder: Path, until: int, report: Callable[[str], None]) -> None:
    try:
        train(config, run_dir=folder, resume=True, until=until)
    except BaseException as error:
        report(str(error) or type(error).__name__)
        raise SystemExit(1) from None


def _differences(straight: Path, stopped: Path, step: int) -> tuple[list[str], int]:
    """What differs between two runs, and how many events were compared."""
    differences = []
    left, right = _events(straight), _events(stopped)
    for one, other in zip(left, right, strict=False):
        if one != other:
            names = ", ".join(
                f"{name} {one.get(name)!r} and {other.get(name)!r}"
                for name in one.keys() | other.keys()
                if one.get(name) != other.get(name)
            )
            differences.append(f"{one['kind']} of step {one['step']}: {names}")
            break
    if len(left) != len(right):
        differences.append(f"{len(left)} events and {len(right)}")
    folders = [CheckpointStore(checkpoints_of(run), keep=1).path(step) for run in (straight, stopped)]
    there = [name for name in _COMPARED if (folders[0] / name).is_file()]  # the model, or its adapters
    differences += [name for name in there if sha256(folders[0] / name) != sha256(folders[1] / name)]
    return differences, len(left)


def _events(run: Path) -> list[dict[str, Any]]:
    """Without what a clock decides, and without checkpoints: only one of the runs has the one in the middle."""
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        {name: value for name, value in event.items() if name not in _BY_THE_CLOCK}
        for event in events
        if event["kind"] != "checkpoint"
    ]
