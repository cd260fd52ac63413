"""`script/bench decode`: that the ways write the same, and what the table says of figures."""

from __future__ import annotations

import importlib

import pytest
import torch

from nano_gpt.config import GPTConfig
from nano_gpt.model.gpt import GPT


@pytest.mark.usefixtures("benchmarks")
def test_the_ways_write_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one candidate a token nothing is left to chance."""
    ways = importlib.import_module("decode_ways")
    monkeypatch.setattr(ways, "TOP_K", 1)
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=61, n_positions=32, n_embd=32, n_layer=2, n_head=2)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    prompts = torch.randint(61, (2, 5))
    expected = ways.Engine(model, eot_id=-1).generate(
        prompts.tolist(), ways.SamplingConfig(num_sequences=1, top_k=1), max_new_tokens=9
    )
    seen: list[list[int]] = []
    hidden = GPT.hidden

    def watched(self: GPT, ids: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(ids[0].tolist())
        return hidden(self, ids, *rest)

    monkeypatch.setattr(GPT, "hidden", watched)
    ways.without_cache(model, prompts, 10, all_logits=True)
    assert seen[-1][5:] == expected[0].ids
    ways.nanogpt(model)(prompts, 10)
    assert seen[-1][5:] == expected[1].ids
    monkeypatch.undo()
    for write in (ways.ours(model, "int8"), ways.hugging_face(model, torch.float32)):
        write(prompts, 9)  # each checks the number itself


@pytest.mark.usefixtures("benchmarks")
def test_the_table_says_what_was_found_and_what_was_missed() -> None:
    decode = importlib.import_module("decode")
    second = dict.fromkeys(decode.WAYS, 0.1)
    rounds = [{**second, "fp32": 0.02, "bf16": 0.05, "int8": 0.01}] * 3
    setting = decode.Setting(2, decode.JOBS[0], rounds, [30e9] * 3)
    text = decode.markdown("script/bench decode", 0.1, [setting])
    assert "| `nano-gpt sample` | 50.0 | 5.00 | 5.0 | 82% |" in text
    assert "| 1 x 8, 2 threads: fp32 at least 2.1 times HF | 5.00 | kept |" in text
    assert "| 1 x 8, 2 threads: bf16 at least 2.2 times HF | 2.00 | **missed** |" in text


@pytest.mark.usefixtures("benchmarks")
def test_a_way_answers_and_its_end_is_told() -> None:
    turns = importlib.import_module("turns")
    with (
        turns.Way("fp32", "decode_ways.py", ["no such way", "--threads", "1"], {}) as way,
        pytest.raises(turns.WayFailed, match="fp32 ended with 2"),
    ):
        way.ask("write 1 8 2")
    ways = [turns.Way.__new__(turns.Way) for _ in range(3)]
    assert turns.in_turn(ways, 4) == (ways[1], ways[2], ways[0])
