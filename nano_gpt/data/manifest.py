"""What a prepared set is: `manifest.json`, written last, and the folder that it describes.

prepared = open_prepared(Path("dataset_cache/python_docs"))
prepared.reader("train").read(0, 1024)
"""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nano_gpt.config.data import DataConfig
from nano_gpt.data.catalog import CATALOG, MANIFEST, tokenizer_of
from nano_gpt.data.shards import Shard, TokenReader
from nano_gpt.data.token_files import parse_name
from nano_gpt.errors import DataError
from nano_gpt.runtime.files import sha256
from nano_gpt.tokenizer import load_tokenizer
from nano_gpt.tokenizer.base import Tokenizer

UNFINISHED = "unfinished"
PREBUILT = "prebuilt.json"  # in `unfinished`, while ready shards are downloaded


class Counts(BaseModel):
    """What a split holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents: int = 0
    tokens: int = 0
    """The `<|endoftext|>` of every document included."""
    bytes: int = 0
    """The documents' text in UTF-8."""
    lengths: tuple[int, ...] = ()
    """Documents by length: place k counts those of 2^k .. 2^(k+1) - 1 tokens, `<|endoftext|>` included."""


class Manifest(BaseModel):
    """The set's description. Two sets with equal `shards` and tokenizer hold the same tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format_version: Literal[2] = 2
    dataset: str
    description: str
    revision: str
    """Which state of the source: a hash, a commit, a version."""
    options: dict[str, str | int | float | None]
    """Settings, besides the tokenizer, that determine which documents there are."""
    tokenizer: str
    """How it was asked for; its files lie beside the manifest."""
    tokenizer_fingerprint: str
    vocab_size: int = Field(gt=0)
    eot_id: int = Field(ge=0)
    """The id that separates documents."""
    eot_opens: bool = True
    """Whether it stands before every document, as here, or after it, as in nanoGPT's files."""
    dtype: Literal["uint16", "uint32"]
    tokens_per_shard: int = Field(gt=0)
    splits: dict[str, Counts]
    duplicates_dropped: int = 0
    """Documents left out because an earlier one has the same text."""
    validation_in_train: int | None = None
    """Validation documents whose text is also a training document; None where documents cannot be told apart, or where
    one of the splits is missing."""
    shards: tuple[Shard, ...] = ()


