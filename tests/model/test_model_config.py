"""The shape of a GPT-2: validators, counts, FLOPs, and the four published sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nano_gpt.config import GPTConfig, build, resolve
from nano_gpt.errors import ConfigError
from nano_gpt.model.gpt import GPT

# Parameters of OpenAI's four released models, tied head counted once.
PUBLISHED = {"gpt2": 124_439_808, "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080, "gpt2-xl": 1_557_611_200}


def size(name: str) -> GPTConfig:
    return resolve(preset=name).model.model_copy(update={"vocab_size": 50257})


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_of_the_published_sizes(name: str) -> None:
    assert size(name).num_parameters() == PUBLISHED[name]


@pytest.mark.parametrize(
    "config",
    [
        size("gpt2"),
        *(
            GPTConfig(vocab_size=101, n_positions=7, n_embd=12, n_layer=3, n_head=2, **options)
            for options in (
                {},
                {"bias": False},
                {"tied": False},
                {"positions": "rope"},
                {"positions": "rope", "norm": "rmsnorm"},
                {"positions": "rope", "norm": "rmsnorm", "bias": False, "tied": False},
            )
        ),
    ],
)
def test_counts_are_those_of_the_built_model(config: GPTConfig) -> None:
    with torch.device("meta"):
        model = GPT(config)
    padding = (config.padded_vocab_size - (config.vocab_size or 0)) * config.n_embd * (1 if config.tied else 2)
    assert sum(parameter.numel() for parameter in model.parameters()) - padding == config.num_parameters()
    tables = ("wte.weight", "wpe.weight", "lm_head.weight")
    inside = sum(parameter.numel() for name, parameter in model.named_parameters() if name not in tables)
    assert inside == config.num_parameters(embeddings=False)


def test_flops_per_token() -> None:
    """6 N + 12 L T C by hand for GPT-2: N = 85M of blocks' matrices + 38.6M of head."""
    matrices = 12 * 12 * 768**2 + 50257 * 768
    assert size("gpt2").flops_per_token() == 6 * matrices + 12 * 12 * 1024 * 768


@pytest.mark.parametrize(("vocab", "padded"), [(1, 64), (64, 64), (65, 128), (50257, 50304)])
def test_vocabulary_is_padded_to_64(vocab: int, padded: int) -> None:
    assert GPTConfig(vocab_size=vocab).padded_vocab_size == padded


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_embd": 512, "n_head": 10}, "n_embd 512 is not divisible by n_head 10: n_embd 520, or n_head 8, would do"),
        ({"n_layer": 0}, "n_layer = 0: input should be greater than 0"),
        ({"n_head": -1}, "n_head = -1"),
        ({"vocab_size": 0}, "vocab_size = 0"),
        ({"dropout": 1.0}, "dropout = 1.0: input should be less than 1"),
        ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon = 0.0"),
        ({"n_layers": 2}, "unknown setting 'n_layers'"),
        ({"norm": "rmsnorm"}, "norm layernorm (GPT-2), or positions rope (Arcee), would do"),
        ({"positions": "rope", "n_embd": 36}, "n_embd 36 / n_head 12 = 3 is odd: n_embd 48 would do"),
        ({"rope_theta": 500.0}, "rope_theta is 500, but positions are learned: positions rope reads it"),
        ({"positions": "rope", "rope_theta": 1.0}, "rope_theta = 1.0: input should be greater than 1"),
        ({"positions": "alibi"}, "positions = 'alibi': input should be 'learned' or 'rope'"),
    ],
)
def test_a_shape_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(GPTConfig, values)
    assert message in caught.value.message
