"""A vocabulary of one's own: a byte-level BPE made from a corpus, and how well it fits text that it has not seen.

The corpus is gone through once. Documents that `splitting.py` keeps for validation are not learned from: the first of
them are what the vocabulary is measured on, beside GPT-2's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from nano_gpt.data.catalog import MANIFEST
from nano_gpt.data.preparing.splitting import SplitRule, cleaned, split_rule
from nano_gpt.data.preparing.tokenizing import pieces_of_text
from nano_gpt.data.sources.base import Options, Part, Source
from nano_gpt.data.sources.texts import Text
from nano_gpt.errors import ConfigError, DataError, NetworkError
from nano_gpt.runtime.files import write_text
from nano_gpt.runtime.logs import logger
from nano_gpt.runtime.progress import ProgressDisplay, clock
from nano_gpt.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from nano_gpt.tokenizer.hf_files import MERGES, TOKENIZER, TOKENIZER_CONFIG, VOCABULARY
from nano_gpt.tokenizer.training import SMALLEST_BPE

MAX_BYTES = 1_000_000_000  # the trainer keeps every distinct word: up to a gigabyte of memory for this much text
HELD_OUT_BYTES = 4_000_000
RECORD = "trained_on.json"


class Training(BaseModel):
    """What a tokenizer was made from and how it does; `trained_on.json` beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    dataset: str
    revision: str
    options: Options
    """The source's own, with the limits."""
    asked_vocab_size: int
    vocab_size: int
    """Less than was asked for where the corpus has too few pairs."""
    fingerprint: str
    documents: int
    bytes: int
    """Of UTF-8 text that it learned from."""
    limited: bool
    """Whether there was more text than the limits let through."""
    seconds: float
    held_out_documents: int
    held_out_bytes: int
    held_out_tokens: int
    gpt2_tokens: int | None
    """Of the same text; None where GPT-2's vocabulary is not at hand ..."""
    gpt2_missing: str | None
    """... and why."""

    @property
    def bytes_per_token(self) -> float | None:
        """Of held-out text, without `<|endoftext|>`; None where there is no such text."""
        return self.held_out_bytes / self.held_out_tokens if self.held_out_tokens else None

    @property
    def gpt2_bytes_per_token(self) -> float | None:
        return self.held_out_bytes / self.gpt2_tokens if self.gpt2_tokens else None


def train_vocabulary(
    source: Source,
    size: int,
    folder: Path,
    *,
    max_documents: int | None = None,
    max_bytes: int = MAX_BYTES,
    overwrite: bool = False,
) -> Training:
    """Make a byte-level BPE of `size` ids from the source's training documents, and save it in `folder`.

    It learns from the first `max_documents` and no more than about `max_bytes`. The same text gives the same ids; a
    folder that holds this very tokenizer is left as it is. Raises ConfigError for a size below 257, DataError where
    the folder holds something else or the corpus no text, and what the source raises. Nothing is written before the
    end.
    """
    if size < SMALLEST_BPE:
        raise ConfigError(
            f"a vocabulary of {size} ids is too small: 256 bytes and <|endoftext|> make {SMALLEST_BPE}",
            "--vocab-size 8192",
        )
    options: Options = {**source.options, "max_documents": max_documents, "max_bytes": max_bytes}
    if source.validation_fraction is not None:
        options["validation_fraction"] = source.validation_fraction
    asked = {"dataset": source.config.dataset, "revision": source.revision, "options": options}
    there = _there(folder, {**asked, "asked_vocab_size": size}, overwrite=overwrite)
    if there is not None:
        logger.info(f"tokenizer: {folder} holds it already")
        return there
    begun = time.monotonic()
    reading = _Reading(source, max_documents, max_bytes)
    try:
        with _Display(reading) as display:
            tokenizer = train_tokenizer(f"bpe:{size}", reading.texts(), waiting=display.show)
    except KeyboardInterrupt:
        logger.info("tokenizer: stopped; nothing was written")
        raise
    seconds = time.monotonic() - begun
    held_out = reading.held_out
    gpt2_tokens, gpt2_missing = _gpt2_tokens(held_out)
    training = Training(
        dataset=source.config.dataset,
        revision=source.revision,
        options=options,
        asked_vocab_size=size,
        vocab_size=tokenizer.vocab_size,
        fingerprint=tokenizer.fingerprint,
        documents=reading.documents,
        bytes=reading.bytes,
        limited=reading.limited,
        seconds=round(seconds, 1),
        held_out_documents=held_out.documents,
        held_out_bytes=held_out.bytes,
        held_out_tokens=_tokens(tokenizer, held_out.texts),
        gpt2_tokens=gpt2_tokens,
        gpt2_missing=gpt2_missing,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)  # it must never describe another tokenizer
    tokenizer.save(folder)
    write_text(folder / RECORD, training.model_dump_json(indent=2) + "\n")
    return training


