"""Names, folders and the commands that errors and summaries tell."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from nano_gpt.cli import prepare_dataset as cli
from nano_gpt.cli.main import app
from nano_gpt.config import DataConfig
from nano_gpt.config.presets import recipe_for
from nano_gpt.data.catalog import (
    CATALOG,
    LARGE_BYTES,
    MANIFEST,
    dataset_info,
    name_for_files,
    prepared_folder,
    safe_name,
    tokenizer_of,
)
from nano_gpt.data.commands import next_command, prepare_command
from nano_gpt.data.sources.base import Source
from nano_gpt.errors import ConfigError, DataError
from nano_gpt.registry import load


def test_unknown_dataset_suggests_names_of_the_catalog_and_of_prepared_sets(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'tinyshakespeare'"):
        dataset_info(DataConfig(dataset="tinyshakespear", dataset_dir=tmp_path))
    (tmp_path / "poems").mkdir()
    (tmp_path / "poems" / MANIFEST).touch()
    with pytest.raises(ConfigError, match="did you mean 'poems'"):
        dataset_info(DataConfig(dataset="poem", dataset_dir=tmp_path))
    for where in (dataset_info, prepared_folder):
        with pytest.raises(ConfigError, match="one of the hub is written hf:roneneldan/TinyStories"):
            where(DataConfig(dataset="roneneldan/TinyStories", dataset_dir=tmp_path))
    with pytest.raises(ConfigError, match="'poems' is the folder of a prepared set") as folder:
        dataset_info(DataConfig(dataset="poems", dataset_dir=tmp_path))
    assert folder.value.hint is not None and "nano-gpt inspect poems" in folder.value.hint


def test_every_dataset_has_a_source_and_a_folder_of_its_name() -> None:
    assert {"python_docs", "tinyshakespeare", "tinystories", "fineweb", "finewebedu", "openwebtext", "wikitext"} == {
        *CATALOG
    }
    for name, info in CATALOG.items():
        config = DataConfig(dataset=name)
        source = load(info.source)(dataset_info(config), config, "given")
        assert isinstance(source, Source) and source.info is info
        assert prepared_folder(config).name == name
        assert info.small == (info.repository is None)
        assert info.config(None) == next(iter(info.configs), None)
    assert recipe_for("openwebtext") == "openwebtext" and recipe_for("wikitext") == "small"


def test_any_dataset_of_the_hub_has_a_name() -> None:
    config = DataConfig(dataset="hf:Some-one/data.v2")
    info = dataset_info(config)
    assert (info.repository, info.small, info.validation_fraction) == ("Some-one/data.v2", False, 0.01)
    assert tokenizer_of(config) == "gpt2"
    for name in ("hf:imdb", "hf:a/b/c", "hf:../up", "hf:a/..", "hf:a--b/c", "hf:", "hf:a/b c", "hf:https://x/y"):
        with pytest.raises(ConfigError, match="names no hub dataset"):
            prepared_folder(DataConfig(dataset=name))


@pytest.mark.parametrize(
    ("dataset", "config_name", "tokenizer", "folder"),
    [
        ("python_docs", None, None, "python_docs"),
        ("python_docs", None, "bpe:4096", "python_docs"),
        ("python_docs", None, "bpe:512", "python_docs-bpe-512"),
        ("tinyshakespeare", None, "char", "tinyshakespeare-char"),
        ("mine", None, "gpt2", "mine"),
        ("mine", None, "some/where/tok", "mine-tok"),
        ("mine", None, "some/where/tok/tokenizer.json", "mine-tok"),
        ("finewebedu", "sample-10BT", None, "finewebedu"),
        ("finewebedu", "sample-100BT", None, "finewebedu-sample-100BT"),
        ("fineweb", "CC-MAIN-2024-10", "byte", "fineweb-CC-MAIN-2024-10-byte"),
        ("wikitext", "wikitext-2-raw-v1", None, "wikitext-wikitext-2-raw-v1"),
        ("openwebtext", "plain_text", None, "openwebtext"),
        ("hf:owner/Name", None, None, "owner--Name"),
        ("hf:owner/Name", "a/b", "char", "owner--Name-a-b-char"),
    ],
)
def test_the_folder_names_what_is_not_the_datasets_own(
    dataset: str, config_name: str | None, tokenizer: str | None, folder: str
) -> None:
    config = DataConfig(dataset=dataset, config_name=config_name, tokenizer=tokenizer, dataset_dir=Path("d"))
    assert prepared_folder(config) == Path("d", folder)


def test_a_configuration_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="configuration of wikitext 'wikitext-2-raw'") as near:
        prepared_folder(DataConfig(dataset="wikitext", config_name="wikitext-2-raw"))
    assert near.value.hint == "did you mean 'wikitext-2-raw-v1'?"
    for name in ("python_docs", "tinystories", "mine"):
        for refuses in (prepared_folder, dataset_info):
            with pytest.raises(ConfigError, match=f"{name} has no configuration 'x'"):
                refuses(DataConfig(dataset=name, config_name="x"))


def test_a_name_never_leaves_the_dataset_folder() -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a folder"):
        prepared_folder(DataConfig(dataset="../elsewhere"))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/x/My notes (1).txt", "My-notes-1"),
        ("python_docs.txt", "my_python_docs"),
        ("a.b.jsonl.gz", "a.b"),
        ("books/*.txt", "books"),
        ("books/**/*.txt", "books"),
        ("*.txt", "data"),
        ("./corpus/", "corpus"),
        ("https://example.org/a/input.txt?raw=1", "input"),
        ("https://example.org/a/input.jsonl.zst", "input"),
    ],
)
def test_text_without_a_name_gets_that_of_its_file(path: str, name: str) -> None:
    assert name_for_files([Path(path)]) == name


def test_a_folder_keeps_its_whole_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "v1.2").mkdir()
    assert name_for_files([tmp_path / "v1.2"]) == "v1.2"
    monkeypatch.chdir(tmp_path / "v1.2")
    assert name_for_files([Path()]) == "v1.2"


@given(st.text())
def test_a_safe_name_is_one_part_of_a_path(text: str) -> None:
    name = safe_name(text)
    assert name not in ("", ".", "..") and Path(name).name == name and safe_name(name) == name


def test_text_under_a_taken_name_is_refused() -> None:
    for dataset, files, urls, words in (
        ("python_docs", (Path("notes.txt"),), (), "files are given, but 'python_docs' is a built-in dataset"),
        ("hf:a/b", (), ("https://example.org/notes.txt",), "a URL is given, but 'hf:a/b' is a hub dataset"),
    ):
        with pytest.raises(ConfigError, match=words) as refused:
            dataset_info(DataConfig(dataset=dataset, files=files, urls=urls))
        assert refused.value.hint == "give yours a name of its own: --dataset notes"


SEPARATOR, REPLACE, BODY = {"document_separator": "--"}, {"encoding_errors": "replace"}, {"text_column": "body"}


@pytest.mark.parametrize(
    ("settings", "without", "with_effect"),
    [
        (SEPARATOR, ["finewebedu", "hf:a/b", "wikitext", "python_docs", "a.jsonl b.parquet"], ["a.txt", "n.txt.gz"]),
        (REPLACE, ["finewebedu", "hf:a/b", "python_docs", "tinyshakespeare"], ["a.txt", "a.jsonl", "b.parquet"]),
        (
            BODY,
            ["python_docs", "tinyshakespeare", "a.txt n.txt.gz"],
            ["finewebedu", "hf:a/b", "a.jsonl", "a.txt b.parquet"],
        ),
    ],
)
@pytest.mark.parametrize("web", [False, True])
def test_a_setting_that_nothing_is_read_by_is_refused(
    settings: dict[str, str], without: list[str], with_effect: list[str], web: bool, tmp_path: Path
) -> None:
    (flag,) = (f"--{name.replace('_', '-')}" for name in settings)

    def config_of(source: str) -> DataConfig:
        if "." not in source:
            return DataConfig.model_validate({"dataset": source, **settings})
        files = [tmp_path / name for name in source.split()]
        for file in files:
            file.touch()
        if web:  # all but one
            urls = [f"https://example.org/{file.name}?key=a.pdf" for file in files[1:] or files]
            return DataConfig.model_validate({"dataset": "mine", "files": files[:-1][:1], "urls": urls, **settings})
        return DataConfig.model_validate({"dataset": "mine", "files": files, **settings})

    for source in with_effect:
        dataset_info(config_of(source))
    for source in without:
        config = config_of(source)
        with pytest.raises(ConfigError, match=f"^{flag} has no effect on {config.dataset}: it ") as caught:
            dataset_info(config)
        assert caught.value.hint == "leave it out" and "\n" not in caught.value.message
        dataset_info(config.model_copy(update=dict.fromkeys(settings, "strict" if settings is REPLACE else None)))


def test_own_text_is_large_by_the_size_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("x")
    assert dataset_info(DataConfig(dataset="a", files=(tmp_path,))).small
    with (tmp_path / "deep" / "b.txt").open("wb") as file:
        file.truncate(LARGE_BYTES)  # a hole: takes no room
    info = dataset_info(DataConfig(dataset="a", files=(tmp_path,)))
    assert not info.small and info.validation_fraction == 0.1
    assert dataset_info(DataConfig(dataset="a", urls=("https://example.org/a.txt",))).source == info.source
    with pytest.raises(DataError):
        dataset_info(DataConfig(dataset="a", files=(tmp_path / "missing.txt",)))


def test_the_command_that_prepares_is_exact() -> None:
    config = DataConfig(dataset="a", files=(Path("a.txt"), Path("b c.txt")), tokenizer="char", dataset_dir=Path("d"))
    assert (
        prepare_command(config) == "nano-gpt prepare_dataset --files a.txt 'b c.txt' --tokenizer char --dataset-dir d"
    )
    assert prepare_command(DataConfig(dataset="finewebedu")) == "nano-gpt prepare_dataset --dataset finewebedu"
    assert next_command(DataConfig(dataset="finewebedu")) == "nano-gpt train --dataset finewebedu"
    hub = DataConfig(dataset="hf:owner/name", config_name="en", text_column="content", max_documents=5)
    assert next_command(hub) == "nano-gpt train --dataset hf:owner/name --config-name en"


@pytest.mark.parametrize(
    "values",
    [
        {"dataset": "finewebedu", "config_name": "sample-100BT", "max_tokens": 10_000_000, "dedup": "exact"},
        {"dataset": "hf:owner/name", "text_column": "content", "validation_fraction": 0.05, "max_documents": 1000},
        {
            "dataset": "mine",
            "files": ("a.txt", "b c.txt"),
            "urls": ("https://x.org/1.txt", "https://x.org/2.txt?a=b&c"),
            "document_separator": "\n---\n",
            "encoding_errors": "replace",
            "tokens_per_shard": 1_000_000,
            "tokenizer": "bpe:512",
            "dataset_dir": "else where",
        },
        {"dataset": "b", "urls": ("https://x.org/b.jsonl.gz",)},
    ],
)
def test_the_command_that_prepares_says_everything(values: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig.model_validate(values)
    assert "\n" not in prepare_command(config)
    prepared: list[DataConfig] = []
    monkeypatch.setattr(cli, "_prepare", lambda config, *args, **kwargs: prepared.append(config))
    result = CliRunner().invoke(app, shlex.split(prepare_command(config))[1:])
    assert result.exit_code == 0, result.output
    assert prepared == [config]
