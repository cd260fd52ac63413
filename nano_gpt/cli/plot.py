"""`nano-gpt plot`: the curves of one or more runs as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def plot(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders, metrics.jsonl files or text logs.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A .png or .svg file.")] = Path("curves.png"),
    x: Annotated[
        Literal["step", "tokens", "time"], typer.Option(help="What the curves go over; time is that of training alone.")
    ] = "step",
    smooth: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Mean over N logged steps; 1: none.", show_default="a 25th of the run"),
    ] = None,
    log_x: Annotated[bool, typer.Option("--log-x", help="Logarithmic x axis.")] = False,
    log_y: Annotated[bool, typer.Option("--log-y", help="Logarithmic losses.")] = False,
) -> None:
    """Draw loss, learning rate, throughput and HellaSwag accuracy.

    Several runs share the axes; where their tokenizers differ, bits per byte are drawn too.

        nano-gpt plot runs/a runs/b -o curves.png
    """
    from nano_gpt.training.plot import Style, plot_runs

    plot_runs(runs, output, Style(x, smooth, log_x, log_y))
    typer.echo(output)
