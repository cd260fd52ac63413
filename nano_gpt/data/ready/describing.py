"""What imported and downloaded shards have in common: how they become a set without being written anew."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from nano_gpt.config.data import DataConfig
from nano_gpt.data.catalog import MANIFEST, tokenizer_of
from nano_gpt.data.manifest import UNFINISHED, Manifest, open_prepared
from nano_gpt.data.ready.checking import Checked
from nano_gpt.data.sources.base import Options
from nano_gpt.errors import DataError
from nano_gpt.runtime.files import write_text
from nano_gpt.runtime.logs import logger
from nano_gpt.tokenizer.base import Tokenizer

FORMATS = {"npy": ".npy", "llm.c": ".bin with llm.c's header", "raw": ".bin without a header"}


def describe(
    config: DataConfig, tokenizer: Tokenizer, checked: Checked, *, description: str, revision: str, options: Options
) -> Manifest:
    """The manifest of a set of ready shards."""
    spec = tokenizer_of(config)
    return Manifest(
        dataset=config.dataset,
        description=description,
        revision=revision,
        options=options,
        tokenizer=tokenizer.name if Path(spec).exists() else spec,
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        eot_id=tokenizer.eot_id,
        eot_opens=checked.eot_opens,
        dtype=checked.dtype,
        tokens_per_shard=max(shard.tokens for shard in checked.shards),
        splits=checked.splits,
        validation_in_train=checked.validation_in_train,
        shards=checked.shards,
    )


def remove_set(folder: Path, keep: Collection[str]) -> None:
    """Forget the set in `folder`, finished or not, but for the files named `keep`.

    Shards that were imported where they lie may be the only ones that their owner has; those stay.
    """
    if (folder / MANIFEST).is_file():
        try:
            manifest = open_prepared(folder).manifest
            old = [folder / shard.file for shard in manifest.shards if shard.file not in keep]
            owned = "format" not in manifest.options or "prebuilt" in manifest.options
        except DataError:  # damaged, or of another version: what it lists is not known
            old, owned = [], False
        (folder / MANIFEST).unlink()  # first: it must never describe shards that are gone
        for path in old:
            if owned or path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1):
                path.unlink(missing_ok=True)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def refuse_unfinished(folder: Path) -> None:
    """Raises DataError where text is being prepared in `folder`, or was and has not been finished."""
    if (folder / UNFINISHED / "plan.json").exists():
        raise DataError(
            f"{folder} holds a set that is being prepared from text and not finished",
            "finish it with the command that began it; or replace it with --overwrite",
        )


def finish(folder: Path, manifest: Manifest, tokenizer: Tokenizer) -> None:
    """From here on the set is complete. Says what a user should know of it."""
    tokenizer.save(folder)
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    if "validation" not in manifest.splits:
        logger.warning(f"{folder} has no validation split: training on it will report no validation loss")
    if "train" not in manifest.splits:
        logger.warning(f"{folder} has no train split: it can be evaluated on, not trained on")
    for split, counts in manifest.splits.items():
        if counts.documents == 0:
            logger.warning(f"{folder}: no <|endoftext|> in the {split} split, so its documents cannot be told apart")
