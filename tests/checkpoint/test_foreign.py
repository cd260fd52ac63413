"""Every peer's checkpoint opens here, and computes what it computed there."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint.peer_files import (
    llmc_bytes,
    llmc_header,
    nanogpt_values,
    settings_of,
    weights_of,
    write_build_nanogpt,
    write_llmc,
    write_llmc_bf16,
    write_nanogpt,
    write_nanogpt_compiled,
    write_predecessor,
)
from hub.small_models import TINY, small_model, write_folder
from safetensors.torch import save_file

from nano_gpt.checkpoint.folder import CONFIG, TOKENIZER_FILES, WEIGHTS
from nano_gpt.checkpoint.source import load_model
from nano_gpt.cli.main import run
from nano_gpt.config import GPTConfig
from nano_gpt.errors import CheckpointError, DataError
from nano_gpt.hub.export import export
from nano_gpt.model.gpt import GPT
from nano_gpt.tokenizer import load_tokenizer
from nano_gpt.tokenizer.bpe import ByteLevelBPE
from nano_gpt.tokenizer.char import CharTokenizer

Write = Callable[[Path, GPT], None]
WRITERS: list[Write] = [
    write_nanogpt,
    write_nanogpt_compiled,
    write_build_nanogpt,
    write_predecessor,
    write_llmc,
    write_llmc_bf16,
]
ACTIVATIONS = {write_nanogpt: "gelu_exact", write_nanogpt_compiled: "gelu_exact"}  # the others have GPT-2's
FOLDER = Path("prepared")
ALPHABET = "abcdefgh \n"


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    FOLDER.mkdir()


def rounded_model(config: GPTConfig = TINY) -> GPT:
    """A small model whose weights bf16 holds exactly."""
    model = small_model(config)
    model.load_state_dict({name: tensor.bfloat16().float() for name, tensor in model.state_dict().items()})
    return model


@torch.inference_mode()
def logits(model: GPT) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return model(torch.randint(10, (2, model.config.n_positions), generator=generator))


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("option", ["checkpoint", "pretrained"])
def test_the_same_model(write: Write, option: str) -> None:
    model = rounded_model()
    write(Path("file"), model)
    loaded = load_model(**{option: "file"}, tokenizer="byte")  # type: ignore[arg-type]
    assert loaded.model.config == TINY.model_copy(update={"activation": ACTIVATIONS.get(write, "gelu")})
    assert not loaded.model.training
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.model.state_dict().items())
    assert loaded.origin == "file" and loaded.folder is None and loaded.trainer_state is None


def test_the_model_does_not_change_with_the_file() -> None:
    write_llmc(Path("file"), small_model())
    model = load_model("file", tokenizer="byte").model
    before = logits(model)
    with Path("file").open("rb+") as file:
        file.write(b"\x11" * Path("file").stat().st_size)
    assert torch.equal(logits(model), before)


def test_a_model_without_biases() -> None:
    model = small_model(TINY.model_copy(update={"bias": False, "activation": "gelu_exact"}))
    write_nanogpt(Path("ckpt.pt"), model)
    loaded = load_model("ckpt.pt", tokenizer="byte").model
    assert not loaded.config.bias and torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (write_nanogpt, ["a checkpoint of nanoGPT at step 5,000, validation loss 1.4697"]),
        (write_build_nanogpt, ["a checkpoint of build-nanogpt at step 19,072, validation loss 3.0538"]),
        (write_predecessor, ["a checkpoint of allenporter/nano-gpt at step 250"]),
        (write_llmc, ["a checkpoint of llm.c"]),
    ],
)
def test_it_says_what_it_is(write: Write, said: list[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write(Path("file"), small_model())
    load_model("file", tokenizer="byte")
    assert [message for message in caplog.messages if message.startswith("model: ")] == caplog.messages
    assert len(caplog.messages) == len(said)
    assert all(words in message for words, message in zip(said, caplog.messages, strict=True))


@pytest.mark.parametrize("rows", [50257, 50304])
def test_gpt2s_tokenizer_where_it_fits(rows: int, gpt2_bpe: None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model = small_model(TINY.model_copy(update={"vocab_size": rows, "n_embd": 6}))
    write_build_nanogpt(Path("model_05000.pt"), model)
    loaded = load_model(checkpoint="model_05000.pt")
    assert loaded.tokenizer.name == "gpt2" and loaded.model.config.vocab_size == 50257
    assert torch.equal(logits(loaded.model), logits(model)[..., :50257])
    assert not loaded.model.wte.weight[50257:].any()
    assert ("47 of its 50,304 rows are padding" in caplog.text) == (rows == 50304)


def test_a_vocabulary_of_nobody() -> None:
    write_nanogpt(Path("ckpt.pt"), small_model())
    with pytest.raises(CheckpointError, match=r"ckpt\.pt has 257 ids and no tokenizer") as caught:
        load_model("ckpt.pt")
    assert caught.value.hint is not None and "--tokenizer FOLDER" in caught.value.hint
    with pytest.raises(DataError, match="made from a corpus"):
        load_model("ckpt.pt", tokenizer="char")


@pytest.mark.parametrize("rows", [255, 256, 258, 384, 448])
def test_another_tokenizer(rows: int) -> None:
    """256: the one id that is missing could be the byte tokenizer's <|endoftext|>, which is its last."""
    write_nanogpt(Path("ckpt.pt"), small_model(TINY.model_copy(update={"vocab_size": rows})))
    if rows in (256, 384):
        assert load_model("ckpt.pt", tokenizer="byte").model.config.vocab_size == 257
        return
    with pytest.raises(CheckpointError, match=f"has {rows} ids and the tokenizer byte 257"):
        load_model("ckpt.pt", tokenizer="byte")


