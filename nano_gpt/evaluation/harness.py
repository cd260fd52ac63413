"""Any task of lm-eval (EleutherAI's lm-evaluation-harness, an optional package) on our engine.

    for result in Harness(["piqa"]).run(model, Writer(pack(model), tokenizer)):
        print(summary(result))

lm-eval brings the items, the prompts and the metrics; what the model makes of them is ours, fast and in one process.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nano_gpt.config.inference import SamplingConfig
from nano_gpt.config.loading import build
from nano_gpt.data.sources.hub_client import newest_commit, quiet
from nano_gpt.errors import ConfigError, NanoGPTError, NetworkError
from nano_gpt.evaluation.choices import Progress, encode_choices, score_rows
from nano_gpt.evaluation.hellaswag_items import HUB_ID, hub_offline
from nano_gpt.evaluation.results import Items
from nano_gpt.evaluation.sharing import Row
from nano_gpt.inference.writing import Prompt, Writer
from nano_gpt.model.gpt import GPT
from nano_gpt.registry import unknown_name

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.tasks import TaskManager

_NEW_TOKENS = 256  # of an answer, where the task does not say: lm-eval's own default
_FEWSHOT_SEED = 1234  # lm-eval's own default
_ROWS = 32  # answers written side by side


@dataclass(frozen=True, eq=False)
class HarnessResult:
    """A task's metrics, as lm-eval computes them."""

    kind: str
    """`lm-eval:piqa`"""
    metrics: dict[str, float]
    errors: dict[str, float]
    """Standard errors, of those metrics that have one."""
    total: int
    """Items."""
    by_item: dict[str, list[float]]
    """Of those metrics that are means over items."""

    def fields(self) -> dict[str, Any]:
        scores: dict[str, Any] = {}
        for name, value in self.metrics.items():
            scores[name] = value
            scores[f"{name}_stderr"] = self.errors.get(name)
        return {**scores, "total": self.total}

    def items(self) -> dict[str, Items]:
        return {name: np.stack([values, np.ones(len(values))], axis=1) for name, values in self.by_item.items()}


class Harness:
    """Some tasks, with their data on this machine."""

    def __init__(self, names: Sequence[str], folder: Path | None = None) -> None:
        """Tasks or groups of lm-eval, or of the YAML files in `folder`.

        Raises ConfigError where lm-eval is missing or does not know a name, NetworkError where the data of a task is
        not here and cannot be fetched.
        """
        quiet()
        try:
            from lm_eval.tasks import TaskManager
        except ImportError:
            raise ConfigError("tasks of lm-eval need the lm-eval package", "pip install 'nano-gpt[lm-eval]'") from None
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        if folder is not None and not folder.is_dir():
            raise ConfigError(f"there is no folder {folder}")
        manager = TaskManager(include_path=None if folder is None else str(folder))
        for name in names:
            if name not in manager.all_tasks:
                raise unknown_name("task of lm-eval", name, manager.all_tasks)
        self._loaded = _load(manager, list(names))
        for task in self._loaded["tasks"].values():  # as lm-eval's own command has it
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=_FEWSHOT_SEED)

    def run(
        self,
        model: GPT,
        writer: Writer,
        *,
        limit: int | None = None,
        batch_size: int = 32,
        dtype: torch.dtype = torch.float32,
        progress: Progress | None = None,
    ) -> Iterator[HarnessResult]:
        """On the first `limit` items of each task. `model` scores, as in `score_rows`; `writer` answers in text."""
        import lm_eval
        from lm_eval.api.model import LM

        ours = type("OurModel", (_Model, LM), {})(model, writer, batch_size, dtype, progress)
        found = lm_eval.evaluate(ours, self._loaded, limit=limit, bootstrap_iters=1000)
        assert found is not None
        for name in found["results"]:
            yield _result(name, found)


def _load(manager: TaskManager, names: list[str]) -> Any:
    """`datasets` alone tries for 23 seconds before it says that there is no network."""
    try:
        with hub_offline():
            return manager.load(names)
    except Exception:  # not all of it is here; which exception says so differs from task to task
        try:
            newest_commit(HUB_ID)
            return manager.load(names)
        except (NanoGPTError, OSError) as error:
            raise NetworkError(
                f"the data of {', '.join(names)} is not on this machine, and the hub is out of reach",
                "run it once where there is a network; the data stays in the cache of `datasets` (HF_HOME)",
            ) from error


