"""Random numbers that are a function of what they are for, not of what was drawn before.

Every use derives its own seed from the run's seed and a few keys ("dropout", step, rank), so nothing has to be
saved in order to resume, and drawing more or fewer numbers in one place changes nothing in another.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *keys: str | int) -> int:
    """A 63-bit seed for this purpose. Stable across machines and versions."""
    text = "/".join(str(key) for key in (seed, *keys))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *keys: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(derive_seed(seed, *keys))
