"""What Python code asks for text: prompts, lengths, settings, and a run's own way of sampling."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nano_gpt import generate, load_model
from nano_gpt.checkpoint.folder import write_model_folder
from nano_gpt.checkpoint.source import LoadedModel
from nano_gpt.config.inference import SamplingConfig
from nano_gpt.config.model import GPTConfig
from nano_gpt.errors import ConfigError
from nano_gpt.inference import text
from nano_gpt.model.gpt import GPT
from nano_gpt.tokenizer import load_tokenizer
from nano_gpt.tokenizer.char import CharTokenizer

BYTES = load_tokenizer("byte")


def untrained(vocab_size: int = BYTES.vocab_size, n_positions: int = 32) -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(vocab_size=vocab_size, n_positions=n_positions, n_embd=16, n_layer=1, n_head=2)).eval()


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return LoadedModel(untrained(), BYTES, "a test")


def test_generate_is_complete_with_plain_arguments(loaded: LoadedModel) -> None:
    texts = generate(loaded, "abc", num_sequences=3, max_new_tokens=10, top_k=None, seed=5)
    config = SamplingConfig(prompt="abc", num_sequences=3, top_k=None, seed=5)
    assert texts == text.sample_texts(loaded.model, loaded.tokenizer, config, max_new_tokens=10)
    assert len(set(texts)) == 3 and all(one.startswith("abc") for one in texts)
    assert generate(loaded, "abc", num_sequences=1, max_new_tokens=10, top_k=0, seed=5) == texts[:1]
    assert generate(loaded, "abc", max_length=13, top_k=None, seed=5) == texts[:1]
    stop = texts[0][5]
    assert generate(loaded, "abc", max_new_tokens=10, top_k=None, seed=5, stop=stop) == [
        texts[0][: texts[0].index(stop, 3)]
    ]
    assert generate(loaded, "abc", max_new_tokens=10, temperature=0, seed=1) == generate(
        loaded, "abc", max_new_tokens=10, temperature=0, seed=2
    )


def test_prompts_and_lengths_that_do_not_fit(loaded: LoadedModel) -> None:
    with pytest.raises(ConfigError, match=r"33 tokens.*context is 32"):
        generate(loaded, "x" * 33)
    assert len(generate(loaded, "x" * 32, max_new_tokens=3, top_k=None)[0]) >= 32
    with pytest.raises(ConfigError, match="31 tokens and max_length is 30"):
        generate(loaded, "x" * 31)
    with pytest.raises(ConfigError, match="max_new_tokens is 0"):
        generate(loaded, "x", max_new_tokens=0)
    with pytest.raises(ConfigError, match="both given"):
        generate(loaded, "x", max_new_tokens=3, max_length=3)
    with pytest.raises(ConfigError, match="33 tokens"):  # what training asks before its first step
        text.fit(loaded.model, BYTES, SamplingConfig(prompt="x" * 33))


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"seed": -1},
        {"min_p": 2},
    ],
)
def test_settings_out_of_range_name_themselves(loaded: LoadedModel, bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        generate(loaded, "x", **bad)


def test_the_models_own_way_of_sampling(loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's config.yaml, GPT-2's customary prompt, or nothing for a tokenizer that cannot spell it."""
    assert text.own_sampling(loaded) == SamplingConfig()
    chars = LoadedModel(untrained(4), CharTokenizer("abc"), "a test")
    assert text.own_sampling(chars) == SamplingConfig(prompt="")

    run = tmp_path / "run"
    step = run / "checkpoints" / "step_000010"
    (step / "training").mkdir(parents=True)
    model = untrained()
    write_model_folder(step, model.config, model.state_dict(), BYTES)
    (run / "config.yaml").write_text(
        "sampling: {prompt: Once, max_length: 12, num_sequences: 0}\ntraining: {max_steps: 1}\n"
    )
    assert text.own_sampling(load_model(str(step))) == SamplingConfig()  # a plain folder that happens to lie there
    (step / "training" / "state.json").write_text('{"step": 10}')
    of_run = load_model(checkpoint=step)
    assert text.own_sampling(of_run) == SamplingConfig(prompt="Once", max_length=12)
    monkeypatch.chdir(step)
    assert text.own_sampling(load_model(checkpoint=".")).prompt == "Once"
    assert generate(of_run, top_k=None)[0].startswith("Once")


def test_settings_of_another_version_are_told_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = tmp_path / "checkpoints" / "step_000010"
    (step / "training").mkdir(parents=True)
    model = untrained()
    write_model_folder(step, model.config, model.state_dict(), BYTES)
    (step / "training" / "state.json").write_text('{"step": 10}')
    warnings: list[str] = []
    monkeypatch.setattr(text.logger, "warning", warnings.append)
    for faulty, word in (("{prompt: Once, beams: 4}", "'beams'"), ("[1]", "[1]"), ("{top_p: 7}", "top_p")):
        (tmp_path / "config.yaml").write_text(f"sampling: {faulty}\n")
        warnings.clear()
        assert text.own_sampling(load_model(checkpoint=step)) == SamplingConfig()
        (line,) = warnings
        assert word in line and str(tmp_path / "config.yaml") in line
