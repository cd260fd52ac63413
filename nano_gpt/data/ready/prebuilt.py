"""Shards that are on the hub already, downloaded and trained on as they are: `prepare_dataset --prebuilt`.

Files go to `NAME/unfinished` first and stay where they are when something stops, so the same command goes on with the
next one, at the commit that the first one saw. When all are there they are checked like imported ones, and against
the hub's own sha256.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from nano_gpt.config.data import DataConfig
from nano_gpt.data.catalog import CATALOG, HUB, MANIFEST, prepared_folder, tokenizer_of
from nano_gpt.data.effects import check_ready
from nano_gpt.data.manifest import PREBUILT, UNFINISHED, PreparedSet, open_prepared
from nano_gpt.data.preparing.unfinished import exclusive
from nano_gpt.data.ready.checking import Checked, check_files, look_at
from nano_gpt.data.ready.describing import FORMATS, describe, finish, refuse_unfinished, remove_set
from nano_gpt.data.ready.foreign import group
from nano_gpt.data.sources.hub_client import quiet, told
from nano_gpt.data.sources.network import within
from nano_gpt.data.token_files import LLMC_HEADER_BYTES
from nano_gpt.errors import ConfigError, DataError, NetworkError
from nano_gpt.runtime.distributed import Ranks
from nano_gpt.runtime.files import (
    DiskFullError,
    disk_full_is_an_error,
    sha256,
    sync_directory,
    sync_file,
    write_text,
)
from nano_gpt.runtime.logs import logger
from nano_gpt.runtime.progress import ProgressDisplay
from nano_gpt.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from huggingface_hub.hf_api import DatasetInfo


_GO_ON = "files that are complete are kept: the same command, without --overwrite, goes on"


class RemoteFile(BaseModel):
    """A token file of the repository."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    """Within the repository."""
    size: int
    sha256: str | None
    """None where the hub does not say it: of files outside of its large file storage."""

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def tokens(self) -> int:
        """About how many 16-bit ids it holds: other headers than llm.c's make no difference."""
        return max(self.size - LLMC_HEADER_BYTES, 0) // 2


