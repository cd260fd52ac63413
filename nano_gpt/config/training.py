"""How a model is trained: batch, optimizer, learning rate, precision, and what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from nano_gpt.config.base import Settings
from nano_gpt.config.lora import LoRAConfig

WARMUP_FRACTION = 0.0375  # GPT-3's 375M of 10B tokens; 715 of GPT-2's 19,073 steps


class OptimizerConfig(Settings):
    """AdamW (Loshchilov & Hutter 2019) with GPT-3's betas; Muon (Jordan et al. 2024) for the matrices of the blocks."""

    name: Literal["adamw", "muon"] = "adamw"
    """adamw, or muon: orthogonalised momentum for the matrices of the blocks, AdamW for everything else."""
    learning_rate: float = Field(default=6e-4, gt=0.0)
    """Peak, reached at the end of the warm-up."""
    weight_decay: float = Field(default=0.1, ge=0.0)
    """Decoupled, on matrices and embeddings only; biases and norms are not decayed."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Decay of the first moment."""
    beta2: float = Field(default=0.95, ge=0.0, lt=1.0)
    """Decay of the second moment."""
    eps: float = Field(default=1e-8, gt=0.0)
    """Added to the root of the second moment."""
    gradient_clip: float = Field(default=1.0, ge=0.0)
    """Largest global gradient norm. 0: not clipped."""
    muon_momentum: float = Field(default=0.95, ge=0.0, lt=1.0)
    """Decay of Muon's momentum. Its steps are scaled to the size of AdamW's, so they share one learning rate."""


class ScheduleConfig(Settings):
    """Linear warm-up, then a way down to a floor."""

    name: Literal["cosine", "wsd", "linear", "constant"] = "cosine"
    """Half a cosine; wsd: constant, then linear in the last decay_fraction of the run; linear; constant."""
    warmup_steps: NonNegativeInt | None = None
    """Steps of linear warm-up. null: 3.75% of training.max_steps."""
    min_ratio: float = Field(default=0.1, ge=0.0, le=1.0)
    """The floor, as a fraction of the peak."""
    decay_fraction: float = Field(default=0.2, gt=0.0, le=1.0)
    """wsd: the part of the run, at its end, in which the rate goes down."""


