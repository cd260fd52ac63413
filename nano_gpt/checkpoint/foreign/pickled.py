"""Files of `torch.save`, opened without running anything that is in them.

    ckpt.pt (nanoGPT)   model_05000.pt (build-nanogpt)   checkpoint_005000.bin (allenporter/nano-gpt)

Such a file is a zip with a pickle in it, and a pickle names functions for its reader to call. So the names are read
first, without calling any, and one that weights and plain settings do not need is refused; `torch.load` with
`weights_only` then builds the rest, its tensors as views of the mapped file.
"""

from __future__ import annotations

import pickletools
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nano_gpt.checkpoint.foreign.peer import PeerCheckpoint, peer_config
from nano_gpt.config.model import Activation
from nano_gpt.errors import CheckpointError

ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # what files of torch.save, and of pickle, begin with
_KINDS = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Byte", "Char", "Bool")
_DATACLASSES = ("__main__.GPTConfig", "train_gpt2.GPTConfig")  # build-nanogpt's settings
_ALLOWED = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    *(f"torch.{kind}Storage" for kind in _KINDS),
    *_DATACLASSES,
}


class _Dialect(NamedTuple):
    """Under which keys a trainer keeps what we need."""

    trainer: str
    weights: str
    settings: str
    step: str
    loss: str
    activation: Activation = "gelu"


_DIALECTS = (
    _Dialect("nanoGPT", "model", "model_args", "iter_num", "best_val_loss", "gelu_exact"),
    _Dialect("build-nanogpt", "model", "config", "step", "val_loss"),
    _Dialect("allenporter/nano-gpt", "model_state_dict", "config", "step", "val_loss_accum"),
)


class _Settings:
    """Stands for the dataclass of a peer: takes its fields, and has no code to run."""


def read_pickled(path: Path) -> PeerCheckpoint:
    """Raises CheckpointError for a pickle that wants to call something, and for what is no peer's checkpoint."""
    found = _load(path)
    dialect = next((known for known in _DIALECTS if {known.weights, known.settings, known.step} <= found.keys()), None)
    if dialect is None:
        keys = ", ".join([key for key in found if isinstance(key, str)][:8]) or "nothing of theirs"
        raise CheckpointError(f"it is of no known trainer: it holds {keys}", "known: nanoGPT, build-nanogpt, nano-gpt")
    settings, tensors = found[dialect.settings], found[dialect.weights]
    settings = vars(settings) if isinstance(settings, _Settings) else settings
    if not isinstance(settings, dict) or not isinstance(tensors, dict):
        raise CheckpointError(f"its {dialect.settings} and {dialect.weights} are not tables of names")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"its {dialect.weights} has a {type(tensor).__name__} where tensors belong")
    config = peer_config(settings, dialect.activation)
    return PeerCheckpoint(dialect.trainer, config, tensors, _progress(found, dialect))


def _progress(found: dict[str, Any], dialect: _Dialect) -> str:
    """`step 5,000, validation loss 1.4697`, as far as the file says it."""
    step, loss = found[dialect.step], found.get(dialect.loss)
    loss = loss.item() if isinstance(loss, Tensor) and loss.numel() == 1 else loss
    said = [f"step {step:,}"] if type(step) is int else []
    return ", ".join([*said, f"validation loss {loss:.4f}"] if isinstance(loss, float) else said)


def _load(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        start = file.read(2**20)
    bare = start.startswith(PICKLE)
    for name in _globals(start if bare else _pickle_in(path)):
        if name not in _ALLOWED:
            raise CheckpointError(
                f"refused, since opening it would call {name}", "a checkpoint needs tensors, numbers and text only"
            )
    if bare:
        raise CheckpointError("it is a bare pickle, not a zip", "torch.save has written zips since torch 1.6: use one")
    stubs: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [(_Settings, name) for name in _DATACLASSES]
    try:
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(stubs):
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever the bytes of a damaged file happen to mean
        raise CheckpointError(f"it is damaged: {_first_line(error)}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"it holds a {type(found).__name__}, not a checkpoint")
    return found


def _pickle_in(path: Path) -> bytes:
    """The pickle in a zip of torch.save. Nothing in it may be compressed: it could swell."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise CheckpointError("it is a compressed zip, which torch.save does not write")
            pickles = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise CheckpointError("it is a zip, but not one of torch.save")
            return archive.read(pickles[0])
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise CheckpointError(f"it is damaged: {_first_line(error)}") from None


def _globals(pickle: bytes) -> Iterator[str]:
    """`module.name` of everything that the pickle asks for, without asking for it."""
    texts: list[str] = []
    try:
        for code, argument, _ in pickletools.genops(pickle):
            if code.name in ("GLOBAL", "INST"):
                yield str(argument).replace(" ", ".")
            elif code.name == "STACK_GLOBAL":
                yield ".".join(texts[-2:])
            elif isinstance(argument, str):
                texts.append(argument)
    except Exception as error:
        raise CheckpointError(f"it is damaged: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
