"""`script/bench train`: that the ways do the same job, what the table says of figures, the real thing on a little."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from nano_gpt.config import GPTConfig
from nano_gpt.model.gpt import GPT


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.usefixtures("benchmarks")
def test_the_common_way_is_the_same_model() -> None:
    """With our weights it has our loss: the ways differ in speed only."""
    config = GPTConfig(vocab_size=64, n_positions=12, n_embd=16, n_layer=2, n_head=4)
    torch.manual_seed(0)
    ours, plain = GPT(config), module("train_ways").PlainGPT(config)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # at the usual 0.02 another GELU would not be seen
    names = {"h.": "blocks.", "attn.c_attn": "qkv", "attn.c_proj": "out", "mlp.c_fc": "up", "mlp.c_proj": "down"}
    state = {}
    for name, tensor in ours.state_dict().items():
        for our_name, their_name in names.items():
            name = name.replace(our_name, their_name)
        state[name] = tensor
    plain.load_state_dict(state)
    ids = torch.randint(64, (3, 13))
    inputs, targets = ids[:, :-1], ids[:, 1:]
    assert plain(inputs, targets).item() == pytest.approx(ours(inputs, targets).item() / targets.numel(), rel=1e-6)


@pytest.mark.usefixtures("benchmarks")
def test_every_way_learns_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = module("train_ways")
    monkeypatch.setattr(ways, "keep_freed_memory", lambda: None)  # it cannot be undone
    size = ways.Size("tiny", GPTConfig(vocab_size=65, n_positions=8, n_embd=32, n_layer=1, n_head=2), windows=2)
    for step in (ways.ours(size), ways.plain(size, torch.float32), ways.plain(size, torch.bfloat16)):
        losses = [step() for _ in range(30)]
        assert losses[0] == pytest.approx(4.17, abs=0.3)  # ln 65
        assert losses[-1] < losses[0] - 0.5
    answer = ways.timed(step, 2)
    assert answer["seconds"] > 0
    assert answer["peak_rss"] > 50_000_000


def rounds(report: ModuleType, ours: list[float], nanogpt: list[float]) -> list[object]:
    return [
        report.Round(
            seconds={"ours": one, "nanogpt": other, "predecessor": 2 * one, "common": other},
            peak_rss=dict.fromkeys(("ours", "nanogpt", "predecessor", "common"), 2**30),
            flops_bf16=400e9,
            flops_fp32=100e9,
        )
        for one, other in zip(ours, nanogpt, strict=True)
    ]


@pytest.mark.usefixtures("benchmarks")
def test_figures_and_verdicts() -> None:
    report = module("train_report")
    # 71.0 MFLOP a token (6 N + 12 L T C) x 4096 tokens = 291 GFLOP: 0.728 s at 400 GFLOP/s.
    setting = report.Setting("b", 2, rounds(report, [1.0, 2.0, 1.0], [3.0, 8.0, 5.0]))
    assert setting.times("nanogpt") == 4.0  # the median of 3, 4 and 5; of the medians it would be 5
    assert setting.seconds("ours") == 1.0
    assert setting.share_of_peak("ours") == pytest.approx(0.728, abs=0.002)
    found = report.Report("script/bench train", 0.0, True, [setting])
    lines = found.verdicts().splitlines()
    assert lines[2:] == [
        "| (b) at least 3.4 times nanoGPT's | 4.00 (6.88) | kept |",
        "| (b) at least 1.35 times the predecessor's | 2.00 (2.75) | kept |",
        "| (b) at least 65% of the peak | 73% | kept |",
    ]
    assert "4,096" in found.markdown()
    slow = report.Report("", 0.0, True, [report.Setting("b", 2, rounds(report, [2.0], [3.0]))])
    assert [line.split(" | ")[-1] for line in slow.verdicts().splitlines()[2:]] == [
        "**missed** |",
        "kept |",
        "**missed** |",
    ]


@pytest.mark.usefixtures("benchmarks")
def test_without_a_checkout_its_row_says_why() -> None:
    report = module("train_report")
    one = rounds(report, [1.0], [3.0])[0]
    del one.seconds["nanogpt"]  # type: ignore[attr-defined]
    found = report.Report("", 0.0, False, [report.Setting("b", 2, [one])])
    assert "| nanoGPT's `train.py` as it is: fp32 on a CPU | - |" in found.tables()
    assert "nanoGPT: left out" in found.markdown()
    assert "nanoGPT's |" not in found.verdicts()


@pytest.mark.usefixtures("benchmarks")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--sizes", "b,d"], "no size 'd': a, b, c"), (["--nanogpt", "nowhere"], "nowhere: there is no model.py")],
)
def test_what_it_does_not_know(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        module("train").parse(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("benchmarks")
def test_a_way_that_ends_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    train = module("train")
    way = train.way("ours", "no such size", 1, None)
    with way, pytest.raises(train.WayFailed, match="ours ended with 2"):
        way.ask("steps 1")


@pytest.mark.slow
def test_the_whole_benchmark_on_the_smallest_model(benchmarks: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "train.md"
    command = [sys.executable, str(benchmarks / "train.py"), "--sizes", "a", "--rounds", "1", "--threads", "1"]
    done = subprocess.run([*command, "--out", str(out)], check=True, capture_output=True, text=True)
    for words in ("| `nano-gpt train` |", "bf16 autocast, fused attention", "GFLOP/s in bf16", "1 thread\n"):
        assert words in out.read_text(encoding="utf-8")
    assert "round 1, ms a step: ours" in done.stderr
    done = subprocess.run([*command, "--json"], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)[0]["rounds"][0]["seconds"].keys() == {"ours", "predecessor", "common"}
