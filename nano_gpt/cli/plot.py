"""`nano-gpt plot`: the curves of one or more runs as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def plot(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; their curves share the axes.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A .png or .svg file.")] = Path("curves.png"),
) -> None:
    """Draw loss, validation loss and learning rate.

    nano-gpt plot runs/a runs/b -o curves.png
    """
    from nano_gpt.training.plot import plot_runs

    plot_runs(runs, output)
    typer.echo(output)
