"""One export, as each of the programs that open it finds it.

A test is the recipe for its program, and runs where that is installed. Of vLLM, which wants a venv of its own, and of
llama.cpp's converter, which is in no package, what they ask of a folder is tested instead.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hub.small_models import TINY, small_model

from nano_gpt.checkpoint.source import LoadedModel
from nano_gpt.hub.export import export
from nano_gpt.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def prompt() -> str:
    return "It is a truth universally acknowledged, that 2 + 2 = 4"


@pytest.fixture(scope="session")
def loaded(prompt: str) -> LoadedModel:
    """A small model whose every tensor matters, with a BPE of its own.

    With this seed it goes on in ASCII. Bytes that are not UTF-8 are told by some of the programs later or otherwise.
    """
    tokenizer = train_tokenizer("bpe:300", [f"{prompt}; and that naïve café owners don't sell 日本茶.\n"] * 2)
    config = TINY.model_copy(update={"vocab_size": tokenizer.vocab_size, "n_positions": 96})
    return LoadedModel(small_model(config, seed=1), tokenizer, "a test")


@pytest.fixture(scope="session")
def exported(loaded: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(loaded, tmp_path_factory.mktemp("consumers") / "export").folder
