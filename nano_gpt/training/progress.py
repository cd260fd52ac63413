"""The live line of a run on a terminal: step, loss, speed, MFU and time left."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from nano_gpt.runtime.progress import clock
from nano_gpt.training.metrics import Event


class LiveLine:
    """A Listener that draws `train` events; everything else is printed above it through the logger."""

    def __init__(self, max_steps: int, first_step: int) -> None:
        self._progress = Progress(
            TextColumn("train"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=Console(stderr=True),
            expand=True,
            transient=True,
            redirect_stdout=False,
        )
        self._task = self._progress.add_task("train", total=max_steps, completed=first_step, figures="starting")
        self._progress.start()

    def __call__(self, event: Event) -> None:
        if event.kind != "train":
            return
        fields = event.fields
        mfu = "-" if fields["mfu"] is None else f"{fields['mfu']:.1%}"
        figures = (
            f"loss {fields['loss']:.4f} · {fields['tokens_per_second']:,.0f} tok/s · "
            f"MFU {mfu} · {clock(fields['eta'])} left"
        )
        self._progress.update(self._task, completed=event.step + 1, figures=figures)

    def close(self) -> None:
        self._progress.stop()
