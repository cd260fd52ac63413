"""The datasets that have a name, and the folder that a prepared one lives in.

Imports no torch, numpy or datasets, so that the command line can list and locate sets at no cost.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from urllib.parse import urlsplit

from nano_gpt.config.data import DataConfig
from nano_gpt.data.effects import check_reading
from nano_gpt.data.sources.paths import COMPRESSIONS, expand, kind_of
from nano_gpt.errors import ConfigError
from nano_gpt.registry import unknown_name

MANIFEST = "manifest.json"
LARGE_BYTES = 1_000_000_000  # a minute of tokenising; under torchrun all other ranks wait for it
HUB = "hf:"
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class HubConfig:
    """A configuration of a hub dataset, with about how much text it holds."""

    name: str
    text_bytes: int
    tokens: int
    """Of GPT-2."""


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a dataset before any of it is read."""

    name: str
    description: str
    tokenizer: str
    """The one that is used unless another is asked for."""
    source: str
    """`"module:attribute"` of the class that yields its documents."""
    small: bool
    """Prepared on the way by `train`; a large one must be prepared on purpose."""
    validation_fraction: float | None
    """Share of the documents kept for validation; None where the source itself says which."""
    repository: str | None = None
    """`owner/name` on the hub; None for what does not come from there."""
    config_name: str | None = None
    """The configuration of the repository that is used unless another is asked for. None: the repository's own."""
    configs: tuple[HubConfig, ...] = ()
    """The configurations that are known here."""
    other_configs: bool = False
    """Whether the repository may have others than the known ones."""
    text_column: str | None = None
    prebuilt: str | None = None
    """Repository of ready GPT-2 shards of the configuration that is the dataset's own."""

    def config(self, name: str | None) -> HubConfig | None:
        """What is known of the configuration `name` (None: the dataset's own)."""
        wanted = name or self.config_name
        return next((config for config in self.configs if config.name == wanted or wanted is None), None)


def _fineweb(name: str, kind: str, repository: str, prebuilt: str) -> DatasetInfo:
    return DatasetInfo(
        name,
        f"{kind}, 10 billion GPT-2 tokens (also 100 and 350), streamed from the hub",
        tokenizer="gpt2",
        source="nano_gpt.data.sources.hub:HubDataset",
        small=False,
        validation_fraction=0.03,
        repository=repository,
        config_name="sample-10BT",
        configs=tuple(
            HubConfig(f"sample-{billions}BT", billions * 4_500_000_000, billions * 10**9) for billions in (10, 100, 350)
        ),
        other_configs=True,  # one for each crawl
        text_column="text",
        prebuilt=prebuilt,
    )


