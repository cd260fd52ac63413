"""The moving average of the weights: what it is the mean of, and that an evaluation with it leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nano_gpt.errors import CheckpointError
from nano_gpt.training.ema import WeightAverage

NO, YES = torch.tensor(0.0), torch.tensor(1.0)


def model_and_history(decay: float, steps: int) -> tuple[nn.Module, WeightAverage, list[dict[str, Tensor]]]:
    """A model whose weights were drawn anew `steps` times, and what they were."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    average = WeightAverage(model, decay)
    return model, average, [move(model, average) for _ in range(steps)]


def move(model: nn.Module, average: WeightAverage) -> dict[str, Tensor]:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    average.update(NO)
    return snapshot(model.state_dict())


def snapshot(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def test_the_mean_of_all_steps_and_of_nothing_before_them() -> None:
    decay = 0.9
    _, average, history = model_and_history(decay, 7)
    shares = torch.tensor([decay ** (6 - step) for step in range(7)], dtype=torch.float64)
    for name, tensor in average.tensors().items():
        seen = torch.stack([weights[name].double() for weights in history])
        expected = torch.tensordot(shares / shares.sum(), seen, dims=1)
        torch.testing.assert_close(tensor.double(), expected, rtol=0, atol=1e-6)


def test_after_one_step_it_is_the_weights() -> None:
    _, average, history = model_and_history(0.999, 1)
    assert same(average.tensors(), history[0])


def test_a_skipped_step_does_not_move_it() -> None:
    model, average, _ = model_and_history(0.9, 3)
    before, state = snapshot(average.tensors()), average.state_dict()
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    average.update(YES)
    assert same(average.tensors(), before) and average.state_dict() == state

    fresh = WeightAverage(model, 0.9)
    fresh.update(YES)  # also the very first one, of which there is nothing yet
    move(model, fresh)
    assert same(fresh.tensors(), snapshot(model.state_dict()))


def test_in_place_and_back_also_after_an_error() -> None:
    model, average, _ = model_and_history(0.9, 3)
    own, mean = snapshot(model.state_dict()), snapshot(average.tensors())
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    with pytest.raises(RuntimeError, match="evaluation"), average.in_place():
        assert same(model.state_dict(), mean) and not same(own, mean)
        raise RuntimeError("evaluation")
    assert same(model.state_dict(), own) and same(average.tensors(), mean)
    assert pointers == [parameter.data_ptr() for parameter in model.parameters()]


def test_resumes_bit_for_bit() -> None:
    model, average, _ = model_and_history(0.99, 5)
    saved, state = snapshot(average.tensors()), average.state_dict()
    resumed = WeightAverage(model, 0.99)
    resumed.load(saved)
    resumed.load_state_dict(state)
    move(model, average)
    resumed.update(NO)
    assert same(resumed.tensors(), average.tensors())
    assert not same(saved, average.tensors())  # its own copy


def test_weights_to_begin_with_count_as_a_long_average() -> None:
    model, _, _ = model_and_history(0.9, 1)
    begun = WeightAverage(model, 0.9)
    start = snapshot(model.state_dict())
    begun.load(start)
    move(model, begun)
    expected = 0.9 * start["weight"] + 0.1 * model.state_dict()["weight"]
    torch.testing.assert_close(begun.tensors()["weight"], expected)


def test_an_average_of_other_weights_is_refused() -> None:
    _, average, _ = model_and_history(0.9, 1)
    with pytest.raises(CheckpointError, match="bias"):
        average.load({"weight": torch.zeros(2, 3)})
