"""`nano-gpt upload`: a model to the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from nano_gpt.cli.options import Json


def upload(
    folder: Annotated[Path, typer.Argument(help="An export, a run or a checkpoint.", show_default=False)],
    repo_id: Annotated[str, typer.Argument(metavar="USER/NAME", help="Where to; made if new.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="Only you can see it. (Default: everyone can.)")] = False,
    message: Annotated[str | None, typer.Option(help="The commit's title.")] = None,
    as_json: Json = False,
) -> None:
    """Send a model to the Hugging Face hub: weights, config, tokenizer, model card; never optimizer state or logs.

    Log in once with `hf auth login`, or set HF_TOKEN. HF_ENDPOINT and HF_HUB_OFFLINE are honoured.
    """
    from nano_gpt.hub.upload import upload as send

    url = send(folder, repo_id, private=private, message=message)
    if as_json:
        typer.echo(json.dumps({"url": url, "repo_id": repo_id}))
        return
    typer.echo(f"uploaded: {url}\nnext: nano-gpt sample --pretrained {repo_id}")
