"""The shape of a GPT-2, under the names of its `config.json`."""

from __future__ import annotations

from typing import Self

from pydantic import Field, PositiveInt, model_validator

from nano_gpt.config.base import Settings


class GPTConfig(Settings):
    """Defaults are GPT-2 124M. Source: Radford et al. 2019, table 2, and its released hyperparameters."""

    vocab_size: PositiveInt | None = None
    """Number of token ids. null: as many as the data set's tokenizer has (GPT-2's has 50257)."""
    n_positions: PositiveInt = 1024
    """Longest context in tokens; also the length of a training window."""
    n_embd: PositiveInt = 768
    """Width of the residual stream."""
    n_layer: PositiveInt = 12
    """Number of blocks."""
    n_head: PositiveInt = 12
    """Attention heads per block; must divide n_embd."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Probability of dropping an activation while training (embeddings, attention weights, residual branches)."""
    layer_norm_epsilon: float = Field(default=1e-5, gt=0.0)
    """Added to the variance in every LayerNorm."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.n_embd % self.n_head:
            heads = [n for n in range(1, self.n_embd + 1) if self.n_embd % n == 0]
            best = min(heads, key=lambda n: abs(n - self.n_head))
            wider = (self.n_embd // self.n_head + 1) * self.n_head
            raise ValueError(
                f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}: "
                f"n_embd {wider}, or n_head {best}, would do"
            )
        return self

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding in memory: GEMMs want multiples of 64. The extra rows stay zero, inside the model."""
        assert self.vocab_size is not None, "vocab_size is taken from the tokenizer before a model is built"
        return -(-self.vocab_size // 64) * 64

    def num_parameters(self, *, embeddings: bool = True) -> int:
        """Parameters as the world counts them: true vocabulary, tied head once. Without embeddings: no wte, no wpe."""
        per_block = 12 * self.n_embd**2 + 13 * self.n_embd
        total = self.n_layer * per_block + 2 * self.n_embd
        if embeddings:
            total += ((self.vocab_size or 0) + self.n_positions) * self.n_embd
        return total

    def flops_per_token(self) -> int:
        """Training FLOPs per token, 6 N + 12 L T C (PaLM, appendix B): N has the head and not the positions."""
        matmul_parameters = self.n_layer * 12 * self.n_embd**2 + (self.vocab_size or 0) * self.n_embd
        return 6 * matmul_parameters + 12 * self.n_layer * self.n_positions * self.n_embd
