"""Which text a run trains on, and how it becomes tokens."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, PositiveInt

from nano_gpt.config.base import Settings


class DataConfig(Settings):
    """What `prepare_dataset` makes and `train` reads."""

    dataset: str = "python_docs"
    """A name of the catalog, or the name under which your own `files` are kept."""
    files: tuple[Path, ...] = ()
    """Your own text: .txt or .jsonl files. Empty: the catalog's source for `dataset`."""
    text_column: str = "text"
    """The field of a .jsonl line that holds the document."""
    document_separator: str | None = None
    """Cut .txt files into documents at this string. null: at lines that hold only <|endoftext|>."""
    tokenizer: str | None = None
    """`gpt2`, `byte`, `char`, `bpe:SIZE` (from the corpus), a folder or tokenizer.json. null: the dataset's own."""
    dataset_dir: Path = Path("dataset_cache")
    """Folder that holds the prepared sets."""
    tokens_per_shard: PositiveInt = 100_000_000
    """Tokens in a full shard file (200 MB at 16 bits)."""
    validation_fraction: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Share of the documents kept for validation. null: the dataset's own (your files 0.1, finewebedu 0.03)."""
    num_procs: PositiveInt | None = None
    """Processes that tokenise. null: half of the cores."""
    shuffle: bool = True
    """Visit the windows of an epoch in a seeded random order instead of file order."""
