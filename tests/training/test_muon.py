"""Muon against torch's own, and one and the same step however the weights lie on ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nano_gpt.config import GPTConfig
from nano_gpt.config.training import OptimizerConfig
from nano_gpt.model.gpt import GPT
from nano_gpt.training.muon import Muon, orthogonalised
from nano_gpt.training.optim import build_optimizer, set_learning_rate

CONFIG = OptimizerConfig(name="muon", learning_rate=0.02, weight_decay=0.3, muon_momentum=0.9)
# 70 ids and 15 channels: over 4 ranks no weight divides evenly.
TINY = GPTConfig(vocab_size=70, n_positions=8, n_embd=15, n_layer=2, n_head=3)


def tiny() -> GPT:
    torch.manual_seed(0)
    return GPT(TINY)


def gradients(model: nn.Module, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(p.shape, generator=generator) for name, p in model.named_parameters()}


def test_the_steps_of_torch_muon_with_query_key_and_value_apart() -> None:
    model = tiny()
    reference: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if name.startswith("h.") and parameter.dim() == 2:
            parts = parameter.detach().clone().chunk(3 if "c_attn" in name else 1)
            reference[name] = [nn.Parameter(part) for part in parts]
    assert len(reference) == 2 * 4
    torch_muon = torch.optim.Muon(
        [part for parts in reference.values() for part in parts],
        lr=0.02,
        weight_decay=0.3,
        momentum=0.9,
        adjust_lr_fn="match_rms_adamw",
    )
    optimizer = build_optimizer(model, CONFIG)
    for step in range(3):
        values = gradients(model, step)
        for name, parameter in model.named_parameters():
            parameter.grad = values[name]
        for name, parts in reference.items():
            for part, gradient in zip(parts, values[name].chunk(len(parts)), strict=True):
                part.grad = gradient
        set_learning_rate(optimizer, 0.02 / (step + 1))
        set_learning_rate(torch_muon, 0.02 / (step + 1))
        optimizer.step()
        torch_muon.step()
    state = model.state_dict()
    for name, parts in reference.items():
        torch.testing.assert_close(state[name], torch.cat([part.detach() for part in parts]), rtol=0, atol=1e-6)


def test_embeddings_norms_and_biases_are_adamws() -> None:
    model = tiny()
    plain = tiny()
    muon, adamw = build_optimizer(model, CONFIG), build_optimizer(plain, CONFIG.model_copy(update={"name": "adamw"}))
    assert isinstance(muon, Muon)
    for step in range(2):
        for one in (model, plain):
            for name, gradient in gradients(one, step).items():
                one.get_parameter(name).grad = gradient
        for optimizer in (muon, adamw):
            set_learning_rate(optimizer, 0.01)
            optimizer.step()
    other = plain.state_dict()
    same = {name for name, tensor in model.state_dict().items() if torch.equal(tensor, other[name])}
    assert other.keys() - same == {name for name, p in plain.named_parameters() if name[:2] == "h." and p.dim() == 2}
    muon.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("shape", [(2, 12, 12), (3, 24, 8), (1, 8, 24)])
def test_orthogonalised_keeps_the_directions(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    result = orthogonalised(matrices)
    assert result.dtype == torch.bfloat16 and result.shape == matrices.shape
    values = torch.linalg.svdvals(result.float())
    assert values.min() > 0.6 and values.max() < 1.3  # five steps end near 1, not at it
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    alike = torch.cosine_similarity(result.float().flatten(1), (u @ vh).flatten(1))
    assert alike.min() > 0.97


@pytest.mark.slow
def test_the_same_steps_over_split_weights(tmp_path: Path) -> None:
    """Four ranks, as one group that splits the weights and as two copies of halves; see muon_ranks.py."""
    script = Path(__file__).with_name("muon_ranks.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4", str(script)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=180, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("all the same") == 4
