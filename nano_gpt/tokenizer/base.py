"""What the rest of the project knows of a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

END_OF_TEXT = "<|endoftext|>"


class Tokenizer(Protocol):
    """Text <-> ids. Ids are 0 .. vocab_size - 1; `<|endoftext|>` is one of them and never comes out of `encode`."""

    @property
    def name(self) -> str:
        """How a user asks for it: `gpt2`, `byte`, `char`, `bpe:4096`."""
        ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def eot_id(self) -> int:
        """The id that opens every document."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal exactly when two tokenizers give the same ids for every text."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ordinary text, also where it spells a special token. Raises DataError where a character has no id."""
        ...

    def encode_documents(self, texts: Sequence[str]) -> list[npt.NDArray[np.uint32]]:
        """Ids of many documents, each 1-D, without `<|endoftext|>`."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; bytes that are not UTF-8 become U+FFFD. `<|endoftext|>` is spelt out."""
        ...

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The exact bytes of ids, for streaming and for bits per byte."""
        ...

    def save(self, folder: Path) -> None:
        """Write the files from which `transformers.AutoTokenizer` and `load_tokenizer` build it again."""
        ...
