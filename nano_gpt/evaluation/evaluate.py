"""Everything that `nano-gpt eval` measures: what is asked for, what a run's own settings add, and in which order.

for result in evaluate(load_model("gpt2"), Request(hellaswag_file=Path("hellaswag_val.jsonl")), ranks):
    print(summary(result))
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch

from nano_gpt.checkpoint.evaluations import save_evaluation
from nano_gpt.checkpoint.source import LoadedModel
from nano_gpt.checkpoint.store import run_of
from nano_gpt.config import EvaluationConfig, RunConfig, TrainingConfig
from nano_gpt.config.evaluation import LM_EVAL
from nano_gpt.config.loading import build, read_yaml
from nano_gpt.data.loader import Batch
from nano_gpt.errors import ConfigError, NanoGPTError
from nano_gpt.evaluation.choices import Progress
from nano_gpt.evaluation.corpora import Corpus, data_config, prepared_corpus, text_corpus
from nano_gpt.evaluation.harness import Harness
from nano_gpt.evaluation.hellaswag import HellaSwagTest
from nano_gpt.evaluation.hellaswag_items import load_items
from nano_gpt.evaluation.results import Result
from nano_gpt.evaluation.scoring import packed_for_scoring
from nano_gpt.evaluation.sliding import count_windows, sliding_batches
from nano_gpt.evaluation.validation import ValidationResult, validation_loss
from nano_gpt.inference.writing import Writer
from nano_gpt.model.gpt import GPT
from nano_gpt.model.packed import Quantization, pack
from nano_gpt.runtime.distributed import Ranks
from nano_gpt.runtime.logs import logger
from nano_gpt.runtime.progress import ProgressDisplay


@dataclass(frozen=True)
class Request:
    """What a user asks for; None is "not said"."""

    tasks: tuple[str, ...] | None = None
    """As `config.evaluation.parse_tasks` gives them. None: `val` and `hellaswag`, as far as they can be had."""
    limit: int | None = None
    """Items of every task, from the first; of `val`, windows."""
    dataset: str | None = None
    """None: the data set of the run that the model is a checkpoint of; no validation loss for any other model."""
    config_name: str | None = None
    """Which configuration of a hub dataset."""
    dataset_dir: Path | None = None
    text: Path | None = None
    """A text file, instead of a data set."""
    stride: int | None = None
    """Tokens from one window of `val` to the next. None: the model's context."""
    validation_steps: int | None = None
    """As in EvaluationConfig. None: as the run that the model is a checkpoint of, or its default; all of a `text`."""
    hellaswag_samples: int | None = None
    """Items, from the first; 0: none. None: `limit`, or all, and done without where they cannot be had."""
    hellaswag_file: Path | None = None
    lm_eval_folder: Path | None = None
    """YAML files of further tasks for lm-eval."""
    batch_size: int = EvaluationConfig().batch_size
    """Rows of text in one forward, on every rank."""
    dtype: torch.dtype = torch.float32
    """Of the matrix products."""
    quantize: Quantization | None = None
    save: bool = True
    """Keep the scores beside the model."""

    def wants(self, task: str) -> bool:
        return self.tasks is None or task in self.tasks

    def insists_on(self, task: str) -> bool:
        """Whether it is an error if it cannot be had."""
        if task == "hellaswag" and (self.hellaswag_samples is not None or self.hellaswag_file is not None):
            return True
        return self.tasks is not None and task in self.tasks


def evaluate(loaded: LoadedModel, request: Request, ranks: Ranks) -> Iterator[Result]:
    """Yield each result when it is there, and keep it beside the model. Every rank must call, and gets the same.

    What can be found wrong is found before the first measurement: ConfigError when there is nothing to measure,
    DataError for a set of another tokenizer or a bad file, NetworkError when HellaSwag must be had from the hub.
    """
    run = _run_of(loaded)
    corpus = _corpus(loaded, request, run)
    harness = _harness(request, ranks)
    test = _hellaswag(loaded, request, run, ranks, required=corpus is None and harness is None)
    if corpus is None and test is None and harness is None:
        raise ConfigError("nothing to measure: validation loss and HellaSwag are both left out", "nano-gpt eval --help")
    model, dtype = loaded.model, request.dtype
    if request.quantize is not None:
        model = pack(model, quantize=request.quantize)
    elif model.wte.weight.device.type == "cpu":  # then the type is that of the packed weights
        model, dtype = packed_for_scoring(model, dtype), torch.float32

    def measured() -> Iterator[Result]:
        if corpus is not None:
            yield _validate(model, dtype, request, run, corpus, ranks)
        if test is not None:
            with _progress("hellaswag") as progress:
                result = test.evaluate(model, batch_size=request.batch_size, dtype=dtype, progress=progress)
            yield result
        if harness is not None:
            writer = Writer(pack(loaded.model, request.dtype, quantize=request.quantize), loaded.tokenizer)
            with _progress("lm-eval") as progress:
                yield from harness.run(
                    model, writer, limit=request.limit, batch_size=request.batch_size, dtype=dtype, progress=progress
                )

    for result in measured():
        if request.save and request.quantize is None and ranks.is_main:
            _save(loaded, request, result)
        yield result


