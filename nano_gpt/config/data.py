"""Which text a run trains on, and how it becomes tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from nano_gpt.config.base import Settings


class DataConfig(Settings):
    """What `prepare_dataset` makes and `train` reads."""

    dataset: str = "python_docs"
    """A name of the catalog, a hub dataset as `hf:owner/name`, or the name under which your own text is kept."""
    config_name: str | None = None
    """Which configuration of a hub dataset: a sample size, a language. null: the dataset's own."""
    files: tuple[Path, ...] = ()
    """Your own text: files, folders or globs of .txt, .jsonl and .parquet, each also as .gz or .zst."""
    urls: tuple[str, ...] = ()
    """Your own text from the web: files of the same kinds, downloaded once; they follow `files`."""
    text_column: str | None = None
    """The field of a .jsonl line, the column of a table that holds the document. null: the dataset's own, or `text`."""
    document_separator: str | None = None
    """Cut .txt files into documents at this string. null: at lines that hold only <|endoftext|>."""
    encoding_errors: Literal["strict", "replace"] = "strict"
    """What to do with bytes that are not UTF-8: stop and name file and byte, or put U+FFFD in their place."""
    max_documents: PositiveInt | None = None
    """Take only the first documents of the source. A validation split that it brings is taken whole."""
    max_tokens: PositiveInt | None = None
    """Like `max_documents`: up to the one with which this many tokens are reached."""
    dedup: Literal["none", "exact"] = "none"
    """`exact`: of documents with the same text, keep the first."""
    tokenizer: str | None = None
    """`gpt2`, `byte`, `char`, `bpe:SIZE` (from the corpus), a folder or tokenizer.json. null: the dataset's own."""
    dataset_dir: Path = Path("dataset_cache")
    """Folder that holds the prepared sets."""
    tokens_per_shard: PositiveInt = 100_000_000
    """Tokens in a full shard file (200 MB at 16 bits)."""
    validation_fraction: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Share of the documents kept for validation. null: what the dataset brings, else its own share."""
    num_procs: PositiveInt | None = None
    """Processes that read and tokenise. null: one per core."""
    shuffle: bool = True
    """Visit the windows of an epoch in a seeded random order instead of file order."""
