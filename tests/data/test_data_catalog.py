"""Names, folders and the commands that errors and summaries tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from nano_gpt.config import DataConfig
from nano_gpt.data.catalog import CATALOG, MANIFEST, dataset_info, name_for_files, prepare_command, prepared_folder
from nano_gpt.data.prepare import make_source
from nano_gpt.errors import ConfigError


def test_unknown_dataset_suggests_names_of_the_catalog_and_of_prepared_sets(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'tinyshakespeare'"):
        dataset_info(DataConfig(dataset="tinyshakespear", dataset_dir=tmp_path))
    (tmp_path / "poems").mkdir()
    (tmp_path / "poems" / MANIFEST).touch()
    with pytest.raises(ConfigError, match="did you mean 'poems'"):
        dataset_info(DataConfig(dataset="poem", dataset_dir=tmp_path))


def test_every_dataset_has_a_source_and_a_recipe_of_its_name() -> None:
    for name, info in CATALOG.items():
        source = make_source(DataConfig(dataset=name), revision="given")
        assert source.info is info
        assert prepared_folder(DataConfig(dataset=name)).name == name


@pytest.mark.parametrize(
    ("dataset", "tokenizer", "folder"),
    [
        ("python_docs", None, "python_docs"),
        ("python_docs", "bpe:4096", "python_docs"),
        ("python_docs", "bpe:512", "python_docs-bpe-512"),
        ("tinyshakespeare", "char", "tinyshakespeare-char"),
        ("mine", "gpt2", "mine"),
        ("mine", "some/where/tok", "mine-tok"),
        ("mine", "some/where/tok/tokenizer.json", "mine-tok"),
    ],
)
def test_the_folder_names_the_tokenizer_unless_it_is_the_datasets_own(
    dataset: str, tokenizer: str | None, folder: str
) -> None:
    assert prepared_folder(DataConfig(dataset=dataset, tokenizer=tokenizer, dataset_dir=Path("d"))) == Path("d", folder)


def test_a_name_never_leaves_the_dataset_folder() -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a folder"):
        prepared_folder(DataConfig(dataset="../elsewhere"))
    assert name_for_files([Path("/x/My notes (1).txt")]) == "My-notes-1"
    assert name_for_files([Path("python_docs.txt")]) == "my_python_docs"


def test_files_under_a_built_in_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="--dataset notes"):
        dataset_info(DataConfig(files=(Path("notes.txt"),)))


def test_the_command_that_prepares_is_exact() -> None:
    config = DataConfig(dataset="a", files=(Path("a.txt"), Path("b c.txt")), tokenizer="char", dataset_dir=Path("d"))
    assert (
        prepare_command(config) == "nano-gpt prepare_dataset --files a.txt 'b c.txt' --tokenizer char --dataset-dir d"
    )
    assert prepare_command(DataConfig(dataset="finewebedu")) == "nano-gpt prepare_dataset --dataset finewebedu"