class TrainingConfig(Settings):
    """Defaults are the GPT-2 124M run on 10B tokens."""

    max_steps: PositiveInt = 19073
    """Optimizer steps in the whole run."""
    total_batch_size: PositiveInt = 2**19
    """Tokens per optimizer step, over all ranks and micro-batches."""
    micro_batch_size: PositiveInt | Literal["auto"] | None = None
    """Windows per forward on one rank. null: the largest up to 16 that divides a rank's share; auto: that fits."""
    batch_ramp_start: PositiveInt | None = None
    """Tokens of the first steps; the batch doubles from there to total_batch_size. null: whole from the start."""
    batch_ramp_steps: NonNegativeInt = 0
    """Steps until the batch is whole."""
    seed: NonNegativeInt = 1337
    """Fixes initial weights, order of the data and dropout."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """See OptimizerConfig."""
    lr_schedule: ScheduleConfig = ScheduleConfig()
    """See ScheduleConfig."""
    ema_decay: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Keep a moving average of the weights with this decay per step, evaluated and saved beside them. null: none."""
    device: str = "auto"
    """auto (cuda, else mps, else cpu), cpu, cuda, cuda:1, mps."""
    strategy: Literal["auto", "single", "ddp", "fsdp"] = "auto"
    """How ranks share the work: ddp copies the weights, fsdp splits them. auto: single, or ddp under torchrun."""
    fsdp_ranks: PositiveInt | None = None
    """Neighbouring ranks that split one copy of the weights, with copies beyond (HSDP). null: all ranks, one copy."""
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Precision of the matrix products; weights and optimizer stay fp32. auto: bf16 where the hardware has it."""
    gradient_checkpointing: bool = False
    """Recompute the blocks in the backward pass: memory for a third more time."""
    document_masking: bool = False
    """A token sees its own document only, not the ones before it in the window."""
    pretrained: str | None = None
    """Start weights: gpt2 .. gpt2-xl, a folder, a run, a hub id. null: drawn from the seed."""
    lora: LoRAConfig = LoRAConfig()
    """See LoRAConfig."""
    freeze: tuple[str, ...] = ()
    """Parts that keep their weights: wte, wpe, ln_f, lm_head; attn, mlp, ln_1, ln_2 of all blocks, or attn.0-3."""
    compile: bool | None = None
    """torch.compile the training step. null: on CUDA only."""
    log_steps: PositiveInt = 1
    """Steps between the lines that tell loss and speed."""
    max_skipped_steps: PositiveInt = 10
    """Steps in a row that may be skipped, for a loss or gradient that is no number, before the run stops."""
    spike_threshold: float | None = Field(default=None, gt=0.0)
    """Skip a step whose gradient norm is that many standard deviations above the recent mean. null: never."""
    early_stop: PositiveInt | None = None
    """Evaluations without a better validation loss until the run ends. null: it never ends early."""
    max_time: PositiveFloat | None = None
    """Seconds after which the run saves and stops, counted from this start. null: no limit."""
    rank_timeout: PositiveFloat = 600.0
    """Seconds that a rank is waited for before the run ends."""
    trackers: tuple[Literal["wandb", "tensorboard", "trackio"], ...] = ()
    """Where the metrics go besides metrics.jsonl."""
    checkpoint_steps: PositiveInt = 1000
    """Steps between checkpoints; the last step is always kept."""
    keep_checkpoints: PositiveInt = 3
    """Newest checkpoints that are kept; the best one by validation loss is kept besides."""
    checkpoint_dir: Path | None = None
    """Folder of the checkpoints. null: RUN/checkpoints."""
    log_file: Path | None = None
    """Copy of the log lines, appended to. null: RUN/train.log."""

    @model_validator(mode="after")
    def _warmup_ends(self) -> Self:
        if self.warmup_steps > self.max_steps:
            raise ValueError(
                f"lr_schedule.warmup_steps {self.warmup_steps} is more than max_steps {self.max_steps}: "
                "lower it, or leave it out for 3.75% of the run"
            )
        return self

    @model_validator(mode="after")
    def _adapters_are_all_that_is_trained(self) -> Self:
        if self.lora.rank is None:
            return self
        if self.pretrained is None:
            raise ValueError("lora.rank needs weights to adapt: pretrained names them")
        for name, given in (("freeze", self.freeze), ("ema_decay", self.ema_decay)):
            if given:
                raise ValueError(f"lora.rank trains adapters only, so {name} has nothing to do: leave one out")
        if self.optimizer.name == "muon":
            raise ValueError("lora.rank goes with optimizer.name adamw: muon is for whole matrices")
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        schedule = self.lr_schedule
        stable = round((1 - schedule.decay_fraction) * self.max_steps)
        if schedule.name == "wsd" and self.warmup_steps > stable:
            raise ValueError(
                f"lr_schedule.warmup_steps {self.warmup_steps} reaches into the decay, which begins at step {stable}: "
                "lower it, or lr_schedule.decay_fraction"
            )
        return self

    @model_validator(mode="after")
    def _ramp_doubles(self) -> Self:
        start, total, steps = self.batch_ramp_start, self.total_batch_size, self.batch_ramp_steps
        if (start is None) != (steps == 0):
            raise ValueError("batch_ramp_start and batch_ramp_steps belong together: give both or neither")
        if start is not None and (total % start or (total // start).bit_count() != 1):
            halves = [str(total >> k) for k in (1, 2, 3) if total % (1 << k) == 0]
            raise ValueError(
                f"batch_ramp_start {start} does not become total_batch_size {total} by doubling: {', '.join(halves)} do"
            )
        if steps > self.max_steps:
            raise ValueError(f"batch_ramp_steps {steps} is more than max_steps {self.max_steps}")
        return self

    @property
    def warmup_steps(self) -> int:
        explicit = self.lr_schedule.warmup_steps
        return round(WARMUP_FRACTION * self.max_steps) if explicit is None else explicit