def _save(loaded: LoadedModel, request: Request, result: Result) -> None:
    task = result.kind
    if isinstance(result, ValidationResult):
        task += f" {result.text}" + (f" stride {request.stride}" if request.stride else "")
    entry = {name: value if _is_finite(value) else None for name, value in result.fields().items()}
    about = {
        "model": loaded.origin,
        "precision": {torch.float32: "fp32", torch.bfloat16: "bf16"}.get(request.dtype, str(request.dtype)),
        "date": date.today().isoformat(),
    }
    save_evaluation(loaded, task, {**entry, **about})


def _is_finite(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


@contextmanager
def _progress(label: str) -> Iterator[Progress]:
    with ProgressDisplay(label) as display:
        yield lambda done, total: display.tell(f"{done:,} of {total:,} rows", done, total)


def _run_of(loaded: LoadedModel) -> RunConfig | None:
    """The settings of the run whose checkpoint this is."""
    if loaded.folder is None or loaded.trainer_state is None:
        return None
    run = run_of(loaded.folder)
    return build(RunConfig, read_yaml(run / "config.yaml")) if run is not None else None


def _corpus(loaded: LoadedModel, request: Request, run: RunConfig | None) -> Corpus | None:
    """The text to take the loss on, prepared if need be; None where none is wanted."""
    if not request.wants("val") or request.validation_steps == 0:
        return None
    context = loaded.model.config.n_positions
    if request.stride is not None and request.stride > context:
        raise ConfigError(
            f"a stride of {request.stride} tokens would leave some out: the model's context is {context}",
            f"--stride {context} or less",
        )
    if request.text is not None:
        if request.dataset is not None:
            raise ConfigError("--text and --dataset both name a text", "give one of them")
        windows = _max_windows(request, run, context)
        tokens = windows and context + (windows - 1) * (request.stride or context)
        return text_corpus(request.text, loaded.tokenizer, tokens)
    if request.dataset is None and run is None:
        if request.validation_steps is not None or request.insists_on("val"):
            asked = "--validation-steps" if request.validation_steps is not None else "val"
            raise ConfigError(
                f"{asked} without a data set: this model is no checkpoint of a run", "--dataset NAME, or --text FILE"
            )
        logger.info("val: skipped, since no --dataset is named and the model is no checkpoint of a run")
        return None
    config = data_config(loaded, run, request.dataset, request.config_name, request.dataset_dir)
    return prepared_corpus(loaded, config, request.dataset)


def _hellaswag(
    loaded: LoadedModel, request: Request, run: RunConfig | None, ranks: Ranks, *, required: bool
) -> HellaSwagTest | None:
    """The test, ready to run; None where it is not wanted, or not insisted on and cannot be had."""
    if not request.wants("hellaswag") or request.hellaswag_samples == 0:
        return None
    file = request.hellaswag_file or (run.evaluation.hellaswag_file if run else None)
    samples = request.limit if request.hellaswag_samples is None else request.hellaswag_samples
    try:
        items = load_items(file, samples)
        return HellaSwagTest(items, loaded.tokenizer, rank=ranks.rank, world_size=ranks.world_size)
    except NanoGPTError as error:
        if required or request.insists_on("hellaswag"):
            raise
        logger.info(f"hellaswag: skipped: {error.message}; {error.hint}")
        return None


def _harness(request: Request, ranks: Ranks) -> Harness | None:
    names = [task.removeprefix(LM_EVAL) for task in request.tasks or () if task.startswith(LM_EVAL)]
    if names and ranks.world_size > 1:
        raise ConfigError("tasks of lm-eval run in one process", "leave out torchrun")
    return Harness(names, request.lm_eval_folder) if names else None


def _validate(
    model: GPT, dtype: torch.dtype, request: Request, run: RunConfig | None, corpus: Corpus, ranks: Ranks
) -> ValidationResult:
    context = model.config.n_positions
    stride = request.stride or context
    windows = count_windows(corpus.tokens, context, stride)
    asked = _max_windows(request, run, context)
    windows = windows if asked is None else min(windows, asked)
    batches = sliding_batches(
        corpus.read,
        windows,
        context,
        stride,
        batch_size=request.batch_size,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    with _progress("val") as progress:

        def counted() -> Iterator[Batch]:
            done, share = 0, windows // ranks.world_size
            for batch in batches:
                yield batch
                done += len(batch.ids)
                progress(done, max(done, share))

        return validation_loss(model, counted(), bytes_per_token=corpus.bytes_per_token, dtype=dtype, text=corpus.name)


def _max_windows(request: Request, run: RunConfig | None, context: int) -> int | None:
    """`limit`, or those of `validation_steps` batches; without a run, a batch is that of the GPT-2 recipe."""
    if request.limit is not None:
        return request.limit
    steps = request.validation_steps
    if steps is None:
        if request.text is not None:
            return None
        of_run = run.evaluation.validation_steps if run else 0
        if of_run is None:
            return None
        steps = of_run or EvaluationConfig().validation_steps
        assert steps is not None
    tokens = run.training.total_batch_size if run else TrainingConfig().total_batch_size
    return max(1, steps * tokens // context)
