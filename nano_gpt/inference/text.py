"""Text in, text out: the engine with a tokenizer around it.

    from nano_gpt import generate, load_model
    print(generate(load_model("gpt2"), "Hello, I'm a language model,")[0])

A text that comes back is the whole sequence, prompt first, without `<|endoftext|>`.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from nano_gpt.checkpoint.source import LoadedModel
from nano_gpt.checkpoint.store import run_of
from nano_gpt.config.inference import SamplingConfig
from nano_gpt.config.loading import build, read_yaml
from nano_gpt.errors import ConfigError, DataError
from nano_gpt.inference import engine
from nano_gpt.model.gpt import GPT
from nano_gpt.runtime.logs import logger
from nano_gpt.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class Completion:
    """One sequence."""

    prompt: str
    """As the model read it."""
    text: str
    """The prompt and what follows it. Bytes that are not UTF-8 are U+FFFD."""
    tokens: list[int]
    """Ids of what follows the prompt."""
    finish_reason: Literal["stop", "length"]
    """stop: `<|endoftext|>` was drawn; length: the length asked for was reached."""


def generate(
    loaded: LoadedModel,
    prompt: str | None = None,
    *,
    num_sequences: int = 1,
    max_length: int | None = None,
    max_new_tokens: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = 50,
    top_p: float = 1.0,
    seed: int = 42,
) -> list[str]:
    """`num_sequences` texts, each the prompt and its continuation; text i depends on (seed, i), not on the others.

    `prompt` None is the one that the model's own training run sampled with, or else GPT-2's customary one; an empty
    one starts from nothing. `max_length` counts tokens with the prompt, `max_new_tokens` without; give one, or neither
    for the run's own length or 30 with the prompt. Temperature 0 is greedy. `top_k` None or 0 and `top_p` 1 keep all.

    Raises ConfigError for a setting out of range and for a prompt that leaves no room, DataError for a character that
    the tokenizer does not have.
    """
    if max_length is not None and max_new_tokens is not None:
        raise ConfigError("max_length and max_new_tokens are both given", "give one: the first counts the prompt too")
    own = own_sampling(loaded)
    config = build(
        SamplingConfig,
        {
            "prompt": own.prompt if prompt is None else prompt,
            "num_sequences": num_sequences,
            "max_length": own.max_length if max_length is None else max_length,
            "temperature": temperature,
            "top_k": top_k or None,
            "top_p": top_p,
            "seed": seed,
        },
    )
    return sample_texts(loaded.model, loaded.tokenizer, config, max_new_tokens=max_new_tokens)


def own_sampling(loaded: LoadedModel) -> SamplingConfig:
    """How a model samples when nobody says how: as its training run did, or by the defaults of SamplingConfig."""
    if loaded.folder is not None and loaded.trainer_state is not None:
        run = run_of(loaded.folder)
        if run is not None:
            try:
                values = read_yaml(run / "config.yaml").get("sampling") or {}
                if isinstance(values, dict) and values.get("num_sequences") == 0:  # a run that printed no samples
                    del values["num_sequences"]
                return build(SamplingConfig, values)
            except ConfigError as error:  # a run of another version
                logger.warning(f"{run / 'config.yaml'}: {error.message}: sampling by the defaults")
    default = SamplingConfig()
    try:
        loaded.tokenizer.encode(default.prompt)
    except DataError:
        logger.info("the tokenizer cannot spell the customary prompt: starting from nothing")
        return default.model_copy(update={"prompt": ""})
    return default


def sample_texts(
    model: GPT, tokenizer: Tokenizer, config: SamplingConfig, *, max_new_tokens: int | None = None
) -> list[str]:
    """The texts of `complete`."""
    return [completion.text for completion in complete(model, tokenizer, config, max_new_tokens=max_new_tokens)]


def complete(
    model: GPT,
    tokenizer: Tokenizer,
    config: SamplingConfig,
    *,
    max_new_tokens: int | None = None,
) -> list[Completion]:
    """`config.num_sequences` continuations of `config.prompt`; `max_new_tokens` overrides `config.max_length`.

    The model may be in training mode and is left in it. Raises as `fit` and `engine.stream` do.
    """
    prompt, new = fit(model, tokenizer, config, max_new_tokens)
    rows = engine.generate(
        model,
        prompt or [tokenizer.eot_id],
        config,
        max_new_tokens=new,
        eot_id=tokenizer.eot_id,
        vocab_size=tokenizer.vocab_size,
    )
    return [
        Completion(tokenizer.decode(prompt), tokenizer.decode([*prompt, *row.ids]), row.ids, row.finish_reason)
        for row in rows
    ]


def stream(
    model: GPT, tokenizer: Tokenizer, config: SamplingConfig, *, max_new_tokens: int | None = None
) -> Iterator[str]:
    """The text of sequence 0 in pieces as it comes: joined, they are `complete(...)[0].text`.

    A character whose bytes are spread over tokens comes out with the last of them. A prompt that does not fit is told
    at the call, before the first piece.
    """
    prompt, new = fit(model, tokenizer, config, max_new_tokens)
    steps = engine.stream(
        model,
        prompt or [tokenizer.eot_id],
        config.model_copy(update={"num_sequences": 1}),
        max_new_tokens=new,
        eot_id=tokenizer.eot_id,
        vocab_size=tokenizer.vocab_size,
    )
    return _pieces(tokenizer, prompt, steps)


def _pieces(tokenizer: Tokenizer, prompt: list[int], steps: Iterator[list[int]]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    yield decoder.decode(tokenizer.decode_bytes(prompt))
    for (token,) in steps:
        if token != tokenizer.eot_id:
            yield decoder.decode(tokenizer.decode_bytes([token]))
    yield decoder.decode(b"", final=True)


def fit(
    model: GPT, tokenizer: Tokenizer, config: SamplingConfig, max_new_tokens: int | None = None
) -> tuple[list[int], int]:
    """The prompt's ids and how many may follow them. An empty prompt has none: the engine starts from the EOT id.

    Raises ConfigError for a prompt longer than the context or that leaves no room, DataError for a character that the
    tokenizer does not have.
    """
    ids = tokenizer.encode(config.prompt)
    engine.check_prompt(ids or [tokenizer.eot_id], model.config.n_positions)
    if max_new_tokens is None and config.max_length <= len(ids):
        raise ConfigError(
            f"the prompt has {len(ids)} tokens and max_length is {config.max_length}, prompt included: "
            "nothing is left to generate",
            "raise max_length, or give max_new_tokens, which counts what follows the prompt",
        )
    new = config.max_length - len(ids) if max_new_tokens is None else max_new_tokens
    if new < 1:
        raise ConfigError(f"max_new_tokens is {new}: at least 1 must follow the prompt")
    return ids, new
