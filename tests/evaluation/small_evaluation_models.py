"""A model of which every tensor is drawn anew, so that its choices differ, and items that nobody published."""

from __future__ import annotations

import random
from typing import Any

import torch

from nano_gpt.config import GPTConfig
from nano_gpt.evaluation.hellaswag_items import Item, parse_item
from nano_gpt.model.gpt import GPT


def redrawn_model(vocab_size: int, *, n_positions: int = 256, n_embd: int = 64, seed: int = 0) -> GPT:
    """Two layers in eval mode; std 0.1, norm weights 1 + that, padding rows 0."""
    torch.manual_seed(seed)
    config = GPTConfig(vocab_size=vocab_size, n_positions=n_positions, n_embd=n_embd, n_layer=2, n_head=4)
    model = GPT(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.1)
            if ".ln_" in f".{name}" and name.endswith(".weight"):
                parameter.add_(1.0)
        model.wte.weight[vocab_size:] = 0.0
    return model.eval()


TEXT = "a boat man then slowly turns over the [header] hill, paints [title] his nails: and  runs. Élan [step] 東京 😀"
WORDS = TEXT.split(" ")


def made_up_values(number: int) -> dict[str, Any]:
    """An item as the hub has it, with WikiHow's markup, double spaces, an empty ctx_b here and there, and emoji."""
    draw = random.Random(number)

    def words(count: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(count))

    ctx_a, ctx_b = words(draw.randint(3, 20)) + ".", draw.choice(["", words(2)])
    return {
        "ind": number,
        "activity_label": words(2),
        "ctx_a": ctx_a,
        "ctx_b": ctx_b,
        "ctx": f"{ctx_a} {ctx_b}".strip(),
        "endings": [f"{words(draw.randint(1, 12))} end {ending}" for ending in range(4)],
        "label": draw.choice([str, int])(draw.randrange(4)),
        "split": "val",
    }


def made_up_items(count: int) -> list[Item]:
    return [parse_item(made_up_values(number), f"item {number}") for number in range(count)]
