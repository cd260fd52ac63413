"""A model that scores texts in bf16 on a CPU against the plain one in double precision."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nano_gpt.config import GPTConfig
from nano_gpt.model.attention import tree_mask
from nano_gpt.model.gpt import GPT
from nano_gpt.model.native import kernels
from nano_gpt.model.native.reading import NativeReader, native_reader

pytestmark = [
    pytest.mark.skipif(not kernels.can_train(), reason="no compiler, or a CPU that does not multiply in bf16"),
    pytest.mark.usefixtures("threads"),
]
SHAPE = {"vocab_size": 100, "n_positions": 128, "n_embd": 64, "n_layer": 2, "n_head": 2}


def made(**options: object) -> GPT:
    torch.manual_seed(0)
    model = GPT(GPTConfig(**{**SHAPE, **options}))  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.1).add_(1.0 if ".ln_" in name and name.endswith("weight") else 0.0)
    return model


def reader_of(model: GPT) -> NativeReader:
    reader = native_reader(model)
    assert reader is not None
    return reader


def read(
    model: GPT, ids: Tensor, positions: Tensor, ends: Tensor | None = None, lengths: Tensor | None = None
) -> Tensor:
    """(B, T) -> (B, T, C)"""
    with torch.inference_mode():
        hidden = model.read(ids, positions, wanted=torch.arange(ids.numel()), ends=ends, lengths=lengths)
    return hidden.view(*ids.shape, -1)


def exact(model: GPT, ids: Tensor, positions: Tensor, ends: Tensor | None = None) -> Tensor:
    return read(copy.deepcopy(model).double(), ids, positions, ends)


@pytest.mark.parametrize("length", [1, 31, 32, 45, 128])
@pytest.mark.parametrize("bias", [True, False])
def test_hidden_states_of_texts_of_any_length(length: int, bias: bool) -> None:
    model = made(bias=bias)
    ids = torch.randint(100, (3, length))
    with torch.inference_mode():
        found = reader_of(model).hidden(ids)
    expected = exact(model, ids, torch.arange(length))
    assert (found - expected).abs().max() < 0.03 * expected.abs().max()


def test_a_branch_sees_the_trunk_and_itself() -> None:
    model = made()
    ends = torch.tensor([[36] * 20 + [27] * 7 + [36] * 9, [36] * 3 + [33] * 30 + [36] * 3])
    positions = torch.tensor([[*range(20), *range(20, 27), *range(20, 29)], [*range(3), *range(3, 33), *range(3, 6)]])
    ids = torch.randint(100, ends.shape)
    found = read(reader_of(model), ids, positions, ends)
    changed = ids.clone()
    changed[0, 20:27] = 7  # the first branch, which the second does not see
    again = read(reader_of(model), changed, positions, ends)
    expected = exact(model, ids, positions, ends)
    assert tree_mask(ends)[0, 0, 30].tolist() == [True] * 20 + [False] * 7 + [True] * 4 + [False] * 5
    assert (found - expected).abs().max() < 0.03 * expected.abs().max()
    assert torch.equal(found[0, 27:], again[0, 27:]) and torch.equal(found[1], again[1])


def test_what_fills_up_a_batch_is_left_out() -> None:
    model = made()
    lengths = torch.tensor([45, 1, 32, 20])
    ids = torch.randint(100, (4, 45))
    ends = torch.arange(1, 46).clamp(min=40).repeat(4, 1)  # the last ones are branches of one token
    found = read(reader_of(model), ids, torch.arange(45), ends, lengths)
    expected = exact(model, ids, torch.arange(45), ends)
    for i, n in enumerate(lengths.tolist()):
        alone = read(reader_of(model), ids[i : i + 1, :n], torch.arange(n), ends[i : i + 1, :n])
        assert torch.equal(found[i, :n], alone[0])
        assert (found[i] - expected[i])[:n].abs().max() < 0.03 * expected[i].abs().max()


def test_what_is_wanted_comes_in_its_order() -> None:
    model = made()
    ids, wanted = torch.randint(100, (2, 45)), torch.tensor([70, 3, 44, 3])
    for each in (model, reader_of(model)):
        with torch.inference_mode():
            found = each.read(ids, torch.arange(45), wanted=wanted)
        assert torch.equal(found, read(each, ids, torch.arange(45)).flatten(0, 1)[wanted])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("count", [1, 32, 77])
def test_what_it_thinks_of_tokens(count: int, tied: bool) -> None:
    model = made(tied=tied)
    hidden, targets = torch.randn(count, 64), torch.randint(100, (count,))
    targets[0] = int((hidden[0] @ model.head_weight[:100].T).argmax())
    log_probabilities, likeliest = reader_of(model).token_scores(hidden, targets)
    logits = (hidden.double() @ model.head_weight[:100].double().T).detach()
    expected = -F.cross_entropy(logits, targets, reduction="none")
    assert (log_probabilities - expected).abs().max() < 0.02
    assert likeliest[0] and likeliest.shape == (count,)
    sure = logits.topk(2, dim=1).values.diff().abs().squeeze(1) > 0.02  # not for bf16 to decide
    assert torch.equal(likeliest[sure], (logits.argmax(dim=1) == targets)[sure])


def test_a_row_may_predict_several_tokens() -> None:
    model = made()
    hidden, targets, predicted_by = torch.randn(40, 64), torch.randint(100, (90,)), torch.randint(40, (90,))
    found = reader_of(model).token_scores(hidden, targets, predicted_by)
    each_alone = reader_of(model).token_scores(hidden[predicted_by], targets)
    assert torch.equal(found[0], each_alone[0]) and torch.equal(found[1], each_alone[1])


def test_a_text_does_not_depend_on_what_is_beside_it() -> None:
    reader = reader_of(made())
    ids = torch.randint(100, (5, 45))
    with torch.inference_mode():
        together = reader.hidden(ids)
        alone = torch.cat([reader.hidden(row.unsqueeze(0)) for row in ids])
    assert torch.equal(together, alone)


@pytest.mark.parametrize(
    "options", [{"positions": "rope", "norm": "layernorm"}, {"activation": "relu2"}, {"n_head": 4}], ids=str
)
def test_none_for_what_is_not_gpt2(options: dict[str, object]) -> None:
    assert native_reader(made(**options)) is None
    assert native_reader(made().bfloat16()) is None


def test_the_model_stays_as_it_is() -> None:
    model = made()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reader_of(model)
    assert type(model) is GPT
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
