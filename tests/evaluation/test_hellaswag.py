"""HellaSwag: one-at-a-time references for both renderings, shares of ranks, the line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_evaluation_models import made_up_items, redrawn_model

from nano_gpt.errors import DataError
from nano_gpt.evaluation.hellaswag import HellaSwagResult, HellaSwagTest, ItemScores
from nano_gpt.evaluation.hellaswag_items import Item, load_items
from nano_gpt.evaluation.results import summary
from nano_gpt.model.gpt import GPT
from nano_gpt.tokenizer import load_tokenizer, train_tokenizer
from nano_gpt.tokenizer.base import Tokenizer

BYTE = load_tokenizer("byte")


def karpathy_choice(model: GPT, tokenizer: Tokenizer, item: Item) -> tuple[int, list[float]]:
    """As build-nanogpt scores an item: four padded rows, all logits, masked mean of the loss, the smallest wins."""
    context = tokenizer.encode(item.ctx)
    endings = [tokenizer.encode(" " + ending) for ending in item.endings]
    width = max(len(context) + len(ending) for ending in endings)
    tokens, mask = torch.zeros((4, width), dtype=torch.long), torch.zeros((4, width))
    for row, ending in enumerate(endings):
        tokens[row, : len(context) + len(ending)] = torch.tensor(context + ending)
        mask[row, len(context) : len(context) + len(ending)] = 1
    with torch.no_grad():
        logits = model(tokens)[:, :-1]
    losses = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(4, -1)
    means = (losses * mask[:, 1:]).sum(dim=1) / mask[:, 1:].sum(dim=1)
    return int(means.argmin()), (-means).tolist()


def check_against_reference(model: GPT, tokenizer: Tokenizer, items: list[Item]) -> None:
    scores = HellaSwagTest(items, tokenizer).score(model, batch_size=16)
    assert len(scores) == len(items)
    for item, ours in zip(items, scores, strict=True):
        choice, means = karpathy_choice(model, tokenizer, item)
        np.testing.assert_allclose(ours.as_is / ours.as_is_tokens, means, atol=1e-4)
        assert ours.choice == choice
        assert ours.label == item.label


def test_as_is_equals_the_plain_reference() -> None:
    check_against_reference(redrawn_model(257, n_positions=512), BYTE, made_up_items(12))


def test_as_is_equals_the_plain_reference_on_real_items(shared_dir: Path, gpt2_bpe: None) -> None:
    tokenizer = load_tokenizer("gpt2")
    items = load_items(shared_dir / "data" / "hellaswag_val_first_5000.jsonl", 100)
    check_against_reference(redrawn_model(tokenizer.vocab_size), tokenizer, items)


def test_the_cleaned_rendering_is_scored_as_a_sum_and_per_character() -> None:
    model = redrawn_model(257, n_positions=512)
    (item,) = made_up_items(1)
    (scores,) = HellaSwagTest([item], BYTE).score(model)
    context, endings = item.cleaned()
    for index, ending in enumerate(endings):
        ids = torch.tensor([BYTE.encode(f"{context} {ending}")])
        with torch.no_grad():
            by_token = model(ids[:, :-1]).log_softmax(-1).gather(2, ids[:, 1:, None])
        expected = by_token[0, len(BYTE.encode(context)) - 1 :].sum().item()
        assert scores.cleaned[index] == pytest.approx(expected, abs=1e-3)
        assert scores.cleaned_characters[index] == len(ending)


def test_the_three_choices() -> None:
    scores = ItemScores(
        label=1,
        as_is=np.array([-10.0, -8.0, -9.0, -12.0]),
        as_is_tokens=np.array([5, 2, 3, 8]),
        cleaned=np.array([-6.0, -9.0, -5.0, -20.0]),
        cleaned_characters=np.array([6, 9, 0, 40]),
    )
    assert scores.choice == 3  # -2, -4, -3, -1.5
    assert scores.choice_acc == 2
    assert scores.choice_acc_norm == 3  # -1, -1, nothing left, -0.5


def test_batch_size_does_not_matter() -> None:
    model = redrawn_model(257, n_positions=512)
    test = HellaSwagTest(made_up_items(10), BYTE)
    expected = test.score(model, batch_size=1)
    for batch_size in (2, 7, 64, 1000):
        for ours, one in zip(test.score(model, batch_size=batch_size), expected, strict=True):
            np.testing.assert_allclose(ours.as_is, one.as_is, atol=1e-3)
            np.testing.assert_allclose(ours.cleaned, one.cleaned, atol=1e-3)
            assert (ours.choice, ours.choice_acc, ours.choice_acc_norm) == (
                one.choice, one.choice_acc, one.choice_acc_norm,
            )  # fmt: skip


@pytest.mark.parametrize("world_size", [2, 3, 16])
def test_ranks_share_the_items(world_size: int) -> None:
    """Its story: in the predecessor every rank scored the same items, and the copies were added up."""
    model = redrawn_model(257, n_positions=512)
    items = made_up_items(10)
    whole = HellaSwagTest(items, BYTE).evaluate(model)
    counts = np.zeros(4, dtype=int)
    for rank in range(world_size):
        share = HellaSwagTest(items, BYTE, rank=rank, world_size=world_size)
        scores = share.score(model)
        counts += [
            sum(s.choice == s.label for s in scores),
            sum(s.choice_acc == s.label for s in scores),
            sum(s.choice_acc_norm == s.label for s in scores),
            len(scores),
        ]
    assert counts.tolist() == [whole.accuracy.correct, whole.acc.correct, whole.acc_norm.correct, 10]
    assert share.evaluate(model).accuracy.total == (0 if world_size == 16 else 10 // world_size)


def test_the_line_is_the_predecessors_with_more_behind_it() -> None:
    right = np.zeros((2000, 3), dtype=bool)
    for column, correct in enumerate((712, 600, 640)):
        right[:correct, column] = True
    result = HellaSwagResult(right)
    line = summary(result)
    assert line.startswith("hellaswag: accuracy: 0.3560 | total: 2000 | correct: 712 | ")
    rest = "stderr: 0.0107 | acc: 0.3000 | acc_stderr: 0.0102 | acc_norm: 0.3200 | acc_norm_stderr: 0.0104"
    assert line.endswith(rest)
    assert re.findall(r"(\w+): ", line)[1:] == list(result.fields())


def test_training_mode_comes_back() -> None:
    model = redrawn_model(257, n_positions=512).train()
    HellaSwagTest(made_up_items(2), BYTE).evaluate(model)
    assert model.training


def test_a_context_of_any_length_will_do() -> None:
    model = redrawn_model(257, n_positions=16)  # most endings have more bytes
    result = HellaSwagTest(made_up_items(6), BYTE).evaluate(model)
    assert result.accuracy.total == 6


def test_a_vocabulary_that_cannot_spell_it_names_the_item() -> None:
    with pytest.raises(DataError, match=r"HellaSwag item 0: ") as raised:
        HellaSwagTest(made_up_items(4), train_tokenizer("char", ["abc"]))
    assert "--hellaswag-samples 0" in str(raised.value)
