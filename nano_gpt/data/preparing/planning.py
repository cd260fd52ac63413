"""What is to be made: the plan of a set, and whether a set that is there is what somebody asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from nano_gpt.config.data import DataConfig
from nano_gpt.data.catalog import tokenizer_of
from nano_gpt.data.manifest import PREBUILT, UNFINISHED, Counts, Manifest, PreparedSet, check_not_foreign
from nano_gpt.data.preparing.splitting import Document, SplitRule, cleaned, split_rule
from nano_gpt.data.preparing.tokenizing import SPLITS, pieces_of_text
from nano_gpt.data.preparing.unfinished import Plan, Unfinished
from nano_gpt.data.preparing.vocabulary import MAX_BYTES
from nano_gpt.data.preparing.workers import make_source
from nano_gpt.data.shards import token_dtype
from nano_gpt.data.sources.base import Options, Source
from nano_gpt.errors import DataError
from nano_gpt.runtime.logs import logger
from nano_gpt.runtime.progress import ProgressDisplay
from nano_gpt.tokenizer import load_tokenizer, needs_corpus, train_tokenizer
from nano_gpt.tokenizer.base import Tokenizer

FROM_FILES = "tokenizer_from_files"
"""The option of a set whose tokenizer was not made from its own text: `bpe:600` of another corpus is another one."""


def make_plan(config: DataConfig, folder: Path, splits: Sequence[str], *, overwrite: bool = False) -> Plan:
    """That of a run before, if it wants the same; else a new one, with the tokenizer beside the shards to come."""
    files = Unfinished(folder)
    plan = files.plan()
    source = make_source(config, plan.manifest.revision if plan else None)
    if plan is not None:
        check_same(plan.manifest, config, source, splits, folder)
        PreparedSet(folder, plan.manifest).tokenizer()  # is it still the one that was planned?
        return plan
    if (folder / UNFINISHED / PREBUILT).is_file():
        raise DataError(
            f"{folder} holds a download that is not finished",
            "the same command with --prebuilt goes on with it; or --overwrite",
        )
    if not overwrite:
        check_not_foreign(folder)  # token files of somebody else's are not ours to delete
    files.remove()
    # A column that is not there, a file that cannot be read: now, before anything is written.
    parts = tuple(part for part in source.parts() if part.split is None or part.split in splits)
    rule = _rule(source, config)
    # A corpus of one document becomes two, of which neither may be left out.
    limit = config.max_documents and config.max_documents * (2 if rule.cut and len(set(splits)) == 2 else 1)
    spec = tokenizer_of(config)
    tokenizer = _train(spec, source, rule, splits, limit) if needs_corpus(spec) else load_tokenizer(spec)
    tokenizer.save(folder)
    manifest = Manifest(
        dataset=config.dataset,
        description=source.info.description,
        revision=source.revision,
        options=_options(config, source, source.validation_fraction) | ({FROM_FILES: 1} if Path(spec).exists() else {}),
        tokenizer=tokenizer.name if Path(spec).exists() else spec,
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        eot_id=tokenizer.eot_id,
        dtype=token_dtype(tokenizer.vocab_size),
        tokens_per_shard=config.tokens_per_shard,
        splits={split: Counts() for split in SPLITS if split in splits},
    )
    plan = Plan(manifest=manifest, rule=rule, parts=parts, max_documents=limit, max_tokens=config.max_tokens)
    files.write_plan(plan)
    return plan


def _options(config: DataConfig, source: Source, validation_fraction: float | None) -> Options:
    """What determines which documents there are; limits and the like only where they are set."""
    sparse = {
        "max_documents": config.max_documents,
        "max_tokens": config.max_tokens,
        "dedup": None if config.dedup == "none" else config.dedup,
    }
    set_ones = {name: value for name, value in sparse.items() if value is not None}
    return {**source.options, "validation_fraction": validation_fraction, **set_ones}


def check_same(there: Manifest, config: DataConfig, source: Source, splits: Sequence[str], folder: Path) -> None:
    """Raises DataError, with every setting that differs, where `there` is not what `config` and `splits` ask for."""
    fraction = config.validation_fraction or source.info.validation_fraction
    if source.info.repository is None:
        fraction = source.validation_fraction
    elif config.validation_fraction is None and there.options.get("validation_fraction") is None:
        fraction = None  # this revision brings a validation split: no need to ask the hub again
    asked = {"revision": source.revision, "tokens_per_shard": config.tokens_per_shard}
    asked |= _options(config, source, fraction)
    has = {"revision": there.revision, "tokens_per_shard": there.tokens_per_shard, **there.options}
    from_files = has.pop(FROM_FILES, None)
    differing = [
        f"{name} {has.get(name)!r} there, {asked.get(name)!r} asked for"
        for name in {**has, **asked}
        if has.get(name) != asked.get(name)
    ]
    spec = tokenizer_of(config)
    same_tokenizer = (spec == there.tokenizer and not (from_files and needs_corpus(spec))) or (
        Path(spec).exists() and load_tokenizer(spec).fingerprint == there.tokenizer_fingerprint
    )
    if not same_tokenizer:
        differing.append(f"tokenizer {there.tokenizer!r} there, {spec!r} asked for")
    if not set(splits) <= set(there.splits):
        differing.append(f"splits {','.join(there.splits)} there, {','.join(splits)} asked for")
    if differing:
        raise different(folder, differing)


def different(folder: Path, differing: list[str]) -> DataError:
    return DataError(
        f"{folder} was prepared otherwise: {'; '.join(differing)}",
        "ask for the same; or replace it with prepare_dataset --overwrite; or keep both with another --dataset-dir",
    )


def _rule(source: Source, config: DataConfig) -> SplitRule:
    fraction = source.validation_fraction
    if fraction is None:
        return SplitRule()
    texts = (text for part in source.parts() if part.split is None for text in cleaned(source.read(part)))
    return split_rule(islice((text for text in texts if text is not None), config.max_documents), fraction)


def documents(source: Source, rule: SplitRule, splits: Sequence[str], limit: int | None = None) -> Iterator[Document]:
    """The documents of `splits` in order, of which `limit` (None: any number) count; the source's own validation split
    does not."""
    counted = 0
    for part in source.parts():
        for text in cleaned(source.read(part)):
            for document in rule.apply(text, part.split) if text is not None else ():
                if document.split in splits and (part.split == "validation" or limit is None or counted < limit):
                    counted += part.split != "validation"
                    yield document
            if limit is not None and counted >= limit and part.split != "validation":
                break


def _train(spec: str, source: Source, rule: SplitRule, splits: Sequence[str], limit: int | None) -> Tokenizer:
    """`char` must know every character; `bpe` must not have seen the validation text, nor needs all of a huge one."""
    logger.info(f"prepare: making the tokenizer {spec} from the corpus")
    chosen = (text for split, text, *_ in documents(source, rule, splits, limit) if spec == "char" or split == "train")
    characters = 0

    def pieces() -> Iterator[str]:
        nonlocal characters
        for text in chosen:
            if spec != "char" and characters >= MAX_BYTES:
                logger.info(f"tokenizer: it learns from the first {characters / 1e6:,.0f} million characters")
                return
            for piece in pieces_of_text(text):
                characters += len(piece)
                show()
                yield piece

    def show() -> None:
        display.tell(f"{characters / 1e6:,.0f} million characters", characters, None)

    with ProgressDisplay("tokenizer") as display:
        return train_tokenizer(spec, pieces(), waiting=show)
