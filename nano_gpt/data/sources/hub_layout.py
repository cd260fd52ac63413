"""What a hub dataset consists of: the files of each split, their kind and their columns.

The `datasets` client says it, from the dataset's card or from the names of its files. What only a script could read
comes from the copy that the hub has made of it as parquet.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any

from nano_gpt.data.sources.hub_client import CONVERTED, datasets_client, newest_commit, patiently, told
from nano_gpt.errors import ConfigError, DataError
from nano_gpt.registry import unknown_name
from nano_gpt.runtime.logs import logger

VALIDATION_NAMES = ("validation", "valid", "val", "dev")
_PATHS_PER_REQUEST = 500
_BLOCK_BYTES = 2**24  # what one request fetches at least; a process holds one


@dataclass(frozen=True)
class Layout:
    """Of one configuration at one revision."""

    kind: str
    """How `datasets` calls the reader: parquet, json, csv, text."""
    splits: dict[str, tuple[str, ...]]
    """The files of each split, in order: paths in the repository, or addresses elsewhere."""
    columns: dict[str, str]
    """Name -> type, `string` for text."""
    sizes: dict[str, int]
    """Bytes of the files of the repository; of those elsewhere nobody knows."""
    builder: Any = None
    """The client's `DatasetBuilder`; None where it has no part in reading."""

    @property
    def validation(self) -> str | None:
        return next((name for name in VALIDATION_NAMES if name in self.splits and len(self.splits) > 1), None)


def find_revision(repository: str) -> str:
    """The newest commit; for a dataset that only a script could read, `refs/convert/parquet@COMMIT`.

    Raises NetworkError, and DataError where there is no dataset, no access, or a script and no copy.
    """
    from huggingface_hub import HfApi

    commit = newest_commit(repository)
    script = f"{repository.partition('/')[2]}.py"
    with told(repository):
        if not HfApi().file_exists(repository, script, repo_type="dataset", revision=commit):
            return commit
    try:
        return f"{CONVERTED}@{newest_commit(repository, CONVERTED)}"
    except DataError as error:
        raise DataError(
            f"{repository} is read by a script, {script}, which is not run, and the hub has no copy of it as parquet",
            "look for another upload of the same data, or use your own text: --files PATH",
        ) from error


def find_layout(repository: str, config_name: str | None, revision: str) -> Layout:
    """Raises ConfigError for a configuration that is missing or unknown, DataError for files that nobody can read."""
    branch, _, commit = revision.rpartition("@")
    if branch == CONVERTED:
        splits = _converted_files(repository, config_name, commit)
        columns = _parquet_columns(repository, commit, next(iter(splits.values()))[0])
        return Layout("parquet", splits, columns, _sizes(repository, commit, splits))
    builder = open_builder(repository, config_name, revision)
    home = f"hf://datasets/{repository}@{revision}/"
    splits = {
        str(split): tuple(str(file).removeprefix(home) for file in files)
        for split, files in builder.config.data_files.items()
    }
    sizes = _sizes(repository, revision, splits)
    first = next(iter(splits.values()))[0]
    kind = kind_of(builder)
    with told(repository):
        if builder.info.features is not None:
            columns = _types(builder.info.features)
        elif kind == "parquet" and first in sizes:
            columns = _parquet_columns(repository, revision, first)
        else:
            columns = _first_columns(builder.as_streaming_dataset(split=next(iter(splits))))
    return Layout(kind, splits, columns, sizes, builder)


def open_builder(repository: str, config_name: str | None, commit: str) -> Any:
    """The `datasets.DatasetBuilder` of one configuration."""
    client = datasets_client()
    path = f"hf://datasets/{repository}"  # with the address in front, a folder of that name here is not taken for it
    with told(repository), tempfile.TemporaryDirectory() as nowhere:
        try:
            # An empty cache: the client would otherwise answer any error with what it has of another revision.
            return client.load_dataset_builder(path, config_name, revision=commit, cache_dir=nowhere)
        except ValueError:
            names = client.get_dataset_config_names(path, revision=commit)
            _check_config_name(repository, config_name, names)
            raise


def kind_of(builder: Any) -> str:
    """`parquet` of `datasets.packaged_modules.parquet.parquet`."""
    return next(base.__module__ for base in type(builder).__mro__ if "packaged_modules" in base.__module__).split(".")[
        -1
    ]


@contextmanager
def open_file(repository: str, commit: str, path: str) -> Iterator[IO[bytes]]:
    """A file of the hub, read in ranges as they are needed."""
    from huggingface_hub import HfFileSystem

    address = f"datasets/{repository}@{commit}/{path}"
    with patiently(lambda: HfFileSystem().open(address, "rb", block_size=_BLOCK_BYTES)) as file:
        yield file


def _check_config_name(repository: str, name: str | None, names: list[str]) -> None:
    if name is None and len(names) > 1:
        shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        raise ConfigError(f"{repository} has several configurations: {shown}", f"choose one: --config-name {names[0]}")
    if name is not None and name not in names:
        raise unknown_name(f"configuration of {repository}", name, names)


def _converted_files(repository: str, config_name: str | None, commit: str) -> dict[str, tuple[str, ...]]:
    """The copy lies in CONFIG/SPLIT/NNNN.parquet; a split that was too large for it in CONFIG/partial-SPLIT."""
    from huggingface_hub import HfApi

    with told(repository):
        names = sorted(HfApi().list_repo_files(repository, repo_type="dataset", revision=commit))
    found = [match for name in names if (match := re.fullmatch(r"([^/]+)/(partial-)?([^/]+)/[^/]+\.parquet", name))]
    configs = list(dict.fromkeys(match[1] for match in found))
    if not configs:
        raise DataError(f"{repository}: the hub's copy as parquet is empty", "use your own text: --files PATH")
    _check_config_name(repository, config_name, configs)
    chosen = [match for match in found if match[1] == (config_name or configs[0])]
    if any(match[2] for match in chosen):
        logger.warning(f"prepare: the hub has only the first part of {repository} as parquet; there is no more to read")
    splits: dict[str, tuple[str, ...]] = {}
    for match in chosen:
        splits[match[3]] = (*splits.get(match[3], ()), match[0])
    return splits


def _sizes(repository: str, commit: str, splits: Mapping[str, tuple[str, ...]]) -> dict[str, int]:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    paths = [file for files in splits.values() for file in files if "://" not in file]
    sizes = {}
    for start in range(0, len(paths), _PATHS_PER_REQUEST):
        some = paths[start : start + _PATHS_PER_REQUEST]
        with told(repository):
            entries = HfApi().get_paths_info(repository, some, repo_type="dataset", revision=commit)
        sizes.update({entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)})
    return sizes


def _parquet_columns(repository: str, commit: str, path: str) -> dict[str, str]:
    import pyarrow.parquet as pq

    client = datasets_client()
    with told(repository, path), open_file(repository, commit, path) as file:
        return _types(client.Features.from_arrow_schema(pq.read_schema(file)))


def _first_columns(stream: Any) -> dict[str, str]:
    if stream.features is not None:
        return _types(stream.features)
    rows = list(islice(iter(stream), 1))
    values = [item for row in rows for item in row.items()]
    return {name: "string" if isinstance(value, str) else type(value).__name__ for name, value in values}


def _types(features: Mapping[str, Any]) -> dict[str, str]:
    types = {name: str(getattr(feature, "dtype", type(feature).__name__)) for name, feature in features.items()}
    return {name: "string" if type_ in ("large_string", "string_view") else type_ for name, type_ in types.items()}
