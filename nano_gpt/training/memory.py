"""How much memory a training step takes, by part, before anything is taken.

What the backward pass needs is not guessed: the forward pass is run on fake tensors, which have shapes and no memory,
and what autograd keeps of it is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from nano_gpt.config import RunConfig
from nano_gpt.model.gpt import GPT
from nano_gpt.model.native.training import train_natively
from nano_gpt.model.outline import shapes_only
from nano_gpt.runtime.device import autocast
from nano_gpt.runtime.usage import memory_in_use
from nano_gpt.training.freezing import choose_trained
from nano_gpt.training.strategies import recompute_blocks

_FP32 = 4  # bytes
_NOTHING = 50_000  # of them: places of tokens, which autograd keeps as well
_CUDA_CONTEXT = 600_000_000  # what the driver and the libraries take on an H100; measured 0.5 to 0.7 GB


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one rank's device, or of its process where that is a CPU."""

    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class StepMemory:
    """A step's memory as a function of the rows of its micro-batch."""

    fixed: dict[str, int]
    per_row: dict[str, int]

    def estimate(self, rows: int) -> MemoryEstimate:
        return MemoryEstimate({**self.fixed, **{name: rows * size for name, size in self.per_row.items()}})

    def largest(self, candidates: Sequence[int], limit: int | None) -> int:
        """The largest number of rows within `limit` bytes; the smallest one if none is, and the largest of all if the
        limit is not known."""
        fitting = [rows for rows in candidates if limit is None or self.estimate(rows).total <= limit]
        return max(fitting, default=min(candidates))


def step_memory(config: RunConfig, device: torch.device, dtype: torch.dtype, shards: int = 1) -> StepMemory:
    """`shards` is the number of ranks that split the weights between them (FSDP)."""
    model, training = config.model, config.training
    N = model.num_parameters()
    trained, moments = trained_parameters(config)
    one, two = (_kept_for_backward(config, rows, device, dtype) for rows in (1, 2))
    lower = 2 * one - two  # autocast keeps weights that it has cast, and where they are not cast nothing is left
    fixed = {
        "weights": _FP32 * N // shards,
        "gradients": _FP32 * trained // shards,
        "optimizer": _FP32 * moments // shards,
        "weights in lower precision": lower if lower > _NOTHING else 0,
        "average of the weights": _FP32 * N // shards if training.ema_decay is not None else 0,
        "program": _CUDA_CONTEXT if device.type == "cuda" else memory_in_use(device),
    }
    if device.type == "cpu":  # where the host's copy lies in the same memory
        fixed["checkpoint on its way"] = fixed["weights"] + fixed["optimizer"] + fixed["average of the weights"]
    # A CPU writes the gradient over the logits (model/loss.py); elsewhere fp32 logits, their softmax and its gradient
    # are kept beside them.
    bytes_per_logit = dtype.itemsize + (0 if device.type == "cpu" else 3 * _FP32)
    per_row = {"activations": two - one, "logits": model.n_positions * model.padded_vocab_size * bytes_per_logit}
    return StepMemory({name: size for name, size in fixed.items() if size}, per_row)


def trained_parameters(config: RunConfig) -> tuple[int, int]:
    """How many parameters are trained, and how many numbers the optimizer keeps about them."""
    with shapes_only():
        model = GPT(config.model)
        choose_trained(model, config.training)
    if config.training.lora.rank is not None:
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        return trained, 2 * trained
    frozen = [(name, parameter) for name, parameter in model.named_parameters() if not parameter.requires_grad]
    trained = config.model.num_parameters() - sum(parameter.numel() for _, parameter in frozen)
    if config.training.optimizer.name != "muon":
        return trained, 2 * trained
    frozen_matrices = sum(p.numel() for name, p in frozen if name.startswith("h.") and p.dim() == 2)
    matrices = 12 * config.model.n_layer * config.model.n_embd**2 - frozen_matrices
    return trained, 2 * trained - matrices


def _kept_for_backward(config: RunConfig, rows: int, device: torch.device, dtype: torch.dtype) -> int:
    """Bytes that autograd holds after a forward pass up to the head, without the weights themselves."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with FakeTensorMode(), torch.device(device):
        model = GPT(config.model)
        choose_trained(model, config.training)
        weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        if not config.training.compile:  # as in strategies.make_strategy
            train_natively(model)
        if config.training.gradient_checkpointing:
            recompute_blocks(model)
        ids = torch.zeros(rows, config.model.n_positions, dtype=torch.int64)
        with autocast(device, dtype), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            hidden = model.hidden(ids)  # noqa: F841 (it holds the graph, and so the storages whose addresses are counted)
    return sum(size for storage, size in kept.items() if storage not in weights)