def _result(name: str, found: dict[str, Any]) -> HarnessResult:
    """lm-eval names its scores `acc,none` and `acc_stderr,none`: the metric and the filter of the answers."""
    metrics: dict[str, float] = {}
    errors: dict[str, float] = {}
    for key, value in found["results"][name].items():
        metric, _, rule = key.partition(",")
        if not rule or not isinstance(value, (int, float)):
            continue
        kind, of = (errors, metric.removesuffix("_stderr")) if metric.endswith("_stderr") else (metrics, metric)
        kind[of if rule == "none" else f"{of},{rule}"] = float(value)
    samples = found.get("samples", {}).get(name, [])
    by_item = {
        metric: [float(sample[metric]) for sample in sorted(samples, key=lambda sample: sample["doc_id"])]
        for metric in metrics
        if samples and all(isinstance(sample.get(metric), (int, float)) for sample in samples)
    }
    counts = found.get("n-samples", {}).get(name, {})
    return HarnessResult(f"lm-eval:{name}", metrics, errors, int(counts.get("effective", len(samples))), by_item)


class _Model:
    """The methods that lm-eval asks of its `LM`, whose place it takes together with it."""

    def __init__(
        self, model: GPT, writer: Writer, batch_size: int, dtype: torch.dtype, progress: Progress | None
    ) -> None:
        super().__init__()
        self._model, self._writer, self._tokenizer = model, writer, writer.tokenizer
        self._batch_size, self._dtype, self._progress = batch_size, dtype, progress

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of (context, continuation) pairs, and whether the model itself would have gone on so."""
        rows = [
            row for request in requests for row in encode_choices(self._tokenizer, request.args[0], request.args[1:])
        ]
        scores = self._score(rows)
        return list(zip(scores.log_likelihoods.tolist(), scores.greedy.tolist(), strict=True))

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, after `<|endoftext|>`, in windows that do not overlap; the last one reads all that it can."""
        from lm_eval.utils import get_rolling_token_windows

        context, start = self._model.config.n_positions, self._tokenizer.eot_id
        rows, owners = [], []
        for number, request in enumerate(requests):
            ids = self._tokenizer.encode(request.args[0])
            for read, predicted in get_rolling_token_windows(ids, start, context, context_len=1):
                rows.append(Row([*read, predicted[-1]], len(predicted)))
                owners.append(number)
        sums = np.zeros(len(requests))
        np.add.at(sums, owners, self._score(rows).log_likelihoods)
        return [float(value) for value in sums]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continuations of contexts up to a string of `until`; greedy unless the task has `do_sample`."""
        alike: dict[tuple[SamplingConfig, int], list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            alike[_settings(request.args[1])].append(number)
        texts = [""] * len(requests)
        for (config, new_tokens), numbers in alike.items():
            for start in range(0, len(numbers), _ROWS):
                some = numbers[start : start + _ROWS]
                prompts = [self._prompt(requests[number].args[0], new_tokens) for number in some]
                for number, completion in zip(some, self._writer.complete(prompts, config), strict=True):
                    texts[number] = completion.continuation
        return texts

    def _prompt(self, context: str, new_tokens: int) -> Prompt:
        """Its left is cut off where the answer would have no room."""
        ids = self._tokenizer.encode(context)
        kept = ids[-self._writer.room(new_tokens) :]
        return Prompt(kept, new_tokens, len(ids) - len(kept))

    def _score(self, rows: Sequence[Row]) -> Any:
        return score_rows(self._model, rows, batch_size=self._batch_size, dtype=self._dtype, progress=self._progress)


def _settings(asked: dict[str, Any]) -> tuple[SamplingConfig, int]:
    """lm-eval's `generation_kwargs`, which are those of transformers."""
    until = asked.get("until") or []
    settings = {
        "num_sequences": 1,
        "stop": [until] if isinstance(until, str) else until,
        "temperature": float(asked.get("temperature", 1.0)) if asked.get("do_sample") else 0.0,
        "top_k": asked.get("top_k"),
        "top_p": asked.get("top_p", 1.0),
    }
    new_tokens = next(
        (asked[key] for key in ("max_gen_toks", "max_new_tokens", "max_tokens") if key in asked), _NEW_TOKENS
    )
    return build(SamplingConfig, settings), int(new_tokens)