@dataclass(frozen=True)
class PreparedSet:
    """A finished set. Shards are checked when a reader opens them."""

    folder: Path
    manifest: Manifest

    def tokens(self, split: str) -> int:
        """Number of tokens, `<|endoftext|>` included."""
        return self._counts(split).tokens

    def bytes_per_token(self, split: str) -> float:
        """UTF-8 bytes of text for each token of the split: what turns nats per token into bits per byte."""
        counts = self._counts(split)
        return counts.bytes / counts.tokens

    def reader(self, split: str) -> TokenReader:
        """All tokens of a split. Raises DataError for a split that is not there and for damaged shards."""
        self._counts(split)
        shards = [shard for shard in self.manifest.shards if shard.split == split]
        if sum(shard.tokens for shard in shards) != self.tokens(split):
            raise DataError(
                f"{self.folder / MANIFEST} is damaged: its {split} shards do not hold its tokens", self.remedy
            )
        return TokenReader(self.folder, shards, self.manifest.dtype, self.manifest.vocab_size, self.remedy)

    def tokenizer(self) -> Tokenizer:
        """The one that made the tokens, from the files in the folder. Raises DataError if it is another one."""
        tokenizer = load_tokenizer(self.folder)
        found = (tokenizer.fingerprint, tokenizer.vocab_size, tokenizer.eot_id)
        if found != (self.manifest.tokenizer_fingerprint, self.manifest.vocab_size, self.manifest.eot_id):
            raise DataError(
                f"the tokenizer files in {self.folder} are not those that made its tokens",
                self.remedy,
            )
        return tokenizer

    def verify(self) -> None:
        """Read all of it: raises DataError for tokenizer files or a shard that are not what was written."""
        self.tokenizer()
        for split in self.manifest.splits:
            self.reader(split)
        for shard in self.manifest.shards:
            if sha256(self.folder / shard.file) != shard.sha256:
                path = self.folder / shard.file
                raise DataError(f"shard {path} is not what was written: its sha256 differs", self.remedy)

    @property
    def bytes(self) -> int:
        """Size of all shards."""
        return sum(shard.bytes for shard in self.manifest.shards)

    @property
    def remedy(self) -> str:
        """What to do when a file of the set is damaged."""
        name, there = self.manifest.dataset, self.folder.parent
        words = ["nano-gpt", "prepare_dataset"]
        if "prebuilt" in self.manifest.options:
            words, again = [*words, "--dataset", name, "--prebuilt"], "download it again"
        elif "format" in self.manifest.options:
            words, again = [*words, "--import", "...", "--dataset", name], "import it again"
        else:
            words, again = [*words, "--dataset", name], "prepare the set again"
            words += [] if name in CATALOG or name.startswith("hf:") else ["--files", "..."]
        for option in ("max_documents", "max_tokens", "dedup"):
            value = self.manifest.options.get(option)
            words += [] if value is None else [f"--{option.replace('_', '-')}", str(value)]
        if self.manifest.tokenizer != tokenizer_of(DataConfig(dataset=name)):
            words += ["--tokenizer", self.manifest.tokenizer]
        words += ["--dataset-dir", str(there)] if there != DataConfig().dataset_dir else []
        return f"restore the file, or {again}: {shlex.join(words)} --overwrite"

    @cached_property
    def fingerprint(self) -> str:
        """Equal for sets with the same tokens in the same files, made by the same tokenizer."""
        parts = [self.manifest.tokenizer_fingerprint, *(f"{s.split} {s.sha256}" for s in self.manifest.shards)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _counts(self, split: str) -> Counts:
        if split not in self.manifest.splits:
            if "format" in self.manifest.options:
                hint = "import the folder that has files of both splits: --import FOLDER --overwrite"
            else:
                hint = "prepare it with both splits: --splits train,validation --overwrite"
            raise DataError(f"{self.folder} has no {split} split; it has {', '.join(self.manifest.splits)}", hint)
        return self.manifest.splits[split]


def open_prepared(folder: Path) -> PreparedSet:
    """Raises DataError for a folder that is missing, unfinished, damaged or of another format."""
    path = folder / MANIFEST
    command = f"nano-gpt prepare_dataset --dataset {folder.name}"
    if not path.is_file():
        if (folder / UNFINISHED).is_dir():
            again = command if folder.name in CATALOG else "the same text as before"
            again += " --prebuilt" if (folder / UNFINISHED / PREBUILT).is_file() else ""
            raise DataError(f"{folder} is not finished", f"the same prepare_dataset command goes on with it: {again}")
        check_not_foreign(folder)
        raise DataError(f"there is no prepared set in {folder}", f"prepare it first: {command}")
    return PreparedSet(folder, read_manifest(path))


def check_not_foreign(folder: Path) -> None:
    """Raises DataError, with the command that imports them, for a folder of token files that no manifest describes."""
    if (folder / MANIFEST).exists() or (folder / UNFINISHED).exists() or not folder.is_dir():
        return
    words = ["nano-gpt", "prepare_dataset", "--import", str(folder)]
    words += ["--dataset-dir", str(folder.parent)] if folder.parent != DataConfig().dataset_dir else []
    for path in sorted(folder.iterdir()):
        if parse_name(path.name) is not None:
            raise DataError(
                f"{folder} holds token files ({path.name}) and no {MANIFEST} that says what they are", shlex.join(words)
            )


def read_manifest(path: Path) -> Manifest:
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        if where == "format_version":
            raise DataError(
                f"{path} is of format version {first['input']!r}; this nano-gpt reads 2",
                "prepare the set again with --overwrite, or use the nano-gpt that made it",
            ) from None
        raise DataError(
            f"{path} is damaged: {where}: {first['msg']}", "prepare the set again with --overwrite"
        ) from None
