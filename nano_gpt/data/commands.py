"""The commands that errors and summaries tell: as long as needed to make the same set again, and no longer."""

from __future__ import annotations

import shlex

from nano_gpt.config.data import DataConfig
from nano_gpt.data.catalog import name_for_files, path_of

# Settings that determine what is in a prepared set, in the order of the help, with their flags.
_FLAGS = {
    "config_name": "--config-name",
    "text_column": "--text-column",
    "document_separator": "--document-separator",
    "encoding_errors": "--encoding-errors",
    "max_documents": "--max-documents",
    "max_tokens": "--max-tokens",
    "validation_fraction": "--validation-fraction",
    "dedup": "--dedup",
    "tokenizer": "--tokenizer",
    "tokens_per_shard": "--tokens-per-shard",
    "dataset_dir": "--dataset-dir",
}


def prepare_command(config: DataConfig) -> str:
    """The command that prepares this set."""
    words = ["nano-gpt", "prepare_dataset"]
    own = [*config.files, *map(path_of, config.urls)]
    if not own or config.dataset != name_for_files(own):
        words += ["--dataset", config.dataset]
    if config.files:
        words += ["--files", *map(str, config.files)]
    for url in config.urls:
        words += ["--url", url]
    return shlex.join([*words, *_flags(config, *_FLAGS)])


def next_command(config: DataConfig) -> str:
    """The command that trains on this set once it is prepared; your own text is found again by its name."""
    words = ["nano-gpt", "train", "--dataset", config.dataset]
    return shlex.join([*words, *_flags(config, "config_name", "tokenizer", "dataset_dir")])


def _flags(config: DataConfig, *names: str) -> list[str]:
    words: list[str] = []
    for name in names:
        value = getattr(config, name)
        if value != DataConfig.model_fields[name].default:
            words += [_FLAGS[name], str(value).replace("\n", "\\n") if name == "document_separator" else str(value)]
    return words
