"""`nano-gpt config`: every setting of a run, resolved, as the YAML that `--config` takes back."""

from __future__ import annotations

import typer

from nano_gpt.cli.options import Assignments, ConfigFile, DatasetName, Preset, Recipe
from nano_gpt.config import resolve, to_yaml


def config(
    dataset: DatasetName = None,
    model: Preset = None,
    recipe: Recipe = None,
    config: ConfigFile = None,
    set_: Assignments = None,
) -> None:
    """Print every setting of a run as YAML, without starting it.

    Later ones win: model preset, the dataset's recipe, --config, flags, --set. What is printed is the whole run:

        nano-gpt config --dataset tinyshakespeare --set training.max_steps=500 > run.yaml

        nano-gpt train --config run.yaml
    """
    settings = resolve(
        preset=model, recipe=recipe, file=config, flags={"data.dataset": dataset}, assignments=set_ or ()
    )
    typer.echo(to_yaml(settings), nl=False)
