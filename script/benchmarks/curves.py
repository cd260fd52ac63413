"""The same recipe on the same batches, by this project and by nanoGPT's model and optimizer: script/bench curves.

nanoGPT's "laptop" configuration (README, quick start: 4 layers of 128, context 64, batch 12, 2,000 steps, learning rate
1e-3), on TinyShakespeare by character. Both see the same tokens in the same steps and are measured on the whole
validation split by the same code; each draws its own initial weights from the seed and computes as it does by itself on
a CPU: nanoGPT in fp32 without biases, this project in bf16 where the hardware has it, with GPT-2's biases.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from nano_gpt.config import RunConfig, resolve
from nano_gpt.data.loader import evaluation_batches
from nano_gpt.data.manifest import PreparedSet
from nano_gpt.data.preparing.prepare import ensure_prepared
from nano_gpt.runtime import logs
from nano_gpt.training.lr import learning_rate
from nano_gpt.training.plan import make_plan
from nano_gpt.training.setup import train

RECIPE = {"training.optimizer.learning_rate": 1e-3, "training.lr_schedule.warmup_steps": 100}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout of nanoGPT")
    parser.add_argument("--text", type=Path, required=True, help="TinyShakespeare, input.txt")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1337, 1, 2])
    arguments = parser.parse_args()
    logs.set_up()
    theirs = load_module(arguments.nanogpt / "model.py")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            config = settings(arguments.text.absolute(), Path(folder), seed)
            prepared = ensure_prepared(config.data)
            ours = train(config, run_dir=Path(folder, f"run-{seed}")).validation_loss
            assert ours is not None
            rows.append((seed, ours, train_theirs(theirs, config, prepared)))
            print(f"seed {seed}: ours {ours:.4f}, nanoGPT {rows[-1][2]:.4f}", file=sys.stderr)
    print("| seed | nano-gpt | nanoGPT | difference |\n|---|---|---|---|")
    for seed, ours, other in rows:
        print(f"| {seed} | {ours:.4f} | {other:.4f} | {ours - other:+.4f} |")
    means = [statistics.fmean(row[column] for row in rows) for column in (1, 2)]
    print(f"| mean | {means[0]:.4f} | {means[1]:.4f} | {means[0] - means[1]:+.4f} |")


def settings(text: Path, folder: Path, seed: int) -> RunConfig:
    flags: dict[str, Any] = {
        **RECIPE,
        "data.dataset": "shakespeare",
        "data.files": [text],
        "data.dataset_dir": folder / "sets",
        "training.seed": seed,
        "training.log_steps": 500,
        "evaluation.eval_steps": 2000,
        "sampling.num_sequences": 0,
    }
    return resolve(recipe="shakespeare_char", flags=flags)


def load_module(path: Path) -> Any:
    specification = importlib.util.spec_from_file_location("nanogpt_model", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def train_theirs(module: Any, config: RunConfig, prepared: PreparedSet) -> float:
    """The loop of its train.py, on our batches: forward with the mean loss, backward, clip, AdamW."""
    shape, training = config.model, config.training
    torch.manual_seed(training.seed)
    model = module.GPT(
        module.GPTConfig(
            block_size=shape.n_positions, vocab_size=prepared.manifest.vocab_size, n_layer=shape.n_layer,
            n_head=shape.n_head, n_embd=shape.n_embd, dropout=0.0, bias=False,
        )
    )  # fmt: skip
    adamw = training.optimizer
    optimizer = model.configure_optimizers(
        adamw.weight_decay, adamw.learning_rate, (adamw.beta1, adamw.beta2), device_type="cpu"
    )
    loader = make_plan(config, world_size=1).loader(prepared.reader("train"))
    for step in range(training.max_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, training)
        for batch in loader.batches(step):
            _, loss = model(batch.ids, batch.targets.masked_fill(batch.targets == -100, -1))  # -1: what it ignores
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), adamw.gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return validation_loss(model, prepared, shape.n_positions)


@torch.no_grad()
def validation_loss(model: Any, prepared: PreparedSet, window: int) -> float:
    model.eval()
    total, count = 0.0, 0
    for batch in evaluation_batches(prepared.reader("validation"), window, 64):
        real = int((batch.targets != -100).sum())
        _, loss = model(batch.ids, batch.targets.masked_fill(batch.targets == -100, -1))
        total, count = total + float(loss) * real, count + real
    return total / count


if __name__ == "__main__":
    main()
