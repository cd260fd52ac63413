"""How the ranks share one model: a copy on each of them, or its weights split over them.

A strategy makes of a plain GPT what the training step calls, and answers for everything in which whole and split
weights differ: exchange of gradients, their norm, copies for evaluation and checkpoints. Loss and gradients are the
same in any of them, up to the order of additions.

    strategy = make_strategy(model, config, ranks, device, dtype)
    optimizer = build_optimizer(strategy.model, ...)  # afterwards: fsdp replaces the parameters by shards
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ReduceOp, all_reduce
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from nano_gpt.config.training import TrainingConfig
from nano_gpt.errors import CheckpointError, ConfigError
from nano_gpt.model.gpt import GPT
from nano_gpt.model.lora import trained_state
from nano_gpt.model.native.training import TrainingBlock, train_natively
from nano_gpt.runtime.device import can_compile, synchronize
from nano_gpt.runtime.distributed import Ranks, is_distributed
from nano_gpt.runtime.logs import logger
from nano_gpt.training.dtensor import local, placed_like, whole

BUCKET_MB = 100
"""Gradients that DDP exchanges at once. torch.compile cuts its graph at every bucket: 124M into 20 at DDP's own 25."""


class Strategy:
    """One device that holds the whole model. The others differ in what they override."""

    gradient_factor = 1
    """What to multiply the loss by: ranks take the mean of their gradients, and a step wants the sum."""
    shards = 1
    """Ranks that split one copy of the weights between them."""

    def __init__(self, model: GPT, forward: nn.Module, ranks: Ranks, device: torch.device) -> None:
        self.model = model
        """Its parameters are trained, by GPT's own names; under fsdp they are DTensors."""
        self.forward = forward
        """What the training step calls: the model, perhaps compiled and wrapped."""
        self._ranks = ranks
        self._device = device

    def last_backward(self, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of a micro-batch: ranks exchange gradients in the last one of a step only."""
        return nullcontext()

    @torch.no_grad()
    def gradients(self) -> list[Tensor]:
        """This rank's part of them, to be changed in place."""
        return [local(p.grad) for p in self.model.parameters() if p.grad is not None]

    @torch.no_grad()
    def clip_grad_norm(self, max_norm: float) -> Tensor:
        """Scale all gradients so that their L2 norm is at most `max_norm`; returns the norm that they had.

        A scalar on the device, the same on all ranks; the host does not wait for it.
        """
        gradients = self.gradients()
        norm = self._over_ranks(nn.utils.get_total_norm(gradients))
        # On a CPU it costs nothing to look whether there is anything to do.
        if max_norm != float("inf") and not (norm.device.type == "cpu" and norm <= max_norm):
            torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def _over_ranks(self, norm: Tensor) -> Tensor:
        """From the norm of `gradients()` to that of all parts together."""
        return norm

    @contextmanager
    def whole_model(self) -> Iterator[GPT]:
        """A plain GPT with all weights on this device, to be read: its forward needs no other rank.

        A collective: every rank must call it.
        """
        yield self.model

    def to_host(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies of the whole tensors in rank 0's memory, that later steps do not change; {} on the other ranks.

        A collective: every rank must call it, with the same names.
        """
        copies = {}
        on_cuda = self._device.type == "cuda"
        for name, tensor in tensors.items():
            all_of_it = whole(tensor.detach())
            if self._ranks.is_main:  # non_blocking: into pinned memory, one copy after the other
                copies[name] = all_of_it.to("cpu", non_blocking=on_cuda, copy=True)
        synchronize(self._device)
        return copies

    @torch.no_grad()
    def load_weights(self, full: Mapping[str, Tensor]) -> None:
        """Take over the whole tensors, which every rank has. Raises CheckpointError, with nothing changed, if they are
        not exactly those that a checkpoint of the model holds."""
        own = trained_state(self.model)
        if unmatched := own.keys() ^ full.keys():
            raise CheckpointError(f"the weights do not fit the model: {min(unmatched)} is in one of them only")
        for name, tensor in own.items():
            if tensor.shape != full[name].shape:
                raise CheckpointError(f"weight {name} is {tuple(full[name].shape)}, not {tuple(tensor.shape)}")
        for name, tensor in own.items():
            tensor.copy_(placed_like(full[name], tensor))


class DataParallel(Strategy):
    """A copy of the weights on every rank (Li et al. 2020): gradients are exchanged while the backward pass goes on."""

    def __init__(self, model: GPT, forward: nn.Module, ranks: Ranks, device: torch.device) -> None:
        self.gradient_factor = ranks.world_size
        self._wrapped = DistributedDataParallel(
            forward,
            device_ids=[device.index] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            bucket_cap_mb=BUCKET_MB,
        )
        super().__init__(model, self._wrapped, ranks, device)

    def last_backward(self, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else self._wrapped.no_sync()


class FullySharded(Strategy):
    """Weights, gradients and moments are split over neighbouring ranks (Zhao et al. 2023), with copies beyond (HSDP).

    The weights of a block are gathered when it is run, and let go again. Until the last micro-batch a rank keeps its
    whole gradients, in fp32: 4 bytes per parameter for an exchange less per micro-batch.
    """

    def __init__(
        self, model: GPT, ranks: Ranks, device: torch.device, dtype: torch.dtype, *, shards: int, compiled: bool
    ) -> None:
        from torch.distributed.device_mesh import init_device_mesh  # loaded by those who use it
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

        self.gradient_factor, self.shards = ranks.world_size, shards
        copies = ranks.world_size // shards
        mesh = (
            init_device_mesh(device.type, (shards,), mesh_dim_names=("shard",))
            if copies == 1
            else init_device_mesh(device.type, (copies, shards), mesh_dim_names=("replicate", "shard"))
        )
        self._group = mesh.get_group("shard")
        self._skeleton = _skeleton(model)
        in_fp32 = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
        # Blocks travel in the type of their products. Activations are left to autocast, as under ddp: the residual
        # stream, norms and the loss stay fp32, and so does all of the root: both embeddings, ln_f, and the tied head.
        # A CPU gathers fp32: its LayerNorm refuses bf16 weights beside fp32 activations.
        in_dtype = MixedPrecisionPolicy(
            param_dtype=None if device.type == "cpu" or dtype == torch.float32 else dtype,
            reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )
        for block in model.h:
            fully_shard(block, mesh=mesh, mp_policy=in_dtype, reshard_after_forward=True)
        self._root: FSDPModule = fully_shard(model, mesh=mesh, mp_policy=in_fp32)
        super().__init__(model, _compile(model) if compiled else model, ranks, device)

    def last_backward(self, last: bool) -> AbstractContextManager[Any]:
        self._root.set_is_last_backward(last)
        self._root.set_requires_gradient_sync(last)
        return nullcontext()

    def _over_ranks(self, norm: Tensor) -> Tensor:
        square = norm.square()
        all_reduce(square, ReduceOp.SUM, self._group)
        return square.sqrt()

    @contextmanager
    def whole_model(self) -> Iterator[GPT]:
        """A copy, gone with the context: evaluation takes 4 bytes per parameter more."""
        model = copy.deepcopy(self._skeleton)
        full = {name: whole(tensor.detach()) for name, tensor in self.model.state_dict().items()}
        model.load_state_dict(full, assign=True)
        yield model


def make_strategy(
    model: GPT, config: TrainingConfig, ranks: Ranks, device: torch.device, dtype: torch.dtype
) -> Strategy:
    """`model` is on the CPU, the same on every rank, and belongs to the strategy afterwards.

    Raises ConfigError where the settings do not fit the ranks.
    """
    shards = weight_shards(config, ranks)
    wanted = config.strategy
    if wanted in ("ddp", "fsdp") and not is_distributed():
        logger.info(
            f"--strategy {wanted}: one process has nothing to share; several: "
            "torchrun --nproc_per_node=COUNT $(which nano-gpt) train ..."
        )
        wanted = "single"
    if wanted == "auto":
        wanted = "ddp" if ranks.world_size > 1 else "single"
    compiled = (config.compile or (config.compile is None and device.type == "cuda")) and can_compile(device)
    if not compiled:
        train_natively(model)
    if config.gradient_checkpointing:
        recompute_blocks(model)
    if wanted == "fsdp":
        return FullySharded(model, ranks, device, dtype, shards=shards, compiled=compiled)
    model.to(device)
    forward = _compile(model) if compiled else model
    return (DataParallel if wanted == "ddp" else Strategy)(model, forward, ranks, device)


def weight_shards(config: TrainingConfig, ranks: Ranks) -> int:
    """Ranks that will split one copy of the weights. Raises ConfigError where the settings do not fit the ranks."""
    world_size = ranks.world_size
    if config.strategy == "single" and world_size > 1:
        raise ConfigError(f"--strategy single, and {world_size} ranks", "ddp or fsdp; or start it without torchrun")
    if config.fsdp_ranks is not None and config.strategy != "fsdp":
        raise ConfigError(
            f"training.fsdp_ranks is {config.fsdp_ranks}, but --strategy is {config.strategy}",
            "--strategy fsdp, or --set training.fsdp_ranks=null",
        )
    if config.strategy != "fsdp" or world_size == 1:
        return 1
    shards = config.fsdp_ranks or world_size
    if world_size % shards:
        raise ConfigError(
            f"training.fsdp_ranks {shards} does not divide the {world_size} ranks", "the GPUs of one machine, usually"
        )
    return shards


def recompute_blocks(model: GPT) -> None:
    """Gradient checkpointing (Chen et al. 2016), in place: of every block only the input is kept for the backward."""
    for block in model.h:
        block.__class__ = _RecomputedBlock


class _RecomputedBlock(TrainingBlock):
    """Runs a second time in the backward pass, with the same dropout. A class and no wrapper, so that names stay."""

    def forward(self, *arguments: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(*arguments)
        return checkpoint(super().forward, *arguments, use_reentrant=False)  # type: ignore[no-any-return]


def _skeleton(model: GPT) -> GPT:
    """A copy without memory for the weights, into which they can be put."""
    weights = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, weights)


def _compile(model: GPT) -> nn.Module:
    return torch.compile(model, dynamic=False)  # type: ignore[return-value]