def _there(folder: Path, asked: dict[str, object], *, overwrite: bool) -> Training | None:
    """The tokenizer that is asked for, if `folder` holds it. Raises DataError where it must not be written to."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is not a folder", "another place: --tokenizer-dir")
    for sign, kind in ((MANIFEST, "prepared set"), ("config.json", "model")):
        if (folder / sign).exists():
            raise DataError(f"{folder} holds a {kind}, which has its own tokenizer", "another place: --tokenizer-dir")
    files = [name for name in (TOKENIZER, TOKENIZER_CONFIG, VOCABULARY, MERGES) if (folder / name).exists()]
    if not files or overwrite:
        return None
    hint = "another place: --tokenizer-dir; or replace it: --overwrite"
    try:
        there = Training.model_validate_json((folder / RECORD).read_text(encoding="utf-8"))
        whole = load_tokenizer(folder).fingerprint == there.fingerprint
    except (OSError, UnicodeDecodeError, ValidationError, DataError):
        whole = False
    if not whole:
        raise DataError(f"{folder} holds another tokenizer already ({files[0]})", hint)
    has = there.model_dump()
    differing = list(_differences({name: has[name] for name in asked}, asked))
    if differing:
        raise DataError(f"{folder} holds another tokenizer already: {'; '.join(differing)}", hint)
    return there


def _differences(has: dict[str, object], asked: dict[str, object]) -> Iterator[str]:
    for name in {**has, **asked}:
        old, new = has.get(name), asked.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new)
        elif old != new:
            name = "vocab_size" if name == "asked_vocab_size" else name
            yield f"{name} {json.dumps(old)} there, {json.dumps(new)} asked for"


class _HeldOut:
    """The first documents that are kept for validation, up to HELD_OUT_BYTES."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.documents = 0
        self.bytes = 0

    @property
    def full(self) -> bool:
        return self.bytes >= HELD_OUT_BYTES

    def add(self, text: Text) -> None:
        for piece in pieces_of_text(text):
            if self.full:
                break
            self.texts.append(piece)
            self.bytes += len(piece.encode())
        self.documents += 1


class _Reading:
    """One way through a source: yields what is learned from, keeps some of what is not, counts."""

    def __init__(self, source: Source, max_documents: int | None, max_bytes: int) -> None:
        self._source = source
        self._parts: Sequence[Part] = source.parts()
        self._max_documents = max_documents
        self._max_bytes = max_bytes
        sizes = [part.size for part in self._parts if part.split != "validation"]
        self.size = None if None in sizes else min(sum(size or 0 for size in sizes), max_bytes)
        """About how many bytes there are to read; None if nobody knows."""
        self.documents = 0
        self.bytes = 0
        self.limited = False
        self.finished = False
        self.held_out = _HeldOut()

    def texts(self) -> Iterator[str]:
        rule = self._rule()
        read = 0  # documents of both kinds; those of a validation split of the source's own do not count
        for part in self._parts:
            given = part.split == "validation"
            if self.held_out.full if given else self.limited:
                continue
            for text in cleaned(self._source.read(part)):
                if text is None:
                    continue
                if not given and (read == self._max_documents or self.bytes >= self._max_bytes):
                    self.limited = True
                    break
                read += not given
                for document in rule.apply(text, part.split):
                    if document.split == "validation":
                        self.held_out.add(document.text)
                    else:
                        yield from self._learned(document.text)
                if given and self.held_out.full:
                    break
        self.finished = True

    def _learned(self, text: Text) -> Iterator[str]:
        self.documents += 1
        for piece in pieces_of_text(text):
            if self.bytes >= self._max_bytes:
                self.limited = True
                return
            self.bytes += len(piece.encode())
            yield piece

    def _rule(self) -> SplitRule:
        """That of the whole source, whatever the limits: it must not learn from what a set keeps for validation."""
        fraction = self._source.validation_fraction
        if fraction is None:
            return SplitRule()
        read = chain.from_iterable(self._source.read(part) for part in self._parts if part.split is None)
        return split_rule((text for text in cleaned(read) if text is not None), fraction)


class _Display(ProgressDisplay):
    def __init__(self, reading: _Reading) -> None:
        super().__init__("tokenizer")
        self._reading = reading
        self._begun_at = time.monotonic()

    def show(self) -> None:
        reading = self._reading
        self.tell(self._figures, reading.bytes, reading.bytes if reading.finished else reading.size)

    def _figures(self) -> str:
        reading, seconds = self._reading, time.monotonic() - self._begun_at
        read = f"{reading.documents:,} documents · {reading.bytes / 1e6:,.1f} MB read"
        return f"{read} · merging · {clock(seconds)}" if reading.finished else f"{read} · {clock(seconds)}"


def _tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> int:
    return len(tokenizer.document_encoder(texts).ids) - len(texts)


def _gpt2_tokens(held_out: _HeldOut) -> tuple[int | None, str | None]:
    """GPT-2's ids for the same text, or why there are none."""
    if not held_out.bytes:
        return None, "no document is held out"
    try:
        return _tokens(load_tokenizer("gpt2"), held_out.texts), None
    except NetworkError as error:
        return None, error.message
