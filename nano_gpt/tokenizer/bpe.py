"""Byte-level BPE, the tokenizer of GPT-2: `gpt2`, `bpe:SIZE` and, without any merges, `byte`.

Text is cut into words by a regular expression and each word's bytes are merged by rank. tiktoken does both in Rust,
ten times as fast as the `tokenizers` library; ids equal those of either (tests/tokenizer/test_transformers.py).
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tiktoken

from nano_gpt.tokenizer.base import END_OF_TEXT, Ids, Tokenizer, well_formed
from nano_gpt.tokenizer.hf_files import spell, write_byte_level_bpe

GPT2_FINGERPRINT = "edc7fb35ef238e716a08a12e045c1edb595c4ab974bfb7f9a56495bafe5aef15"

# How GPT-2 cuts text into words (Radford et al. 2019; encoder.py of their release). Possessive quantifiers (++) match
# the same and keep the engine from backtracking.
GPT2_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

# \s of tiktoken's engine; Python's own also has U+001C .. U+001F.
_WHITESPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_LAST_WHITESPACE = re.compile(f"[{_WHITESPACE}](?=[^{_WHITESPACE}])")
_PIECE_LENGTH = 65_536  # characters; the engine's limit is a run of about a million


class ByteLevelBPE(Tokenizer):
    """`ranks` gives the id of every byte and of every merged token; together with `eot_id` they are 0 .. n - 1.

    `merges` are the pairs that make the merged tokens, in the order of their ids.
    """

    def __init__(self, ranks: Mapping[bytes, int], merges: Sequence[tuple[bytes, bytes]], eot_id: int) -> None:
        tokens = [END_OF_TEXT.encode()] * (len(ranks) + 1)
        for token, rank in ranks.items():
            tokens[rank] = token
        super().__init__(tokens, eot_id)
        self._merges = list(merges)
        self._byte_ids = np.array([ranks[bytes([byte])] for byte in range(256)], dtype=np.uint32)
        self._encoding = tiktoken.Encoding(
            "nano_gpt", pat_str=GPT2_WORDS, mergeable_ranks=dict(ranks), special_tokens={END_OF_TEXT: eot_id}
        )

    @property
    def name(self) -> str:
        if self._merges:
            return "gpt2" if self.fingerprint == GPT2_FINGERPRINT else f"bpe:{self.vocab_size}"
        return "byte" if np.array_equal(self._byte_ids, np.arange(256)) else f"bpe:{self.vocab_size}"

    @functools.cached_property
    def fingerprint(self) -> str:
        table = [spell(token) for token in self._tokens]
        return hashlib.sha256(json.dumps(["byte-level BPE", table, self.eot_id]).encode()).hexdigest()

    def encode_to_numpy(self, text: str) -> Ids:
        text = well_formed(text)
        if not self._merges:
            return self._byte_ids[np.frombuffer(text.encode("utf-8"), dtype=np.uint8)]
        pieces = [self._encoding.encode_to_numpy(piece, disallowed_special=()) for piece in pieces_of(text)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def save(self, folder: Path, model_max_length: int | None = None) -> None:
        write_byte_level_bpe(folder, self._tokens, self._merges, self.eot_id, model_max_length)


def pieces_of(text: str, length: int = _PIECE_LENGTH) -> Iterator[str]:
    """Cut a long text into pieces of about `length` characters whose ids, put together, are the ids of the whole.

    tiktoken fails on a run of a million whitespace characters with text behind it. A cut before the last whitespace
    character of a run changes no word: the rest of the run is a word of its own (`\\s+(?!\\S)` there, `\\s++$` at the
    end of a piece), and so is what begins with that character. A run is hence never followed by text in one piece,
    unless it began and ended within the first `length` characters.
    """
    start = 0
    while len(text) - start > length:
        cut = _LAST_WHITESPACE.search(text, start + length)
        if cut is None:
            break
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:] if start else text
