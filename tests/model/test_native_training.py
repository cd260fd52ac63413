"""The C that trains in bf16 on a CPU: every kernel against double precision, a model against the plain one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nano_gpt.config import GPTConfig
from nano_gpt.config.lora import LoRAConfig
from nano_gpt.model.gpt import GPT
from nano_gpt.model.lora import add_adapters
from nano_gpt.model.loss import IGNORED_TARGET
from nano_gpt.model.native import kernels
from nano_gpt.model.native.training import TrainingBlock, train_natively
from nano_gpt.runtime import compiled

FOLDER = Path(kernels.__file__).parent
WITHOUT_AMX = ("-mno-amx-tile", "-mno-amx-bf16")
BF16 = 2**-8  # the rounding of one number, at most


@pytest.fixture(params=["as it is", "without AMX"], autouse=True)
def cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    flags = compiled._FLAGS + (WITHOUT_AMX if request.param == "without AMX" else ())
    library = compiled.load(FOLDER, flags)
    if library is None or not hasattr(library, "causal_forward"):
        pytest.skip("no compiler, or a CPU that does not multiply in bf16")
    monkeypatch.setattr(compiled, "load", lambda folder: library)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rounded(*shape: int, seed: int = 0) -> Tensor:
    return drawn(*shape, seed=seed).bfloat16()


def close(found: Tensor, expected: Tensor, bound: float = BF16) -> bool:
    """Within `bound` of the largest number there is."""
    return bool((found.double() - expected).abs().max() <= bound * expected.abs().max())


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(32, 32, 32), (96, 64, 160), (544, 1600, 96), (64, 4128, 32)])
def test_products(threads: None, rows: int, inputs: int, outputs: int) -> None:
    """Fewer blocks than threads, rows beside a whole chunk, inputs beside a group, a depth in parts."""
    x, weight, bias = rounded(rows, inputs), drawn(outputs, inputs, seed=1), drawn(outputs, seed=2)
    grad, residual = rounded(rows, outputs, seed=3), drawn(rows, outputs, seed=4)
    multiplied = weight.bfloat16().double()
    expected = x.double() @ multiplied.T
    assert close(kernels.linear(x, weight, None), expected)
    assert close(kernels.linear(x, weight, bias), expected + bias.double())
    assert close(kernels.linear_add(residual, x, weight, bias), expected + bias.double() + residual.double(), 1e-5)
    assert close(kernels.linear_backward(grad, weight), grad.double() @ multiplied)
    y, activated = kernels.linear_gelu(x, weight, bias)
    assert close(y, expected + bias.double())
    assert close(activated, F.gelu(y.double(), approximate="tanh"))
    to_weight = torch.empty_like(weight)
    kernels.weight_gradient(to_weight, grad, x)
    assert close(to_weight, grad.double().T @ x.double(), 1e-5)


def test_gradient_of_gelu_at_the_end_of_a_product() -> None:
    grad, weight = rounded(64, 96), drawn(96, 128, seed=1)
    x = rounded(64, 128, seed=2) * 3
    x[0, :4] = torch.tensor([0.0, 200.0, -200.0, float("nan")])
    sums = torch.empty(128)
    to_x, activated = kernels.gelu_linear_backward(sums, grad, x, weight)
    exact = x.double().requires_grad_()
    y = F.gelu(exact, approximate="tanh")
    y.backward(grad.double() @ weight.bfloat16().double())
    assert exact.grad is not None
    assert activated[0, 3].isnan() and to_x[0, 3].isnan() and sums[3].isnan()
    for tensor in (to_x, activated, exact.grad, y.detach()):
        tensor[0, 3] = 0.0
    assert close(to_x, exact.grad) and close(activated, y.detach())
    there = torch.arange(128) != 3
    assert close(sums[there], exact.grad.sum(dim=0)[there], 1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm(threads: None, bias: bool) -> None:
    x, passed, grad_y = drawn(64, 96) * 3 + 1, drawn(64, 96, seed=1), rounded(64, 96, seed=2)
    weight, shift = drawn(96, seed=3) + 1, drawn(96, seed=4) if bias else None
    y, moments = kernels.norm(x, weight, shift, 1e-5)
    to_weight, to_bias, sums = torch.empty(96), torch.empty(96), torch.empty(96)
    grad, rounded_grad = kernels.norm_backward((to_weight, to_bias, sums), x, moments, weight, grad_y, passed)
    exact = [tensor.double().requires_grad_() for tensor in (x, weight, torch.zeros(96) if shift is None else shift)]
    expected = F.layer_norm(exact[0], (96,), exact[1], exact[2], 1e-5)
    expected.backward(grad_y.double())
    to_x = exact[0].grad
    assert to_x is not None and exact[1].grad is not None and exact[2].grad is not None
    assert close(y, expected.detach())
    assert close(grad, to_x + passed.double(), 1e-5) and close(rounded_grad, to_x + passed.double())
    assert close(to_weight, exact[1].grad, 1e-5) and close(to_bias, exact[2].grad, 1e-5)
    assert close(sums, (to_x + passed.double()).sum(dim=0), 1e-4)


def test_sums_over_rows() -> None:
    torch.set_num_threads(3)
    x, sums = drawn(64, 96), torch.empty(96)
    assert torch.equal(kernels.round_and_sum(sums, x), x.bfloat16())
    assert close(sums, x.double().sum(dim=0), 1e-5)
    kernels.sum_rows(sums, x.bfloat16())
    assert close(sums, x.bfloat16().double().sum(dim=0), 1e-5)


@pytest.mark.parametrize(("windows", "length", "n_head", "size"), [(1, 32, 1, 32), (2, 96, 3, 64), (3, 160, 2, 96)])
def test_attention(threads: None, windows: int, length: int, n_head: int, size: int) -> None:
    """Lengths that are no whole number of the gradient's blocks; scores so large that exponentials vanish."""
    width = n_head * size
    qkv, grad = rounded(windows * length, 3 * width) * 4, rounded(windows * length, width, seed=1)
    y, log_sums = kernels.attend(qkv, length, n_head)
    to_qkv = kernels.attend_backward(qkv, y, grad, log_sums, length, n_head)
    exact = qkv.double().requires_grad_()
    q, k, v = (part.view(windows, length, n_head, size).transpose(1, 2) for part in exact.split(width, dim=1))
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(-1, width)
    expected.backward(grad.double())
    assert exact.grad is not None
    assert close(y, expected.detach(), 2 * BF16)
    for found, reference in zip(to_qkv.split(width, dim=1), exact.grad.split(width, dim=1), strict=True):
        assert close(found, reference, 4 * BF16)  # of products of rounded numbers


