"""`nano-gpt verify-resume`: that stopping and resuming changes nothing, shown on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nano_gpt.cli.options import Json
from nano_gpt.errors import CheckpointError


def verify_resume(
    run: Annotated[Path, typer.Argument(help="A run folder, finished or not.", metavar="RUN")],
    steps: Annotated[int, typer.Option(min=1, help="Steps before the stop, and as many after it.")] = 10,
    json_: Json = False,
) -> None:
    """Prove that a stopped and resumed run is the same run.

    Two copies of RUN go on from its newest checkpoint: one straight, one stopped in the middle and resumed. Losses,
    weights, moments and state are compared bit by bit; exit code 1 where anything differs. RUN itself is not touched.
    """
    from dataclasses import asdict

    from nano_gpt.runtime.logs import logger
    from nano_gpt.training.verify import verify_resume as verify

    if not (run / "config.yaml").is_file():
        raise CheckpointError(f"{run} is not a run folder: it has no config.yaml")
    result = verify(run, steps)
    if json_:
        import json

        typer.echo(json.dumps({**asdict(result), "identical": not result.differences}))
    if result.differences:
        raise CheckpointError(
            f"{run}: stopped at step {result.stopped_at} and resumed, the run is another one: "
            + "; ".join(result.differences)
        )
    logger.info(
        f"{run}: identical from step {result.first_step} to {result.last_step}, straight on and stopped at "
        f"{result.stopped_at}: {result.events} events, weights, optimizer and state"
    )
