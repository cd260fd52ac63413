"""Every mix of options is a stock architecture: the same logits from `transformers`, through real folders, both ways.

As in test_logits.py every tensor is redrawn, norms and biases too. A bias that the model has not stays zero in theirs.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from nano_gpt.checkpoint.folder import CONFIG, WEIGHTS, read_model_folder, write_model_folder
from nano_gpt.config import GPTConfig, SamplingConfig, build
from nano_gpt.errors import CheckpointError, ConfigError
from nano_gpt.inference.engine import Engine
from nano_gpt.model.gpt import GPT
from nano_gpt.model.hf import from_hf_config, to_hf_config
from nano_gpt.tokenizer import load_tokenizer

TOLERANCE = 1e-4
OPTIONS: dict[str, tuple[Any, ...]] = {
    "positions": ("learned", "rope"),
    "norm": ("layernorm", "rmsnorm"),
    "activation": ("gelu", "gelu_exact", "relu2"),
    "bias": (True, False),
    "tied": (True, False),
}
ALL = [dict(zip(OPTIONS, values, strict=True)) for values in itertools.product(*OPTIONS.values())]
HOMELESS = [mix for mix in ALL if (mix["positions"], mix["norm"]) == ("learned", "rmsnorm")]
MIXES = [mix for mix in ALL if mix not in HOMELESS]
HOMES = [mix for mix in MIXES if mix["bias"] and mix["tied"] and mix["activation"] == "gelu"]  # one per architecture


def in_words(mix: dict[str, Any]) -> str:
    return "-".join(value if isinstance(value, str) else f"{key}={value}" for key, value in mix.items())


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    """Of every kind that our own layout could get wrong: one head or several, padding rows or none, ..."""
    heads = draw(st.integers(1, 4))
    return {
        "vocab_size": draw(st.sampled_from([257, 320])),
        "n_positions": draw(st.integers(8, 24)),
        "n_head": heads,
        "n_embd": heads * draw(st.sampled_from([2, 6, 8])),
        "n_layer": draw(st.integers(1, 3)),
        "layer_norm_epsilon": draw(st.sampled_from([1e-5, 0.01])),
    }


def config_of(mix: dict[str, Any], **shape: Any) -> GPTConfig:
    small = {"vocab_size": 257, "n_positions": 24, "n_embd": 24, "n_layer": 2, "n_head": 3}
    return GPTConfig(**{**small, **mix, **shape})


@torch.no_grad()
def redraw(model: nn.Module, *, bias: bool, seed: int = 0) -> None:
    """At std 0.3: the shapes are small. What stands for a bias that our model has not is set to zero."""
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.normal_(std=0.3)
        if name.endswith("bias") and not bias:
            parameter.zero_()
        elif any(norm in name for norm in ("ln_", "norm")) and name.endswith("weight"):
            parameter.add_(1.0)


def ours_of(config: GPTConfig, seed: int = 0) -> GPT:
    model = GPT(config).eval()
    redraw(model, bias=config.bias, seed=seed)
    with torch.no_grad():
        for table in (model.wte.weight, model.head_weight):
            table[config.vocab_size :] = 0.0
    return model


def theirs_of(config: GPTConfig, seed: int = 0) -> Any:
    values = to_hf_config(config, eot_id=256)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values)).eval()
    assert type(model).__name__ == values["architectures"][0]
    redraw(model, bias=config.bias, seed=seed)
    return model


def write(folder: Path, model: GPT) -> None:
    write_model_folder(folder, model.config, dict(model.state_dict()), load_tokenizer("byte"))


def opened(folder: Path) -> Any:
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


@torch.inference_mode()
def difference(ours: GPT, theirs: Any) -> float:
    config = ours.config
    ids = torch.randint(config.vocab_size or 0, (2, config.n_positions), generator=torch.Generator().manual_seed(1))
    expected = theirs(ids).logits
    assert float(expected.std()) > 0.1  # the comparison says something
    return float((ours(ids) - expected).abs().max())


@pytest.mark.parametrize("mix", MIXES, ids=in_words)
@settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(shape=shapes(), theta=st.sampled_from([10000.0, 500.0]), seed=st.integers(0, 99))
def test_logits_both_ways(mix: dict[str, Any], shape: dict[str, Any], theta: float, seed: int) -> None:
    config = config_of(mix, **shape, rope_theta=theta if mix["positions"] == "rope" else 10000.0)
    with tempfile.TemporaryDirectory() as folder:
        ours = ours_of(config, seed)
        write(Path(folder), ours)
        assert difference(ours, opened(Path(folder))) <= TOLERANCE
        again = read_model_folder(Path(folder))
        assert again.config == config
        assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in again.state_dict().items())
    with tempfile.TemporaryDirectory() as folder:
        theirs = theirs_of(config, seed)
        theirs.save_pretrained(folder)
        assert read_model_folder(Path(folder)).config == config
        assert difference(read_model_folder(Path(folder)), theirs) <= TOLERANCE


@pytest.mark.parametrize("mix", HOMES, ids=in_words)
def test_gradients(mix: dict[str, Any], tmp_path: Path) -> None:
    """A step of SGD on both gives the same model: nothing is tied, scaled or frozen differently."""
    theirs = theirs_of(config_of(mix))
    theirs.save_pretrained(tmp_path)
    ours = read_model_folder(tmp_path)
    ids = torch.randint(0, 257, (3, 24), generator=torch.Generator().manual_seed(1))
    for model in (ours, theirs):
        loss = ours(ids[:, :-1], ids[:, 1:]) / ids[:, 1:].numel() if model is ours else model(ids, labels=ids).loss
        loss.backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert difference(ours, theirs) <= TOLERANCE


@pytest.mark.parametrize("mix", MIXES, ids=in_words)
def test_greedy_text(mix: dict[str, Any], tmp_path: Path) -> None:
    """Theirs with their cache, ours with ours: positions go on where the prompt ended."""
    ours = ours_of(config_of(mix))
    write(tmp_path, ours)
    prompt = [10, 20, 30, 40, 50]
    greedy = SamplingConfig(num_sequences=1, temperature=0.0)
    [row] = Engine(ours, eot_id=-1).generate([prompt], greedy, max_new_tokens=19)
    theirs = opened(tmp_path).generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=19, eos_token_id=None, pad_token_id=0
    )
    assert prompt + row.ids == theirs[0].tolist()
    assert len(set(row.ids)) > 2


@pytest.mark.parametrize("mix", HOMELESS, ids=in_words)
def test_a_mix_without_a_home(mix: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        build(GPTConfig, mix)
    assert caught.value.message == (
        "positions learned with norm rmsnorm is no architecture of transformers: "
        "norm layernorm (GPT-2), or positions rope (Arcee), would do"
    )


ROPE, RMS = {"positions": "rope"}, {"positions": "rope", "norm": "rmsnorm"}
LIES = [
    ({}, {"bias": False}, "is not zero, and config.json promises a model without biases"),
    ({}, {"bias": "no"}, "bias is 'no', not true or false"),
    ({}, {"activation_function": "silu"}, "activation_function is 'silu'; known: gelu_new"),
    ({}, {"tie_word_embeddings": False}, "tensor lm_head.weight is missing"),
    ({"tied": False}, {"tie_word_embeddings": True}, "lm_head.weight is not wte.weight: an untied head"),
    (RMS | {"tied": False}, {"tie_word_embeddings": True}, "lm_head.weight is not model.embed_tokens.weight"),
    (ROPE, {"model_type": "arcee"}, "up_proj.weight is missing"),
    (RMS, {"model_type": "starcoder2"}, "is missing"),
    (ROPE, {"hidden_act": "silu"}, "hidden_act is 'silu'; known"),
    (RMS, {"hidden_act": "silu"}, "hidden_act is 'silu'; known"),
    (ROPE, {"use_bias": False}, "does not belong"),
    (ROPE, {"use_bias": 1}, "use_bias is 1, not true or false"),
    (RMS, {"attention_bias": False}, "mlp_bias True"),
    (RMS, {"attention_bias": False, "mlp_bias": False}, "does not belong"),
    (ROPE, {"num_key_value_heads": 1}, "num_key_value_heads 1"),
    (ROPE, {"intermediate_size": 95}, "intermediate_size 95"),
    (ROPE, {"sliding_window": 8}, "sliding_window 8"),
    (RMS, {"head_dim": 16}, "head_dim 16"),
    (ROPE, {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling"),
    (ROPE, {"rope_parameters": {"rope_type": "yarn"}}, "rope_type 'yarn' is not RoPE's 'default'"),
    (ROPE, {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    (ROPE, {"rope_parameters": [1]}, "rope_parameters is [1], not an object"),
    (ROPE, {"rope_parameters": {"rope_theta": 0}}, "rope_theta is 0"),
    (ROPE, {"rope_parameters": None, "rope_theta": "big"}, "rope_theta is 'big'"),
    (ROPE, {"num_attention_heads": 8}, "hidden_size 24 / num_attention_heads 8 is odd"),
    (ROPE, {"num_attention_heads": 5}, "hidden_size 24 is not divisible by num_attention_heads 5"),
    (ROPE, {"num_hidden_layers": 3}, "tensor model.layers.2.input_layernorm.weight is missing"),
    (ROPE, {"num_hidden_layers": 2**31 - 1}, "too few"),
    (ROPE, {"hidden_size": None}, "hidden_size is None"),
    (RMS, {"vocab_size": 10**12}, "vocab_size is 1000000000000"),
    (RMS, {"vocab_size": 2**31 - 1}, "tensor model.embed_tokens.weight is (257, 24)"),
    (RMS, {"max_position_embeddings": "24"}, "max_position_embeddings is '24'"),
    (RMS, {"rms_norm_eps": 0}, "rms_norm_eps is 0"),
]


@pytest.mark.parametrize(("mix", "lie", "message"), LIES, ids=[str(lie) for _, lie, _ in LIES])
def test_a_lying_config(tmp_path: Path, mix: dict[str, Any], lie: dict[str, Any], message: str) -> None:
    write(tmp_path, ours_of(config_of(mix)))
    path = tmp_path / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **lie}))
    with pytest.raises(CheckpointError) as caught:
        read_model_folder(tmp_path)
    assert message in caught.value.message and "\n" not in caught.value.message


def test_a_tied_head_may_be_repeated(tmp_path: Path) -> None:
    ours = ours_of(config_of(RMS))
    write(tmp_path, ours)
    tensors = load_file(tmp_path / WEIGHTS)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, tmp_path / WEIGHTS)
    again = read_model_folder(tmp_path)
    assert again.config == ours.config and not hasattr(again, "lm_head")


def test_what_others_need_of_rope(tmp_path: Path) -> None:
    """transformers 4, vLLM and llama.cpp's converter read rope_theta beside and not in rope_parameters."""
    values = to_hf_config(config_of(ROPE, rope_theta=500.0), eot_id=256)
    assert values["rope_theta"] == values["rope_parameters"]["rope_theta"] == 500.0
    del values["rope_parameters"]
    assert from_hf_config(values).rope_theta == 500.0
