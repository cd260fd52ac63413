"""What preparing a set will take, told from a small sample of it: nothing is written."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from nano_gpt.config.data import DataConfig
from nano_gpt.data.catalog import prepared_folder, tokenizer_of
from nano_gpt.data.preparing.splitting import cleaned, no_documents
from nano_gpt.data.preparing.tokenizing import pieces_of_text
from nano_gpt.data.preparing.workers import make_source, usable_cores
from nano_gpt.data.ready.prebuilt import ready_files
from nano_gpt.data.shards import token_dtype
from nano_gpt.data.sources.base import Source
from nano_gpt.data.sources.texts import Text
from nano_gpt.tokenizer import load_tokenizer, needs_corpus, train_tokenizer
from nano_gpt.tokenizer.base import Tokenizer

SAMPLE_BYTES = 2_000_000
_PACKING_BYTES_PER_SECOND = 300e6  # copy, hash and sync on a common disk


@dataclass(frozen=True)
class Estimate:
    """None: not to be told beforehand. All counts are of what the limits let through."""

    folder: Path
    download_bytes: int | None
    """What has to come over the network."""
    text_bytes: int | None
    documents: int | None
    tokens: int | None
    written_bytes: int | None
    """The size of the finished set. Preparing needs about one shard more."""
    seconds: float | None
    """Of reading and tokenising here, in `num_procs` processes; a slow network takes longer."""
    num_procs: int
    free_bytes: int
    """On the disk of `folder`."""


def estimate(config: DataConfig) -> Estimate:
    """Raises what `prepare` raises for a source or a tokenizer that cannot be used."""
    folder = prepared_folder(config)
    source = make_source(config)
    if not source.is_at_hand:
        return _nothing_known(folder, source.download_size)
    parts = source.parts()
    sizes = [part.size for part in parts]
    size = None if None in sizes else sum(each or 0 for each in sizes)
    sample = _sample(source, config)
    share = min([1.0, *_limits(config, sample, size)]) if size is not None else None
    needed = math.ceil(len(parts) * (share if share is not None else 1))  # a part is read by one process
    procs = min(config.num_procs or usable_cores(), needed)
    text_bytes = _limited(config, sample) if size is None or share is None else round(size * share)
    tokens = None if text_bytes is None else round(text_bytes * sample.tokens / sample.bytes)
    width = 2 if token_dtype(sample.vocab_size) == "uint16" else 4
    written = None if tokens is None else tokens * width
    seconds = None
    if text_bytes is not None and written is not None:
        seconds = text_bytes * sample.seconds / sample.bytes / procs + written / _PACKING_BYTES_PER_SECOND
    downloaded = source.download_size
    return Estimate(
        folder=folder,
        download_bytes=round(downloaded * share) if downloaded is not None and share is not None else downloaded,
        text_bytes=text_bytes,
        documents=None if text_bytes is None else max(1, round(text_bytes * sample.documents / sample.document_bytes)),
        tokens=tokens,
        written_bytes=written,
        seconds=seconds,
        num_procs=procs,
        free_bytes=_free(folder),
    )


def _nothing_known(folder: Path, download_bytes: int | None) -> Estimate:
    """A sample would be all of it, downloaded."""
    return Estimate(
        folder=folder,
        download_bytes=download_bytes,
        text_bytes=None,
        documents=None,
        tokens=None,
        written_bytes=None,
        seconds=None,
        num_procs=1,
        free_bytes=_free(folder),
    )


def estimate_prebuilt(config: DataConfig) -> Estimate:
    """The same of ready shards: what they hold is known, how fast the network is is not. Raises NetworkError."""
    folder = prepared_folder(config)
    files = [file for split in ready_files(config).values() for file in split]
    size = sum(file.size for file in files)
    tokens = sum(file.tokens for file in files)
    return dataclasses.replace(_nothing_known(folder, size), tokens=tokens, written_bytes=size)


def _free(path: Path) -> int:
    """On the disk where `path` is or will be."""
    path = path.absolute()
    return shutil.disk_usage(path).free if path.exists() else _free(path.parent)


@dataclass(frozen=True)
class _Sample:
    documents: int
    document_bytes: int
    """Of these documents as a whole, of which the tokens may be a part."""
    tokens: int
    bytes: int
    seconds: float
    """To read and tokenise them in one process."""
    vocab_size: int


def _sample(source: Source, config: DataConfig) -> _Sample:
    """The first documents, up to SAMPLE_BYTES, tokenised."""
    spec = tokenizer_of(config)
    tokenizer: Tokenizer | None = None if needs_corpus(spec) else load_tokenizer(spec)
    pieces: list[str] = []
    documents = document_bytes = sampled = 0
    seconds, begun = 0.0, time.monotonic()
    for text in _beginning(source):
        seconds += time.monotonic() - begun
        some = list(islice(pieces_of_text(text), 32))  # now: a long text may be gone when the next one is read
        size = sum(len(piece.encode()) for piece in some)
        documents, document_bytes = documents + 1, document_bytes + (size if isinstance(text, str) else text.size)
        pieces, sampled = pieces + some, sampled + size
        if sampled >= SAMPLE_BYTES:
            break
        begun = time.monotonic()
    if not documents:
        raise no_documents()
    tokenizer = tokenizer or train_tokenizer(spec, pieces)
    tokens, encoding = _tokenised(tokenizer, pieces)
    return _Sample(documents, document_bytes, tokens + documents, sampled, seconds + encoding, tokenizer.vocab_size)


def _tokenised(tokenizer: Tokenizer, pieces: Sequence[str]) -> tuple[int, float]:
    """How many ids the pieces have, and the seconds for that once the encoder knows the frequent words."""
    half = len(pieces) // 2
    known, rest = pieces[:half], pieces[half:]
    ids = len(tokenizer.document_encoder(known).ids)
    begun = time.monotonic()
    ids += len(tokenizer.document_encoder(rest).ids)
    seconds = time.monotonic() - begun
    return ids - len(pieces), seconds * sum(map(len, pieces)) / max(1, sum(map(len, rest)))


def _beginning(source: Source) -> Iterator[Text]:
    for part in source.parts():
        yield from (text for text in cleaned(source.read(part)) if text is not None)


def _limits(config: DataConfig, sample: _Sample, size: int) -> Iterator[float]:
    """The share of a source of `size` bytes that each limit lets through."""
    if config.max_tokens is not None:
        yield config.max_tokens / (size * sample.tokens / sample.bytes)
    if config.max_documents is not None:
        yield config.max_documents / (size * sample.documents / sample.document_bytes)


def _limited(config: DataConfig, sample: _Sample) -> int | None:
    """Bytes of text that the limits let through of a source that is large enough for them."""
    bounds = []
    if config.max_tokens is not None:
        bounds.append(config.max_tokens * sample.bytes / sample.tokens)
    if config.max_documents is not None:
        bounds.append(config.max_documents * sample.document_bytes / sample.documents)
    return round(min(bounds)) if bounds else None
