"""Byte-level BPE, the tokenizer of GPT-2: `gpt2`, `bpe:SIZE` and, without any merges, `byte`.

Text is cut into words by a regular expression and each word's bytes are merged by rank. tiktoken does both in Rust, and
here half as fast again as it does with its own expression; ids equal those of tiktoken and of the `tokenizers` library
(tests/tokenizer).
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tiktoken

from nano_gpt.tokenizer.base import END_OF_TEXT, Ids, Tokenizer, well_formed
from nano_gpt.tokenizer.hf_files import spell, write_byte_level_bpe
from nano_gpt.tokenizer.pieces import WHITESPACE, pieces_of

GPT2_FINGERPRINT = "edc7fb35ef238e716a08a12e045c1edb595c4ab974bfb7f9a56495bafe5aef15"

# How GPT-2 cuts text into words (Radford et al. 2019; encoder.py of their release). Possessive quantifiers (++) match
# the same and keep the engine from backtracking.
GPT2_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

# The same for text in which no run of white space is followed by a word, a single character of it apart. Without
# looking ahead tiktoken's engine needs no backtracking, and encoding is 1.5 to 2 times as fast.
_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"
# Runs are ended by a mark before their last character, which belongs to the word behind it or is one by itself. The
# mark is a special token of two code points that no text should have (Unicode 16, section 23.7); where one has it,
# its stretches are encoded one by one.
_MARK = "\U0010ffff\U0010fffe"
_RUN = re.compile(f"[{WHITESPACE}](?=[{WHITESPACE}][^{WHITESPACE}])")
# Nearly all white space is ASCII. There a search for the bytes is three times as fast as one for characters of a set.
_OTHER_WHITESPACE = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
_TO_BLANKS = bytes.maketrans(b"\t\n\v\f\r", b"     ")
_BLANKS = re.compile(rb"  (?=[^ ])")


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
            "nano_gpt",
            pat_str=_WORDS,
            mergeable_ranks=dict(ranks),
            special_tokens={END_OF_TEXT: eot_id, _MARK: len(tokens)},
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
        pieces = [self._encode_piece(piece) for piece in pieces_of(text)]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _encode_piece(self, text: str) -> Ids:
        if _MARK in text:
            ends = [*(run.end() for run in _RUN.finditer(text)), len(text)]
            stretches = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
            return np.concatenate([self._encoding.encode_to_numpy(each, disallowed_special=()) for each in stretches])
        marked = _marked(text)
        ids = self._encoding.encode_to_numpy(marked, allowed_special={_MARK}, disallowed_special=())
        return ids if len(marked) == len(text) else ids[ids != self.vocab_size]

    def save(self, folder: Path, model_max_length: int | None = None) -> None:
        write_byte_level_bpe(folder, self._tokens, self._merges, self.eot_id, model_max_length)


def _marked(text: str) -> str:
    """`text` with _MARK before the last character of every run of white space that a word follows."""
    if not text.isascii() and _OTHER_WHITESPACE.search(text):
        return _RUN.sub(lambda run: run[0] + _MARK, text)
    content = text.encode()
    ends = [run.start() + 1 for run in _BLANKS.finditer(content.translate(_TO_BLANKS))]
    if not ends:
        return text
    stretches = zip([0, *ends], [*ends, len(content)], strict=True)
    return _MARK.encode().join([content[start:end] for start, end in stretches]).decode()
