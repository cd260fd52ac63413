"""The datasets that have a name, and the folder that a prepared one lives in.

Imports no torch, numpy or datasets, so that the command line can list and locate sets at no cost.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nano_gpt.config.data import DataConfig
from nano_gpt.errors import ConfigError
from nano_gpt.registry import unknown_name

MANIFEST = "manifest.json"
LARGE_BYTES = 1_000_000_000  # a minute of tokenising; under torchrun all other ranks wait for it


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset before any of it is read."""

    name: str
    description: str
    tokenizer: str
    """The one that is used unless another is asked for."""
    source: str
    """`"module:attribute"` of the class that yields its documents."""
    small: bool
    """Prepared on the way by `train`; a large one must be prepared on purpose."""
    validation_fraction: float | None
    """Share of the documents kept for validation; None where the source itself says which."""


CATALOG = {
    info.name: info
    for info in (
        DatasetInfo(
            "python_docs",
            "manual topics and docstrings of the running Python, 2 MB, no network",
            tokenizer="bpe:4096",
            source="nano_gpt.data.python_docs:PythonDocs",
            small=True,
            validation_fraction=0.1,
        ),
        DatasetInfo(
            "tinyshakespeare",
            "40,000 lines of Shakespeare, 1 MB; the last tenth is the validation split, as in nanoGPT",
            tokenizer="gpt2",
            source="nano_gpt.data.sources:TinyShakespeare",
            small=True,
            validation_fraction=None,
        ),
        DatasetInfo(
            "finewebedu",
            "educational web pages, 10 billion GPT-2 tokens, streamed from the hub",
            tokenizer="gpt2",
            source="nano_gpt.data.fineweb:FineWebEdu",
            small=False,
            validation_fraction=0.03,
        ),
    )
}


def _own_files(name: str, files: Sequence[Path] = ()) -> DatasetInfo:
    size = sum(file.stat().st_size for file in files if file.is_file())
    return DatasetInfo(
        name,
        "your own files",
        tokenizer="gpt2",
        source="nano_gpt.data.sources:LocalFiles",
        small=size < LARGE_BYTES,
        validation_fraction=0.1,
    )


def dataset_info(config: DataConfig) -> DatasetInfo:
    """The catalog's entry, or one made for `config.files`.

    Raises ConfigError for a name that is neither in the catalog nor given files, and for files under a catalog name.
    """
    if config.files:
        if config.dataset in CATALOG:
            raise ConfigError(
                f"files are given, but {config.dataset!r} is a built-in dataset",
                f"give yours a name of its own: --dataset {name_for_files(config.files)}",
            )
        return _own_files(config.dataset, config.files)
    if config.dataset not in CATALOG:
        prepared = [path.parent.name for path in config.dataset_dir.glob(f"*/{MANIFEST}")]
        raise unknown_name("dataset", config.dataset, {*CATALOG, *prepared})
    return CATALOG[config.dataset]


def name_for_files(files: Sequence[Path]) -> str:
    """The name under which files are kept when none is given: that of the first, without its ending."""
    name = safe_name(files[0].stem)
    return f"my_{name}" if name in CATALOG else name


def tokenizer_of(config: DataConfig) -> str:
    """What `config.tokenizer` says, or else the dataset's own."""
    own = CATALOG[config.dataset].tokenizer if config.dataset in CATALOG else _own_files(config.dataset).tokenizer
    return config.tokenizer or own


def prepared_folder(config: DataConfig) -> Path:
    """`dataset_dir/NAME`, or `dataset_dir/NAME-TOKENIZER` for another tokenizer than the dataset's own."""
    if config.dataset != safe_name(config.dataset):
        raise ConfigError(
            f"{config.dataset!r} cannot be the name of a folder", f"such a name would do: {safe_name(config.dataset)}"
        )
    tokenizer = tokenizer_of(config)
    if tokenizer == tokenizer_of(config.model_copy(update={"tokenizer": None})):
        return config.dataset_dir / config.dataset
    path = Path(tokenizer)
    name = path.parent.name if path.name == "tokenizer.json" else path.name
    return config.dataset_dir / f"{config.dataset}-{safe_name(name)}"


def safe_name(text: str) -> str:
    """`text` as part of a file name on any system: letters, digits, `_`, `-` and inner dots."""
    return re.sub(r"[^\w.-]+", "-", text).strip(".-") or "data"


def prepare_command(config: DataConfig) -> str:
    """The command that prepares this set."""
    words = ["nano-gpt", "prepare_dataset"]
    if config.dataset in CATALOG or not config.files or config.dataset != name_for_files(config.files):
        words += ["--dataset", config.dataset]
    if config.files:
        words += ["--files", *map(str, config.files)]
    if config.tokenizer:
        words += ["--tokenizer", config.tokenizer]
    return shlex.join([*words, *_where(config)])


def next_command(config: DataConfig) -> str:
    """The command that trains on this set once it is prepared; your own files are found again by their name."""
    words = ["nano-gpt", "train", "--dataset", config.dataset]
    if config.tokenizer:
        words += ["--tokenizer", config.tokenizer]
    return shlex.join([*words, *_where(config)])


def _where(config: DataConfig) -> list[str]:
    default = DataConfig.model_fields["dataset_dir"].default
    return [] if config.dataset_dir == default else ["--dataset-dir", str(config.dataset_dir)]
