"""What decays, and that AdamW's state survives being written by name."""

from __future__ import annotations

import pytest
import torch

from nano_gpt.config import GPTConfig
from nano_gpt.config.training import OptimizerConfig
from nano_gpt.errors import CheckpointError
from nano_gpt.model.gpt import GPT
from nano_gpt.training.optim import build_optimizer, load_optimizer_tensors, optimizer_tensors

TINY = GPTConfig(vocab_size=70, n_positions=8, n_embd=16, n_layer=2, n_head=2)


def step(model: GPT, optimizer: torch.optim.Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    ids = torch.randint(0, 70, (2, 8))
    model(ids, ids).backward()
    optimizer.step()
    optimizer.zero_grad()


def test_only_matrices_decay() -> None:
    model = GPT(TINY)
    groups = build_optimizer(model, OptimizerConfig()).param_groups
    decayed = {id(parameter) for parameter in groups[0]["params"]}
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    names = {name for name, parameter in model.named_parameters() if id(parameter) in decayed}
    assert names == {
        name for name, _ in model.named_parameters() if name.endswith("weight") and ".ln_" not in f".{name}"
    }


def test_state_round_trip_continues_bit_for_bit() -> None:
    torch.manual_seed(0)
    model = GPT(TINY)
    optimizer = build_optimizer(model, OptimizerConfig())
    step(model, optimizer, 1)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, model).items()}
    step(model, optimizer, 2)

    other = GPT(TINY)
    other.load_state_dict(weights)
    resumed = build_optimizer(other, OptimizerConfig())
    load_optimizer_tensors(resumed, other, saved)
    before = {name: tensor.clone() for name, tensor in saved.items()}
    step(other, resumed, 2)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in before.items())  # its own copy, not the file's map
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_state_of_another_model_is_refused_whole() -> None:
    model = GPT(TINY)
    optimizer = build_optimizer(model, OptimizerConfig())
    step(model, optimizer, 1)
    saved = optimizer_tensors(optimizer, model)
    wider = GPT(TINY.model_copy(update={"n_embd": 32}))
    fresh = build_optimizer(wider, OptimizerConfig())
    with pytest.raises(CheckpointError, match=r"is \(\d+"):
        load_optimizer_tensors(fresh, wider, saved)
    deeper = GPT(TINY.model_copy(update={"n_layer": 3}))
    with pytest.raises(CheckpointError, match=r"h\.2"):
        load_optimizer_tensors(fresh, deeper, saved)
    assert not fresh.state