CATALOG = {
    info.name: info
    for info in (
        DatasetInfo(
            "python_docs",
            "manual topics and docstrings of the running Python, 2 MB, no network",
            tokenizer="bpe:4096",
            source="nano_gpt.data.sources.python_docs:PythonDocs",
            small=True,
            validation_fraction=0.1,
        ),
        DatasetInfo(
            "tinyshakespeare",
            "40,000 lines of Shakespeare, 1 MB; the last tenth is the validation split, as in nanoGPT",
            tokenizer="gpt2",
            source="nano_gpt.data.sources.tinyshakespeare:TinyShakespeare",
            small=True,
            validation_fraction=None,
        ),
        DatasetInfo(
            "tinystories",
            "2 million short stories in the words of a small child, 470 million GPT-2 tokens, from the hub",
            tokenizer="gpt2",
            source="nano_gpt.data.sources.hub:HubDataset",
            small=False,
            validation_fraction=None,
            repository="roneneldan/TinyStories",
            configs=(HubConfig("default", 1_920_000_000, 472_000_000),),
            text_column="text",
        ),
        _fineweb(
            "fineweb",
            "English web pages of the Common Crawl",
            "HuggingFaceFW/fineweb",
            "kjj0/fineweb10B-gpt2",
        ),
        _fineweb(
            "finewebedu",
            "educational web pages",
            "HuggingFaceFW/fineweb-edu",
            "kjj0/finewebedu10B-gpt2",
        ),
        DatasetInfo(
            "openwebtext",
            "8 million web pages that were linked on Reddit, 9 billion GPT-2 tokens, streamed from the hub",
            tokenizer="gpt2",
            source="nano_gpt.data.sources.hub:HubDataset",
            small=False,
            validation_fraction=0.0005,  # as nanoGPT
            repository="Skylion007/openwebtext",
            configs=(HubConfig("plain_text", 39_770_000_000, 9_040_000_000),),
            text_column="text",
        ),
        DatasetInfo(
            "wikitext",
            "28,000 good articles of Wikipedia, 118 million GPT-2 tokens, from the hub",
            tokenizer="gpt2",
            source="nano_gpt.data.sources.wikitext:WikiText",
            small=False,
            validation_fraction=None,
            repository="Salesforce/wikitext",
            config_name="wikitext-103-raw-v1",
            configs=(
                HubConfig("wikitext-103-raw-v1", 548_000_000, 118_000_000),
                HubConfig("wikitext-2-raw-v1", 12_200_000, 2_640_000),
            ),
            text_column="text",
        ),
    )
}


def _from_hub(name: str) -> DatasetInfo:
    """Raises ConfigError unless `name` is `hf:owner/name`."""
    repository = name.removeprefix(HUB)
    if not _REPOSITORY.fullmatch(repository) or "--" in repository or ".." in repository:
        raise ConfigError(f"{name!r} names no hub dataset", "as it stands on the dataset's page: hf:owner/name")
    return DatasetInfo(
        name,
        f"{repository}, streamed from the hub",
        tokenizer="gpt2",
        source="nano_gpt.data.sources.hub:HubDataset",
        small=False,
        validation_fraction=0.01,
        repository=repository,
        other_configs=True,
    )


def _own_text(name: str, files: Sequence[Path] = ()) -> DatasetInfo:
    size = sum(file.stat().st_size for file in (expand(files) if files else ()))
    return DatasetInfo(
        name,
        "your own files",
        tokenizer="gpt2",
        source="nano_gpt.data.sources.local_files:LocalFiles",
        small=size < LARGE_BYTES,
        validation_fraction=0.1,
    )


def _named(config: DataConfig) -> DatasetInfo:
    """What the name alone says."""
    if config.dataset.startswith(HUB):
        return _from_hub(config.dataset)
    return CATALOG.get(config.dataset) or _own_text(config.dataset)


def dataset_info(config: DataConfig) -> DatasetInfo:
    """The catalog's entry, or one made for a hub dataset, or for `config.files` and `config.urls`.

    Raises ConfigError for a name that is neither in the catalog nor given text, for text under a catalog name, for a
    configuration that the dataset does not have, and for a setting that it is not read by; DataError for files that
    are not there.
    """
    info = _named(config)
    _check_config_name(config, info)
    known = config.dataset in CATALOG or info.repository is not None
    if config.files or config.urls:
        if known:
            kind = "built-in" if config.dataset in CATALOG else "hub"
            what = "files are" if config.files else "a URL is"
            own = name_for_files(config.files or [path_of(config.urls[0])])
            raise ConfigError(
                f"{what} given, but {config.dataset!r} is a {kind} dataset",
                f"give yours a name of its own: --dataset {own}",
            )
        info = _own_text(config.dataset, config.files)
    elif not known:
        if _REPOSITORY.fullmatch(config.dataset):
            raise ConfigError(f"unknown dataset {config.dataset!r}", f"one of the hub is written {HUB}{config.dataset}")
        prepared = [path.parent.name for path in config.dataset_dir.glob(f"*/{MANIFEST}")]
        if config.dataset in prepared:  # with another tokenizer than the usual one its folder has both names
            raise ConfigError(
                f"{config.dataset!r} is the folder of a prepared set, and no dataset to prepare with this tokenizer",
                f"nano-gpt inspect {config.dataset} tells the --dataset and the --tokenizer that it was made of",
            )
        raise unknown_name("dataset", config.dataset, {*CATALOG, *prepared})
    check_reading(config, lambda: _kinds(config, info))
    return info


