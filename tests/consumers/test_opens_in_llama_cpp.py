"""llama.cpp: by its converter, `python convert_hf_to_gguf.py FOLDER`, or at once by `nano-gpt export --gguf FILE`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from nano_gpt.checkpoint.folder import CONFIG, TOKENIZER_FILES, WEIGHTS
from nano_gpt.checkpoint.source import LoadedModel
from nano_gpt.hub.gguf import write_gguf
from nano_gpt.hub.precision import Precision
from nano_gpt.inference.text import generate


def test_what_the_converter_asks_of_a_folder(exported: Path, prompt: str) -> None:
    """It reads these settings by these names, and stops at a tensor that its library's table does not have."""
    values = json.loads((exported / CONFIG).read_text())
    assert values["architectures"] == ["GPT2LMHeadModel"] and values["n_ctx"] == values["n_positions"]
    assert {"n_embd", "n_head", "n_layer", "layer_norm_epsilon", "vocab_size"} <= values.keys()
    assert all((exported / name).is_file() for name in TOKENIZER_FILES)
    gguf = pytest.importorskip("gguf", reason="needs gguf: the extra of that name")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, values["n_layer"])
    with safe_open(exported / WEIGHTS, framework="pt") as file:
        assert all(names.get_name(name, try_suffixes=(".weight", ".bias")) for name in file.keys())  # noqa: SIM118


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 0.01), ("fp16", 0.01), ("bf16", 0.05)])
def test_it_says_the_same(
    loaded: LoadedModel, prompt: str, tmp_path: Path, precision: Precision, tolerance: float
) -> None:
    """llama.cpp itself, as the package xllamacpp brings it. Its GELU is a table in fp16, as its cache is."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="needs xllamacpp")
    pytest.importorskip("gguf", reason="needs gguf: the extra of that name")
    report = write_gguf(loaded, tmp_path / "model.gguf", precision=precision)
    answer = complete(xllamacpp, prompt, report.file, loaded.model.config.n_positions)
    ids = loaded.tokenizer.encode(prompt)
    assert answer["usage"]["prompt_tokens"] == len(ids)
    with torch.inference_mode():
        expected = loaded.model(torch.tensor([ids]))[0, -1].log_softmax(-1)
    first = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    assert [token["logprob"] for token in first] == pytest.approx(
        [float(expected[token["id"]]) for token in first], abs=tolerance
    )
    if precision == "fp32":
        text = prompt + answer["choices"][0]["text"]
        assert text == generate(loaded, prompt, max_new_tokens=12, temperature=0.0)[0]


def complete(xllamacpp: Any, prompt: str, file: Path, n_ctx: int) -> dict[str, Any]:
    """Twelve greedy tokens after the prompt, from its server in this process, without a port."""
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = str(file), n_ctx, 1
    params.cpuparams.n_threads, params.verbosity, params.warmup = 1, 0, False
    asked = {"prompt": prompt, "max_tokens": 12, "temperature": 0, "logprobs": 5}
    answer = xllamacpp.Server(params).handle_completions(asked)
    answered: dict[str, Any] = json.loads(answer) if isinstance(answer, (str, bytes)) else answer
    return answered