@pytest.mark.parametrize("vocab_size", [65, 80, 96])
def test_cross_entropy(vocab_size: int) -> None:
    """A vocabulary beside a whole vector, padding rows, targets that do not count."""
    logits, targets = rounded(32, 128) * 5, torch.randint(vocab_size, (32,), generator=torch.Generator().manual_seed(1))
    targets[:2] = IGNORED_TARGET
    exact = logits[:, :vocab_size].double().requires_grad_()
    expected = F.cross_entropy(exact, targets, ignore_index=IGNORED_TARGET, reduction="none")
    expected.sum().backward()
    assert exact.grad is not None
    losses = kernels.cross_entropy(logits, targets, vocab_size)
    assert close(losses, expected.detach(), 1e-5)
    assert close(logits[:, :vocab_size], exact.grad)
    assert not logits[:, vocab_size:].any() and not logits[:2].any()


# --- Models


def made(**options: object) -> GPT:
    """Every tensor redrawn: at the beginning of training much is zero, and a mistake does not show."""
    config = {"vocab_size": 100, "n_positions": 64, "n_embd": 128, "n_layer": 2, "n_head": 2, "dropout": 0.0}
    torch.manual_seed(0)
    model = GPT(GPTConfig(**{**config, **options}))  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.1).add_(1.0 if ".ln_" in name and name.endswith("weight") else 0.0)
    return model


