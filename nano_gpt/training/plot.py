"""Pictures of runs, from their metrics.jsonl: loss, validation loss, learning rate. Several runs share the axes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nano_gpt.errors import CheckpointError, NanoGPTError


def plot_runs(runs: Sequence[Path], target: Path) -> None:
    """Write a PNG or SVG, by the ending of `target`. Raises CheckpointError for a folder without metrics."""
    curves = {run.name: read_events(run) for run in runs}
    try:
        import matplotlib
    except ImportError:
        raise NanoGPTError(
            "matplotlib is not installed", "pip install matplotlib; in a clone: script/setup plot"
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (loss, rate) = pyplot.subplots(
        2, 1, sharex=True, figsize=(8, 6), height_ratios=(4, 1), layout="constrained"
    )
    for index, (name, events) in enumerate(curves.items()):
        color = f"C{index}"
        loss.plot(*series(events, "train", "loss"), color=color, alpha=0.35, linewidth=1)
        steps, values = series(events, "val", "loss")
        label = f"{name}: validation {values[-1]:.4f}" if values else name
        loss.plot(steps, values, color=color, marker="o", markersize=3, label=label)
        rate.plot(*series(events, "train", "lr"), color=color)
    loss.set_ylabel("loss (nats per token)")
    loss.legend()
    loss.grid(alpha=0.3)
    rate.set_ylabel("learning rate")
    rate.set_xlabel("step")
    rate.grid(alpha=0.3)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=120)
    pyplot.close(figure)


def read_events(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise CheckpointError(f"{run} is not a run folder: it has no metrics.jsonl") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None


def series(events: list[dict[str, Any]], kind: str, field: str) -> tuple[list[int], list[float]]:
    """Steps and values of one field, where it is known."""
    points = [(event["step"], event[field]) for event in events if event["kind"] == kind and event[field] is not None]
    return [step for step, _ in points], [value for _, value in points]
