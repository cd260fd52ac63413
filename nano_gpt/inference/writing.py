"""Text in, text out: the engine with a tokenizer around it.

    writer = Writer(pack(model), tokenizer)
    prompts = [writer.fit(text, config) for text in ("Once", "Twice upon a time")]
    for completion in writer.complete(prompts, config):
        print(completion.text)

What is streamed, what is written whole and what is written in a batch is the same text, since all comes from `write`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nano_gpt.config.inference import SamplingConfig
from nano_gpt.errors import ConfigError
from nano_gpt.inference.engine import Engine, FinishReason
from nano_gpt.inference.stops import TextBuilder
from nano_gpt.model.gpt import GPT
from nano_gpt.tokenizer.base import Tokenizer


class Prompt(NamedTuple):
    """What a model is to continue."""

    ids: list[int]
    """None at all: start from nothing, that is from `<|endoftext|>`."""
    max_new_tokens: int
    cut: int = 0
    """How many older tokens were cut off."""


@dataclass
class Completion:
    """One sequence. While it is written, it grows."""

    prompt: str
    """As the model read it."""
    continuation: str = ""
    """What follows it, up to a stop string or `<|endoftext|>`. Bytes that are not UTF-8 are U+FFFD."""
    tokens: list[int] = field(default_factory=list)
    """Ids of what follows the prompt, those of a stop string included."""
    logprobs: list[float] | None = None
    """Natural logarithm of the probability that the model gives each of them, without temperature and filters."""
    finish_reason: FinishReason | None = None
    """stop: a stop string or `<|endoftext|>`; length: the length asked for was reached. None: it is being written."""

    @property
    def text(self) -> str:
        return self.prompt + self.continuation


class Writer:
    """A model that reads and writes text."""

    def __init__(self, model: GPT, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.engine = Engine(model, eot_id=tokenizer.eot_id, vocab_size=tokenizer.vocab_size)

    @property
    def context(self) -> int:
        """Tokens that the model sees at once."""
        return self.engine.model.config.n_positions

    def fit(
        self, text: str, config: SamplingConfig, max_new_tokens: int | None = None, *, truncate: bool = False
    ) -> Prompt:
        """The prompt `text` and how much may follow it: `max_new_tokens`, or as much as `config.max_length` leaves.

        `truncate` drops the oldest tokens of a prompt beside which the new ones have no room (see `room`).

        Raises ConfigError for a prompt longer than the context or that leaves no room, DataError for a character that
        the tokenizer does not have.
        """
        ids = self.tokenizer.encode(text)
        if len(ids) > self.context and not truncate:
            raise ConfigError(
                f"the prompt has {len(ids)} tokens and the model's context is {self.context}",
                "shorten it, or read only its end: sample --truncate left",
            )
        if max_new_tokens is None and config.max_length <= len(ids):
            raise ConfigError(
                f"the prompt has {len(ids)} tokens and max_length is {config.max_length}, prompt included: "
                "nothing is left to generate",
                "raise max_length, or give max_new_tokens, which counts what follows the prompt",
            )
        new = config.max_length - len(ids) if max_new_tokens is None else max_new_tokens
        if new < 1:
            raise ConfigError(f"max_new_tokens is {new}: at least 1 must follow the prompt")
        kept = ids[-self.room(new) :] if truncate else ids
        return Prompt(kept, new, len(ids) - len(kept))

    def room(self, new: int) -> int:
        """Tokens of a prompt that leaves the context room for `new` more, but half of the context at least."""
        return max(1, self.context - new, self.context // 2)

    def slides(self, prompts: Iterable[Prompt]) -> bool:
        """Whether a sequence may outgrow the context. A token past it costs as much as reading the whole context."""
        return any(max(1, len(prompt.ids)) + prompt.max_new_tokens > self.context for prompt in prompts)

    def complete(
        self, prompts: Sequence[Prompt], config: SamplingConfig, *, logprobs: bool = False
    ) -> list[Completion]:
        """`config.num_sequences` sequences for each prompt, prompt by prompt, all finished."""
        return list(in_order(self.write(prompts, config, logprobs=logprobs)))

    def write(
        self, prompts: Sequence[Prompt], config: SamplingConfig, *, logprobs: bool = False
    ) -> Iterator[list[Completion]]:
        """All sequences, prompt by prompt, again and again: before the first token, and after every one of them.

        It is one list, whose members grow; what could be the beginning of a stop string is not in them yet. A sequence
        is a function of the model, its prompt, the settings, the seed and its number among those of its prompt.
        """
        rows = [
            Completion(self.tokenizer.decode(prompt.ids), logprobs=[] if logprobs else None)
            for prompt in prompts
            for _ in range(config.num_sequences)
        ]
        builders = [TextBuilder(self.tokenizer, config.stop) for _ in rows]
        steps = self.engine.stream(
            [prompt.ids or [self.tokenizer.eot_id] for prompt in prompts],
            config,
            max_new_tokens=[prompt.max_new_tokens for prompt in prompts],
            logprobs=logprobs,
        )
        yield rows
        for step in steps:
            for number, (row, builder) in enumerate(zip(rows, builders, strict=True)):
                if row.finish_reason is not None:
                    continue
                reason = steps.finish_reasons[number]
                if reason != "stop":  # then the id is that of <|endoftext|>
                    row.tokens.append(step.ids[number])
                    row.continuation += builder.add(step.ids[number])
                    if row.logprobs is not None and step.logprobs is not None:
                        row.logprobs.append(step.logprobs[number])
                if reason is not None:
                    row.continuation += builder.close()
                if builder.stopped:
                    steps.end(number)
                    reason = "stop"
                row.finish_reason = reason
            yield rows


def in_order(writing: Iterable[list[Completion]]) -> Iterator[Completion]:
    """Each sequence of `Writer.write` once, as soon as it and all before it are finished."""
    place = 0
    for rows in writing:
        while place < len(rows) and rows[place].finish_reason is not None:
            yield rows[place]
            place += 1
