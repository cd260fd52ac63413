"""A GGUF holds the model's tensors, shape and tokenizer, or it is not there. llama.cpp itself is in tests/consumers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hub.small_models import TINY, small_model, write_run
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from nano_gpt.checkpoint.source import LoadedModel
from nano_gpt.cli.main import run
from nano_gpt.errors import CheckpointError, NanoGPTError
from nano_gpt.hub.export import export
from nano_gpt.hub.gguf import write_gguf
from nano_gpt.hub.precision import Precision
from nano_gpt.model.hf import to_hf_config
from nano_gpt.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from nano_gpt.tokenizer.char import CharTokenizer

gguf = pytest.importorskip("gguf", reason="needs gguf: the extra of that name")
TEXT = "It is a truth universally acknowledged, that naïve café owners don't sell 日本茶."


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def loaded_model(tokenizer: Tokenizer | None = None, **values: Any) -> LoadedModel:
    tokenizer = tokenizer or train_tokenizer("bpe:300", [TEXT] * 2)
    config = TINY.model_copy(update={"vocab_size": tokenizer.vocab_size, **values})
    return LoadedModel(small_model(config), tokenizer, "a test")


def read(file: str) -> tuple[dict[str, Any], dict[str, Any]]:
    reader = gguf.GGUFReader(file)
    values = {key: field.contents() for key, field in reader.fields.items()}
    return values, {tensor.name: tensor for tensor in reader.tensors}


@pytest.mark.parametrize(
    ("precision", "kind", "file_type"), [("fp32", "F32", 0), ("fp16", "F16", 1), ("bf16", "BF16", 32)]
)
def test_tensors(precision: Precision, kind: str, file_type: int) -> None:
    """Matrices in the type that was asked for, rounded to nearest; the rest as it is."""
    loaded = loaded_model()
    report = write_gguf(loaded, Path("model.gguf"), precision=precision)
    values, tensors = read("model.gguf")
    assert report.size == Path("model.gguf").stat().st_size and report.tensors == len(tensors) == 4 + 12 * TINY.n_layer
    assert values["general.file_type"] == file_type
    state = loaded.model.state_dict()
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    for name, ours, stored in [
        ("token_embd.weight", state["wte.weight"][: loaded.tokenizer.vocab_size], kind),
        ("blk.1.attn_qkv.weight", state["h.1.attn.c_attn.weight"], kind),
        ("blk.1.ffn_down.weight", state["h.1.mlp.c_proj.weight"], kind),
        ("position_embd.weight", state["wpe.weight"], "F32"),
        ("blk.0.ffn_norm.weight", state["h.0.ln_2.weight"], "F32"),
        ("blk.0.attn_qkv.bias", state["h.0.attn.c_attn.bias"], "F32"),
    ]:
        found = tensors[name]
        assert found.tensor_type.name == stored and found.shape.tolist() == list(ours.shape[::-1])
        expected = ours.to(dtype).float() if stored != "F32" else ours
        read_back = gguf.dequantize(found.data, found.tensor_type).reshape(ours.shape)
        np.testing.assert_array_equal(read_back, expected.numpy())


def test_shape_and_tokenizer() -> None:
    loaded = loaded_model()
    write_gguf(loaded, Path("model.gguf"))
    values, _ = read("model.gguf")
    tokenizer, eot = loaded.tokenizer, loaded.tokenizer.eot_id
    assert values["general.architecture"] == "gpt2" and values["general.name"].startswith("GPT-2 with ")
    assert values["gpt2.context_length"] == 32 and values["gpt2.feed_forward_length"] == 4 * 24
    assert (values["gpt2.block_count"], values["gpt2.embedding_length"], values["gpt2.attention.head_count"]) == (
        2,
        24,
        3,
    )
    assert values["gpt2.attention.layer_norm_epsilon"] == np.float32(1e-5)
    assert (values["tokenizer.ggml.model"], values["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    tokenizer.save(Path(), None)
    vocabulary = json.loads(Path("vocab.json").read_text())
    assert {token: i for i, token in enumerate(values["tokenizer.ggml.tokens"])} == vocabulary
    assert Path("merges.txt").read_text().splitlines()[1:] == values["tokenizer.ggml.merges"]
    control = [i for i, kind in enumerate(values["tokenizer.ggml.token_type"]) if kind == gguf.TokenType.CONTROL]
    assert control == [eot] == [values["tokenizer.ggml.bos_token_id"]] == [values["tokenizer.ggml.eos_token_id"]]
    assert values["tokenizer.ggml.add_bos_token"] is values["tokenizer.ggml.add_eos_token"] is False


@torch.inference_mode()
def test_another_reader_agrees() -> None:
    """transformers reads GGUF as well (but not its context length)."""
    loaded = loaded_model()
    write_gguf(loaded, Path("model.gguf"))
    config = GPT2Config(**to_hf_config(loaded.model.config, loaded.tokenizer.eot_id))
    model = AutoModelForCausalLM.from_pretrained(".", gguf_file="model.gguf", config=config)
    ids = AutoTokenizer.from_pretrained(".", gguf_file="model.gguf")(TEXT[:30], return_tensors="pt").input_ids
    assert ids[0].tolist() == loaded.tokenizer.encode(TEXT[:30])
    assert (model.eval()(ids).logits - loaded.model(ids)).abs().max() <= 1e-4


def test_a_head_of_its_own_and_no_biases() -> None:
    loaded = loaded_model(tied=False, bias=False)
    write_gguf(loaded, Path("model.gguf"))
    _, tensors = read("model.gguf")
    head = loaded.model.state_dict()["lm_head.weight"][: loaded.tokenizer.vocab_size]
    np.testing.assert_array_equal(tensors["output.weight"].data, head.numpy())
    assert not tensors["blk.0.attn_qkv.bias"].data.any(), "llama.cpp wants one"


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        (lambda: loaded_model(activation="relu2"), r"not this model \(positions learned, .* activation relu2\)"),
        (lambda: loaded_model(positions="rope"), r"not this model \(positions rope"),
        (lambda: loaded_model(load_tokenizer("byte")), r"no tokenizer without merges, as this model's \(byte\) is"),
        (lambda: loaded_model(CharTokenizer("abc ")), r"no tokenizer without merges, as this model's \(char\) is"),
    ],
)
def test_what_llama_cpp_does_not_know(loaded: Callable[[], LoadedModel], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        write_gguf(loaded(), Path("model.gguf"))
    assert not list(Path().iterdir())


def test_a_weight_that_does_not_fit() -> None:
    loaded = loaded_model()
    with torch.no_grad():
        loaded.model.h[1].attn.c_proj.bias[3] = 70000.0  # vectors stay fp32
        write_gguf(loaded, Path("model.gguf"), precision="fp16")
        loaded.model.h[1].mlp.c_proj.weight[3, 4] = 70000.0
    with pytest.raises(CheckpointError, match=r"tensor h\.1\.mlp\.c_proj\.weight reaches 70000"):
        write_gguf(loaded, Path("other.gguf"), precision="fp16")
    assert [path.name for path in Path().iterdir()] == ["model.gguf"]


@pytest.mark.parametrize("part", ["context_length", "merges", "output_norm.bias"])
def test_a_byte_that_is_written_wrong(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    loaded = loaded_model()
    places = {
        "context_length": (b"gpt2.context_length", 23),  # behind the name and the type
        "merges": (b"tokenizer.ggml.merges", 45),  # the first merge
        "output_norm.bias": (loaded.model.ln_f.bias.detach().numpy().tobytes(), 2),
    }
    honest = gguf.GGUFWriter.close

    def careless(writer: Any) -> None:
        honest(writer)
        data = bytearray(writer.path.read_bytes())
        mark, offset = places[part]
        data[data.index(mark) + offset] ^= 1
        writer.path.write_bytes(data)

    monkeypatch.setattr(gguf.GGUFWriter, "close", careless)
    with pytest.raises(CheckpointError, match=f"{part} of the GGUF is not what was written"):
        write_gguf(loaded, Path("model.gguf"))
    assert not list(Path().iterdir())


def test_a_target_that_exists() -> None:
    write_gguf(loaded_model(), Path("model.gguf"))
    before = Path("model.gguf").read_bytes()
    with pytest.raises(CheckpointError, match=r"model\.gguf exists") as caught:
        write_gguf(loaded_model(n_layer=1), Path("model.gguf"))
    assert caught.value.hint == "--overwrite replaces it" and Path("model.gguf").read_bytes() == before
    write_gguf(loaded_model(n_layer=1), Path("model.gguf"), overwrite=True)
    assert Path("model.gguf").read_bytes() != before
    Path("novel.txt").write_text("years of work")
    for path, message in (
        ("novel.txt", r"does not end in \.gguf"),
        (".", "is a folder"),
        ("novel.txt/x.gguf", "cannot be"),
    ):
        with pytest.raises(CheckpointError, match=message):
            write_gguf(loaded_model(), Path(path), overwrite=True)
    assert Path("novel.txt").read_text() == "years of work"


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(NanoGPTError, match="gguf is not installed") as caught:
        write_gguf(loaded_model(), Path("model.gguf"))
    assert caught.value.hint is not None and "pip install gguf" in caught.value.hint


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("runs/one"))
    assert run(["export", "--gguf", "model.gguf"]) == 1
    assert "llama.cpp has no tokenizer without merges" in capsys.readouterr().err
    export(loaded_model(), Path("export"))
    assert run(["export", "--pretrained", "export", "--gguf", "model.gguf", "--dtype", "fp16"]) == 0
    out = capsys.readouterr().out
    assert "exported export to model.gguf: " in out and "28 tensors; read back and found equal" in out
    assert run(["export", "--pretrained", "export", "--gguf", "two.gguf", "--export-dir", "two", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["folder"] == "two" and values["gguf"]["bytes"] == Path("two.gguf").stat().st_size
    assert Path("two.gguf").stat().st_size > Path("model.gguf").stat().st_size
