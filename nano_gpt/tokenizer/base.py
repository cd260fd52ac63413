"""What the rest of the project knows of a tokenizer, and what all tokenizers share.

A tokenizer is a table from ids to bytes, and a way to cut text into entries of that table. The table half is here;
`bpe.py` and `char.py` cut. Objects pickle, so that they can be sent to the processes that prepare a corpus.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nano_gpt.errors import DataError

END_OF_TEXT = "<|endoftext|>"

Ids = npt.NDArray[np.uint32]


class EncodedDocuments(NamedTuple):
    """Documents as they lie in a shard, one behind the other."""

    ids: Ids
    """1-D. Every document is opened by `<|endoftext|>`."""
    lengths: npt.NDArray[np.int64]
    """How many ids are each document's, with its `<|endoftext|>`."""


DocumentEncoder = Callable[[Sequence[str]], EncodedDocuments]


class Tokenizer(ABC):
    """Text <-> ids. Ids are 0 .. vocab_size - 1; `<|endoftext|>` is one of them and never comes out of `encode`."""

    def __init__(self, tokens: list[bytes], eot_id: int) -> None:
        """`tokens[i]` are the bytes of id i; that of `eot_id` is the spelling of `<|endoftext|>`."""
        self._tokens = tokens
        self.eot_id = eot_id
        """The id that opens every document."""

    @property
    @abstractmethod
    def name(self) -> str:
        """How a user asks for it: `gpt2`, `byte`, `char`, `bpe:4096`."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A sha256 in hexadecimal, equal exactly when two tokenizers give the same ids for every text."""

    @abstractmethod
    def encode_to_numpy(self, text: str) -> Ids:
        """Ids of one text, 1-D, possibly read-only. Like `encode`, without a Python object per token."""

    @abstractmethod
    def save(self, folder: Path, model_max_length: int | None = None) -> None:
        """Write the files from which `transformers.AutoTokenizer` and `load_tokenizer` build it again.

        `model_max_length` is the model's context in tokens: `transformers` warns of longer texts and cuts them there
        where it is asked to truncate.
        """

    @property
    def vocab_size(self) -> int:
        return len(self._tokens)

    def encode(self, text: str) -> list[int]:
        """Ordinary text, also where it spells a special token. Raises DataError where a character has no id.

        Lone surrogates (bytes of the command line or of a file that were not UTF-8) count as U+FFFD.
        """
        ids: list[int] = self.encode_to_numpy(text).tolist()
        return ids

    @property
    def document_encoder(self) -> DocumentEncoder:
        """For a corpus, some hundred thousand characters at a time. It may learn on the way: for one thread only."""
        return self._encode_documents

    def _encode_documents(self, texts: Sequence[str]) -> EncodedDocuments:
        eot = np.array([self.eot_id], np.uint32)
        parts = [part for text in texts for part in (eot, self.encode_to_numpy(text))]
        lengths = [1 + len(ids) for ids in parts[1::2]]
        ids = np.concatenate(parts) if parts else np.empty(0, np.uint32)
        return EncodedDocuments(ids, np.array(lengths, np.int64))

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """Text of ids, `<|endoftext|>` spelt out, bytes that are not UTF-8 as U+FFFD. Raises like `decode_bytes`."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> bytes:
        """The exact bytes of ids, for streaming and for bits per byte. Raises DataError for an id that is none."""
        numbers: Sequence[int] = ids.tolist() if isinstance(ids, np.ndarray) else ids
        if len(numbers) == 0 or (min(numbers) >= 0 and max(numbers) < len(self._tokens)):
            return b"".join([self._tokens[number] for number in numbers])
        stranger = next(number for number in numbers if not 0 <= number < len(self._tokens))
        raise DataError(
            f"token id {stranger} is not one of the {self.vocab_size} of tokenizer {self.name}",
            "the ids come from another tokenizer, or from a padded vocabulary that was not masked",
        )


_SURROGATE = re.compile("[\ud800-\udfff]")
_LARGE = 2**20  # characters


def well_formed(text: str) -> str:
    """`text` with surrogate pairs joined and lone surrogates, which have no UTF-8, replaced by U+FFFD."""
    if text.isascii() or (len(text) > _LARGE and not _SURROGATE.search(text)):  # slower than encoding, but no copy
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
