"""Token ids in, token ids out: read the prompt once (prefill), then add one token to every row per step (decode).

All rows continue one prompt. While the sequence fits into the context, keys and values are cached; once the context
is full it slides: every further token is predicted from the last n_positions tokens, read anew. GPT-2 learns a vector
per position and each token's position changes when the window moves, so a cache cannot follow; a step past the context
is therefore as slow as a prefill. The result is that of nanoGPT's loop, which crops and recomputes on every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from nano_gpt.config.inference import SamplingConfig
from nano_gpt.errors import ConfigError, NanoGPTError
from nano_gpt.inference.sampling import BROKEN, sample, uniforms
from nano_gpt.model.cache import KVCache
from nano_gpt.model.gpt import GPT


@dataclass
class Generated:
    """One row: its new ids, without the prompt and without `<|endoftext|>`, and why it ended."""

    ids: list[int] = field(default_factory=list)
    finish_reason: Literal["stop", "length"] = "length"
    """stop: the model closed the document; length: max_new_tokens were drawn."""


def generate(
    model: GPT,
    prompt: Sequence[int],
    config: SamplingConfig,
    *,
    max_new_tokens: int,
    eot_id: int,
    vocab_size: int | None = None,
) -> list[Generated]:
    """`config.num_sequences` continuations of `prompt`, all rows finished. Arguments as for `stream`."""
    rows = [Generated() for _ in range(config.num_sequences)]
    for step in stream(model, prompt, config, max_new_tokens=max_new_tokens, eot_id=eot_id, vocab_size=vocab_size):
        for row, token in zip(rows, step, strict=True):
            if token == eot_id:
                row.finish_reason = "stop"
            else:
                row.ids.append(token)
    return rows


@torch.inference_mode()
def stream(
    model: GPT,
    prompt: Sequence[int],
    config: SamplingConfig,
    *,
    max_new_tokens: int,
    eot_id: int,
    vocab_size: int | None = None,
) -> Iterator[list[int]]:
    """One list of `config.num_sequences` ids per step, until every row has drawn `eot_id` or `max_new_tokens` are out.

    A row that has ended goes on as `eot_id`. Row i is a function of the model, the prompt, the sampling settings, the
    seed and i. Ids from `vocab_size` on, which the tokenizer may not know, are never drawn. A model in training
    mode is in eval mode until the iterator ends. For bf16 products, call and iterate under `runtime.device.autocast`.

    Raises ConfigError for a prompt that is empty or longer than the context, NanoGPTError when logits are not numbers.
    """
    check_prompt(prompt, model.config.n_positions)
    if config.num_sequences == 0:
        return
    was_training = model.training
    model.eval()
    try:
        yield from _steps(model, prompt, config, max_new_tokens, eot_id, vocab_size)
    finally:
        model.train(was_training)


def check_prompt(prompt: Sequence[int], n_positions: int) -> None:
    """Raises ConfigError unless there is something to read and the context holds it."""
    if not prompt:
        raise ConfigError("a prompt of no tokens", "start from <|endoftext|>")
    if len(prompt) > n_positions:
        raise ConfigError(
            f"the prompt has {len(prompt)} tokens and the model's context is {n_positions}", "shorten the prompt"
        )


def _steps(
    model: GPT,
    prompt: Sequence[int],
    config: SamplingConfig,
    max_new_tokens: int,
    eot_id: int,
    vocab_size: int | None,
) -> Iterator[list[int]]:
    B, device, context = config.num_sequences, model.wte.weight.device, model.config.n_positions
    noise = uniforms(config.seed, B, max_new_tokens, device)
    sequence = torch.empty(B, len(prompt) + max_new_tokens, dtype=torch.long, device=device)
    sequence[:, : len(prompt)] = torch.tensor(prompt, device=device)
    logits, cache = prefill(model, sequence[:1, : len(prompt)], min(sequence.size(1), context))
    logits, cache = logits.expand(B, -1), cache.repeat(B)
    ended = [False] * B
    for step in range(max_new_tokens):
        ids = sample(
            logits[:, :vocab_size],
            noise[step],
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
        )
        tokens = ids.tolist()  # sync: once per token, so that it can be shown, and to see the rows end
        if BROKEN in tokens:
            raise NanoGPTError(
                f"the model's logits are not numbers (context: {len(prompt) + step})",
                "its weights are damaged, or its training diverged; take another checkpoint",
            )
        ended = [before or token == eot_id for before, token in zip(ended, tokens, strict=True)]
        yield [eot_id if end else token for end, token in zip(ended, tokens, strict=True)]
        if all(ended) or step + 1 == max_new_tokens:
            return
        length = len(prompt) + step + 1
        sequence[:, length - 1] = ids
        if length <= context:
            logits = decode(model, ids, cache)
        else:
            logits = next_logits(model, sequence[:, length - context : length])


def prefill(model: GPT, prompt: Tensor, capacity: int) -> tuple[Tensor, KVCache]:
    """(1, T) ids -> (1, V) logits of what follows, and a cache of one row with room for `capacity` tokens."""
    device = prompt.device
    under_autocast = torch.is_autocast_enabled(device.type)  # keys and values then come in its type
    dtype = torch.get_autocast_dtype(device.type) if under_autocast else model.wte.weight.dtype
    cache = KVCache(model.config, 1, capacity, device, dtype)
    return next_logits(model, prompt, cache), cache


def decode(model: GPT, ids: Tensor, cache: KVCache) -> Tensor:
    """(B,) ids that follow what the cache holds -> (B, V) logits of what follows them."""
    return next_logits(model, ids.unsqueeze(1), cache)


def next_logits(model: GPT, ids: Tensor, cache: KVCache | None = None) -> Tensor:
    """(B, T) ids -> (B, V): the head is applied to the last position only, since it costs more than a block."""
    return model.head(model.hidden(ids, cache)[:, -1])
