"""GPT-2, whole, from the embedding to the logits (Radford et al. 2019), and what GPTConfig can change about it.

Read from top to bottom: attention, MLP, block, model. Names are those of OpenAI's release and of `transformers`;
B is the batch, T the number of tokens, C = n_embd, nh = n_head, hs = C / nh, V = vocab_size.

    model = GPT(GPTConfig(vocab_size=50257))
    logits = model(ids)                  # (B, T) -> (B, T, V)
    loss = model(ids, targets) / count   # summed over the targets, so that micro-batches add up to the big batch
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano_gpt.config.model import GPTConfig
from nano_gpt.model.activation import ACTIVATIONS
from nano_gpt.model.attention import causal_attention, document_mask, tree_mask
from nano_gpt.model.cache import KVCache
from nano_gpt.model.loss import summed_cross_entropy
from nano_gpt.model.rope import rotary_table, rotated


def make_norm(config: GPTConfig) -> nn.Module:
    """LayerNorm (Ba et al. 2016), or RMSNorm (Zhang & Sennrich 2019), which has no mean and no bias."""
    if config.norm == "rmsnorm":
        return nn.RMSNorm(config.n_embd, eps=config.layer_norm_epsilon)
    return nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon, bias=config.bias)


class CausalSelfAttention(nn.Module):
    """Every token looks at itself and at what came before it."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_attn = nn.Linear(
            config.n_embd, 3 * config.n_embd, bias=config.bias
        )  # query, key and value in one product
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)
        self.n_head = config.n_head
        self.dropout = config.dropout

    def forward(
        self, x: Tensor, cache: KVCache | None, layer: int, mask: Tensor | None, rotary: Tensor | None
    ) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.c_attn(x).split(C, dim=2)
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, T, C) -> (B, nh, T, hs)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        if rotary is not None:  # before the cache, which so keeps keys that know their places
            q, k = rotated(q, rotary), rotated(k, rotary)
        if cache is None:
            y = causal_attention(q, k, v, self.dropout if self.training else 0.0, mask)
        else:
            y = cache.attend(layer, q, k, v, mask)  # those of the tokens before, too
        y = y.transpose(1, 2).reshape(B, T, C)  # (B, nh, T, hs) -> (B, T, C)
        return self.resid_dropout(self.c_proj(y))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Four times wider and back."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.activation = ACTIVATIONS[config.activation]
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.resid_dropout(self.c_proj(self.activation(self.c_fc(x))))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-LN: both branches read a normalised copy and add to the residual stream."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = make_norm(config)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = make_norm(config)
        self.mlp = MLP(config)

    def forward(
        self,
        x: Tensor,
        cache: KVCache | None,
        layer: int,
        mask: Tensor | None = None,
        rotary: Tensor | None = None,
    ) -> Tensor:
        x = x + self.attn(self.ln_1(x), cache, layer, mask, rotary)
        return x + self.mlp(self.ln_2(x))  # type: ignore[no-any-return]


class GPT(nn.Module):
    """Token and position embeddings, the blocks, a last norm, and the token embedding again as the head."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.padded_vocab_size, config.n_embd)
        if config.positions == "learned":
            self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = make_norm(config)
        if not config.tied:
            self.lm_head = nn.Linear(config.n_embd, config.padded_vocab_size, bias=False)
        self.initialize()

    @torch.no_grad()
    def initialize(self) -> None:
        """Redraw every weight from torch's global generator.

        Standard deviations: section 2.3 of the paper (residual projections shrink with depth) and the released
        `src/model.py` (0.02, positions 0.01).
        """
        std = {
            "wte": 0.02,
            "wpe": 0.01,
            "c_attn": 0.02,
            "c_fc": 0.02,
            "lm_head": 0.02,
            "c_proj": 0.02 / math.sqrt(2 * self.config.n_layer),
        }
        for name, parameter in self.named_parameters():
            module, kind = name.split(".")[-2:]
            if kind == "bias":
                nn.init.zeros_(parameter)
            elif module.startswith("ln_"):
                nn.init.ones_(parameter)
            else:
                nn.init.normal_(parameter, std=std[module])
        for table in (self.wte.weight, self.head_weight):
            table[self.config.vocab_size :] = 0.0  # padding rows: no target ever selects them, so they stay zero

    def hidden(
        self,
        ids: Tensor,
        cache: KVCache | None = None,
        *,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """(B, T) token ids -> (B, T, C), what the head reads. With a cache, `ids` follow what is already in it.

        (B, T) `positions` may be other than 0, 1, ..., and a `mask` tells what each token may see (model/attention.py).
        """
        if cache is not None:
            assert positions is None and mask is None, "a cache knows the places of its tokens"
            positions, mask = cache.extend(ids.size(1))
        elif positions is None:
            assert ids.size(1) <= self.config.n_positions, f"{ids.size(1)} tokens in {self.config.n_positions} places"
            positions = torch.arange(ids.size(1), device=ids.device)
        x, rotary = self.wte(ids), None  # (B, T, C)
        if self.config.positions == "learned":
            x = x + self.wpe(positions)
        else:
            rotary = rotary_table(positions, self.config.head_dim, self.config.rope_theta)
        x = self.drop(x)
        for layer, block in enumerate(self.h):
            x = block(x, cache, layer, mask, rotary)
        return self.ln_f(x)  # type: ignore[no-any-return]

    def read(
        self,
        ids: Tensor,
        positions: Tensor,
        *,
        wanted: Tensor,
        ends: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """(B, T) ids and their places -> (P, C) at the `wanted` places of the flattened batch.

        A row may hold several continuations of one text: with (B, T) `ends` a token sees itself and what it continues
        (attention.tree_mask). With (B,) `lengths` what is behind so many tokens of a row just fills it up.
        """
        hidden = self.hidden(ids, positions=positions, mask=None if ends is None else tree_mask(ends))  # (B, T, C)
        return hidden.flatten(0, 1)[wanted]

    @property
    def head_weight(self) -> Tensor:
        """(V and padding, C): the token embedding, unless the head is untied."""
        return self.wte.weight if self.config.tied else self.lm_head.weight

    def head(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., V): the logits, without those of the padding rows."""
        logits = F.linear(x, self.wte.weight) if self.config.tied else self.lm_head(x)
        return logits[..., : self.config.vocab_size]

    def forward(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        cache: KVCache | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """(B, T) ids -> (B, T, V) logits; with (B, T) targets, the cross-entropy in nats, summed over them in fp32.

        Targets of IGNORED_TARGET (model/loss.py) are left out. With (B, T) `documents`, a token sees only those whose
        number is its own.
        """
        x = self.hidden(ids, cache, mask=None if documents is None else document_mask(documents))
        if targets is None:
            return self.head(x)
        return self.summed_loss(x.flatten(0, 1), targets.flatten())

    def summed_loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """(R, C), what the head reads, and (R,) targets -> the cross-entropy, summed."""
        assert self.config.vocab_size is not None
        logits = F.linear(x, self.head_weight)  # (R, C) -> (R, V and padding)
        return summed_cross_entropy(logits, targets, self.config.vocab_size)