class Listing(BaseModel):
    """`unfinished/prebuilt.json`: what is downloaded, so that going on means the same files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repository: str
    commit: str
    splits: dict[str, tuple[RemoteFile, ...]]


def download_prebuilt(config: DataConfig, *, overwrite: bool = False) -> PreparedSet:
    """The ready shards of `config.dataset`, which is a catalog name that has some, or `hf:owner/name`.

    `config.max_tokens` takes only as many whole training files as are needed to reach it together with validation. A
    finished set is returned as it is, without the network. With `overwrite`, files that are there are used if they are
    the right ones.

    Raises ConfigError for a dataset without ready shards and for settings that cannot have an effect, NetworkError
    where the hub cannot be reached or refuses, DiskFullError before anything is downloaded, DataError for files that
    are not what they should be and for a folder that holds another set.
    """
    repository = prebuilt_repository(config)
    check_ready(config)
    folder = prepared_folder(config)
    if (folder / MANIFEST).is_file() and not overwrite:
        return _finished(folder, repository, config)
    tokenizer = load_tokenizer(tokenizer_of(config))  # now: it may have to come from the network, too
    with exclusive(folder, Ranks()):
        if (folder / MANIFEST).is_file() and not overwrite:  # by another process, a moment ago
            return _finished(folder, repository, config)
        if not overwrite:
            refuse_unfinished(folder)
        listing = _listing(folder, repository, config.dataset, anew=overwrite)
        wanted = choose(listing, config.max_tokens)
        if overwrite:
            remove_set(folder, keep=[file.name for files in wanted.values() for file in files])
        write_text(folder / UNFINISHED / PREBUILT, listing.model_dump_json(indent=2))
        try:
            _download(folder, listing, [file for files in wanted.values() for file in files])
        except KeyboardInterrupt:
            logger.info(f"prepare: stopped; {_GO_ON}")
            raise
        paths = {split: [folder / file.name for file in files] for split, files in wanted.items()}
        checked = check_files(look_at(paths, tokenizer), tokenizer, "check")
        _compare(folder, checked, wanted)
        manifest = describe(
            config,
            tokenizer,
            checked,
            description=f"ready shards of {repository} ({FORMATS[checked.format]})",
            revision=listing.commit,
            options={"format": checked.format, "prebuilt": repository, "max_tokens": config.max_tokens},
        )
        finish(folder, manifest, tokenizer)
    return PreparedSet(folder, manifest)


def ready_files(config: DataConfig) -> dict[str, tuple[RemoteFile, ...]]:
    """What `download_prebuilt` would take now, by split. Raises like it."""
    check_ready(config)
    repository = prebuilt_repository(config)
    return choose(_listing(prepared_folder(config), repository, config.dataset, anew=False), config.max_tokens)


def prebuilt_repository(config: DataConfig) -> str:
    """Where the ready shards of `config.dataset` are."""
    if config.dataset.startswith(HUB):
        return config.dataset.removeprefix(HUB)
    repository = CATALOG[config.dataset].prebuilt if config.dataset in CATALOG else None
    if repository is None:
        names = ", ".join(info.name for info in CATALOG.values() if info.prebuilt)
        raise ConfigError(
            f"{config.dataset!r} has no ready shards to download",
            f"these have: {names}; or any hf:OWNER/NAME with such",
        )
    return repository


def choose(listing: Listing, max_tokens: int | None) -> dict[str, tuple[RemoteFile, ...]]:
    """All of validation, and the first training files that reach `max_tokens` with it: at least one."""
    chosen: dict[str, tuple[RemoteFile, ...]] = {}
    tokens = sum(file.tokens for file in listing.splits.get("validation", ()))
    for split, files in listing.splits.items():
        taken: list[RemoteFile] = []
        for file in files:
            if split == "train" and max_tokens is not None and taken and tokens >= max_tokens:
                break
            taken.append(file)
            tokens += file.tokens if split == "train" else 0
        chosen[split] = tuple(taken)
    return chosen


def _finished(folder: Path, repository: str, config: DataConfig) -> PreparedSet:
    prepared = open_prepared(folder)
    there, tokenizer = prepared.manifest, tokenizer_of(config)
    asked = {"prebuilt": repository, "max_tokens": config.max_tokens}
    differing = [
        f"{name} {there.options.get(name)!r} there, {value!r} asked for"
        for name, value in asked.items()
        if there.options.get(name) != value
    ]
    if tokenizer != there.tokenizer and load_tokenizer(tokenizer).fingerprint != there.tokenizer_fingerprint:
        differing.append(f"tokenizer {there.tokenizer!r} there, {tokenizer!r} asked for")
    if differing:
        raise DataError(
            f"{folder} holds another set: {'; '.join(differing)}",
            "ask for the same; or replace it with --overwrite, which downloads only what is not there yet",
        )
    logger.info(f"prepare: {folder} is finished already")
    return prepared


def _listing(folder: Path, repository: str, dataset: str, *, anew: bool) -> Listing:
    """What the download in `folder` was begun with, or what the hub has now."""
    path = folder / UNFINISHED / PREBUILT
    if path.is_file() and not anew:
        try:
            return Listing.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            raise DataError(
                f"{path} is damaged: {str(error).splitlines()[0]}", "begin again with --overwrite"
            ) from None
    quiet()
    with told(repository):
        info = within(4.5, lambda: _dataset_info(repository))
    files = {
        sibling.rfilename: RemoteFile(
            path=sibling.rfilename, size=sibling.size or 0, sha256=sibling.lfs.sha256 if sibling.lfs else None
        )
        for sibling in info.siblings or ()
        if ".." not in PurePosixPath(sibling.rfilename).parts
    }
    name = dataset if dataset in CATALOG else ""
    splits = group([Path(path) for path in files], name, f"the hub's {repository}")
    assert info.sha is not None
    return Listing(
        repository=repository,
        commit=info.sha,
        splits={split: tuple(files[path.as_posix()] for path in paths) for split, paths in splits.items()},
    )


def _dataset_info(repository: str) -> DatasetInfo:
    from huggingface_hub import HfApi

    return HfApi().dataset_info(repository, files_metadata=True, timeout=4)


def _download(folder: Path, listing: Listing, files: Sequence[RemoteFile]) -> None:
    """Bring all of `files` to `folder`, one after the other; nothing is moved there before the last one is complete."""
    inside = folder / UNFINISHED
    for leftover in inside.rglob("*.incomplete"):  # of a process that was killed; the client begins a file anew
        leftover.unlink()
    missing = [file for file in files if not _is_there(folder / file.name, file)]
    left = sum(file.size for file in missing if not (inside / file.path).is_file())
    free = shutil.disk_usage(folder).free
    if left > free:
        raise DiskFullError(
            f"{folder} needs {left / 1e9:,.2f} GB more, and the disk has {free / 1e9:,.2f} GB free",
            "another disk: --dataset-dir; or fewer files: --max-tokens",
        )
    if left:
        logger.info(f"prepare: downloading {left / 1e6:,.0f} MB of {listing.repository} at {listing.commit[:12]}")
    done, total = 0, sum(file.size for file in missing)
    quiet()
    with ProgressDisplay("download") as display:
        for number, file in enumerate(missing, 1):
            _fetch(listing, file, inside)
            done += file.size
            display.tell(
                f"{number:,} of {len(missing):,} files · {done / 1e6:,.0f} of {total / 1e6:,.0f} MB", done, total
            )
    for file in missing:
        sync_file(inside / file.path)
        (inside / file.path).replace(folder / file.name)
    sync_directory(folder)


def _is_there(path: Path, file: RemoteFile) -> bool:
    if not path.is_file():
        return False
    if path.stat().st_size == file.size and file.sha256 in (None, sha256(path)):
        return True
    logger.warning(f"prepare: {path} is not what the hub has: downloading it anew")
    return False


def _fetch(listing: Listing, file: RemoteFile, folder: Path) -> None:
    from huggingface_hub import hf_hub_download

    repository, path = listing.repository, folder / file.path
    try:
        with disk_full_is_an_error(path), told(repository, reading=True):
            hf_hub_download(repository, file.path, repo_type="dataset", revision=listing.commit, local_dir=folder)
    except OSError as error:
        if error.errno is not None:
            raise
        raise NetworkError(f"{file.path} of {repository}: {str(error).splitlines()[0]}", _GO_ON) from None
    size = path.stat().st_size
    if size != file.size:
        path.unlink()
        raise NetworkError(f"{file.path} of {repository} came as {size:,} of {file.size:,} bytes", _GO_ON)


def _compare(folder: Path, checked: Checked, wanted: Mapping[str, Sequence[RemoteFile]]) -> None:
    promised = {file.name: file.sha256 for files in wanted.values() for file in files}
    for shard in checked.shards:
        if promised[shard.file] not in (None, shard.sha256):
            (folder / shard.file).unlink()
            raise DataError(f"{shard.file} is not what the hub has: its sha256 differs; it is removed", _GO_ON)
