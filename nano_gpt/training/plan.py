"""What a run is about to spend: how a step divides over ranks and micro-batches, told before it begins."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nano_gpt.config import RunConfig
from nano_gpt.data.loader import TokenLoader, count_windows
from nano_gpt.data.manifest import PreparedSet
from nano_gpt.data.shards import TokenReader
from nano_gpt.errors import ConfigError
from nano_gpt.runtime.logs import logger

MICRO_BATCH_LIMIT = 16


@dataclass(frozen=True)
class Plan:
    """The batch of one step as micro_batch_size x n_positions x accumulation x world_size tokens."""

    config: RunConfig
    world_size: int
    micro_batch_size: int

    @property
    def accumulation(self) -> int:
        return self.config.windows_per_step // (self.micro_batch_size * self.world_size)

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
        )

    def tell(self, prepared: PreparedSet, device: torch.device, dtype: torch.dtype) -> None:
        """Three log lines: the model, the data, the steps."""
        model, training = self.config.model, self.config.training
        tokens = training.max_steps * training.total_batch_size
        windows = count_windows(prepared.reader("train"), model.n_positions)
        precision = "bf16" if dtype == torch.bfloat16 else "fp32"
        threads = f" with {torch.get_num_threads()} threads" if device.type == "cpu" else ""
        logger.info(
            f"model: {model.num_parameters():,} parameters ({model.num_parameters(embeddings=False):,} without "
            f"embeddings), {model.n_layer} layers, {model.n_head} heads, {model.n_embd} wide, context "
            f"{model.n_positions}, {precision} on {device}{threads}"
        )
        logger.info(
            f"data: {prepared.folder}, {prepared.tokens('train'):,} tokens, tokenizer {prepared.manifest.tokenizer} "
            f"({prepared.manifest.vocab_size:,} ids)"
        )
        logger.info(
            f"steps: {training.max_steps:,} of {training.total_batch_size:,} tokens = {self.micro_batch_size} x "
            f"{model.n_positions} x {self.accumulation} accumulated x {self.world_size} ranks; {tokens:,} tokens = "
            f"{training.max_steps * self.config.windows_per_step / windows:.2f} epochs"
        )


def make_plan(config: RunConfig, world_size: int) -> Plan:
    """The micro-batch that was asked for, or the largest up to 16 windows that comes out even.

    Raises ConfigError where the batch does not divide, with the nearest values that would.
    """
    windows, asked = config.windows_per_step, config.training.micro_batch_size
    ranks = f"{world_size} rank{'s' if world_size > 1 else ''}"
    if windows % world_size:
        unit = world_size * (asked or 1)
        lower = windows // unit * unit
        near = [str(count * config.model.n_positions) for count in (lower, lower + unit) if count]
        raise ConfigError(
            f"total_batch_size {config.training.total_batch_size} is {windows} windows of {config.model.n_positions} "
            f"tokens, which do not share out evenly over {ranks}",
            f"--total-batch-size {' or '.join(near)}",
        )
    share = windows // world_size
    fitting = [rows for rows in range(1, share + 1) if share % rows == 0]
    if asked and asked not in fitting:
        near = [str(rows) for rows in sorted(sorted(fitting, key=lambda rows: abs(rows - asked))[:2])]
        raise ConfigError(
            f"micro_batch_size {asked} does not divide the {share} windows that each of {ranks} has in a step",
            f"--micro-batch-size {' or '.join(near)}",
        )
    return Plan(config, world_size, asked or max(rows for rows in fitting if rows <= MICRO_BATCH_LIMIT))
