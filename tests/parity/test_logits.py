"""Logits and gradients equal to `transformers.GPT2LMHeadModel`'s in fp32.

Every tensor is redrawn with std 0.1 (norms 1 + that): at the default initialisation a wrong GELU changes the logits
too little to be seen, and swapped LayerNorms, all ones and zeros, not at all.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from nano_gpt.config import GPTConfig
from nano_gpt.model.gpt import GPT
from nano_gpt.model.hf import from_hf, from_hf_config, match_names, tensor_shapes, to_hf, to_hf_config

transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-4
SHAPES = [
    GPTConfig(vocab_size=101, n_positions=24, n_embd=48, n_layer=3, n_head=4),
    GPTConfig(vocab_size=128, n_positions=16, n_embd=40, n_layer=2, n_head=1, layer_norm_epsilon=0.01),  # no padding
]


@pytest.fixture(params=SHAPES, ids=["padded", "epsilon"])
def config(request: pytest.FixtureRequest) -> GPTConfig:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@torch.no_grad()
def redraw(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        parameter.normal_(std=0.1)
        if "ln_" in name and name.endswith("weight"):
            parameter.add_(1.0)


def theirs_of(config: GPTConfig) -> nn.Module:
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**to_hf_config(config, eot_id=0))).eval()  # type: ignore[no-any-return]


def imported(config: GPTConfig) -> tuple[GPT, nn.Module]:
    """Their random model, and ours with its weights."""
    theirs = theirs_of(config)
    redraw(theirs)
    tensors = theirs.state_dict()
    names = match_names({name: tuple(tensor.shape) for name, tensor in tensors.items()}, config)
    ours = GPT(config).eval()
    ours.load_state_dict(from_hf({name: tensors[theirs_name] for name, theirs_name in names.items()}, config))
    return ours, theirs


def exported(config: GPTConfig) -> tuple[GPT, nn.Module]:
    """Our random model, and theirs with its weights."""
    ours = GPT(config).eval()
    redraw(ours)
    theirs = theirs_of(config)
    tensors = {f"transformer.{name}": tensor for name, tensor in to_hf(ours.state_dict(), config).items()}
    problems = theirs.load_state_dict(tensors, strict=False)
    assert (problems.missing_keys, problems.unexpected_keys) in ((["lm_head.weight"], []), ([], []))
    theirs.tie_weights()
    return ours, theirs


@pytest.mark.parametrize("direction", [imported, exported])
def test_logits(direction, config: GPTConfig) -> None:  # type: ignore[no-untyped-def]
    ours, theirs = direction(config)
    ids = torch.randint(0, config.vocab_size or 0, (3, config.n_positions))
    with torch.no_grad():
        expected = theirs(ids).logits
        difference = (ours(ids) - expected).abs().max()
    assert float(expected.std()) > 0.1  # the comparison says something
    assert float(difference) <= TOLERANCE


@pytest.mark.parametrize("direction", [imported, exported])
def test_loss_and_gradients(direction, config: GPTConfig) -> None:  # type: ignore[no-untyped-def]
    ours, theirs = direction(config)
    ids = torch.randint(0, config.vocab_size or 0, (3, config.n_positions))
    loss = ours(ids[:, :-1], ids[:, 1:]) / ids[:, 1:].numel()
    expected = theirs(ids, labels=ids).loss
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    loss.backward()
    expected.backward()
    gradients = to_hf({name: parameter.grad for name, parameter in ours.named_parameters()}, config)
    reference = {name.removeprefix("transformer."): parameter.grad for name, parameter in theirs.named_parameters()}
    for name in tensor_shapes(config):
        largest = float(reference[name].abs().max())
        assert largest > 1e-5, name
        difference = float((gradients[name] - reference[name]).abs().max())
        assert difference <= max(TOLERANCE * largest, 1e-6), name


def test_one_training_step_is_theirs() -> None:
    """The same optimizer on both gives the same model: nothing is tied, scaled or frozen differently."""
    config = SHAPES[0]
    ours, theirs = imported(config)
    ids = torch.randint(0, 101, (3, 24))
    for model in (ours, theirs):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        loss = ours(ids[:, :-1], ids[:, 1:]) / ids[:, 1:].numel() if model is ours else model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert float((ours(ids) - theirs(ids).logits).abs().max()) <= TOLERANCE


def test_configs_are_read_alike() -> None:
    config = SHAPES[1]
    theirs = transformers.GPT2Config(**to_hf_config(config, eot_id=0))
    assert from_hf_config(theirs.to_dict()) == config
