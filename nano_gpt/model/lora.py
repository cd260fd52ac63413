"""LoRA (Hu et al. 2021): matrices stay as they are, and beside each a product of two thin ones is trained.

    y = x W^T + b + alpha / rank * dropout(x) A^T B^T        A (rank, in), B (out, rank)

B begins with zeros, so that an adapter changes nothing at first. Names of the weights stay; A and B are `lora_A` and
`lora_B` of the same module.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from nano_gpt.config.lora import LoRAConfig
from nano_gpt.model.gpt import GPT

_MODULES = {"attn": ("attn.c_attn", "attn.c_proj"), "mlp": ("mlp.c_fc", "mlp.c_proj")}


class AdaptedLinear(nn.Linear):
    """A linear layer with an adapter beside its matrix."""

    lora_A: nn.Parameter  # noqa: N815 (names of the paper, and of PEFT's files)
    lora_B: nn.Parameter  # noqa: N815
    scale: float
    rate: float

    def forward(self, x: Tensor) -> Tensor:
        thin = F.linear(F.dropout(x, self.rate, self.training), self.lora_A)  # (..., in) -> (..., rank)
        return super().forward(x) + self.scale * F.linear(thin, self.lora_B)


def add_adapters(model: GPT, config: LoRAConfig) -> None:
    """Put adapters beside the matrices that `config` names, drawn from torch's generator, and train nothing else.

    A is drawn as the paper's code and PEFT draw it.
    """
    assert config.rank is not None
    model.requires_grad_(False)
    for name in adapted_modules(model, config):
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        linear.__class__ = AdaptedLinear  # and no wrapper, so that names stay
        assert isinstance(linear, AdaptedLinear)
        linear.lora_A = nn.Parameter(linear.weight.new_empty(config.rank, linear.in_features))
        linear.lora_B = nn.Parameter(linear.weight.new_zeros(linear.out_features, config.rank))
        nn.init.kaiming_uniform_(linear.lora_A, a=math.sqrt(5))
        linear.scale, linear.rate = config.scale, config.dropout


def adapted_modules(model: GPT, config: LoRAConfig) -> list[str]:
    """Names of the linear layers, in order."""
    modules = [module for target in _MODULES if target in config.targets for module in _MODULES[target]]
    return [f"h.{layer}.{module}" for layer in range(model.config.n_layer) for module in modules]


def trained_state(model: GPT) -> dict[str, Tensor]:
    """What a checkpoint keeps of the model: all of its state, or of an adapted one the adapters."""
    state = dict(model.state_dict())
    return {name: tensor for name, tensor in state.items() if is_adapter(name)} or state


def is_adapter(name: str) -> bool:
    return name.endswith((".lora_A", ".lora_B"))
