"""What decays, steps that are skipped, and that the state survives being written by name."""

from __future__ import annotations

import pytest
import torch

from nano_gpt.config import GPTConfig
from nano_gpt.config.training import OptimizerConfig
from nano_gpt.errors import CheckpointError
from nano_gpt.model.gpt import GPT
from nano_gpt.training import optim
from nano_gpt.training.muon import Muon
from nano_gpt.training.optim import build_optimizer, load_optimizer_tensors, optimizer_tensors, step_unless

TINY = GPTConfig(vocab_size=70, n_positions=8, n_embd=16, n_layer=2, n_head=2)


def step(model: GPT, optimizer: torch.optim.Optimizer, seed: int, skip: torch.Tensor | None = None) -> None:
    torch.manual_seed(seed)
    ids = torch.randint(0, 70, (2, 8))
    model(ids, ids).backward()
    if skip is None:
        optimizer.step()
    else:
        step_unless(optimizer, skip)
    optimizer.zero_grad()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_only_matrices_decay(optimizer: str) -> None:
    model = GPT(TINY)
    groups = build_optimizer(model, OptimizerConfig.model_validate({"name": optimizer})).param_groups
    assert {group["weight_decay"] for group in groups} == {0.1, 0.0}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in decayed}
    assert names == {
        name for name, _ in model.named_parameters() if name.endswith("weight") and ".ln_" not in f".{name}"
    }


def test_a_head_of_its_own_decays_and_is_adamws() -> None:
    """A table of rows, as the embedding: Muon has the matrices of the blocks only."""
    model = GPT(TINY.model_copy(update={"tied": False}))
    optimizer = build_optimizer(model, OptimizerConfig.model_validate({"name": "muon"}))
    assert isinstance(optimizer, Muon) and not optimizer.orthogonalises(model.lm_head.weight)
    decayed = [parameter for group in optimizer.param_groups if group["weight_decay"] for parameter in group["params"]]
    assert any(parameter is model.lm_head.weight for parameter in decayed)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_round_trip_continues_bit_for_bit(name: str) -> None:
    torch.manual_seed(0)
    model = GPT(TINY)
    config = OptimizerConfig.model_validate({"name": name})
    optimizer = build_optimizer(model, config)
    step(model, optimizer, 1)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, model).items()}
    step(model, optimizer, 2)

    other = GPT(TINY)
    other.load_state_dict(weights)
    resumed = build_optimizer(other, config)
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


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize("read_by_kernel", [True, False])
def test_a_skipped_step_changes_no_bit(
    name: str, steps_before: int, read_by_kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not read_by_kernel:  # as on Metal
        monkeypatch.setattr(optim, "_FOUND_INF_DEVICES", ())
    model = GPT(TINY)
    optimizer = build_optimizer(model, OptimizerConfig.model_validate({"name": name}))
    twin = GPT(TINY)
    twin.load_state_dict(model.state_dict())
    unbroken = build_optimizer(twin, OptimizerConfig.model_validate({"name": name}))
    for seed in range(steps_before):
        step(model, optimizer, seed, torch.tensor(0.0))
        step(twin, unbroken, seed)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    for skip in (torch.tensor(1.0), torch.tensor(True), torch.tensor(3)):
        step_unless(optimizer, skip)
    assert all(torch.equal(tensor, twin.state_dict()[key]) for key, tensor in model.state_dict().items())
    optimizer.zero_grad()
    step(model, optimizer, 7)  # a step afterwards is made
    step(twin, unbroken, 7)
    assert all(torch.equal(tensor, twin.state_dict()[key]) for key, tensor in model.state_dict().items())
    states = optimizer_tensors(optimizer, model), optimizer_tensors(unbroken, twin)
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())


def test_state_of_another_optimizer_is_refused_and_named() -> None:
    model = GPT(TINY)
    both = {name: build_optimizer(model, OptimizerConfig.model_validate({"name": name})) for name in ("adamw", "muon")}
    states = {}
    for name, optimizer in both.items():
        step(model, optimizer, 1)
        states[name] = optimizer_tensors(optimizer, model)
    with pytest.raises(CheckpointError, match="state of muon, and this run uses adamw") as error:
        load_optimizer_tensors(both["adamw"], model, states["muon"])
    assert error.value.hint is not None and "name=muon" in error.value.hint
    with pytest.raises(CheckpointError, match="state of adamw, and this run uses muon"):
        load_optimizer_tensors(both["muon"], model, states["adamw"])


def test_state_with_a_tensor_missing_or_too_many_is_refused() -> None:
    model = GPT(TINY)
    optimizer = build_optimizer(model, OptimizerConfig())
    step(model, optimizer, 1)
    saved = optimizer_tensors(optimizer, model)
    fresh = build_optimizer(model, OptimizerConfig())
    with pytest.raises(CheckpointError, match=r"exp_avg_sq/ln_f\.bias is missing"):
        load_optimizer_tensors(fresh, model, {key: saved[key] for key in saved if key != "exp_avg_sq/ln_f.bias"})
    with pytest.raises(CheckpointError, match=r"max_exp_avg_sq/ln_f\.bias is unknown"):
        load_optimizer_tensors(fresh, model, saved | {"max_exp_avg_sq/ln_f.bias": saved["exp_avg/ln_f.bias"]})
    assert not fresh.state
