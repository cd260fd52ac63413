"""A tokenizer for a model that comes without one, and as many rows of the model as the tokenizer has ids.

Peers' files, and exports of the predecessor, hold no tokenizer. Nearly all are GPT-2's, many with its 50,257 ids
padded to 50,304 rows.
"""

from __future__ import annotations

import torch

from nano_gpt.checkpoint.foreign.peer import padded
from nano_gpt.errors import CheckpointError
from nano_gpt.model.gpt import GPT
from nano_gpt.model.outline import shapes_only
from nano_gpt.runtime.logs import logger
from nano_gpt.tokenizer import load_tokenizer
from nano_gpt.tokenizer.base import Tokenizer

_GPT2_ROWS = (50257, 50304)


def with_tokenizer(model: GPT, tokenizer: str | None, origin: str) -> tuple[GPT, Tokenizer]:
    """`tokenizer` as a user names it; None: GPT-2's, where the model is of its size. `origin` is named in errors.

    Raises CheckpointError where the two are not of one model.
    """
    rows = model.config.vocab_size or 0
    if tokenizer is None and rows not in _GPT2_ROWS:
        raise CheckpointError(
            f"{origin} has {rows} ids and no tokenizer: {_GPT2_ROWS[0]} would be GPT-2's",
            "--tokenizer FOLDER, where its text was prepared; for nanoGPT's characters: "
            "nano-gpt prepare_dataset --files input.txt --tokenizer char",
        )
    if tokenizer is None:
        logger.info(f"tokenizer: {origin} has none; GPT-2's fits its {rows:,} rows")
    loaded = load_tokenizer(tokenizer or "gpt2")
    ids = loaded.vocab_size
    if rows % 64 == 0 and rows - 128 < ids < rows:
        logger.info(f"model: {rows - ids} of its {rows:,} rows are padding, and cut: {loaded.name} has {ids:,} ids")
    elif ids == rows + 1 and loaded.eot_id == rows:
        logger.info(f"model: a row is added for <|endoftext|>, the mean of its {rows}: it was trained without")
    elif ids != rows:
        raise CheckpointError(f"{origin} has {rows} ids and the tokenizer {loaded.name} {ids}", "name the one it has")
    return (model if ids == rows else _resized(model, ids)), loaded


def _resized(model: GPT, ids: int) -> GPT:
    """The same model with its first `ids` rows, or with one more.

    The logit of a mean row is the mean of all logits, so that the new id never has more than its share, 1 / ids, and
    the others keep their proportions (Hewitt 2021, "Initializing New Word Embeddings for Pretrained
    Language Models").
    """
    config = model.config.model_copy(update={"vocab_size": ids})
    state = model.state_dict()
    for name in {"wte.weight", "lm_head.weight"} & state.keys():
        rows = state[name][: model.config.vocab_size][:ids]
        state[name] = padded(rows if len(rows) == ids else torch.cat([rows, rows.mean(0, keepdim=True)]), config)
    with shapes_only():
        resized = GPT(config)
    resized.load_state_dict(state, assign=True)
    return resized.eval()
