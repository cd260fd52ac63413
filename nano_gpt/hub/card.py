"""The model card: what a README.md on the hub tells people, and in its front matter the hub itself.

It says what is known and nothing else: an imported model has no training run, a run without HellaSwag no score. Of the
run's settings only names and numbers are told, never paths: those tell who works where.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from nano_gpt.checkpoint.source import LoadedModel
from nano_gpt.config.model import GPTConfig
from nano_gpt.data.catalog import CATALOG, HUB
from nano_gpt.hub.record import Event, TrainingRecord, is_number, training_record

_CURVE_POINTS = 10  # rows in the table of validation losses
# Fields of a HellaSwag event -> the rule that made them: scores by different rules do not compare.
_RULES = {
    "accuracy": "mean per token, as build-nanogpt scores",
    "acc": "lm-eval's `acc`",
    "acc_norm": "lm-eval's `acc_norm`",
}
_ERRORS = {"accuracy": "stderr", "acc": "acc_stderr", "acc_norm": "acc_norm_stderr"}


def model_card(loaded: LoadedModel) -> str:
    """README.md: YAML front matter as the hub reads it, then Markdown."""
    record = training_record(loaded)
    title = f"GPT-2 with {_count(loaded.model.config.num_parameters())} parameters"
    sections = [
        "---\n" + yaml.safe_dump(_front_matter(loaded, record, title), sort_keys=False, allow_unicode=True) + "---",
        f"# {title}",
        _introduction(loaded, record),
        "## Shape\n\n" + _shape(loaded),
    ]
    if record is not None:
        sections.append("## Training\n\n" + _training(record))
    if record is not None and (results := _results(record)):
        sections.append("## Results\n\n" + results)
    sections.append("## Use\n\n" + _USE)
    return "\n\n".join(sections) + "\n"


_USE = """With transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

