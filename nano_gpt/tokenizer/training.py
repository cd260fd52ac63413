"""Tokenizers that are made from a corpus: `char` and `bpe:SIZE`."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator

from nano_gpt.errors import ConfigError, DataError
from nano_gpt.runtime.logs import logger
from nano_gpt.tokenizer.base import Tokenizer, well_formed
from nano_gpt.tokenizer.bpe import ByteLevelBPE
from nano_gpt.tokenizer.char import CharTokenizer
from nano_gpt.tokenizer.hf_files import BYTE_ORDER, Merge, unspell
from nano_gpt.tokenizer.pieces import pieces_of

SMALLEST_BPE = 257  # 256 bytes and <|endoftext|>
_TRAINING_PIECE = 2048  # characters
_TICK, _GRACE = 0.2, 5.0  # seconds


def needs_corpus(spec: str) -> bool:
    """Whether `spec` is `char` or `bpe:SIZE`. Raises ConfigError for a `bpe` whose size is none."""
    return spec == "char" or _bpe_size(spec) is not None


def train_tokenizer(spec: str, texts: Iterable[str], waiting: Callable[[], None] = lambda: None) -> Tokenizer:
    """Make `char` or `bpe:SIZE` from documents, which are gone through once. The same documents give the same ids.

    SIZE is the whole vocabulary, `<|endoftext|>` included; a corpus that has fewer pairs to merge gives fewer ids, and
    a log line says so. Where it takes long, `waiting` is called a few times per second, from the caller's thread;
    `texts` may be gone through in another one. Raises ConfigError for another `spec`, DataError for a corpus without
    text, and what `texts` raises.
    """
    if spec == "char":
        return _train_char(texts)
    size = _bpe_size(spec)
    if size is None:
        raise ConfigError(f"tokenizer {spec!r} cannot be made from a corpus", "use char or bpe:SIZE, as in bpe:4096")
    return _train_bpe(size, texts, waiting)


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


def _train_bpe(size: int, texts: Iterable[str], waiting: Callable[[], None]) -> ByteLevelBPE:
    merges = _Merges(size - 1, texts).learned(waiting)
    ranks = {token: rank for rank, token in enumerate([*BYTE_ORDER, *(first + second for first, second in merges)])}
    assert len(ranks) == 256 + len(merges), "two merges make the same token"
    tokenizer = ByteLevelBPE(ranks, merges, eot_id=len(ranks))
    if tokenizer.vocab_size < size:
        logger.info(f"tokenizer: the corpus has pairs for a vocabulary of {tokenizer.vocab_size}, not of {size}")
    return tokenizer


class _Merges:
    """The pairs of a byte-level BPE, learned in a thread of its own.

    The library does not listen to signals while it merges, which takes minutes for a large vocabulary, and when reading
    ends by an error it merges first and raises then. So the calling thread only waits: Ctrl-C and errors are raised
    there at once, and a thread that still merges is left to itself. It ends with the process.
    """

    def __init__(self, size: int, texts: Iterable[str]) -> None:
        self._size = size
        self._texts = texts
        self._seen_text = False
        self._stop = threading.Event()
        self._read = threading.Event()
        self._ended = threading.Event()  # Thread.is_alive() is wrong once a signal has interrupted join()
        self._learned: list[Merge] = []
        self._error: BaseException | None = None

    def learned(self, waiting: Callable[[], None]) -> list[Merge]:
        threading.Thread(target=self._run, name="train-tokenizer", daemon=True).start()
        try:
            while not self._ended.wait(_TICK) and self._error is None:
                waiting()
        finally:
            self._stop.set()
            self._read.wait(_GRACE)  # the source closes its files
        if self._error is not None:
            raise self._error
        if not self._seen_text:
            raise _no_text()
        return self._learned

    def _run(self) -> None:
        try:
            self._learned = self._train()
        except BaseException as error:  # for the thread that waits
            self._error = self._error or error
        finally:
            self._read.set()
            self._ended.set()

    def _train(self) -> list[Merge]:
        from tokenizers import Tokenizer as Trained
        from tokenizers import models, pre_tokenizers, trainers

        # No special tokens: in the trainer <|endoftext|> would get id 0 and be cut out of texts that spell it.
        trained = Trained(models.BPE())
        trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=self._size,
            min_frequency=2,  # a pair that occurs once says nothing about other text
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=[],
            show_progress=False,
        )
        trained.train_from_iterator(self._pieces(), trainer)
        return [(unspell(first), unspell(second)) for first, second in json.loads(trained.to_str())["model"]["merges"]]

    def _pieces(self) -> Iterator[str]:
        try:
            for text in self._texts:
                self._seen_text = self._seen_text or bool(text)
                for piece in pieces_of(well_formed(text), _TRAINING_PIECE):
                    if self._stop.is_set():
                        raise InterruptedError
                    # The trainer's time is quadratic in the length of a word, so a word that fills a piece is cut.
                    yield from (piece[i : i + 2 * _TRAINING_PIECE] for i in range(0, len(piece), 2 * _TRAINING_PIECE))
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._read.set()


def _no_text() -> DataError:
    return DataError("a tokenizer cannot be made from a corpus without text", "check that the files are not empty")
