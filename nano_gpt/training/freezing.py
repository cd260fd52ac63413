"""Parts of a model that are not trained: `--freeze wte,attn.0-3`.

A part is one of attn, mlp, ln_1, ln_2, of all blocks or of those numbered (`attn.3`, `attn.0-3`), or one of wte, wpe,
ln_f and lm_head.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from nano_gpt.config.training import TrainingConfig
from nano_gpt.errors import ConfigError
from nano_gpt.model.gpt import GPT
from nano_gpt.model.lora import add_adapters

_OF_BLOCKS = ("attn", "mlp", "ln_1", "ln_2")
_OF_MODEL = ("wte", "wpe", "ln_f", "lm_head")
_PATTERN = re.compile(rf"(?P<part>{'|'.join(_OF_BLOCKS)})(?:\.(?P<first>\d+)(?:-(?P<last>\d+))?)?")


def choose_trained(model: GPT, training: TrainingConfig) -> None:
    """Freeze what `training` says: parts, or all but new adapters. Raises ConfigError where that cannot be."""
    if training.lora.rank is not None:
        if model.config.model_type != "gpt2":
            raise ConfigError("--lora-rank is for GPT-2's own architecture", "PEFT knows its matrices by other names")
        add_adapters(model, training.lora)
    else:
        freeze(model, training.freeze)


def freeze(model: GPT, patterns: Sequence[str]) -> None:
    """Have the parts that `patterns` name keep their weights.

    Raises ConfigError for a pattern that names no part of this model, and where nothing would be left to train.
    """
    for pattern in patterns:
        for module in _parts(model, pattern):
            model.get_submodule(module).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"--freeze {','.join(patterns)} leaves nothing to train", "leave out a part")


def _parts(model: GPT, pattern: str) -> list[str]:
    """Names of modules."""
    if pattern in _OF_MODEL:
        if not hasattr(model, pattern):
            hint = "the head is the token embedding: wte" if pattern == "lm_head" else "it has no learned positions"
            raise ConfigError(f"--freeze {pattern}: this model has no {pattern}", hint)
        return [pattern]
    found = _PATTERN.fullmatch(pattern)
    if found is None:
        raise ConfigError(
            f"--freeze {pattern}: no such part",
            f"{', '.join(_OF_MODEL)}, or {', '.join(_OF_BLOCKS)} of all blocks or of some: attn.3, attn.0-3",
        )
    layers = model.config.n_layer
    first = int(found["first"]) if found["first"] else 0
    last = int(found["last"]) if found["last"] else first if found["first"] else layers - 1
    if not first <= last < layers:
        raise ConfigError(f"--freeze {pattern}: the model has blocks 0 to {layers - 1}")
    return [f"h.{layer}.{found['part']}" for layer in range(first, last + 1)]
