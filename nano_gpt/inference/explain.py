"""What a model expects after a text: the next-token distribution, before and after the settings of sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from nano_gpt.config.inference import SamplingConfig
from nano_gpt.errors import NanoGPTError
from nano_gpt.inference.sampling import apply_repetition_penalty, candidates
from nano_gpt.inference.writing import Prompt, Writer
from nano_gpt.tokenizer.base import END_OF_TEXT, Tokenizer


@dataclass(frozen=True)
class Candidate:
    """A token that could come next."""

    rank: int
    """1: the likeliest under the model."""
    id: int
    token: str
    """As Python spells it: ' the', '\\n', b'\\xe6' for bytes that are no character alone."""
    probability: float
    """Under the model itself."""
    cumulative: float
    """Of this one and those before it together."""
    drawn: float
    """With temperature, penalty and filters: how often it is drawn."""


@dataclass(frozen=True)
class Explanation:
    """What follows one prompt."""

    prompt: list[str]
    """Its tokens, as Python spells them."""
    entropy: float
    """Of the model's distribution, in bits."""
    possible: int
    """Tokens that can be drawn."""
    vocab_size: int
    candidates: list[Candidate]
    """The likeliest, in order."""


def explain(writer: Writer, prompt: Prompt, config: SamplingConfig, count: int = 20) -> Explanation:
    """The distribution of the first token after `prompt`, with its `count` likeliest ones.

    Raises NanoGPTError when logits are not numbers.
    """
    tokenizer = writer.tokenizer
    ids = prompt.ids or [tokenizer.eot_id]
    logits = writer.engine.next_logits(ids)  # (V,)
    if not logits.isfinite().all():
        raise NanoGPTError("the model's logits are not numbers", "its weights are damaged; take another checkpoint")
    probabilities = logits.softmax(dim=-1)
    drawn = _drawn(logits, ids, config)
    likeliest = probabilities.topk(min(count, len(logits)))
    cumulative = likeliest.values.cumsum(dim=-1)
    return Explanation(
        prompt=[spelt(tokenizer, id_) for id_ in ids],
        entropy=torch.special.entr(probabilities).sum().item() / math.log(2),
        possible=int((drawn > 0).sum()),
        vocab_size=len(logits),
        candidates=[
            Candidate(rank, id_, spelt(tokenizer, id_), probability, so_far, drawn[id_].item())
            for rank, (id_, probability, so_far) in enumerate(
                zip(likeliest.indices.tolist(), likeliest.values.tolist(), cumulative.tolist(), strict=True), start=1
            )
        ],
    )


def _drawn(logits: torch.Tensor, ids: list[int], config: SamplingConfig) -> torch.Tensor:
    """(V,) probabilities with which tokens are drawn after `ids`."""
    seen = torch.zeros_like(logits, dtype=torch.bool)
    seen[ids] = True
    logits = apply_repetition_penalty(logits, seen, config.repetition_penalty)
    drawn = torch.zeros_like(logits)
    if config.temperature == 0:
        drawn[logits.argmax()] = 1.0
        return drawn
    allowed = candidates(logits.unsqueeze(0), config)
    places = torch.arange(len(logits), device=logits.device) if allowed.ids is None else allowed.ids[0]
    drawn[places] = allowed.logits[0].softmax(dim=-1)
    return drawn


def spelt(tokenizer: Tokenizer, id_: int) -> str:
    if id_ == tokenizer.eot_id:
        return END_OF_TEXT
    spelling = tokenizer.decode_bytes([id_])
    try:
        return repr(spelling.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(spelling)
