"""Decoding on a GPU, by recorded steps, against the same without and against the CPU. Skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from nano_gpt.config import GPTConfig, SamplingConfig
from nano_gpt.inference import batch
from nano_gpt.inference.engine import Engine
from nano_gpt.model.gpt import GPT
from nano_gpt.model.packed import pack

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
PROMPTS = [[5, 17, 3], [88] * 120, [41], list(range(60))]  # the longest looks at more places soon, and slides at last


def model(device: str) -> GPT:
    torch.manual_seed(0)
    made = GPT(GPTConfig(vocab_size=97, n_positions=256, n_embd=64, n_layer=2, n_head=4))
    for name, parameter in made.named_parameters():
        if not name.startswith("ln_"):
            parameter.data *= 8  # logits that tell
    return made.eval().to(device)


def written(device: str, config: SamplingConfig) -> list[list[int]]:
    rows = Engine(model(device), eot_id=7).generate(PROMPTS, config, max_new_tokens=[200, 150, 40, 10])
    return [row.ids for row in rows]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_recorded_steps_are_those_that_are_not(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SamplingConfig(num_sequences=2, temperature=temperature, top_k=20)
    recorded = written("cuda", config)
    with monkeypatch.context() as patched:
        patched.setattr(
            batch,
            "decoder",
            lambda model, cache: lambda ids: model.head(model.hidden(ids.unsqueeze(1), cache)[:, -1]),
        )
        assert written("cuda", config) == recorded


def test_a_gpu_writes_what_a_cpu_writes() -> None:
    greedy = SamplingConfig(num_sequences=1, temperature=0.0)
    for one, other in zip(written("cuda", greedy), written("cpu", greedy), strict=True):
        assert one[:8] == other[:8]  # near-ties may part later


@pytest.mark.parametrize("way", [{"dtype": torch.bfloat16}, {"quantize": "int8"}], ids=str)
def test_packed_on_a_gpu(way: dict[str, object]) -> None:
    if "quantize" in way:
        pytest.importorskip("torchao")
    ids = torch.randint(0, 97, (3, 50), device="cuda")
    with torch.inference_mode():
        expected, found = model("cuda")(ids), pack(model("cuda"), **way)(ids)  # type: ignore[arg-type]
    assert ((found - expected).abs().mean() / expected.std()) < 0.05