def test_only_a_last_id_can_be_missing() -> None:
    ByteLevelBPE({bytes([byte]): byte + 1 for byte in range(256)}, merges=[], eot_id=0).save(FOLDER)
    write_nanogpt(Path("ckpt.pt"), small_model(TINY.model_copy(update={"vocab_size": 256})))
    with pytest.raises(CheckpointError, match="has 256 ids and the tokenizer bpe:257 257"):
        load_model("ckpt.pt", tokenizer="prepared")


def test_characters_get_an_end_of_text() -> None:
    """nanoGPT's character models have no <|endoftext|>, and our tokenizers and exports always do."""
    tokenizer = CharTokenizer(ALPHABET)
    tokenizer.save(FOLDER)
    model = small_model(TINY.model_copy(update={"vocab_size": len(ALPHABET), "activation": "gelu_exact"}))
    write_nanogpt(Path("ckpt.pt"), model)
    loaded = load_model("ckpt.pt", tokenizer="prepared")
    ours = logits(loaded.model)
    assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
    assert torch.allclose(ours[..., :-1], logits(model), atol=1e-6)
    assert ours.softmax(-1)[..., tokenizer.eot_id].max() <= 1 / tokenizer.vocab_size
    export(loaded, Path("export"))
    assert torch.allclose(logits(load_model("export").model), ours, atol=1e-6)


def test_an_export_of_the_predecessor(gpt2_bpe: None) -> None:
    """No tokenizer, no n_positions, padded, with masks and the head once more."""
    config = TINY.model_copy(update={"vocab_size": 50304, "n_embd": 6})
    model = small_model(config)
    tensors = weights_of(model)
    for name in tensors:
        if name.endswith(("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")):
            tensors[name] = tensors[name].t().contiguous()
    tensors["lm_head.weight"] = tensors["lm_head.weight"].clone()
    tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 4, 4)
    Path("export").mkdir()
    save_file(tensors, "export/" + WEIGHTS)
    values = {"model_type": "gpt2", "n_ctx": config.n_positions, **settings_of(config), "train_config": {"seed": 1337}}
    Path("export", CONFIG).write_text(json.dumps(values))
    loaded = load_model("./export")
    assert loaded.tokenizer.name == "gpt2" and loaded.folder == Path("export")
    assert torch.equal(logits(loaded.model), logits(model)[..., :50257])


def test_a_folder_has_its_own_tokenizer_or_is_given_one() -> None:
    write_folder(Path("model"))
    assert load_model("model", tokenizer="byte").tokenizer.name == "byte"
    CharTokenizer(ALPHABET).save(Path("model"))
    with pytest.raises(CheckpointError, match="model has a tokenizer of its own, which is not byte"):
        load_model("model", tokenizer="byte")
    for name in TOKENIZER_FILES:
        Path("model", name).unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="model has 257 ids and no tokenizer"):
        load_model("model")
    assert load_model("model", tokenizer="byte").tokenizer.fingerprint == load_tokenizer("byte").fingerprint


def test_through_the_command(gpt2_bpe: None, capsys: pytest.CaptureFixture[str]) -> None:
    write_llmc(Path("gpt2_124M.bin"), small_model(TINY.model_copy(update={"vocab_size": 50257, "n_embd": 6})))
    arguments = ["sample", "--pretrained", "gpt2_124M.bin", "Hello", "--num-sequences", "1", "--max-length", "4"]
    assert run(arguments) == 0
    assert "Hello" in capsys.readouterr().out
    assert run(["sample", "--checkpoint", "out/ckpt.pt"]) == run(["sample", "--pretrained", "out/ckpt.pt"]) == 1
    assert "there is no file out/ckpt.pt" in capsys.readouterr().err, "and it is not asked of the hub"


def test_the_folder_of_a_peer() -> None:
    for name in ("model_05000.pt", "model_10000.pt"):
        write_build_nanogpt(FOLDER / name, small_model())
    (FOLDER / "train.bin").write_bytes(b"tokens")
    with pytest.raises(CheckpointError, match="prepared is not a checkpoint") as caught:
        load_model(checkpoint=FOLDER)
    assert caught.value.hint == f"of another trainer, name the file: {FOLDER / 'model_10000.pt'}"


def test_llmc_version_and_kind() -> None:
    model = small_model()
    for header, message in (
        (llmc_header(TINY, version=1), "of version 1; known are 3"),
        (llmc_header(TINY, magic=20240527), "holds an optimizer's state, not a model"),
        (llmc_header(TINY, magic=20240520), "holds tokens, not a model"),
    ):
        Path("file").write_bytes(llmc_bytes(header, model))
        with pytest.raises(CheckpointError, match=f"file: it .*{message}"):
            load_model("file", tokenizer="byte")


def test_a_file_of_another_trainer() -> None:
    torch.save({"state_dict": {}, "epoch": 3}, "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt: it is of no known trainer: it holds state_dict, epoch"):
        load_model("other.pt")
    values = nanogpt_values(small_model())
    values["model"]["lm_head.weight"] = values["model"]["lm_head.weight"] + 1
    torch.save(values, "untied.pt")
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is not wte\.weight"):
        load_model("untied.pt", tokenizer="byte")
