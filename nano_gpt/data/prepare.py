"""A corpus becomes a prepared set: tokenise in processes, write shards, the manifest last.

The source is gone through in one fixed order. As soon as the open shard of one split is full, those of all splits are
finished and the journal notes the place, so that nothing before it is ever tokenised again. What comes out depends
only on the source, the tokenizer and the options: not on the number of processes, nor on where it was interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from nano_gpt.config.data import DataConfig
from nano_gpt.data.catalog import LARGE_BYTES, MANIFEST, dataset_info, prepare_command, prepared_folder, tokenizer_of
from nano_gpt.data.journal import Journal, exclusive, finish, read_journal, remove_all_but, write_journal
from nano_gpt.data.manifest import Counts, Manifest, PreparedSet, open_prepared
from nano_gpt.data.progress import Progress
from nano_gpt.data.shards import ShardWriter, Tokens, token_dtype
from nano_gpt.data.sources import Source
from nano_gpt.data.tokenizing import BATCH_CHARACTERS, BATCH_DOCUMENTS, TextBatch, tokenise
from nano_gpt.errors import DataError
from nano_gpt.registry import load, unknown_name
from nano_gpt.runtime.logs import logger
from nano_gpt.tokenizer import load_tokenizer, needs_corpus, train_tokenizer
from nano_gpt.tokenizer.base import Tokenizer

SPLITS = ("train", "validation")
SMALL_BYTES = 16_000_000  # below it one process is done before others have started


def prepare(config: DataConfig, splits: Sequence[str] = SPLITS, *, overwrite: bool = False) -> PreparedSet:
    """The set that `config` describes, made if it is not there, gone on with if it was interrupted.

    Raises DataError when the folder holds a set from another source, tokenizer or option, or another process is at
    it; NetworkError when the text must be fetched and cannot be; ConfigError for an unknown dataset or split.
    """
    for split in splits:
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
    folder = prepared_folder(config)
    dataset_info(config)
    if not overwrite and (folder / MANIFEST).is_file():
        return _finished(config, folder, splits)
    with exclusive(folder):
        if overwrite:
            remove_all_but(folder, None)
        elif (folder / MANIFEST).is_file():  # by another process, a moment ago
            return _finished(config, folder, splits)
        journal = read_journal(folder)
        source = make_source(config, journal.manifest.revision if journal else None)
        if journal is None:
            journal = _begin(config, folder, source, splits)
        else:
            _check_same(journal.manifest, config, source, splits, folder)
            if journal.document:
                logger.info(f"prepare: going on with {folder} at document {journal.document:,}")
        remove_all_but(folder, journal.manifest)
        try:
            manifest = _Preparation(config, folder, source, journal).run()
        except KeyboardInterrupt:
            logger.info(
                f"prepare: stopped; what is finished in {folder} is kept, and the same command goes on from there"
            )
            raise
        finish(folder, manifest)
    return PreparedSet(folder, manifest)


def ensure_prepared(config: DataConfig) -> PreparedSet:
    """What `train` reads: a finished set as it is; a small one that is missing is prepared on the way.

    Raises DataError, with the command to run, for a large one.
    """
    folder = prepared_folder(config)
    if (folder / MANIFEST).is_file() and not config.files:
        prepared = open_prepared(folder)
        asked, has = config.validation_fraction, prepared.manifest.options.get("validation_fraction")
        if asked not in (None, has):
            raise _different(folder, [f"validation_fraction {has!r} there, {asked!r} asked for"])
        if prepared.bytes < LARGE_BYTES:  # a second at most; a larger one by `prepare_dataset`, which verifies it
            prepared.verify()
        return prepared
    info = dataset_info(config)
    if not (folder / MANIFEST).is_file():
        if not info.small:
            raise DataError(f"{config.dataset} is not prepared in {folder}", f"it is large: {prepare_command(config)}")
        logger.info(f"preparing {config.dataset} ({info.description}) in {folder}")
    return prepare(config)


def reopen_prepared(config: DataConfig) -> PreparedSet:
    """What a run was trained on: a finished set as it stands, also where the files that it was made from are gone."""
    folder = prepared_folder(config)
    return open_prepared(folder) if (folder / MANIFEST).is_file() else ensure_prepared(config)


def make_source(config: DataConfig, revision: str | None = None) -> Source:
    """The source of `config`, at `revision` where it can choose."""
    info = dataset_info(config)
    source: Source = load(info.source)(info, config, revision)
    return source


def _finished(config: DataConfig, folder: Path, splits: Sequence[str]) -> PreparedSet:
    prepared = open_prepared(folder)
    source = make_source(config, prepared.manifest.revision)
    _check_same(prepared.manifest, config, source, splits, folder)
    prepared.verify()
    logger.info(f"prepare: {folder} is finished already, and whole")
    return prepared


def _check_same(there: Manifest, config: DataConfig, source: Source, splits: Sequence[str], folder: Path) -> None:
    asked: dict[str, Any] = {"revision": source.revision, "tokens_per_shard": config.tokens_per_shard, **source.options}
    has: dict[str, Any] = {"revision": there.revision, "tokens_per_shard": there.tokens_per_shard, **there.options}
    differing = [
        f"{name} {has.get(name)!r} there, {asked.get(name)!r} asked for"
        for name in {**has, **asked}
        if has.get(name) != asked.get(name)
    ]
    spec = tokenizer_of(config)
    same_tokenizer = spec == there.tokenizer or (
        Path(spec).exists() and load_tokenizer(spec).fingerprint == there.tokenizer_fingerprint
    )
    if not same_tokenizer:
        differing.append(f"tokenizer {there.tokenizer!r} there, {spec!r} asked for")
    if not set(splits) <= set(there.splits):
        differing.append(f"splits {','.join(there.splits)} there, {','.join(splits)} asked for")
    if differing:
        raise _different(folder, differing)


def _different(folder: Path, differing: list[str]) -> DataError:
    return DataError(
        f"{folder} was prepared otherwise: {'; '.join(differing)}",
        "ask for the same; or replace it with prepare_dataset --overwrite; or keep both with another --dataset-dir",
    )


def _begin(config: DataConfig, folder: Path, source: Source, splits: Sequence[str]) -> Journal:
    """The tokenizer beside the shards to come, and the first entry of the journal."""
    remove_all_but(folder, None)
    spec = tokenizer_of(config)
    tokenizer = _train(spec, source) if needs_corpus(spec) else load_tokenizer(spec)
    tokenizer.save(folder)
    manifest = Manifest(
        dataset=config.dataset,
        description=source.info.description,
        revision=source.revision,
        options=source.options,
        tokenizer=tokenizer.name if Path(spec).exists() else spec,
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        eot_id=tokenizer.eot_id,
        dtype=token_dtype(tokenizer.vocab_size),
        tokens_per_shard=config.tokens_per_shard,
        splits={split: Counts() for split in SPLITS if split in splits},
    )
    journal = Journal(manifest=manifest)
    write_journal(folder, journal)
    return journal


def _train(spec: str, source: Source) -> Tokenizer:
    """`char` must know every character there is; `bpe` must not have seen the validation text."""
    logger.info(f"prepare: making the tokenizer {spec} from the corpus")
    return train_tokenizer(spec, (text for split, text in source.documents() if spec == "char" or split == "train"))


class _Preparation:
    """One run over the source, from where `journal` stands to the end."""

    def __init__(self, config: DataConfig, folder: Path, source: Source, journal: Journal) -> None:
        self._config = config
        self._folder = folder
        self._source = source
        self._begin = journal
        self._counts = dict(journal.manifest.splits)
        self._shards = list(journal.manifest.shards)

    def run(self) -> Manifest:
        manifest = self._begin.manifest
        tokenizer = PreparedSet(self._folder, manifest).tokenizer()
        procs = self._config.num_procs or self._default_procs()
        skip = self._begin.written  # tokens of the first document that are already there
        with ExitStack() as stack:
            self._writers = {split: stack.enter_context(self._writer(split)) for split in self._counts}
            encoded = stack.enter_context(closing(tokenise(self._batches(), tokenizer, self._folder, procs)))
            progress = stack.enter_context(Progress(self._source.size, self._begin.manifest.splits.values()))
            for batch, tokens in encoded:
                start = 0
                for number, split, end, size in zip(
                    batch.numbers, batch.splits, tokens.ends.tolist(), tokens.bytes, strict=True
                ):
                    self._write(split, tokens.ids[start:end], skip, batch, number)
                    self._count(split, documents=1, bytes=size)
                    start, skip = end, 0
                progress.show(self._counts.values())
            self._close_shards()
        for split, counts in self._counts.items():
            if counts.documents == 0:
                raise DataError(
                    f"{self._folder}: the {split} split got 0 documents", "more text, or another --validation-fraction"
                )
        logger.info(f"prepare: {progress.figures(self._counts.values())}")
        return self._manifest()

    def _default_procs(self) -> int:
        size = self._source.size
        return 1 if size is not None and size < SMALL_BYTES else max(1, (os.cpu_count() or 1) // 2)

    def _writer(self, split: str) -> ShardWriter:
        manifest = self._begin.manifest
        number = sum(shard.split == split for shard in manifest.shards)
        return ShardWriter(self._folder, split, manifest.dtype, manifest.tokens_per_shard, number)

    def _batches(self) -> Iterator[TextBatch]:
        """What is left of the source, with the place and the state before each batch."""
        number, state = self._begin.state_document, self._begin.state
        documents = self._source.documents(state)
        while True:
            batch = TextBatch([], [], [], 0 if state is None else number, state)
            characters = 0
            while len(batch.texts) < BATCH_DOCUMENTS and characters < BATCH_CHARACTERS:
                document = next(documents, None)
                if document is None:
                    break
                if number >= self._begin.document and document.split in self._counts:
                    batch.texts.append(document.text)
                    batch.splits.append(document.split)
                    batch.numbers.append(number)
                    characters += len(document.text)
                number += 1
            if not batch.texts:
                return
            yield batch
            state = self._source.state()

    def _write(self, split: str, ids: Tokens, skip: int, batch: TextBatch, number: int) -> None:
        """All of one document but its first `skip` tokens; whenever a shard is full, the journal notes the place."""
        writer = self._writers[split]
        written = skip
        while written < len(ids):
            added = writer.append(ids[written:])
            written += added
            self._count(split, tokens=added)
            if writer.full:
                self._close_shards()
                journal = Journal(
                    manifest=self._manifest(),
                    document=number,
                    written=written,
                    state=batch.state,
                    state_document=batch.first,
                )
                write_journal(self._folder, journal)

    def _close_shards(self) -> None:
        closed = (writer.close() for writer in self._writers.values())
        self._shards += [shard for shard in closed if shard is not None]

    def _count(self, split: str, *, documents: int = 0, tokens: int = 0, bytes: int = 0) -> None:
        old = self._counts[split]
        self._counts[split] = Counts(
            documents=old.documents + documents, tokens=old.tokens + tokens, bytes=old.bytes + bytes
        )

    def _manifest(self) -> Manifest:
        return self._begin.manifest.model_copy(update={"splits": dict(self._counts), "shards": tuple(self._shards)})
