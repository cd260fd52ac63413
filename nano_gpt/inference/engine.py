"""Token ids in, token ids out: read the prompts once (prefill), then add one token to every row per step (decode).

    engine = Engine(pack(model), eot_id=50256)
    for step in engine.stream([[15496, 11]], SamplingConfig(num_sequences=2), max_new_tokens=20):
        print(step.ids)

A row's tokens are a function of the model, its prompt, the settings, the seed and the row's number among those of its
prompt. Nothing of a row is computed together with another: prompts are read beside others of their own length only,
and what a step does to a row does not depend on how many there are (see `KVCache`; on a CPU with a packed model this
holds to the last bit).

While a sequence fits into the context, its keys and values are cached; once the context is full it slides: every
further token is predicted from the last n_positions tokens, read anew. GPT-2 learns a vector per position and each
token's position changes when the window moves, so a cache cannot follow; a step past the context is therefore as slow
as a prefill. The result is that of nanoGPT's loop, which crops and recomputes on every step.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from nano_gpt.config.inference import SamplingConfig
from nano_gpt.errors import ConfigError, NanoGPTError
from nano_gpt.inference.batch import Batch, Ids
from nano_gpt.inference.sampling import BROKEN, apply_repetition_penalty, sample, uniforms
from nano_gpt.model.gpt import GPT

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Step:
    """What one step adds: an id for every row, that of `<|endoftext|>` from a row's end on."""

    ids: list[int]
    logprobs: list[float] | None
    """Natural logarithm of each id's probability under the model itself, before temperature and filters; if asked."""


@dataclass
class Generated:
    """One row: its new ids, without the prompt and without `<|endoftext|>`, and why it ended."""

    ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason = "length"
    """stop: the model closed the document; length: as many tokens as asked for were drawn."""
    logprobs: list[float] | None = None
    """Of `ids`, as in Step."""


class Engine:
    """A model that writes. It is held in eval mode while it does."""

    def __init__(self, model: GPT, *, eot_id: int, vocab_size: int | None = None) -> None:
        """Ids from `vocab_size` on, which the tokenizer may not know, are never drawn."""
        self.model = model
        self.eot_id = eot_id
        self.vocab_size = vocab_size

    def generate(
        self,
        prompts: Sequence[Ids],
        config: SamplingConfig,
        *,
        max_new_tokens: int | Sequence[int],
        logprobs: bool = False,
    ) -> list[Generated]:
        """`config.num_sequences` continuations of each prompt, prompt by prompt, all finished. As `stream`."""
        steps = self.stream(prompts, config, max_new_tokens=max_new_tokens, logprobs=logprobs)
        rows = [Generated(logprobs=[] if logprobs else None) for _ in steps.finish_reasons]
        going = list(range(len(rows)))
        for step in steps:
            for row in going:
                if steps.finish_reasons[row] != "stop":
                    rows[row].ids.append(step.ids[row])
                    if step.logprobs is not None:
                        rows[row].logprobs.append(step.logprobs[row])  # type: ignore[union-attr]
            going = [row for row in going if steps.finish_reasons[row] is None]
        for generated, reason in zip(rows, steps.finish_reasons, strict=True):
            generated.finish_reason = reason or "length"
        return rows

    def stream(
        self,
        prompts: Sequence[Ids],
        config: SamplingConfig,
        *,
        max_new_tokens: int | Sequence[int],
        logprobs: bool = False,
    ) -> Decoding:
        """Steps until every row has drawn `eot_id` or its `max_new_tokens`, which may differ from prompt to prompt.

        Raises ConfigError for a prompt that is empty or longer than the context; iterating raises NanoGPTError when
        logits are not numbers. `config.prompt`, `max_length` and `stop` are not for the engine.
        """
        for prompt in prompts:
            check_prompt(prompt, self.model.config.n_positions)
        limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
        assert len(limits) == len(prompts) and min(limits, default=1) >= 1
        return Decoding(self, prompts, config, limits, logprobs)

    @torch.inference_mode()
    def next_logits(self, ids: Ids) -> Tensor:
        """(V,) logits, in fp32, of what follows `ids`: without temperature, penalty or filter."""
        check_prompt(ids, self.model.config.n_positions)
        with _held_in_eval(self.model):
            hidden = self.model.hidden(torch.tensor([list(ids)], device=self.model.wte.weight.device))
            return self.model.head(hidden[:, -1])[0, : self.vocab_size].float()


