"""The shape of a GPT-2, under the names of its `config.json`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from nano_gpt.config.base import Settings

ModelType = Literal["gpt2", "starcoder2", "arcee"]
Activation = Literal["gelu", "gelu_exact", "relu2"]

# The architecture of `transformers` that computes the same without custom code: what a checkpoint is written as.
_MODEL_TYPES: dict[tuple[str, str], ModelType] = {
    ("learned", "layernorm"): "gpt2",
    ("rope", "layernorm"): "starcoder2",
    ("rope", "rmsnorm"): "arcee",
}
_ROPE_THETA = 10000.0


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
    """Added to the variance in every norm."""
    positions: Literal["learned", "rope"] = "learned"
    """How a token knows its place: a learned vector for each (GPT-2), or queries and keys that are turned by it (RoPE,
    Su et al. 2021)."""
    rope_theta: float = Field(default=_ROPE_THETA, gt=1.0)
    """Base of RoPE's frequencies: the slowest turns once in about 2 pi rope_theta tokens."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """What a branch reads the residual stream through. rmsnorm (Zhang & Sennrich 2019) needs positions rope."""
    activation: Activation = "gelu"
    """Between the two matrices of an MLP: GELU in its tanh form (GPT-2) or its exact one (nanoGPT), or ReLU squared
    (Primer, So et al. 2021)."""
    bias: bool = True
    """Whether linear layers and LayerNorms add a bias (GPT-2: yes)."""
    tied: bool = True
    """Whether the head is the token embedding (GPT-2: yes), or a matrix of its own."""

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

    @model_validator(mode="after")
    def _has_a_home(self) -> Self:
        """Whatever trains also opens in `transformers`: said before training, not after."""
        if (self.positions, self.norm) not in _MODEL_TYPES:
            raise ValueError(
                f"positions {self.positions} with norm {self.norm} is no architecture of transformers: "
                "norm layernorm (GPT-2), or positions rope (Arcee), would do"
            )
        if self.positions == "rope" and self.head_dim % 2:
            raise ValueError(
                f"positions rope turns pairs of columns, and n_embd {self.n_embd} / n_head {self.n_head} = "
                f"{self.head_dim} is odd: n_embd {self.n_embd + self.n_head} would do"
            )
        if self.positions != "rope" and self.rope_theta != _ROPE_THETA:
            raise ValueError(f"rope_theta is {self.rope_theta:g}, but positions are learned: positions rope reads it")
        return self

    @property
    def model_type(self) -> ModelType:
        """The `model_type` of `transformers` that a model of this configuration is."""
        return _MODEL_TYPES[self.positions, self.norm]

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding in memory: GEMMs want multiples of 64. The extra rows stay zero, inside the model."""
        assert self.vocab_size is not None, "vocab_size is taken from the tokenizer before a model is built"
        return -(-self.vocab_size // 64) * 64

    def num_parameters(self, *, embeddings: bool = True) -> int:
        """Parameters as the world counts them: true vocabulary, tied head once.

        Without embeddings: no row that stands for a token or a position, so no wte, wpe and head.
        """
        norm = (2 if self.norm == "layernorm" and self.bias else 1) * self.n_embd
        per_block = 12 * self.n_embd**2 + (9 * self.n_embd if self.bias else 0) + 2 * norm
        total = self.n_layer * per_block + norm
        if embeddings:
            total += (self.vocab_size or 0) * self.n_embd * (1 if self.tied else 2)
            total += self.n_positions * self.n_embd if self.positions == "learned" else 0
        return total

    def flops_per_token(self) -> int:
        """Training FLOPs per token, 6 N + 12 L T C (PaLM, appendix B): N has the head and not the positions."""
        matmul_parameters = self.n_layer * 12 * self.n_embd**2 + (self.vocab_size or 0) * self.n_embd
        return 6 * matmul_parameters + 12 * self.n_layer * self.n_positions * self.n_embd
