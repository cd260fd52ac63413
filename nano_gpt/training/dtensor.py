"""Weights that are split over ranks (torch's DTensor, under fsdp) and whole ones, handled alike.

Parameters, gradients and what an optimizer keeps of them are DTensors of one layout. All functions take plain tensors
as well, and then give them back. torch's module is loaded where weights are split only: it takes 0.6 s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_split(tensor: Tensor) -> TypeGuard[DTensor]:
    return hasattr(tensor, "full_tensor")


@torch.no_grad()
def local(tensor: Tensor) -> Tensor:
    """This rank's part of it, in the same memory: what is written there changes the whole."""
    return tensor.to_local() if is_split(tensor) else tensor.detach()


def whole(tensor: Tensor) -> Tensor:
    """All of it, on every rank. A collective."""
    return tensor.full_tensor() if is_split(tensor) else tensor


@torch.no_grad()
def gathered(part: Tensor, like: Tensor) -> Tensor:
    """The whole tensor, of which every rank has the part that it has of `like`. A collective."""
    if not is_split(like):
        return part
    from torch.distributed.tensor import DTensor

    mesh, placements = like.device_mesh, like.placements
    return whole(DTensor.from_local(part, mesh, placements, shape=like.shape, stride=like.stride()))


@torch.no_grad()
def placed_like(full: Tensor, other: Tensor) -> Tensor:
    """`full`, the same on every rank, where `other` is, and split as that is if it is of its shape. No collective.

    Not always a copy: the result may share the memory of `full`.
    """
    full = full.to(other.device)
    if is_split(other) and full.shape == other.shape:
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(full, other.device_mesh, other.placements, src_data_rank=None)
    return full
