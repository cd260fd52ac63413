"""Device, precision and peak speed are found without a GPU by asking torch; here torch is told what to answer."""

from __future__ import annotations

import pytest
import torch

from nano_gpt.errors import ConfigError
from nano_gpt.runtime import device as device_module
from nano_gpt.runtime.device import autocast, can_compile, peak_flops, resolve_device, resolve_dtype, send, synchronize

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda", 0), torch.device("mps")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """machine(gpus=2, metal=False): what torch then says of this machine."""

    def pretend(gpus: int = 0, metal: bool = False, name: str = "NVIDIA H100 80GB HBM3", bf16: bool = True) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: metal)

    return pretend


@pytest.mark.parametrize(
    ("gpus", "metal", "expected"), [(0, False, "cpu"), (0, True, "mps"), (1, False, "cuda:0"), (1, True, "cuda:0")]
)
def test_auto_takes_the_fastest(machine, gpus: int, metal: bool, expected: str) -> None:  # type: ignore[no-untyped-def]
    machine(gpus, metal)
    assert str(resolve_device("auto")) == expected


def test_every_rank_gets_its_gpu(machine) -> None:  # type: ignore[no-untyped-def]
    machine(gpus=4)
    assert [resolve_device("cuda", rank).index for rank in range(4)] == [0, 1, 2, 3]
    assert resolve_device("cuda:3").index == 3


@pytest.mark.parametrize(
    ("name", "gpus", "local_rank", "message"),
    [
        ("gpu", 0, 0, "unknown device 'gpu'"),
        ("meta", 0, 0, "unknown device 'meta'"),
        ("", 0, 0, "unknown device ''"),
        ("cuda", 0, 0, "--device cuda: this machine, or this build of torch, has no CUDA"),
        ("mps", 0, 0, "--device mps: this machine has no Metal GPU"),
        ("cuda:2", 2, 0, "no GPU 2 on this machine, which has 2"),
        ("auto", 2, 2, "no GPU 2 on this machine, which has 2"),
    ],
)
def test_a_device_that_is_not_there(machine, name: str, gpus: int, local_rank: int, message: str) -> None:  # type: ignore[no-untyped-def]
    machine(gpus)
    with pytest.raises(ConfigError) as caught:
        resolve_device(name, local_rank)
    assert caught.value.message == message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "device", "hardware", "expected"),
    [
        ("fp32", CUDA, True, torch.float32),
        ("bf16", CUDA, False, torch.bfloat16),
        ("bf16", CPU, False, torch.bfloat16),
        ("auto", CUDA, True, torch.bfloat16),
        ("auto", CUDA, False, torch.float32),
        ("auto", CPU, True, torch.bfloat16),
        ("auto", CPU, False, torch.float32),
        ("auto", MPS, True, torch.float32),
    ],
)
def test_precision(  # type: ignore[no-untyped-def]
    machine, monkeypatch: pytest.MonkeyPatch, name: str, device: torch.device, hardware: bool, expected: torch.dtype
) -> None:
    machine(gpus=1, bf16=hardware)
    monkeypatch.setattr(device_module, "_cpu_flag", lambda probe: hardware)
    assert resolve_dtype(name, device) == expected


def test_autocast_multiplies_in_bf16_and_keeps_fp32_otherwise() -> None:
    matrix = torch.ones(2, 2)
    with autocast(CPU, torch.bfloat16):
        assert (matrix @ matrix).dtype == torch.bfloat16
    with autocast(CPU, torch.float32):
        assert (matrix @ matrix).dtype == torch.float32
    synchronize(CPU)


@pytest.mark.parametrize(("device", "waits"), [(CPU, True), (MPS, True), (CUDA, False)])
def test_only_cuda_copies_while_we_go_on(device: torch.device, waits: bool) -> None:
    """Metal silently reads freed memory when a copy from it is not waited for."""

    class Spy:
        pinned = False

        def pin_memory(self) -> Spy:
            self.pinned = True
            return self

        def to(self, device: torch.device, non_blocking: bool = False) -> tuple[torch.device, bool, bool]:
            return device, self.pinned, non_blocking

    assert send(Spy(), device) == (device, not waits, not waits)  # type: ignore[arg-type, comparison-overlap]


@pytest.mark.parametrize(
    ("name", "peak"),
    [  # dense bf16, from the data sheets
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA RTX A1000", None),  # no A100
        ("Tesla T4", None),
    ],
)
def test_peak_of_known_gpus_only(machine, name: str, peak: float | None) -> None:  # type: ignore[no-untyped-def]
    machine(gpus=1, name=name)
    assert peak_flops(CUDA, torch.bfloat16) == peak
    assert peak_flops(CUDA, torch.float32) is None
    assert peak_flops(CPU, torch.bfloat16) is None


def test_compile_that_fails_is_one_line_and_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the level that only rank 0 shows."""

    def broken(function: object) -> object:
        raise RuntimeError("no C++ compiler\nand a page of reasons")

    lines: list[str] = []
    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(device_module.logger, "info", lines.append)
    assert can_compile(CPU) is False
    assert lines == ["torch.compile does not work here, going on without it: no C++ compiler"]
