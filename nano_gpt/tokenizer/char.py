"""One id per distinct character of a corpus, in sorted order, `<|endoftext|>` last."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nano_gpt.errors import DataError
from nano_gpt.tokenizer.base import END_OF_TEXT, Ids, Tokenizer, well_formed
from nano_gpt.tokenizer.hf_files import write_char

_CODE_POINTS = 0x110000
_NO_ID = np.uint32(0xFFFF_FFFF)


class CharTokenizer(Tokenizer):
    """`alphabet` holds single characters, none of them a surrogate; their order does not matter."""

    def __init__(self, alphabet: Iterable[str]) -> None:
        self._alphabet = sorted(set(alphabet))
        super().__init__([char.encode() for char in [*self._alphabet, END_OF_TEXT]], len(self._alphabet))
        self._ids = np.full(_CODE_POINTS, _NO_ID, dtype=np.uint32)
        self._ids[[ord(char) for char in self._alphabet]] = np.arange(len(self._alphabet), dtype=np.uint32)

    @property
    def name(self) -> str:
        return "char"

    @functools.cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(["char", self._alphabet]).encode()).hexdigest()

    def encode_to_numpy(self, text: str) -> Ids:
        text = well_formed(text)
        ids: Ids = self._ids[np.frombuffer(text.encode("utf-32-le"), dtype="<u4")]
        unknown = ids == _NO_ID
        if unknown.any():
            char = text[int(unknown.argmax())]
            raise DataError(
                f"the char tokenizer has no id for {char!r} (U+{ord(char):04X}), "
                f"which is not among the {len(self._alphabet)} characters of its corpus",
                "leave the character out, or prepare and train with a tokenizer that takes any text: byte or bpe:SIZE",
            )
        return ids

    def save(self, folder: Path, model_max_length: int | None = None) -> None:
        write_char(folder, self._alphabet, model_max_length)
