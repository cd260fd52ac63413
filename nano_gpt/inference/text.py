"""What Python code asks for text: a loaded model and a prompt in, texts out.

    from nano_gpt import generate, load_model
    print(generate(load_model("gpt2"), "Hello, I'm a language model,")[0])

A text that comes back is the whole sequence, prompt first, without `<|endoftext|>`. For more, see `Writer`.
"""

from __future__ import annotations

from collections.abc import Sequence

from nano_gpt.checkpoint.source import LoadedModel
from nano_gpt.checkpoint.store import run_of
from nano_gpt.config.inference import SamplingConfig
from nano_gpt.config.loading import build, read_yaml
from nano_gpt.errors import ConfigError, DataError
from nano_gpt.inference.writing import Prompt, Writer
from nano_gpt.model.gpt import GPT
from nano_gpt.runtime.logs import logger
from nano_gpt.tokenizer.base import Tokenizer


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
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop: str | Sequence[str] = (),
    seed: int = 42,
) -> list[str]:
    """`num_sequences` texts, each the prompt and its continuation; text i depends on (seed, i), not on the others.

    `prompt` None is the one that the model's own training run sampled with, or else GPT-2's customary one; an empty
    one starts from nothing. `max_length` counts tokens with the prompt, `max_new_tokens` without; give one, or neither
    for the run's own length or 30 with the prompt. Temperature 0 is greedy. `top_k` None or 0, `top_p` 1 and `min_p` 0
    keep all. A text ends before the first of the `stop` strings.

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
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "stop": (stop,) if isinstance(stop, str) else tuple(stop),
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
    """`config.num_sequences` continuations of `config.prompt`; `max_new_tokens` overrides `config.max_length`.

    The model may be in training mode and is left in it. Raises as `Writer.fit` and `Engine.stream` do.
    """
    writer = Writer(model, tokenizer)
    prompt = writer.fit(config.prompt, config, max_new_tokens)
    return [completion.text for completion in writer.complete([prompt], config)]


def fit(model: GPT, tokenizer: Tokenizer, config: SamplingConfig) -> Prompt:
    """The prompt of `config`, as `sample_texts` will read it: a fault in it is told before a run starts."""
    return Writer(model, tokenizer).fit(config.prompt, config)
