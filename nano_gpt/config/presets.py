"""Named shapes and named recipes, each written as its difference from the defaults.

A preset is a size of GPT-2 with the batch and the learning rate that suit it. A recipe is a whole run on one
dataset; it starts from a preset and the dataset of the same name uses it by default.
"""

from __future__ import annotations

from typing import Any

from nano_gpt.errors import ConfigError
from nano_gpt.registry import unknown_name

Values = dict[str, Any]  # nested, as in the YAML file


def _size(n_layer: int, n_head: int, n_embd: int, total_batch_size: int, learning_rate: float) -> Values:
    return {
        "model": {"n_layer": n_layer, "n_head": n_head, "n_embd": n_embd},
        "training": {"total_batch_size": total_batch_size, "optimizer": {"learning_rate": learning_rate}},
    }


# Shapes: Radford et al. 2019, table 2. Batches and learning rates: Brown et al. 2020 (GPT-3), table 2.1, as in the
# predecessor; gpt2-xs has 8 heads because its 512 columns do not divide into 10.
PRESETS: dict[str, Values] = {
    "gpt2": _size(12, 12, 768, 2**19, 6e-4),
    "gpt2-medium": _size(24, 16, 1024, 2**19, 3e-4),
    "gpt2-large": _size(36, 20, 1280, 2**19, 2.5e-4),
    "gpt2-xl": _size(48, 25, 1600, 2**20, 2e-4),
    "gpt2-xs": _size(10, 8, 512, 2**18, 3e-4),
    "gpt2-xxs": _size(4, 4, 64, 2**16, 3e-4),
}

_SMALL: Values = {
    "preset": "gpt2-xxs",
    "model": {"n_embd": 128, "n_positions": 128},
    "training": {
        "max_steps": 600,
        "total_batch_size": 8 * 128,
        "optimizer": {"learning_rate": 1e-3},
        "log_steps": 10,
        "checkpoint_steps": 200,
    },
    "evaluation": {"eval_steps": 200, "validation_steps": 20},
    "sampling": {"prompt": "", "num_sequences": 2, "max_length": 100},
}

# Karpathy's reproduction: GPT-2 124M on 10 billion tokens, on one 8-GPU node.
_LARGE: Values = {"preset": "gpt2", "training": {"checkpoint_steps": 5000}}

RECIPES: dict[str, Values] = {
    # The quick start: a bit over a minute on two CPU cores with bf16 instructions. At this budget a wide and shallow
    # model with small batches learns most: 1.59 bits per byte after 2,000 steps, 4 layers of 192 1.74 in the same time.
    "python_docs": {
        "preset": "gpt2-xxs",
        "model": {"n_layer": 2, "n_head": 4, "n_embd": 256, "n_positions": 128},
        "data": {"dataset": "python_docs"},
        "training": {
            "max_steps": 2000,
            "total_batch_size": 8 * 128,
            "optimizer": {"learning_rate": 1e-3, "beta2": 0.99},
            "log_steps": 10,
            "checkpoint_steps": 500,
        },
        "evaluation": {"eval_steps": 250, "validation_steps": 20},
        "sampling": {"prompt": "", "num_sequences": 2, "max_length": 100},
    },
    "tinyshakespeare": {**_SMALL, "data": {"dataset": "tinyshakespeare"}},
    # nanoGPT's "laptop" recipe (README, quick start), whose validation loss is 1.88, with twice its learning rate: on
    # the whole validation split 1e-3 gives 1.888 and 1.900, 2e-3 gives 1.815 and 1.819 (seeds 1337 and 1).
    "shakespeare_char": {
        "preset": "gpt2-xxs",
        "model": {"n_layer": 4, "n_head": 4, "n_embd": 128, "n_positions": 64, "dropout": 0.0},
        "data": {"dataset": "tinyshakespeare", "tokenizer": "char"},
        "training": {
            "max_steps": 2000,
            "total_batch_size": 12 * 64,
            "optimizer": {"learning_rate": 2e-3, "beta2": 0.99},
            "log_steps": 10,
            "checkpoint_steps": 500,
        },
        "evaluation": {"eval_steps": 250, "validation_steps": None},
        "sampling": {"prompt": "\n", "num_sequences": 2, "max_length": 200},
    },
    "finewebedu": {**_LARGE, "data": {"dataset": "finewebedu"}},
    "fineweb": {**_LARGE, "data": {"dataset": "fineweb"}},
    "openwebtext": {**_LARGE, "data": {"dataset": "openwebtext"}},
    # Weights that are good already (--pretrained): a low rate, few steps, and dropout against learning by heart.
    "finetune": {
        "preset": "gpt2",
        "model": {"dropout": 0.1},
        "training": {
            "max_steps": 200,
            "total_batch_size": 8 * 1024,
            "optimizer": {"learning_rate": 3e-5},
            "checkpoint_steps": 100,
        },
        "evaluation": {"eval_steps": 50, "validation_steps": 10},
        "sampling": {"num_sequences": 2, "max_length": 100},
    },
    # Adapters beside such weights (--lora-rank): they begin at zero and are few, and take ten times the rate.
    "lora": {
        "preset": "gpt2",
        "training": {
            "max_steps": 200,
            "total_batch_size": 8 * 1024,
            "optimizer": {"learning_rate": 5e-4},
            "checkpoint_steps": 100,
        },
        "evaluation": {"eval_steps": 50, "validation_steps": 10},
        "sampling": {"num_sequences": 2, "max_length": 100},
    },
    # Your own files, or a dataset without a recipe of its own.
    "small": _SMALL,
}


def preset_values(name: str) -> Values:
    if name not in PRESETS:
        raise unknown_name("model preset", name, PRESETS)
    return PRESETS[name]


def recipe_values(name: str) -> Values:
    """Without the `preset` key, which `recipe_preset` tells."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return {key: value for key, value in RECIPES[name].items() if key != "preset"}


def recipe_preset(name: str) -> str:
    preset = RECIPES[name]["preset"]
    if not isinstance(preset, str):
        raise ConfigError(f"recipe {name!r} names no preset")
    return preset


def recipe_for(dataset: str) -> str:
    """The recipe that a dataset uses when none is asked for."""
    return dataset if dataset in RECIPES else "small"
