"""A setting that could not have an effect is an error: nobody shall believe that it did what it says."""

from __future__ import annotations

from collections.abc import Callable

from nano_gpt.config.data import DataConfig
from nano_gpt.errors import ConfigError

# Kinds of files, `hub` for whatever comes from there, that a setting of reading is about; and what it does.
_READING = {
    "text_column": ({"jsonl", "parquet", "hub"}, "it names a column of .jsonl, .parquet and hub data"),
    "document_separator": ({"txt"}, "it cuts .txt files"),
    "encoding_errors": ({"txt", "jsonl", "parquet"}, "it is about bytes in files of your own"),
}
# What makes documents, or cuts them; ready shards are taken as they are.
_OF_TEXT = (
    "config_name",
    "files",
    "urls",
    *_READING,
    "max_documents",
    "dedup",
    "tokens_per_shard",
    "validation_fraction",
)


def check_reading(config: DataConfig, kinds: Callable[[], set[str]]) -> None:
    """Raises ConfigError for a setting of reading that is about none of the `kinds` of files that `config` names.

    They are asked for only where such a setting is given: to list a large folder takes seconds.
    """
    for name, (concerned, purpose) in _READING.items():
        if _is_given(config, name) and concerned.isdisjoint(kinds()):
            raise ConfigError(f"{_flag(name)} has no effect on {config.dataset}: {purpose}", "leave it out")


def check_ready(config: DataConfig, *more: str) -> None:
    """Raises ConfigError for a setting, of those that only text needs and of `more`, that is not its default."""
    for name in (*_OF_TEXT, *more):
        if _is_given(config, name):
            raise ConfigError(f"{_flag(name)} cannot change shards that are ready", "leave it out")


def _is_given(config: DataConfig, name: str) -> bool:
    return bool(getattr(config, name) != DataConfig.model_fields[name].default)


def _flag(name: str) -> str:
    return "--url" if name == "urls" else f"--{name.replace('_', '-')}"
