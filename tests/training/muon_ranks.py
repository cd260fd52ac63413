"""What test_muon.py runs under torchrun on four ranks: optimizers and average on weights that fsdp has split.

They are given the gradients, so that all must be what it is on one process with whole weights, but for the last bit:
kernels round the rest of a shard that does not fill a vector in another way.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim import Optimizer

from nano_gpt.config import GPTConfig
from nano_gpt.config.training import OptimizerConfig
from nano_gpt.model.gpt import GPT
from nano_gpt.training.dtensor import local, placed_like, whole
from nano_gpt.training.ema import WeightAverage
from nano_gpt.training.optim import build_optimizer, load_optimizer_tensors, optimizer_tensors, step_unless

# 70 ids and 15 channels: over 4 ranks no weight divides evenly.
TINY = GPTConfig(vocab_size=70, n_positions=8, n_embd=15, n_layer=2, n_head=3)
NO, YES = torch.tensor(0.0), torch.tensor(1.0)


def tiny(mesh: DeviceMesh | None) -> GPT:
    torch.manual_seed(0)
    model = GPT(TINY)
    if mesh is not None:
        for block in model.h:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def make_step(model: nn.Module, optimizer: Optimizer, seed: int, skip: Tensor = NO) -> None:
    """With gradients that depend on the seed only, and are no numbers where the step is to be skipped."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = placed_like(gradient * float("nan") if skip else gradient, parameter)
    step_unless(optimizer, skip)


def gathered(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: whole(tensor.detach()).clone() for name, tensor in tensors.items()}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    different = [name for name, tensor in left.items() if not torch.equal(tensor, right[name])]
    assert not different, different


def everything(model: nn.Module, optimizer: Optimizer, average: WeightAverage) -> dict[str, Tensor]:
    averaged = {f"average/{name}": tensor for name, tensor in average.tensors().items()}
    return gathered(dict(model.named_parameters()) | optimizer_tensors(optimizer, model) | averaged)


def check(name: str, mesh: DeviceMesh) -> None:
    config = OptimizerConfig.model_validate({"name": name, "learning_rate": 0.02})
    histories = []
    for layout in (None, mesh):
        model = tiny(layout)
        optimizer, average = build_optimizer(model, config), WeightAverage(model, 0.9)
        history = []
        for seed, skip in enumerate((NO, NO, YES, NO)):
            make_step(model, optimizer, seed, skip)
            average.update(skip)
            history.append(everything(model, optimizer, average))
        histories.append(history)
    for alone, split in zip(*histories, strict=True):
        torch.testing.assert_close(split, alone, rtol=1e-6, atol=1e-7)
    assert_same(histories[1][1], histories[1][2])  # the skipped step

    own = [local(parameter).clone() for parameter in model.parameters()]
    with average.in_place():
        assert_same(gathered(dict(model.named_parameters())), gathered(average.tensors()))
    assert all(torch.equal(local(p), before) for p, before in zip(model.parameters(), own, strict=True))

    resumed = tiny(mesh)
    with torch.no_grad():
        for parameter, before in zip(resumed.parameters(), own, strict=True):
            local(parameter).copy_(before)
    again, mean = build_optimizer(resumed, config), WeightAverage(resumed, 0.9)
    load_optimizer_tensors(again, resumed, gathered(optimizer_tensors(optimizer, model)))
    mean.load(gathered(average.tensors()))
    mean.load_state_dict(average.state_dict())
    for one, its_optimizer, its_average in ((model, optimizer, average), (resumed, again, mean)):
        make_step(one, its_optimizer, 9)
        its_average.update(NO)
    assert_same(everything(model, optimizer, average), everything(resumed, again, mean))


def main() -> None:
    dist.init_process_group("gloo")
    for mesh in (init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2), mesh_dim_names=("copy", "shard"))):
        for name in ("adamw", "muon"):
            check(name, mesh)
    dist.destroy_process_group()
    print("all the same", flush=True)


if __name__ == "__main__":
    main()
