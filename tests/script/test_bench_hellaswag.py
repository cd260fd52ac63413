"""`script/bench hellaswag`: that the ways choose alike, and what the table says of figures."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from nano_gpt.checkpoint.folder import write_model_folder
from nano_gpt.config import GPTConfig
from nano_gpt.evaluation.hellaswag_items import Item
from nano_gpt.model.gpt import GPT
from nano_gpt.tokenizer import load_tokenizer


@pytest.mark.usefixtures("benchmarks")
def test_the_ways_choose_alike(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval.models.huggingface", reason="needs lm-eval: the extra of that name")
    ways = importlib.import_module("hellaswag_ways")
    tokenizer = load_tokenizer("byte")
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, n_positions=128, n_embd=32, n_layer=2, n_head=2)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    write_model_folder(tmp_path, model.config, model.state_dict(), tokenizer)
    endings = ("mows the lawn.", "flies off in it.", "is", "eats three of them.")
    items = [Item("Mowing", f"Man {n} starts", "he", f"Man {n} starts it. he", endings, n % 4) for n in range(6)]
    ours = ways.ours(tmp_path, torch.float32)
    assert ours(items, "cleaned", 0) == ways.lm_eval(tmp_path, torch.float32)(items, "cleaned", 4)
    slow = ways.predecessor(tmp_path)(items, "as_is", 0)
    assert ways.ours(tmp_path, torch.bfloat16)(items, "as_is", 0) == slow


@pytest.mark.usefixtures("benchmarks")
def test_the_table_says_what_was_found_and_what_was_missed() -> None:
    bench = importlib.import_module("hellaswag")
    seconds = {**dict.fromkeys(bench.WAYS, 1.0), "fp32": 0.2, "bf16": 0.5, "predecessor": 4.0}
    searched = {way: {1: 3.0, 4: 1.0, 16: 2.0, 32: 2.5} for way in bench.LM_EVAL}
    rounds = [bench.Round(seconds, {"fp32": 0.4, "bf16": 0.2})] * 3
    agreement = dict.fromkeys(bench.WAYS, (20, 20)) | {"fp32": (19, 20)}
    text = bench.markdown("script/bench hellaswag", 0.1, bench.Report(2, 20, searched, rounds, agreement))
    assert "(4 in fp32, 4 in bf16)" in text
    assert "| `nano-gpt eval` | 5.00 | 5.00 | 10.0 | 19 of 20 |" in text
    assert "| bf16: at least 4.2 times lm-eval at its best | 2.00 | **missed** |" in text
    assert "| bf16: at least 12 times the predecessor's | 20.0 | kept |" in text
    assert "| fp32: the choices of lm-eval | 19 of 20 | **missed** |" in text