def gradients(model: GPT, length: int = 64, *, bf16: bool = True) -> tuple[float, dict[str, Tensor]]:
    ids = torch.randint(100, (3, length + 1), generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model(ids[:, :-1], ids[:, 1:]) / ids[:, 1:].numel()
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def native_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that are called from now on."""
    calls: list[str] = []
    call = kernels._call

    def listed(name: str, *arguments: Tensor | float | None) -> None:
        calls.append(name)
        call(name, *arguments)

    monkeypatch.setattr(kernels, "_call", listed)
    return calls


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"tied": False}, {"n_head": 4}])
def test_gradients_are_as_good_as_autocasts(options: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(**options)
    loss, exact = gradients(model, bf16=False)
    _, autocast = gradients(model)
    train_natively(model)
    calls = native_calls(monkeypatch)
    found_loss, found = gradients(model)
    assert {"causal_backward", "cross_entropy", "gelu_linear_backward"} <= set(calls)
    assert found_loss == pytest.approx(loss, rel=1e-4)
    assert found.keys() == exact.keys()
    for name, reference in exact.items():
        theirs, ours = ((each[name] - reference).norm() / reference.norm() for each in (autocast, found))
        assert ours < 1.3 * theirs + 1e-3, name


def test_the_same_twice_and_under_gradient_checkpointing() -> None:
    torch.set_num_threads(3)
    model = made()
    train_natively(model)
    _, expected = gradients(model)
    _, again = gradients(model)
    plain = TrainingBlock.forward
    for block in model.h:
        block.forward = lambda *arguments, block=block: checkpoint(plain, block, *arguments, use_reentrant=False)
    _, recomputed = gradients(model)
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())
    assert all(torch.equal(recomputed[name], tensor) for name, tensor in expected.items())


def test_only_what_is_trained_gets_a_gradient() -> None:
    model = made()
    train_natively(model)
    _, whole = gradients(model)
    frozen = {"h.0.attn.c_attn.weight", "h.0.mlp.c_fc.bias", "h.1.ln_2.weight", "h.1.mlp.c_proj.weight", "wte.weight"}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    _, found = gradients(model)
    assert found.keys() == whole.keys() - frozen
    assert all(torch.equal(found[name], whole[name]) for name in found)


def test_a_block_gives_no_view() -> None:
    """FSDP warns of one: an operation in place on it would undo what it hooks to it."""
    model = made()
    train_natively(model)
    with torch.autocast("cpu", torch.bfloat16):
        y = model.h[0](torch.zeros(2, 32, 128), None, 0)
    assert y.shape == (2, 32, 128) and y.requires_grad and not y._is_view()


def test_tensors_of_another_kind_are_refused() -> None:
    class Strange(torch.Tensor):
        pass

    with pytest.raises(AssertionError, match="Strange"):
        kernels.sum_rows(torch.empty(32), rounded(32, 32).as_subclass(Strange))


def test_what_is_no_number_is_seen() -> None:
    """Else a broken step would not be skipped."""
    model = made()
    train_natively(model)
    with torch.no_grad():
        model.wpe.weight[3, 5] = float("nan")
    loss, found = gradients(model)
    assert loss != loss and all(tensor.isnan().any() for tensor in found.values())


@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.1},
        {"positions": "rope", "norm": "layernorm"},
        {"positions": "rope", "norm": "rmsnorm"},
        {"activation": "relu2"},
        {"activation": "gelu_exact"},
        {"n_head": 8},  # heads of 16
        {"n_head": 1, "n_embd": 48},
    ],
    ids=str,
)
def test_blocks_of_other_kinds_go_their_own_way(options: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    model, plain = made(**options), made(**options)
    train_natively(model)
    calls = native_calls(monkeypatch)
    torch.manual_seed(2)
    _, found = gradients(model)
    torch.manual_seed(2)
    _, expected = gradients(plain)
    assert not {name for name in calls if name.startswith("causal")}
    assert ("cross_entropy" in calls) == (model.config.n_embd % kernels.SIDE == 0)  # the head is of one kind
    for name, reference in expected.items():
        assert (found[name] - reference).norm() < 0.02 * reference.norm(), name


def test_other_lengths_adapters_fp32_and_documents_go_their_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model, plain = made(), made()
    train_natively(model)
    calls = native_calls(monkeypatch)
    assert gradients(model, bf16=False)[0] == gradients(plain, bf16=False)[0]
    assert gradients(model, length=17)[0] == gradients(plain, length=17)[0]
    ids = torch.zeros(1, 64, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            model(ids, ids)
        model.hidden(ids, mask=torch.ones(1, 1, 64, 64, dtype=torch.bool).tril())
        add_adapters(model, LoRAConfig(rank=2))
        model.hidden(ids)
    assert not calls


def test_a_target_outside_the_vocabulary_is_refused() -> None:
    model = made()
    train_natively(model)
    ids = torch.full((1, 64), 100)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(AssertionError, match="a target of 100"):
        model(torch.zeros_like(ids), ids)
