"""`nano-gpt config`: every setting of a run, resolved, as the YAML that `--config` takes back."""

from __future__ import annotations

import typer

from nano_gpt.cli.options import (
    Assignments,
    ConfigFile,
    ConfigName,
    DatasetName,
    Files,
    MoreFiles,
    Preset,
    Recipe,
    TokenizerName,
    all_files,
)
from nano_gpt.config import resolve, to_yaml
from nano_gpt.data.catalog import name_for_files


def config(
    context: typer.Context,
    dataset: DatasetName = None,
    config_name: ConfigName = None,
    files: Files = None,
    more_files: MoreFiles = None,
    tokenizer: TokenizerName = None,
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
    paths = all_files(context, files, more_files)
    flags = {
        "data.dataset": dataset or (name_for_files(paths) if paths else None),
        "data.config_name": config_name,
        "data.files": paths or None,
        "data.tokenizer": tokenizer,
    }
    settings = resolve(preset=model, recipe=recipe, file=config, flags=flags, assignments=set_ or ())
    typer.echo(to_yaml(settings), nl=False)
