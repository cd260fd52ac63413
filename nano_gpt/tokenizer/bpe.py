"""Byte-level BPE, the tokenizer of GPT-2: `gpt2`, `bpe:SIZE` and, without any merges, `byte`.

Text is cut into words by a regular expression and each word's bytes are merged by rank. tiktoken does both in Rust; for
a corpus `words.py` spares it nearly all of that. Ids equal those of tiktoken and of the `tokenizers` library
(tests/tokenizer).
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tiktoken

from nano_gpt.tokenizer.base import END_OF_TEXT, DocumentEncoder, Ids, Tokenizer, well_formed
from nano_gpt.tokenizer.hf_files import spell, write_byte_level_bpe
from nano_gpt.tokenizer.pieces import pieces_of
from nano_gpt.tokenizer.words import WordEncoder

GPT2_FINGERPRINT = "edc7fb35ef238e716a08a12e045c1edb595c4ab974bfb7f9a56495bafe5aef15"

# How GPT-2 cuts text into words (Radford et al. 2019; encoder.py of their release). Possessive quantifiers (++) match
# the same and keep the engine from backtracking.
GPT2_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


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
        self._ranks = dict(ranks)

    @functools.cached_property
    def _encoding(self) -> tiktoken.Encoding:
        return tiktoken.Encoding("nano_gpt", pat_str=GPT2_WORDS, mergeable_ranks=self._ranks, special_tokens={})

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

    @functools.cached_property
    def document_encoder(self) -> DocumentEncoder:
        if not self._merges:
            return self._encode_documents
        return WordEncoder(self._ranks, self.eot_id, self.encode_to_numpy)

    def save(self, folder: Path, model_max_length: int | None = None) -> None:
        write_byte_level_bpe(folder, self._tokens, self._merges, self.eot_id, model_max_length)
