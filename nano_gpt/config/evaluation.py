"""What is measured, on how much, how often."""

from __future__ import annotations

from pathlib import Path

from pydantic import NonNegativeInt, PositiveInt

from nano_gpt.config.base import Settings
from nano_gpt.registry import unknown_name

TASKS = ("val", "hellaswag")
LM_EVAL = "lm-eval:"
"""Opens the names of tasks that lm-eval has."""


class EvaluationConfig(Settings):
    """Validation loss and HellaSwag, while training and in `eval`."""

    eval_steps: PositiveInt = 250
    """Training steps between evaluations; the first and the last step are always evaluated."""
    validation_steps: NonNegativeInt | None = 20
    """Batches of training.total_batch_size tokens, from the start of the validation split. 0: none. null: all of it."""
    hellaswag_samples: NonNegativeInt | None = 0
    """HellaSwag items, from the first. 0: none. null: all of them."""
    hellaswag_file: Path | None = None
    """HellaSwag as .jsonl, for machines without a network. null: the hub's Rowan/hellaswag, validation split."""
    batch_size: PositiveInt = 32
    """Rows of text scored in one forward, as long as the context; as many tokens of shorter ones."""


def parse_tasks(text: str) -> tuple[str, ...]:
    """`val,lm-eval:piqa,arc_easy` -> ("val", "lm-eval:piqa", "lm-eval:arc_easy"). Raises ConfigError for a stranger."""
    tasks: list[str] = []
    for name in (part.strip() for part in text.split(",")):
        follows = bool(tasks) and tasks[-1].startswith(LM_EVAL)
        if name in TASKS or (name.startswith(LM_EVAL) and name != LM_EVAL):
            tasks.append(name)
        elif name and follows:
            tasks.append(LM_EVAL + name)
        else:
            raise unknown_name("task", name, [*TASKS, f"{LM_EVAL}NAME"])
    return tuple(dict.fromkeys(tasks))
