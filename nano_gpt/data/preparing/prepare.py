"""A corpus becomes a prepared set: parts are tokenised in processes, packed into shards, the manifest comes last.

What comes out depends only on the source, the tokenizer and the options: not on the number of processes or machines,
nor on where it was interrupted. `unfinished.py` says what is on disk in the meantime.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from nano_gpt.config.data import DataConfig
from nano_gpt.data.catalog import HUB, LARGE_BYTES, MANIFEST, dataset_info, prepared_folder
from nano_gpt.data.commands import prepare_command
from nano_gpt.data.manifest import UNFINISHED, Manifest, PreparedSet, check_not_foreign, open_prepared
from nano_gpt.data.preparing.packing import pack
from nano_gpt.data.preparing.planning import check_same, different, make_plan
from nano_gpt.data.preparing.progress import Progress
from nano_gpt.data.preparing.splitting import no_documents
from nano_gpt.data.preparing.tokenizing import SPLITS, is_enough, limited_parts
from nano_gpt.data.preparing.unfinished import PartRecord, Plan, Unfinished, exclusive, taking_turns
from nano_gpt.data.preparing.workers import POLL_SECONDS, Totals, Work, make_source, tokenise_parts, usable_cores
from nano_gpt.data.sources.base import Part
from nano_gpt.errors import ConfigError, DataError, Interrupted
from nano_gpt.registry import unknown_name
from nano_gpt.runtime.distributed import Ranks
from nano_gpt.runtime.logs import logger
from nano_gpt.runtime.progress import ProgressDisplay
from nano_gpt.runtime.signals import StopRequest

_PAGE: Totals = (1, 4_400, 20_000)  # documents, tokens and bytes: what text is taken for before any is known


def prepare(config: DataConfig, splits: Sequence[str] = SPLITS, *, overwrite: bool = False) -> PreparedSet:
    """The set that `config` describes, made if it is not there, gone on with if it was interrupted.

    Raises DataError when the folder holds a set from another source, tokenizer or option, or another process is at
    it; NetworkError when the text must be fetched and cannot be; ConfigError for an unknown dataset or split;
    Interrupted after SIGINT or SIGTERM, when everything is saved.
    """
    prepared = prepare_share(config, splits, overwrite=overwrite)
    assert prepared is not None, "one rank does all of it"
    return prepared


def prepare_share(
    config: DataConfig, splits: Sequence[str] = SPLITS, *, ranks: Ranks | None = None, overwrite: bool = False
) -> PreparedSet | None:
    """Like `prepare`, for one of several ranks that write to the same folder; `ranks` of None is the only one.

    Each takes every world_size-th part of the source. The last one to be ready finishes the set and returns it; for
    the others it is None. They do not talk to each other, so they may run at any time, also one after the other.
    """
    ranks = ranks or Ranks()
    for split in splits:
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
    if overwrite and ranks.world_size > 1:
        raise ConfigError(
            f"{ranks.world_size} ranks cannot replace a set: one would delete what another has begun",
            f"remove it first: rm -r {prepared_folder(config)}",
        )
    folder = prepared_folder(config)
    dataset_info(config)
    if not overwrite and (folder / MANIFEST).is_file():
        return _finished(config, folder, splits) if ranks.is_main else None
    if config.max_documents is not None or config.max_tokens is not None:
        if not ranks.is_main:  # how much of its part a limit lets through is known when all before it is done
            logger.info(f"prepare: a sample is made by rank 0; rank {ranks.rank} has nothing to do")
            return None
        ranks = Ranks()
    with exclusive(folder, ranks):
        with taking_turns(folder):
            if overwrite:
                Unfinished(folder).remove()
            elif (folder / MANIFEST).is_file():  # by another process, a moment ago
                return _finished(config, folder, splits)
            plan = make_plan(config, folder, splits, overwrite=overwrite)
        share = _Share(config, folder, plan, ranks)
        share.tokenise()
        with taking_turns(folder):
            if (folder / MANIFEST).is_file():
                return None
            if not share.is_complete():
                logger.info(f"prepare: rank {ranks.rank} of {ranks.world_size} is ready; the last one finishes the set")
                return None
            return PreparedSet(folder, share.finish())


def ensure_prepared(config: DataConfig) -> PreparedSet:
    """What `train` reads: a finished set as it is; a small one that is missing is prepared on the way.

    Raises DataError, with the command to run, for a large one.
    """
    folder = prepared_folder(config)
    if (folder / MANIFEST).is_file() and not (config.files or config.urls):
        prepared = open_prepared(folder)
        name, there = config.dataset, prepared.manifest.dataset
        if name != there and name.startswith(HUB):  # whose configuration and name may make the same folder's name
            raise different(folder, [f"dataset {there!r} there, {name!r} asked for"])
        asked, has = config.validation_fraction, prepared.manifest.options.get("validation_fraction")
        if asked not in (None, has):
            raise different(folder, [f"validation_fraction {has!r} there, {asked!r} asked for"])
        if prepared.bytes < LARGE_BYTES:  # a second at most; a larger one by `inspect --verify`
            prepared.verify()
        return prepared
    try:
        info = dataset_info(config)
    except ConfigError:
        if (folder / UNFINISHED).is_dir():
            return open_prepared(folder)  # which says that it is not finished
        check_not_foreign(folder)
        raise
    if not (folder / MANIFEST).is_file():
        if not info.small:
            check_not_foreign(folder)
            raise DataError(f"{config.dataset} is not prepared in {folder}", f"it is large: {prepare_command(config)}")
        logger.info(f"preparing {config.dataset} ({info.description}) in {folder}")
    return prepare(config)


def reopen_prepared(config: DataConfig) -> PreparedSet:
    """What a run was trained on: a finished set as it stands, also where the files that it was made from are gone."""
    folder = prepared_folder(config)
    return open_prepared(folder) if (folder / MANIFEST).is_file() else ensure_prepared(config)


def _finished(config: DataConfig, folder: Path, splits: Sequence[str]) -> PreparedSet:
    prepared = open_prepared(folder)
    source = make_source(config, prepared.manifest.revision)
    check_same(prepared.manifest, config, source, splits, folder)
    Unfinished(folder).discard()  # of whoever was killed right after the manifest
    small = prepared.bytes < LARGE_BYTES
    if small:
        prepared.verify()
    logger.info(f"prepare: {folder} is finished already{', and whole' if small else ''}")
    return prepared


class _Share:
    """What one rank does for a set."""

    def __init__(self, config: DataConfig, folder: Path, plan: Plan, ranks: Ranks) -> None:
        self._config = config
        self._plan = plan
        self._ranks = ranks
        self._files = Unfinished(folder)
        self._work = Work(config, folder, plan)
        self._records = [PartRecord()] * len(plan.parts)  # as they were when they were looked at last
        self._limited = limited_parts(plan)
        self._first = 0  # place in `_limited` of the first part that is not done
        self._held: Totals = (0, 0, 0)  # by the limited parts before that one; the bytes are those that it was told of
        self._enough, self._look_at = False, 0.0
        self._saturated = False

    def tokenise(self) -> None:
        """All parts of this rank, or as many as the plan's limits let through.

        Raises Interrupted when it was asked to stop, and what a part raises; what is done is on disk then.
        """
        mine = range(self._ranks.rank, len(self._plan.parts), self._ranks.world_size)
        procs = self._config.num_procs or usable_cores()
        before = _totals(self._record(part) for part in mine)
        if any(before):
            logger.info(f"prepare: going on with {self._files.folder}: {before[0]:,} documents are done")
        with StopRequest("saving what is done") as stop, self._progress(before) as progress:
            while not self._is_ready(mine):
                self._saturated = False
                progress.begin(_totals(self._record(part) for part in mine))
                tokenise_parts(
                    self._work,
                    mine,
                    procs,
                    wanted=self._wanted,
                    stopping=lambda: stop.signal is not None or self._is_enough_by_now(),
                    show=progress.show,
                )
                if stop.signal is not None:
                    raise Interrupted(
                        f"stopped; what is done is kept in {self._files.folder}",
                        "the same command goes on from there",
                        stop.signal,
                    )
        logger.info(f"prepare: {progress.figures()}")

    def _is_ready(self, mine: Iterable[int]) -> bool:
        """Whether there is nothing left to do for this rank; also because the last one has finished the set since."""
        ready = self._is_enough() or all(self._record(part).done for part in mine)
        # From the manifest on the records go: so it is looked for after reading them.
        return ready or (self._files.folder / MANIFEST).is_file()

    def is_complete(self) -> bool:
        """Whether all ranks have done what the set needs."""
        return self._is_enough() or all(self._record(part).done for part in range(len(self._records)))

    def finish(self) -> Manifest:
        """Pack the shards and write the manifest. Raises DataError for a split without a document, and for damage."""
        folder, begin_again = self._files.folder, "begin again with --overwrite"
        if self._work.source().revision != self._plan.manifest.revision:
            raise DataError(f"{folder}: the text has changed while it was read: what is done is a mixture", begin_again)
        try:
            with ProgressDisplay("pack") as display:
                manifest = pack(
                    self._plan,
                    self._files,
                    dedup=self._config.dedup == "exact",
                    show=lambda done, total: display.tell(f"{done:,} of {total:,} tokens", done, total),
                )
        except (ValueError, AssertionError, EOFError, FileNotFoundError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise DataError(f"{folder / UNFINISHED} is damaged: {reason}", begin_again) from error
        empty = [split for split, counts in manifest.splits.items() if counts.documents == 0]
        if empty:
            self._files.remove()  # of no use to anyone: the next try may ask for something else
            if len(empty) == len(manifest.splits):
                raise no_documents()
            raise DataError(
                f"{self._files.folder}: the {empty[0]} split got 0 documents",
                "more text, or another --validation-fraction",
            )
        self._tell_of_no_text()
        self._files.finish(manifest)
        return manifest

    def _tell_of_no_text(self) -> None:
        """Where a rule splits and one split is asked for, nobody has counted what belongs to the other one."""
        rule, splits = self._plan.rule, self._plan.manifest.splits
        if rule.below is not None and len(splits) < len(SPLITS):
            return
        records = [self._record(part) for part in range(len(self._records))]
        read = sum(record.consumed for record in records)
        empty = read - _totals(records)[0] // (len(splits) if rule.cut else 1)
        if empty:
            logger.info(f"prepare: {empty:,} of {read:,} rows had no text (null, empty or white space): left out")

    def _progress(self, before: Totals) -> Progress:
        if self._ranks.world_size > 1:
            mine = self._plan.parts[self._ranks.rank :: self._ranks.world_size]
            return Progress(f"prepare (rank {self._ranks.rank})", _size(mine), 2, before)
        if self._plan.max_documents is not None:
            return Progress("prepare", self._plan.max_documents, 0, before)
        if self._plan.max_tokens is not None:
            return Progress("prepare", self._plan.max_tokens, 1, before)
        return Progress("prepare", _size(self._plan.parts), 2, before)

    def _record(self, part: int) -> PartRecord:
        """How far a part is by now; one that is done is not read again."""
        if not self._records[part].done:
            self._records[part] = self._files.part(part)
        return self._records[part]

    def _is_enough(self) -> bool:
        """Whether the parts before the first that is not done hold all that the limits let through."""
        self._count_done()
        rest = set(range(len(self._records))).difference(self._limited)
        return is_enough(self._plan, *self._held[:2]) and all(self._record(part).done for part in rest)

    def _is_enough_by_now(self) -> bool:
        """The same, looked after now and then: what is still under way is not needed then."""
        if self._limited and time.monotonic() >= self._look_at:
            self._enough = self._is_enough()
            self._look_at = time.monotonic() + POLL_SECONDS
        return self._enough

    def _count_done(self) -> None:
        while self._first < len(self._limited) and self._record(part := self._limited[self._first]).done:
            record, told = self._records[part], self._plan.parts[part].size or 0
            documents, tokens, size = self._held
            self._held = documents + record.documents, tokens + record.tokens, size + told
            self._first += 1

    def _wanted(self, index: int) -> bool:
        """Whether the limits let anything of a part through, judged by what those before it hold, or may hold."""
        if index not in self._limited:
            return True
        self._count_done()
        documents, tokens, _ = self._held
        for before in () if self._saturated else self._limited[self._first :]:
            self._saturated = is_enough(self._plan, documents, tokens)
            if self._saturated or before >= index:
                break
            expected = self._expected(before)
            documents, tokens = documents + expected[0], tokens + expected[1]
        return not self._saturated  # nor is any part behind one that is not

    def _expected(self, part: int) -> tuple[int, int]:
        """Documents and tokens of a part that may not be done, which is taken to be like those before it.

        Too many, and what is missing in the end waits until all others are done; too few, and a part is begun that
        nobody needs: it ends when those before it hold enough. Of one of unknown size only what is there counts.
        """
        record, size = self._record(part), self._plan.parts[part].size
        if record.done or size is None:
            return record.documents, record.tokens
        documents, tokens, told = (held + usual for held, usual in zip(self._held, _PAGE, strict=True))
        return max(record.documents, size * documents // told), max(record.tokens, size * tokens // told)


def _totals(records: Iterable[PartRecord]) -> Totals:
    records = list(records)
    return sum(r.documents for r in records), sum(r.tokens for r in records), sum(r.bytes for r in records)


def _size(parts: Iterable[Part]) -> int | None:
    sizes = [part.size for part in parts]
    return None if None in sizes else sum(size or 0 for size in sizes)
