"""AdamW or Muon over a GPT: which weights decay, steps that may be skipped, and its state by parameter name."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from nano_gpt.config.training import OptimizerConfig
from nano_gpt.errors import CheckpointError
from nano_gpt.training.dtensor import placed_like
from nano_gpt.training.muon import Muon

_ADAMW_STATE = {"step", "exp_avg", "exp_avg_sq"}
_MUON_STATE = {"momentum"}
_FOUND_INF_DEVICES = ("cpu", "cuda")  # where the fused kernels read it: Metal's takes it and goes on all the same


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> AdamW | Muon:
    """Matrices and embeddings decay; biases and norms, which are vectors, do not (GPT-3, appendix B)."""
    named = _trained(model)
    matrices = {}
    if config.name == "muon":
        # Embeddings are matrices as well, but look-up tables and no maps: their rows do not mix.
        matrices = {name: p for name, p in named.items() if name.startswith("h.") and p.dim() == 2}
    others = [parameter for name, parameter in named.items() if name not in matrices]
    groups = [
        {"params": [p for p in others if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0},
    ]
    lr = config.learning_rate
    # fused: one kernel over all parameters. Measured on a CPU at 124M: 61 ms a step against 495 ms for the plain loop.
    adamw = AdamW(groups, lr=lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)
    if not matrices:
        return adamw
    return Muon(matrices, adamw, lr=lr, weight_decay=config.weight_decay, momentum=config.muon_momentum)


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def step_unless(optimizer: Optimizer, skip: Tensor) -> None:
    """Make a step where `skip`, a scalar on the device, is zero; else change no bit of weights, moments and counters.

    The host does not wait to know, but for Metal. torch's fused AdamW reads these two attributes, which its GradScaler
    sets as well; `found_inf` must be 0 or 1, and a plain tensor also where the parameters are DTensors.
    """
    if skip.device.type not in _FOUND_INF_DEVICES:
        if not skip:  # sync: every step
            optimizer.step()
        return
    optimizer.found_inf = skip.bool().float()  # type: ignore[attr-defined]
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf, optimizer.grad_scale  # type: ignore[attr-defined]


def optimizer_tensors(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """`exp_avg/wte.weight`, `step/wte.weight`, `momentum/h.0.attn.c_attn.weight`, ...: empty before the first step.

    The tensors themselves, no copies: DTensors where the parameters are.
    """
    return {
        f"{kind}/{name}": tensor
        for name, parameter in model.named_parameters()
        for kind, tensor in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(optimizer: Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """The reverse, from whole tensors, the same on all ranks.

    Raises CheckpointError before anything is loaded if they are another optimizer's, if a parameter is missing or of
    another shape.
    """
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        kind, _, name = key.partition("/")
        by_name.setdefault(name, {})[kind] = tensor
    parameters = _trained(model)
    if unmatched := by_name.keys() ^ parameters.keys():
        raise CheckpointError(f"the optimizer state does not fit the model: {min(unmatched)} is in one of them only")
    saved = "muon" if any(state.keys() == _MUON_STATE for state in by_name.values()) else "adamw"
    running = "muon" if isinstance(optimizer, Muon) else "adamw"
    if saved != running:
        raise CheckpointError(
            f"the checkpoint has the optimizer state of {saved}, and this run uses {running}",
            f"--set training.optimizer.name={saved}",
        )
    for name, parameter in parameters.items():
        _check_state(name, by_name[name], parameter, _state_of(optimizer, parameter))
    for name, parameter in parameters.items():
        # The step counter stays where the fused kernel keeps it: whole, on the parameter's device. All are copies,
        # because what safetensors has read on a CPU is a map of the checkpoint's file, which will be moved or pruned.
        optimizer.state[parameter] = {
            kind: placed_like(tensor, parameter).clone() for kind, tensor in by_name[name].items()
        }


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """By name, without those that are frozen."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _state_of(optimizer: Optimizer, parameter: nn.Parameter) -> set[str]:
    muon = isinstance(optimizer, Muon) and optimizer.orthogonalises(parameter)
    return _MUON_STATE if muon else _ADAMW_STATE


def _check_state(name: str, state: dict[str, Tensor], parameter: nn.Parameter, kinds: set[str]) -> None:
    if unmatched := state.keys() ^ kinds:
        found = "missing" if min(unmatched) in kinds else "unknown"
        raise CheckpointError(f"optimizer state {min(unmatched)}/{name} is {found}")
    for kind, tensor in state.items():
        shape = () if kind == "step" else tuple(parameter.shape)
        if tuple(tensor.shape) != shape:
            raise CheckpointError(f"optimizer state {kind}/{name} is {tuple(tensor.shape)}, not {shape}")