class Decoding(Iterator[Step]):
    """The steps of `Engine.stream`. Rows are in the order of the prompts, `num_sequences` of each."""

    def __init__(
        self, engine: Engine, prompts: Sequence[Ids], config: SamplingConfig, limits: list[int], logprobs: bool
    ) -> None:
        rows = len(prompts) * config.num_sequences
        self.finish_reasons: list[FinishReason | None] = [None] * rows
        """Of each row; None while it is written."""
        self._engine = engine
        self._config = config
        self._limits = [limit for limit in limits for _ in range(config.num_sequences)]
        self._logprobs = logprobs
        self._steps = self._run(prompts)

    def __next__(self) -> Step:
        return next(self._steps)

    def close(self) -> None:
        """Leave the rest: the model comes back to the mode that it was in."""
        self._steps.close()

    def end(self, row: int) -> None:
        """No more tokens are needed of this row."""
        self.finish_reasons[row] = self.finish_reasons[row] or "stop"

    @torch.inference_mode()
    def _run(self, prompts: Sequence[Ids]) -> Generator[Step, None, None]:
        model, config = self._engine.model, self._config
        if not self.finish_reasons:
            return
        longest = max(self._limits)
        noise = uniforms(config.seed, config.num_sequences, longest, model.wte.weight.device).repeat(1, len(prompts))
        with _held_in_eval(model):
            batch = Batch(model, prompts, copies=config.num_sequences, room=longest)
            rows = list(range(len(self.finish_reasons)))  # of the columns of noise, the row numbers: some end early
            logits = batch.read_prompts()
            for step in range(longest):
                drawn = self._draw(logits, noise[step], batch)
                yield self._record(step, rows, drawn)
                going = [place for place, row in enumerate(rows) if self.finish_reasons[row] is None]
                if not going:
                    return
                if len(going) <= len(rows) // 2:  # rows that have ended cost as much as others: leave them behind
                    rows = [rows[place] for place in going]
                    kept = torch.tensor(going, device=noise.device)
                    batch.keep(kept)
                    drawn, noise = drawn[:, kept], noise[:, kept]
                logits = batch.add(drawn[0].long())

    def _draw(self, logits: Tensor, uniform: Tensor, batch: Batch) -> Tensor:
        """(1, B) ids or, where they are asked for, (2, B) ids and log-probabilities: fp32, to be read at once."""
        logits = logits[:, : self._engine.vocab_size].float()
        penalty = self._config.repetition_penalty
        shaped = logits if penalty == 1 else apply_repetition_penalty(logits, batch.seen(logits.size(1)), penalty)
        ids = sample(shaped, uniform, self._config)
        if not self._logprobs:
            return ids.unsqueeze(0)
        logprobs = logits.log_softmax(dim=-1).gather(1, ids.clamp(min=0).unsqueeze(1)).squeeze(1)
        return torch.stack((ids.float(), logprobs))  # exact: there are less than 2^24 ids

    def _record(self, step: int, rows: list[int], drawn: Tensor) -> Step:
        read = drawn.tolist()  # sync: once per token, so that it can be shown, and to see rows end
        eot_id = self._engine.eot_id
        ids = [eot_id] * len(self.finish_reasons)
        logprobs = [0.0] * len(ids) if self._logprobs else None
        for place, row in enumerate(rows):
            if self.finish_reasons[row] is not None:
                continue
            token = int(read[0][place])
            if token == BROKEN:
                raise NanoGPTError(
                    f"the model's logits are not numbers (after {step} new tokens)",
                    "its weights are damaged, or its training diverged; take another checkpoint",
                )
            ids[row] = token
            if logprobs is not None:
                logprobs[row] = read[1][place]
            if token == eot_id:
                self.finish_reasons[row] = "stop"
            elif step + 1 == self._limits[row]:
                self.finish_reasons[row] = "length"
        return Step(ids, logprobs)


def check_prompt(prompt: Ids, n_positions: int) -> None:
    """Raises ConfigError unless there is something to read and the context holds it."""
    if not prompt:
        raise ConfigError("a prompt of no tokens", "start from <|endoftext|>")
    if len(prompt) > n_positions:
        raise ConfigError(
            f"the prompt has {len(prompt)} tokens and the model's context is {n_positions}",
            "shorten it, or read only its end",
        )


@contextmanager
def _held_in_eval(model: GPT) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
