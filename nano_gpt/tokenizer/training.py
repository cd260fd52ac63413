"""Tokenizers that are made from a corpus: `char` and `bpe:SIZE`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from nano_gpt.errors import ConfigError, DataError
from nano_gpt.runtime.logs import logger
from nano_gpt.tokenizer.base import Tokenizer, well_formed
from nano_gpt.tokenizer.bpe import ByteLevelBPE, pieces_of
from nano_gpt.tokenizer.char import CharTokenizer
from nano_gpt.tokenizer.hf_files import BYTE_ORDER, unspell

SMALLEST_BPE = 257  # 256 bytes and <|endoftext|>
_TRAINING_PIECE = 2048  # characters


def needs_corpus(spec: str) -> bool:
    """Whether `spec` is `char` or `bpe:SIZE`. Raises ConfigError for a `bpe` whose size is none."""
    return spec == "char" or _bpe_size(spec) is not None


def train_tokenizer(spec: str, texts: Iterable[str]) -> Tokenizer:
    """Make `char` or `bpe:SIZE` from documents, which are gone through once. The same documents give the same ids.

    SIZE is the whole vocabulary, `<|endoftext|>` included; a corpus that has fewer pairs to merge gives fewer ids, and
    a log line says so. Raises ConfigError for another `spec`, DataError for a corpus without text.
    """
    if spec == "char":
        return _train_char(texts)
    size = _bpe_size(spec)
    if size is None:
        raise ConfigError(f"tokenizer {spec!r} cannot be made from a corpus", "use char or bpe:SIZE, as in bpe:4096")
    return _train_bpe(size, texts)


def _bpe_size(spec: str) -> int | None:
    """The SIZE of `bpe:SIZE`, None for anything that does not begin like it."""
    kind, _, size = spec.partition(":")
    if kind != "bpe":
        return None
    if not re.fullmatch("[0-9]{1,9}", size) or int(size) < SMALLEST_BPE:
        raise ConfigError(
            f"tokenizer {spec!r}: the size of the vocabulary must be a number, at least {SMALLEST_BPE} "
            "(256 bytes and <|endoftext|>)",
            "for example bpe:4096",
        )
    return int(size)


def _train_char(texts: Iterable[str]) -> CharTokenizer:
    alphabet: set[str] = set()
    for text in texts:
        alphabet.update(well_formed(text))
    if not alphabet:
        raise _no_text()
    return CharTokenizer(alphabet)


def _train_bpe(size: int, texts: Iterable[str]) -> ByteLevelBPE:
    from tokenizers import Tokenizer as Trained
    from tokenizers import models, pre_tokenizers, trainers

    seen_text = False

    def pieces() -> Iterator[str]:
        nonlocal seen_text
        for text in texts:
            seen_text = seen_text or bool(text)
            for piece in pieces_of(well_formed(text), _TRAINING_PIECE):
                # The trainer's time is quadratic in the length of a word, so a word that fills a piece is cut.
                yield from (piece[i : i + 2 * _TRAINING_PIECE] for i in range(0, len(piece), 2 * _TRAINING_PIECE))

    # No special tokens: in the trainer <|endoftext|> would get id 0 and be cut out of texts that spell it.
    trained = Trained(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size - 1,
        min_frequency=2,  # a pair that occurs once says nothing about other text
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    trained.train_from_iterator(pieces(), trainer)
    if not seen_text:
        raise _no_text()
    merges = [(unspell(first), unspell(second)) for first, second in json.loads(trained.to_str())["model"]["merges"]]
    ranks = {token: rank for rank, token in enumerate([*BYTE_ORDER, *(first + second for first, second in merges)])}
    tokenizer = ByteLevelBPE(ranks, merges, eot_id=len(ranks))
    if tokenizer.vocab_size < size:
        logger.info(f"tokenizer: the corpus has pairs for a vocabulary of {tokenizer.vocab_size}, not of {size}")
    return tokenizer


def _no_text() -> DataError:
    return DataError("a tokenizer cannot be made from a corpus without text", "check that the files are not empty")
