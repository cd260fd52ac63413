"""The model card: what a README.md on the hub tells people, and in its front matter the hub itself.

It says what is known and nothing else: an imported model has no training run, a run without HellaSwag no score. Of the
run's settings only names and numbers are told, never paths: those tell who works where.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from nano_gpt.checkpoint.evaluations import read_evaluations
from nano_gpt.checkpoint.source import LoadedModel
from nano_gpt.config.model import GPTConfig
from nano_gpt.data.catalog import CATALOG, HUB
from nano_gpt.hub.record import Event, TrainingRecord, hellaswag_event, is_number, training_record

TASK = "text-generation"  # the hub's name of what these models do
_CURVE_POINTS = 10  # rows in the table of validation losses
_HELLASWAG, _HELLASWAG_ITEMS = "Rowan/hellaswag", 10042  # of its validation split
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
    sections = [
        "---\n" + yaml.safe_dump(_front_matter(loaded, record), sort_keys=False, allow_unicode=True) + "---",
        f"# {title(loaded.model.config)}",
        _introduction(loaded, record),
        "## Shape\n\n" + _shape(loaded),
    ]
    if record is not None:
        sections.append("## Training\n\n" + _training(record))
    if results := _results(loaded, record):
        sections.append("## Results\n\n" + results)
    sections.append("## Use\n\n" + _USE)
    if (warning := caution(loaded.model.config)) is not None:
        sections.append(warning)
    return "\n\n".join(sections) + "\n"


def eval_results(loaded: LoadedModel) -> str | None:
    """`.eval_results/hellaswag.yaml`, from which the hub's leaderboards read; the card's model-index is its older form.

    lm-eval's `acc_norm` over all of the validation set, since only that compares with others; None where it is unknown.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    event = hellaswag_event(loaded, training_record(loaded))
    if event is None or event.get("total") != _HELLASWAG_ITEMS or not is_number(event.get("acc_norm")):
        return None
    entry = EvalResultEntry(
        dataset_id=_HELLASWAG, task_id="hellaswag", value=round(event["acc_norm"], 6), notes="acc_norm, zero-shot"
    )
    return yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)


def title(config: GPTConfig) -> str:
    """`GPT-2 with 124M parameters`"""
    return f"{_family(config)} with {_count(config.num_parameters())} parameters"


def caution(config: GPTConfig) -> str | None:
    """Which programs would compute another model without saying so: they know one activation per architecture."""
    usual = "relu2" if config.model_type == "arcee" else "gelu"
    if config.activation == usual:
        return None
    return (
        f"llama.cpp and MLX compute every {config.model_type} with {usual}, and this model has {config.activation}: "
        "with them it talks nonsense. transformers and vLLM read the activation from config.json."
    )


def tags(config: GPTConfig) -> list[str]:
    """The architecture by its name in `transformers`, and who made it."""
    return [config.model_type, "nano-gpt"]


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


def _front_matter(loaded: LoadedModel, record: TrainingRecord | None) -> dict[str, Any]:
    """Keys of the hub's model card metadata. No license: only the author can give one."""
    values: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": TASK,
        "tags": tags(loaded.model.config),
    }
    if record is None and loaded.repo_id is not None:
        values["base_model"] = loaded.repo_id
    if hub_dataset := _hub_dataset(record):
        values["datasets"] = [hub_dataset]
    if results := _index_results(loaded, record):
        values["model-index"] = [{"name": title(loaded.model.config), "results": results}]
    return values


def _index_results(loaded: LoadedModel, record: TrainingRecord | None) -> list[dict[str, Any]]:
    """Evaluation results in the hub's `model-index` form."""
    results = []
    dataset = _dataset(record)
    if record is not None and record.validation_loss is not None and dataset is not None:
        loss = {"validation loss": record.validation_loss}
        results.append(_result(_hub_dataset(record) or dataset, dataset, loss, "loss"))
    if scores := _scores(hellaswag_event(loaded, record)):
        results.append(_result(_HELLASWAG, "HellaSwag", scores, "accuracy"))
    return results


