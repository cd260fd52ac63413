"""One table of names, both directions: compared with transformers' own, and strict about what it is given."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nano_gpt.config import GPTConfig, resolve
from nano_gpt.errors import CheckpointError
from nano_gpt.model.gpt import GPT
from nano_gpt.model.hf import from_hf, from_hf_config, match_names, tensor_shapes, to_hf, to_hf_config

CONFIG = GPTConfig(vocab_size=70, n_positions=8, n_embd=12, n_layer=2, n_head=3)


@pytest.mark.parametrize("name", ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"])
def test_names_and_shapes_of_the_four_sizes(name: str) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = resolve(preset=name).model.model_copy(update={"vocab_size": 50257})
    with torch.device("meta"):
        theirs = GPT2LMHeadModel(GPT2Config(**to_hf_config(config, eot_id=50256)))
        ours = GPT(config)
    expected = {key.removeprefix("transformer."): tuple(value.shape) for key, value in theirs.state_dict().items()}
    assert expected.pop("lm_head.weight") == expected["wte.weight"]  # tied
    assert tensor_shapes(config) == expected
    assert {key: tuple(value.shape) for key, value in to_hf(ours.state_dict(), config).items()} == expected


def test_there_and_back_is_the_same() -> None:
    torch.manual_seed(0)
    model = GPT(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    with torch.no_grad():
        model.wte.weight[70:] = 0.0
    state = model.state_dict()
    tensors = to_hf(state, CONFIG)
    assert tensors["wte.weight"].shape == (70, 12)
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    back = from_hf(tensors, CONFIG)
    assert set(back) == set(state)
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_what_comes_in_is_fp32_and_a_copy() -> None:
    tensors = {name: torch.ones(shape, dtype=torch.bfloat16) for name, shape in tensor_shapes(CONFIG).items()}
    assert {tensor.dtype for tensor in from_hf(tensors, CONFIG).values()} == {torch.float32}
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    for tensor in from_hf(tensors, CONFIG).values():
        tensor.zero_()
    assert all(tensor.all() for tensor in tensors.values())


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_prefix_and_redundant_tensors_of_real_folders(prefix: str) -> None:
    found = {prefix + name: shape for name, shape in tensor_shapes(CONFIG).items()}
    found |= {f"{prefix}h.0.attn.bias": (1, 1, 8, 8), f"{prefix}h.1.attn.masked_bias": (), "lm_head.weight": (70, 12)}
    names = match_names(found, CONFIG)
    assert names == {name: prefix + name for name in tensor_shapes(CONFIG)}


def test_a_folder_that_does_not_fit() -> None:
    shapes = tensor_shapes(CONFIG)
    with pytest.raises(CheckpointError, match=r"tensor h\.1\.ln_2\.bias is missing"):
        match_names({name: shape for name, shape in shapes.items() if name != "h.1.ln_2.bias"}, CONFIG)
    with pytest.raises(CheckpointError, match=r"wte\.weight is \(71, 12\); config\.json promises \(70, 12\)"):
        match_names({**shapes, "wte.weight": (71, 12)}, CONFIG)
    with pytest.raises(CheckpointError, match=r"tensor h\.2\.ln_1\.weight does not belong"):
        match_names({**shapes, "h.2.ln_1.weight": (12,)}, CONFIG)
    with pytest.raises(CheckpointError, match="too few"):
        match_names(shapes, CONFIG.model_copy(update={"n_layer": 10**9}))


def test_config_there_and_back() -> None:
    values = to_hf_config(CONFIG, eot_id=69)
    assert from_hf_config(values) == CONFIG
    assert (values["n_ctx"], values["eos_token_id"], values["tie_word_embeddings"]) == (8, 69, True)


def test_a_gpt2_says_nothing_of_what_only_we_have() -> None:
    assert "bias" not in to_hf_config(CONFIG, eot_id=69)
    assert to_hf_config(CONFIG.model_copy(update={"bias": False}), eot_id=69)["bias"] is False


def test_a_config_without_most_keys_has_gpt2s_defaults() -> None:
    assert from_hf_config({"model_type": "gpt2"}) == GPTConfig(vocab_size=50257)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"model_type": None}, "model_type is None"),
        ({"activation_function": "silu"}, "activation_function is 'silu'; known: gelu_new, "),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no', not true or false"),
        ({"bias": None}, "bias is None, not true or false"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"n_inner": 100}, "n_inner 100"),
        ({"n_embd": 13}, "n_embd 13 is not divisible by n_head 3"),
        ({"n_layer": "2"}, "n_layer is '2', not a positive whole number"),
        ({"n_layer": True}, "n_layer is True"),
        ({"n_layer": 2.0}, "n_layer is 2.0"),
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"n_positions": 2**31}, "n_positions is 2147483648"),
        ({"layer_norm_epsilon": "small"}, "layer_norm_epsilon is 'small'"),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon is 0"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is nan"),
    ],
)
def test_a_config_that_is_not_a_gpt2(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        from_hf_config({**to_hf_config(CONFIG, eot_id=69), **change})
    assert message in caught.value.message
