"""How a step divides over ranks and micro-batches, and what a run is about to spend."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nano_gpt.config import RunConfig
from nano_gpt.data.loader import TokenLoader, count_windows
from nano_gpt.data.manifest import PreparedSet
from nano_gpt.data.shards import TokenReader
from nano_gpt.errors import ConfigError
from nano_gpt.runtime.logs import logger
from nano_gpt.training.ramp import BatchRamp, batch_ramp

MICRO_BATCH_LIMIT = 16


@dataclass(frozen=True)
class Plan:
    """The batch of one step as micro_batch_size x n_positions x accumulation x world_size tokens."""

    config: RunConfig
    world_size: int
    micro_batch_size: int

    @property
    def accumulation(self) -> int:
        """Micro-batches per rank in a whole step."""
        return self.config.windows_per_step // (self.micro_batch_size * self.world_size)

    @property
    def ramp(self) -> BatchRamp:
        return batch_ramp(self.config)

    def tokens_before(self, step: int) -> int:
        """That a run has trained on when it has made so many steps."""
        return self.ramp.first(step) * self.config.model.n_positions

    def loader(self, reader: TokenReader, rank: int = 0) -> TokenLoader:
        """The batches of one rank: what a run is trained on, and what `replay.py` shows of it."""
        return TokenLoader(
            reader,
            sequence_length=self.config.model.n_positions,
            windows_per_step=self.config.windows_per_step,
            micro_batch_size=self.micro_batch_size,
            rank=rank,
            world_size=self.world_size,
            seed=self.config.training.seed,
            shuffle=self.config.data.shuffle,
            windows_before=self.ramp.first,
        )

    def tell(self, prepared: PreparedSet, device: torch.device, dtype: torch.dtype) -> None:
        """Three log lines: the model, the data, the steps."""
        for line in self.lines(prepared, device, dtype):
            logger.info(line)

    def lines(self, prepared: PreparedSet, device: torch.device, dtype: torch.dtype) -> list[str]:
        model, training = self.config.model, self.config.training
        tokens = self.tokens_before(training.max_steps)
        windows = count_windows(prepared.reader("train"), model.n_positions)
        precision = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype, "fp32")
        threads = f" with {torch.get_num_threads()} threads" if device.type == "cpu" else ""
        first = self.ramp.windows(0) * model.n_positions
        ramp = f" (from {first:,} in step 0)" if first != training.total_batch_size else ""
        return [
            f"model: {model.num_parameters():,} parameters ({model.num_parameters(embeddings=False):,} without "
            f"embeddings), {model.n_layer} layers, {model.n_head} heads, {model.n_embd} wide, context "
            f"{model.n_positions}, {precision} on {device}{threads}",
            f"data: {prepared.folder}, {prepared.tokens('train'):,} tokens, tokenizer {prepared.manifest.tokenizer} "
            f"({prepared.manifest.vocab_size:,} ids)",
            f"steps: {training.max_steps:,} of {training.total_batch_size:,} tokens{ramp} = {self.micro_batch_size} x "
            f"{model.n_positions} x {self.accumulation} accumulated x {self.world_size} ranks; {tokens:,} tokens = "
            f"{self.ramp.first(training.max_steps) / windows:.2f} epochs",
        ]


def make_plan(config: RunConfig, world_size: int) -> Plan:
    """The micro-batch that was asked for, or the largest up to 16 windows that comes out even.

    Raises ConfigError where the batch does not divide, with the nearest values that would.
    """
    asked = config.training.micro_batch_size
    rows = asked if isinstance(asked, int) else None
    fitting = micro_batch_sizes(config, world_size)
    if rows and rows not in fitting:
        near = [str(size) for size in sorted(sorted(fitting, key=lambda size: abs(size - rows))[:2])]
        raise ConfigError(
            f"micro_batch_size {rows} does not divide the {fitting[-1]} windows that each of {_ranks(world_size)} has "
            "in a step",
            f"--micro-batch-size {' or '.join(near)}",
        )
    return Plan(config, world_size, rows or max(size for size in fitting if size <= MICRO_BATCH_LIMIT))


def micro_batch_sizes(config: RunConfig, world_size: int) -> list[int]:
    """Those that divide a rank's share of a step, smallest first. Raises ConfigError where ranks have no equal shares,
    in a whole step or in one of the smaller ones that a batch ramp begins with."""
    windows, asked = config.windows_per_step, config.training.micro_batch_size
    if windows % world_size:
        unit = world_size * (asked if isinstance(asked, int) else 1)
        lower = windows // unit * unit
        near = [str(count * config.model.n_positions) for count in (lower, lower + unit) if count]
        raise ConfigError(
            f"total_batch_size {config.training.total_batch_size} is {windows} windows of {config.model.n_positions} "
            f"tokens, which do not share out evenly over {_ranks(world_size)}",
            f"--total-batch-size {' or '.join(near)}",
        )
    first = batch_ramp(config).windows(0)
    if first % world_size:
        raise ConfigError(
            f"batch_ramp_start {config.training.batch_ramp_start} is {first} windows of {config.model.n_positions} "
            f"tokens, which do not share out evenly over {_ranks(world_size)}",
            "a larger start; each rank needs a window at least",
        )
    share = windows // world_size
    return [rows for rows in range(1, share + 1) if share % rows == 0]


def _ranks(world_size: int) -> str:
    return f"{world_size} rank{'s' if world_size > 1 else ''}"