name = "user/name"  # this repository, or the folder that holds these files
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForCausalLM.from_pretrained(name)
ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, do_sample=True, top_k=50, max_new_tokens=50)[0]))
```

With nano-gpt:

```
nano-gpt sample --pretrained user/name "Once upon a time"
```"""


def _front_matter(loaded: LoadedModel, record: TrainingRecord | None, title: str) -> dict[str, Any]:
    """Keys of the hub's model card metadata. No license: only the author can give one."""
    values: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["gpt2", "nano-gpt"],
    }
    if record is None and loaded.repo_id is not None:
        values["base_model"] = loaded.repo_id
    if hub_dataset := _hub_dataset(record):
        values["datasets"] = [hub_dataset]
    if record is not None and (results := _index_results(record)):
        values["model-index"] = [{"name": title, "results": results}]
    return values


def _index_results(record: TrainingRecord) -> list[dict[str, Any]]:
    """Evaluation results in the hub's `model-index` form."""
    results = []
    dataset = _dataset(record)
    if record.validation_loss is not None and dataset is not None:
        loss = {"validation loss": record.validation_loss}
        results.append(_result(_hub_dataset(record) or dataset, dataset, loss, "loss"))
    if scores := _scores(record):
        results.append(_result("Rowan/hellaswag", "HellaSwag", scores, "accuracy"))
    return results


def _result(dataset_type: str, dataset_name: str, metrics: dict[str, float], metric_type: str) -> dict[str, Any]:
    return {
        "task": {"type": "text-generation", "name": "Text generation"},
        "dataset": {"type": dataset_type, "name": dataset_name, "split": "validation"},
        "metrics": [{"type": metric_type, "name": name, "value": round(value, 6)} for name, value in metrics.items()],
    }


def _introduction(loaded: LoadedModel, record: TrainingRecord | None) -> str:
    if record is None:
        source = f"exported from `{loaded.repo_id}`" if loaded.repo_id else "exported"
        made = f"A GPT-2 language model, {source} with nano-gpt."
    else:
        dataset = _dataset(record)
        on = f" on `{dataset}`" if dataset is not None else ""
        made = f"A GPT-2 language model, trained{on} with nano-gpt."
    return (
        f"{made} It is a base model: it continues text. It was not taught to answer questions or to follow "
        "instructions, and it repeats what its training text contains, mistakes and prejudices included."
    )


def _shape(loaded: LoadedModel) -> str:
    config: GPTConfig = loaded.model.config
    name = loaded.tokenizer.name
    rows = {
        "parameters": f"{config.num_parameters():,}",
        "layers": config.n_layer,
        "heads": config.n_head,
        "width": config.n_embd,
        "context": f"{config.n_positions:,} tokens",
        "vocabulary": f"{config.vocab_size:,}",
        "tokenizer": "its own" if set(name) & set("/\\") else f"`{name}`",
    }
    return _table(("", ""), rows.items())


def _training(record: TrainingRecord) -> str:
    rows: dict[str, Any] = {"steps": f"{record.step:,}"}
    if record.tokens is not None:
        rows["tokens"] = f"{record.tokens:,}"
    if record.config is not None:
        training = record.config.training
        rows = {
            "data": f"`{_dataset(record)}`" + (" (own files)" if record.config.data.files else ""),
            **rows,
            "tokens per step": f"{training.total_batch_size:,}",
            "learning rate": f"{training.optimizer.learning_rate:g} after {training.warmup_steps:,} steps of warm-up, "
            f"then a cosine to {training.lr_schedule.min_ratio:.0%} at step {training.max_steps:,}",
            "optimizer": f"AdamW, betas {training.optimizer.beta1:g} and {training.optimizer.beta2:g}, "
            f"weight decay {training.optimizer.weight_decay:g}",
            "dropout": f"{record.config.model.dropout:g}",
            "seed": training.seed,
        }
    return _table(("", ""), rows.items())


def _results(record: TrainingRecord) -> str:
    parts = []
    if record.validation_loss is not None:
        density = record.validation[-1].get("bits_per_byte") if record.validation else None
        per_byte = f", {density:.4f} bits per byte" if is_number(density) else ""
        parts.append(f"Validation loss: {record.validation_loss:.4f} nats per token{per_byte}.")
    if len(record.validation) > 1:
        rows = [(f"{event['step']:,}", f"{event['loss']:.4f}") for event in _thinned(record.validation)]
        parts.append(_table(("step", "validation loss"), rows))
    if scores := _scores(record):
        parts.append(_hellaswag(scores, record.hellaswag or {}))
    return "\n\n".join(parts)


def _hellaswag(scores: dict[str, float], event: Event) -> str:
    total = f", {event['total']:,} items" if isinstance(event.get("total"), int) else ""
    rows = []
    for name, value in scores.items():
        error = event.get(_ERRORS[name])
        rows.append((_RULES[name], f"{value:.4f} ± {error:.4f}" if is_number(error) else f"{value:.4f}"))
    return _table((f"HellaSwag{total}", "accuracy"), rows)


def _scores(record: TrainingRecord) -> dict[str, float]:
    event = record.hellaswag or {}
    return {name: float(event[name]) for name in _RULES if is_number(event.get(name))}


def _thinned(events: tuple[Event, ...]) -> list[Event]:
    """At most _CURVE_POINTS of them, evenly spread, the first and the last among them."""
    last = len(events) - 1
    count = min(len(events), _CURVE_POINTS)
    return [events[round(index * last / (count - 1))] for index in range(count)]


def _table(head: tuple[str, str], rows: Iterable[tuple[str, Any]]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join(lines)


def _count(parameters: int) -> str:
    """124M, 0.8M"""
    millions = parameters / 1e6
    return f"{millions:.0f}M" if millions >= 10 else f"{millions:.2g}M" if millions >= 0.1 else f"{parameters:,}"


def _dataset(record: TrainingRecord | None) -> str | None:
    """The corpus by name; not one that looks like a path, or that Markdown would take as markup."""
    if record is None or record.config is None:
        return None
    name = record.config.data.dataset.removeprefix(HUB)
    if name == _hub_dataset(record):
        return name
    return name if name and not set(name) & set("/\\`|\n") else "own text"


def _hub_dataset(record: TrainingRecord | None) -> str | None:
    """The corpus by its name on the hub, if it is from there."""
    if record is None or record.config is None or record.config.data.files:
        return None
    name = record.config.data.dataset
    return CATALOG[name].repository if name in CATALOG else name.removeprefix(HUB) if name.startswith(HUB) else None