def _kinds(config: DataConfig, info: DatasetInfo) -> set[str]:
    """Of your own files, here and on the web; none of a built-in corpus."""
    if info.repository is not None:
        return {"hub"}
    return {kind_of(path)[0] for path in (*expand(config.files), *map(path_of, config.urls))}


def _check_config_name(config: DataConfig, info: DatasetInfo) -> None:
    name = config.config_name
    names = [known.name for known in info.configs]
    if name is None or name in names or info.other_configs:
        return
    if len(names) > 1:
        raise unknown_name(f"configuration of {config.dataset}", name, names)
    raise ConfigError(f"{config.dataset} has no configuration {name!r}: it has but one", "leave --config-name out")


def path_of(url: str) -> Path:
    """The path in an address, and no more: a query may hold a key, which must not become a name."""
    try:
        return Path(urlsplit(url).path)
    except ValueError:
        return Path("data")


def name_for_files(files: Sequence[Path]) -> str:
    """The name under which text is kept when none is given: that of the first file, folder or address, less its ending.

    Of a glob it is the last folder before the first wildcard.
    """
    path = files[0]
    plain = [part for part in path.parts if part not in (".", "..")]
    wild = next((number for number, part in enumerate(plain) if re.search(r"[*?\[]", part)), None)
    if wild is not None and not re.match(r"https?:", plain[0]):
        name = PurePath(*plain[:wild]).name
    else:
        name = plain[-1].split("?")[0] if plain else path.resolve().name
        if not path.is_dir():
            name = _without_ending(PurePath(name))
    name = safe_name(name)
    return f"my_{name}" if name in CATALOG else name


def _without_ending(path: PurePath) -> str:
    return (path.with_suffix("") if path.suffix.lower()[1:] in COMPRESSIONS else path).stem


def tokenizer_of(config: DataConfig) -> str:
    """What `config.tokenizer` says, or else the dataset's own."""
    return config.tokenizer or _named(config).tokenizer


def prepared_folder(config: DataConfig) -> Path:
    """`dataset_dir/NAME`, of a hub dataset `owner--name`.

    `-CONFIG` follows for another configuration than the dataset's own, `-TOKENIZER` for another tokenizer.
    """
    info = _named(config)
    _check_config_name(config, info)
    name = config.dataset.removeprefix(HUB).replace("/", "--") if config.dataset.startswith(HUB) else config.dataset
    if name != safe_name(name):
        if _REPOSITORY.fullmatch(name):
            raise ConfigError(f"unknown dataset {name!r}", f"one of the hub is written {HUB}{name}")
        raise ConfigError(f"{name!r} cannot be the name of a folder", f"such a name would do: {safe_name(name)}")
    if config.config_name not in (None, info.config_name) and config.config_name not in _only(info):
        name += f"-{safe_name(str(config.config_name))}"
    if tokenizer_of(config) != info.tokenizer:
        path = Path(tokenizer_of(config))
        label = safe_name(path.parent.name if path.name == "tokenizer.json" else path.name)
        name = label if label.startswith(f"{name}-") else f"{name}-{label}"  # tokenizers/NAME-8192 says it already
    return config.dataset_dir / name


def _only(info: DatasetInfo) -> list[str]:
    """The name of the one configuration that there is, if there is one."""
    return [config.name for config in info.configs] if len(info.configs) == 1 and not info.other_configs else []


def safe_name(text: str) -> str:
    """`text` as part of a file name on any system: letters, digits, `_`, `-` and inner dots."""
    return re.sub(r"[^\w.-]+", "-", text).strip(".-") or "data"