def _result(dataset_type: str, dataset_name: str, metrics: dict[str, float], metric_type: str) -> dict[str, Any]:
    return {
        "task": {"type": TASK, "name": "Text generation"},
        "dataset": {"type": dataset_type, "name": dataset_name, "split": "validation"},
        "metrics": [{"type": metric_type, "name": name, "value": round(value, 6)} for name, value in metrics.items()],
    }


def _introduction(loaded: LoadedModel, record: TrainingRecord | None) -> str:
    family = _family(loaded.model.config)
    if record is None:
        source = f"exported from `{loaded.repo_id}`" if loaded.repo_id else "exported"
        made = f"A {family} language model, {source} with nano-gpt."
    else:
        dataset = _dataset(record)
        on = f" on `{dataset}`" if dataset is not None else ""
        made = f"A {family} language model, trained{on} with nano-gpt."
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
        **_differences(config),
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


def _results(loaded: LoadedModel, record: TrainingRecord | None) -> str:
    parts = []
    if record is not None and record.validation_loss is not None:
        density = record.validation[-1].get("bits_per_byte") if record.validation else None
        per_byte = f", {density:.4f} bits per byte" if is_number(density) else ""
        parts.append(f"Validation loss: {record.validation_loss:.4f} nats per token{per_byte}.")
    if record is not None and len(record.validation) > 1:
        points = [(f"{event['step']:,}", f"{event['loss']:.4f}") for event in _thinned(record.validation)]
        parts.append(_table(("step", "validation loss"), points))
    event = hellaswag_event(loaded, record)
    if scores := _scores(event):
        parts.append(_hellaswag(scores, event or {}))
    if rows := [row for task, entry in read_evaluations(loaded).items() for row in _measured(task, entry)]:
        parts.append(_table(("measured with `nano-gpt eval`", "score"), rows))
    return "\n\n".join(parts)


def _measured(task: str, entry: Event) -> Iterator[tuple[str, str]]:
    """Every score of a task other than HellaSwag, which has a table of its own."""
    if task == "hellaswag":
        return
    task, total = task.replace("|", "").replace("`", ""), entry.get("total")
    of = f", {total:,} items" if isinstance(total, int) else ""
    for name, value in entry.items():
        if isinstance(value, float) and not name.endswith("stderr"):
            error = entry.get("stderr" if name == "loss" else f"{name}_stderr")
            yield f"`{task}`: {name.replace('_', ' ')}{of}", _with_error(value, error)


def _with_error(value: float, error: object) -> str:
    return f"{value:.4f} ± {error:.4f}" if is_number(error) else f"{value:.4f}"


def _hellaswag(scores: dict[str, float], event: Event) -> str:
    total = f", {event['total']:,} items" if isinstance(event.get("total"), int) else ""
    rows = []
    for name, value in scores.items():
        rows.append((_RULES[name], _with_error(value, event.get(_ERRORS[name]))))
    return _table((f"HellaSwag{total}", "accuracy"), rows)


def _scores(event: Event | None) -> dict[str, float]:
    return {name: float(event[name]) for name in _RULES if is_number(event.get(name))} if event else {}


def _thinned(events: tuple[Event, ...]) -> list[Event]:
    """At most _CURVE_POINTS of them, evenly spread, the first and the last among them."""
    last = len(events) - 1
    count = min(len(events), _CURVE_POINTS)
    return [events[round(index * last / (count - 1))] for index in range(count)]


def _table(head: tuple[str, str], rows: Iterable[tuple[str, Any]]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join(lines)


def _family(config: GPTConfig) -> str:
    return "GPT" if _differences(config) else "GPT-2"


def _differences(config: GPTConfig) -> dict[str, Any]:
    """Settings of the architecture that are not GPT-2's, by name."""
    plain = GPTConfig()
    names = ("positions", "norm", "activation", "bias", "tied")
    return {name: getattr(config, name) for name in names if getattr(config, name) != getattr(plain, name)}


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
