"""Token files that others made become a prepared set, as they are: checked, linked, and described by a manifest.

    import_shards(Path("edu_fineweb10B"), DataConfig(dataset="finewebedu"))

Nothing is copied or moved. Read are those of build-nanogpt, nanoGPT, llm.c, modded-nanogpt, and our own without a
manifest: see `token_files.py`.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shlex
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from nano_gpt.config.data import DataConfig
from nano_gpt.data.catalog import MANIFEST, prepared_folder, tokenizer_of
from nano_gpt.data.effects import check_ready
from nano_gpt.data.manifest import PreparedSet, open_prepared
from nano_gpt.data.preparing.unfinished import exclusive
from nano_gpt.data.ready.checking import check_files, look_at
from nano_gpt.data.ready.describing import FORMATS, describe, finish, refuse_unfinished, remove_set
from nano_gpt.data.shards import FILE_NAME
from nano_gpt.data.token_files import parse_name
from nano_gpt.errors import DataError
from nano_gpt.runtime.distributed import Ranks
from nano_gpt.runtime.files import sync_directory
from nano_gpt.runtime.logs import logger
from nano_gpt.tokenizer import load_tokenizer
from nano_gpt.tokenizer.base import Tokenizer

SPLITS = ("train", "validation")


def import_shards(source: Path, config: DataConfig, *, overwrite: bool = False) -> PreparedSet:
    """Check the token files in `source` (a folder, a file or a pattern) and describe them in `dataset_dir/NAME`.

    They are linked there, unless that is where they lie. The same set again is returned as it is; an import that was
    stopped is done by calling again. `config.tokenizer` is the one that made the ids (None: gpt2).

    Raises DataError for files that are no token files, damaged, not of one set, or with ids that the tokenizer does
    not have; and where the folder holds another set and `overwrite` is not given. ConfigError for settings that
    cannot have an effect.
    """
    check_ready(config, "max_tokens")
    paths = find_shards(source, config.dataset)
    config = config.model_copy(update={"tokenizer": config.tokenizer or _tokenizer_beside(paths)})
    folder = prepared_folder(config)
    if (source / MANIFEST).is_file() and not _same_folder(source, folder):
        raise DataError(
            f"{source} is a prepared set already",
            f"use it where it is: --dataset {source.name} --dataset-dir {source.parent}",
        )
    tokenizer = load_tokenizer(tokenizer_of(config))
    if (folder / MANIFEST).is_file() and not overwrite:
        there = open_prepared(folder)
        if _links_to(there, paths, tokenizer):
            logger.info(f"import: {folder} is finished already")
            return there
    files = look_at(paths, tokenizer)
    checked = check_files(files, tokenizer, "import")
    origin = source if source.is_dir() else source.parent
    manifest = describe(
        config,
        tokenizer,
        checked,
        description=f"imported from {origin.resolve().name} ({FORMATS[checked.format]})",
        revision=hashlib.sha256("\n".join(shard.sha256 for shard in checked.shards).encode()).hexdigest(),
        options={"format": checked.format},
    )
    with exclusive(folder, Ranks()):
        if overwrite:
            remove_set(folder, keep=[shard.file for shard in checked.shards])
        elif (folder / MANIFEST).is_file():
            return _same_or_refused(PreparedSet(folder, manifest))
        refuse_unfinished(folder)
        for path in (path for members in paths.values() for path in members):
            _link(path, folder, overwrite=overwrite)
        sync_directory(folder)
        finish(folder, manifest, tokenizer)
    return PreparedSet(folder, manifest)


def find_shards(source: Path, dataset: str) -> dict[str, list[Path]]:
    """The token files of `source` by split, in order. Of a folder of several sets, those of `dataset`."""
    source = source.expanduser()
    if source.is_dir():
        found = sorted(path for path in source.iterdir() if path.is_file())
    elif source.is_file():
        found = [source]
    else:
        matches = glob.glob(str(source))  # noqa: PTH207 (Path.glob takes no absolute pattern)
        found = sorted(path for name in matches if (path := Path(name)).is_file())
    if not found:
        raise DataError(f"there are no files in {source}" if source.is_dir() else f"there is no file {source}")
    return group(found, dataset, str(source))


def group(paths: Iterable[Path], dataset: str, where: str) -> dict[str, list[Path]]:
    """Those of `paths` that are named as token files, by split and in order. `where` is named in errors.

    Raises DataError where there are none, and where it cannot be told which belong together.
    """
    named = [(name, path) for path in paths if (name := parse_name(path.name)) is not None]
    if not named:
        raise DataError(
            f"there are no token files in {where}",
            "they are named NAME_train_000001.npy (or .bin), NAME_train.npy.000, or train.bin; with val for validation",
        )
    sets = {name.dataset for name, _ in named}
    if len(sets) > 1 and dataset in sets:
        named = [(name, path) for name, path in named if name.dataset == dataset]
    elif len(sets) > 1:
        raise DataError(
            f"{where} holds several sets: {', '.join(sorted(sets - {''}))}",
            "choose one by its name, --dataset NAME, or by a pattern, --import 'FOLDER/NAME_*'",
        )
    named.sort(key=lambda item: (item[0].number, item[1].name))
    splits: dict[str, list[Path]] = {}
    for split in SPLITS:
        members = [(name.number, path) for name, path in named if name.split == split]
        for (number, path), (following, other) in pairwise(members):
            if number == following:
                raise DataError(
                    f"{path.name} and {other.name} are both number {number} of the {split} split in {where}",
                    "keep one of them, or choose by a pattern: --import 'FOLDER/*.bin'",
                )
            if following > number + 1:
                logger.warning(f"import: the {split} split goes from {path.name} to {other.name}: is one missing?")
        if members:
            splits[split] = [path for _, path in members]
    return splits


def _tokenizer_beside(paths: dict[str, list[Path]]) -> str:
    """gpt2, which nearly all such files are made with. Raises DataError where a file beside them says otherwise."""
    first = next(iter(paths.values()))[0]
    folder = first.parent
    if first.suffix == ".bin" and (folder / "meta.pkl").exists():
        raise DataError(
            f"{folder} holds ids of characters, and what they mean is in meta.pkl, a pickle: loading it can run code",
            f"prepare the text instead: nano-gpt prepare_dataset --files {folder / 'input.txt'} --tokenizer char",
        )
    if (folder / "tokenizer.json").is_file():
        beside = load_tokenizer(folder)
        if beside.name != "gpt2":
            raise DataError(
                f"{folder} holds a tokenizer, {beside.name}, beside the shards: did it make them, or gpt2?",
                f"say which: --tokenizer {shlex.quote(str(folder))}, or --tokenizer gpt2",
            )
    return "gpt2"


def _links_to(there: PreparedSet, paths: dict[str, list[Path]], tokenizer: Tokenizer) -> bool:
    """Whether the set consists of these very files."""
    asked = [(split, path.name, path.stat().st_size) for split, members in paths.items() for path in members]
    has = [(shard.split, shard.file, shard.bytes) for shard in there.manifest.shards]
    return (
        asked == has
        and there.manifest.tokenizer_fingerprint == tokenizer.fingerprint
        and all(_same_file(path, there.folder / path.name) for members in paths.values() for path in members)
    )


def _same_or_refused(asked: PreparedSet) -> PreparedSet:
    """The set that is there, if it has the same shards under the same tokenizer."""
    there = open_prepared(asked.folder)
    if there.fingerprint == asked.fingerprint:
        logger.info(f"import: {there.folder} holds the same already")
        return there
    raise DataError(
        f"{there.folder} holds another set: {there.manifest.description}, tokenizer {there.manifest.tokenizer}",
        "import under another name, --dataset NAME; or replace it with --overwrite",
    )


def _link(path: Path, folder: Path, *, overwrite: bool) -> None:
    target = folder / path.name
    if not re.fullmatch(FILE_NAME, path.name):
        raise DataError(f"{path.name!r} cannot be the name of a shard", "rename it: letters, digits, _, - and dots")
    if _same_file(path, target):
        return
    if target.exists() and not overwrite:
        raise DataError(
            f"{target} is there already, and is another file than {path}",
            "import under another name, --dataset NAME; or replace it with --overwrite",
        )
    target.unlink(missing_ok=True)
    original = path.resolve()
    try:
        os.link(original, target)
    except OSError:  # on another disk, or not ours
        try:
            target.symlink_to(original)
        except OSError as error:
            raise DataError(
                f"{path} can be linked to {folder} neither by a hard nor by a symbolic link: {error.strerror}",
                f"put its folder in {folder.parent}, and import it there; or --dataset-dir on the same disk",
            ) from None


def _same_file(path: Path, other: Path) -> bool:
    return other.exists() and path.samefile(other)


def _same_folder(source: Path, folder: Path) -> bool:
    return source.is_dir() and folder.is_dir() and source.samefile(folder)
