"""The proof of an export: `transformers` reads it and says what our model says.

Shapes prove nothing: a square matrix that was not transposed, or a wrong number of heads, loads and talks nonsense.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nano_gpt.checkpoint.source import LoadedModel
from nano_gpt.errors import CheckpointError, DataError
from nano_gpt.tokenizer.base import Tokenizer

TOLERANCE = 1e-4
# fp32 keeps about 7 digits, and GPT-2's own logits reach -100 and more: the bound is at least this part of the largest.
RELATIVE_TOLERANCE = 1e-5
_COMPARED_POSITIONS = 64  # logits of the last ones, which depend on all tokens and positions before them
_LONGEST_CONTEXT = 1024  # tokens that are read for the comparison
_TEXT = (
    "It is a truth universally acknowledged, that 2 + 2 = 4;\n\n\tand that naïve café owners don't sell 日本茶 🍵 "
    "before 09:30.  def main(): return [x for x in range(10)]\n"
)


def compare_with_transformers(
    loaded: LoadedModel, folder: Path, dtype: torch.dtype = torch.float32
) -> tuple[float, int]:
    """Open `folder` as a stranger would: the tokenizer by text and back, the model by its logits.

    Returns the largest absolute difference of a logit, and how many tokens were read. Raises CheckpointError where
    `transformers` cannot open the folder, fills gaps in it, loads another type than `dtype`, or does not agree with
    `loaded`. Both compute in fp32, so that the tolerance is the same for every `dtype`.
    """
    import transformers

    with _quiet(transformers):
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            ids = _check_round_trip(loaded.tokenizer, tokenizer)
            opened: Any = transformers.AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"transformers cannot open the export: {reason}") from error
    model, info = opened
    if faults := [f"{kind}: {', '.join(map(str, names))}" for kind, names in info.items() if names]:
        raise CheckpointError(f"transformers does not take the export as it is: {faults[0][:200]}")
    if model.dtype != dtype:
        raise CheckpointError(f"transformers loads the export as {model.dtype}, it was written as {dtype}")
    return _compare_logits(loaded, model.float(), ids)


def _check_round_trip(ours: Tokenizer, theirs: Any) -> list[int]:
    """Some text must give the same ids in both, and the ids the same text. Returns the ids, as many as a text gives."""
    text = _text_for(ours)
    ids = ours.encode(text)
    their_ids = theirs(text, add_special_tokens=False).input_ids
    if their_ids != ids:
        raise CheckpointError(
            f"AutoTokenizer reads {text[:20]!r}... as {their_ids[:8]}..., this tokenizer as {ids[:8]}..."
        )
    if (back := theirs.decode(ids)) != text:
        raise CheckpointError(f"AutoTokenizer decodes {text[:20]!r}... to {back[:20]!r}...")
    if theirs.eos_token_id != ours.eot_id:
        raise CheckpointError(
            f"AutoTokenizer ends a text with id {theirs.eos_token_id}, this tokenizer with {ours.eot_id}"
        )
    return ids


def _text_for(tokenizer: Tokenizer) -> str:
    """A text with a bit of everything; for a tokenizer that lacks some of it, a text of the characters that it has."""
    try:
        tokenizer.encode(_TEXT)
    except DataError:
        return tokenizer.decode(
            [token for token in range(min(tokenizer.vocab_size, 1000)) if token != tokenizer.eot_id]
        )
    return _TEXT


@torch.inference_mode()
def _compare_logits(loaded: LoadedModel, model: Any, ids: list[int]) -> tuple[float, int]:
    """Read the text, repeated to fill the context, with both models and compare the logits of the last positions."""
    ours = loaded.model
    length = min(ours.config.n_positions, _LONGEST_CONTEXT)
    row = (ids * (length // len(ids) + 1))[:length]
    batch = torch.tensor([row], device=ours.wte.weight.device)  # (1, T)
    ours.eval()
    expected = ours.head(ours.hidden(batch)[:, -_COMPARED_POSITIONS:]).float()  # (1, kept, V)
    model.to(batch.device).eval()
    found = model(batch, logits_to_keep=min(length, _COMPARED_POSITIONS)).logits.float()
    if found.shape != expected.shape:
        raise CheckpointError(
            f"the export gives logits of shape {tuple(found.shape)}, ours are {tuple(expected.shape)}"
        )
    difference = float((found - expected).abs().max())
    bound = max(TOLERANCE, RELATIVE_TOLERANCE * float(expected.abs().max()))
    if not difference <= bound:  # so that NaN, which compares false, is refused
        raise CheckpointError(
            f"the export's logits differ from this model's by {difference:.2e}, more than {bound:.0e}",
            "nothing was written; this is a fault of nano-gpt or of transformers, please report it",
        )
    return difference, length


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without the library's progress bar and remarks; as it was afterwards."""
    log = transformers.utils.logging
    verbosity, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bar:
            log.enable_progress_bar()
