"""An export is whole and right, or it is not there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hub.small_models import TINY, small_model, write_folder, write_run
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from nano_gpt.checkpoint.folder import CONFIG, WEIGHTS
from nano_gpt.checkpoint.source import LoadedModel, load_model
from nano_gpt.checkpoint.sums import check_sums
from nano_gpt.cli.main import run
from nano_gpt.errors import CheckpointError
from nano_gpt.hub import export as export_module
from nano_gpt.hub import verify
from nano_gpt.hub.export import EXPORT_FILES, export
from nano_gpt.hub.precision import Precision
from nano_gpt.runtime import files
from nano_gpt.tokenizer import load_tokenizer
from nano_gpt.tokenizer.char import CharTokenizer


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def loaded_model(seed: int = 0) -> LoadedModel:
    return LoadedModel(small_model(seed=seed), load_tokenizer("byte"), "a test")


@torch.inference_mode()
def test_a_stranger_opens_it() -> None:
    loaded = loaded_model()
    report = export(loaded, Path("export"))
    model, tokenizer = AutoModelForCausalLM.from_pretrained("export"), AutoTokenizer.from_pretrained("export")
    ids = tokenizer("Grüße, 世界", return_tensors="pt").input_ids
    assert ids[0].tolist() == loaded.tokenizer.encode("Grüße, 世界")
    difference = (model.eval()(ids).logits - loaded.model(ids)).abs().max()
    assert difference <= 1e-4 and report.largest_difference <= 1e-4
    assert report.compared_tokens == TINY.n_positions
    generated = model.generate(ids, max_new_tokens=4, do_sample=False)
    assert generated.shape == (1, ids.size(1) + 4)
    assert set(report.files) == {path.name for path in Path("export").iterdir()} <= set(EXPORT_FILES)
    assert report.files[WEIGHTS] == Path("export", WEIGHTS).stat().st_size


def test_we_open_it_and_export_it_again() -> None:
    export(loaded_model(), Path("one"))
    export(load_model("one"), Path("two"))
    assert Path("one", WEIGHTS).read_bytes() == Path("two", WEIGHTS).read_bytes()
    assert Path("one", CONFIG).read_bytes() == Path("two", CONFIG).read_bytes()


def test_a_tokenizer_that_knows_few_characters() -> None:
    tokenizer = CharTokenizer("abc \n")
    config = TINY.model_copy(update={"vocab_size": tokenizer.vocab_size})
    export(LoadedModel(small_model(config), tokenizer, "a test"), Path("export"))
    assert AutoTokenizer.from_pretrained("export")("a cab").input_ids == tokenizer.encode("a cab")


def test_sums_are_those_of_sha256sum_and_leave_the_card_out() -> None:
    export(loaded_model(), Path("export"))
    lines = dict(line.split("  ")[::-1] for line in Path("export/SHA256SUMS").read_text().splitlines())
    assert lines.keys() == {path.name for path in Path("export").iterdir()} - {"README.md", "SHA256SUMS"}
    assert lines[WEIGHTS] == hashlib.sha256(Path("export", WEIGHTS).read_bytes()).hexdigest()
    Path("export/README.md").write_text("my own words")
    check_sums(Path("export"))
    data = bytearray(Path("export", WEIGHTS).read_bytes())
    data[-1] ^= 1
    Path("export", WEIGHTS).write_bytes(data)
    with pytest.raises(CheckpointError, match="sha256 differs"):
        check_sums(Path("export"))


def nothing_is_left() -> bool:
    return not [path for path in Path().iterdir() if path.name not in ("runs", "model")]


def wrong_heads(values: dict[str, Any]) -> dict[str, Any]:
    return {**values, "n_head": 2}


def wrong_gelu(values: dict[str, Any]) -> dict[str, Any]:
    return {**values, "activation_function": "gelu"}


def more_layers(values: dict[str, Any]) -> dict[str, Any]:
    return {**values, "n_layer": 3}


@pytest.mark.parametrize(
    ("lie", "message"),
    [(wrong_heads, "logits differ"), (wrong_gelu, "logits differ"), (more_layers, "does not take the export as it is")],
)
def test_an_export_that_says_something_else_is_not_made(
    monkeypatch: pytest.MonkeyPatch, lie: Any, message: str
) -> None:
    """Each of these loads in transformers without an error."""
    honest = export_module.write_model_folder

    def lying(folder: Path, *arguments: Any) -> None:
        honest(folder, *arguments)
        values = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(lie(values)))

    monkeypatch.setattr(export_module, "write_model_folder", lying)
    with pytest.raises(CheckpointError, match=message):
        export(loaded_model(), Path("export"))
    assert nothing_is_left()


def test_a_forgotten_transpose_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "nano_gpt.model.hf._TRANSPOSED", ("attn.c_attn.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    )  # without attn.c_proj, which is square
    with pytest.raises(CheckpointError, match="logits differ"):
        export(loaded_model(), Path("export"))
    assert nothing_is_left()


def test_weights_that_are_not_numbers() -> None:
    loaded = loaded_model()
    with torch.no_grad():
        loaded.model.ln_f.bias[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"tensor ln_f\.bias has values that are .* no numbers"):
        export(loaded, Path("export"))
    assert nothing_is_left()


def test_another_tokenizer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = loaded_model()
    monkeypatch.setattr(type(loaded.tokenizer), "encode", lambda self, text: [65] * len(text))
    with pytest.raises(CheckpointError, match="AutoTokenizer reads"):
        export(loaded, Path("export"))
    assert nothing_is_left()


class Shifted(torch.nn.Module):
    """Stands for the model that transformers loaded: ours, with every logit off by `shift`."""

    def __init__(self, model: torch.nn.Module, shift: float) -> None:
        super().__init__()
        self.model, self.shift = model, shift

    def forward(self, ids: torch.Tensor, logits_to_keep: int) -> SimpleNamespace:
        return SimpleNamespace(logits=self.model(ids)[:, -logits_to_keep:] + self.shift)


@pytest.mark.parametrize(("largest", "right", "wrong"), [(1.0, 0.9e-4, 1.2e-4), (1000.0, 0.9e-2, 1.2e-2)])
def test_the_bound_grows_with_the_logits(largest: float, right: float, wrong: float) -> None:
    """GPT-2's own reach -100; at that size two right ways to add in fp32 can differ by more than 1e-4."""
    loaded = loaded_model()
    ids = list(range(32))
    with torch.no_grad():
        loaded.model.ln_f.weight.zero_()  # so that the logits are those of the bias alone, and can be set
        loaded.model.ln_f.bias.mul_(largest / loaded.model(torch.tensor([ids])).abs().max())
    difference, _ = verify._compare_logits(loaded, Shifted(loaded.model, right), ids)
    assert difference == pytest.approx(right, rel=0.02)
    with pytest.raises(CheckpointError, match="logits differ"):
        verify._compare_logits(loaded, Shifted(loaded.model, -wrong), ids)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
@torch.inference_mode()
def test_smaller_types(precision: Precision, dtype: torch.dtype) -> None:
    """A stranger gets the type that was asked for, and with it our weights as rounding leaves them."""
    loaded = loaded_model()
    report = export(loaded, Path("export"), precision=precision)
    assert report.largest_difference <= 1e-4
    assert json.loads(Path("export", CONFIG).read_text())["dtype"] == str(dtype).removeprefix("torch.")
    stored = load_file(Path("export", WEIGHTS))
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    assert torch.equal(stored["h.1.ln_2.bias"], loaded.model.state_dict()["h.1.ln_2.bias"].to(dtype))
    model = AutoModelForCausalLM.from_pretrained("export")
    assert model.dtype == dtype
    ids = torch.arange(32)[None]
    expected = loaded.model.to(dtype)(ids)  # computing in it too: a different order of sums moves the last bits
    assert (model(ids).logits - expected).abs().max() <= 0.02 * expected.abs().max()
    again = load_model("export").model.state_dict()
    assert all(
        torch.equal(tensor.to(dtype), again[name].to(dtype)) for name, tensor in loaded.model.state_dict().items()
    )


def test_a_model_keeps_its_own_type() -> None:
    loaded = loaded_model()
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    export(loaded, Path("export"), precision="fp16")
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.model.state_dict().items())


@pytest.mark.parametrize(
    ("precision", "value", "message"),
    [
        ("fp16", 70000.0, r"tensor h\.1\.attn\.c_proj\.bias reaches 70000, and fp16 ends at 65504"),
        ("bf16", 3.4e38, r"tensor h\.1\.attn\.c_proj\.bias reaches 3\.4e\+38, and bf16 ends at 3\.38953e\+38"),
    ],
)
def test_a_weight_that_does_not_fit(precision: Precision, value: float, message: str) -> None:
    loaded = loaded_model()
    with torch.no_grad():
        loaded.model.h[1].attn.c_proj.bias[3] = -value
    with pytest.raises(CheckpointError, match=message):
        export(loaded, Path("export"), precision=precision)
    assert nothing_is_left()


def test_what_others_would_get_wrong_is_said(caplog: pytest.LogCaptureFixture) -> None:
    config = TINY.model_copy(update={"activation": "relu2"})
    export(LoadedModel(small_model(config), load_tokenizer("byte"), "a test"), Path("export"))
    assert "llama.cpp and MLX compute every gpt2 with gelu, and this model has relu2" in caplog.text


def test_a_folder_of_another_type_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = export_module.write_model_folder

    def lying(folder: Path, config: Any, state: Any, tokenizer: Any, extra: Any) -> None:
        honest(folder, config, state, tokenizer, {"dtype": "float32"})

    monkeypatch.setattr(export_module, "write_model_folder", lying)
    with pytest.raises(CheckpointError, match=r"loads the export as torch\.float32, it was written as torch\.bfloat16"):
        export(loaded_model(), Path("export"), precision="bf16")
    assert nothing_is_left()


def test_a_target_that_exists() -> None:
    export(loaded_model(seed=0), Path("export"))
    before = Path("export", WEIGHTS).read_bytes()
    with pytest.raises(CheckpointError, match="exists") as caught:
        export(loaded_model(seed=1), Path("export"))
    assert caught.value.hint == "--overwrite replaces it"
    assert Path("export", WEIGHTS).read_bytes() == before
    export(loaded_model(seed=1), Path("export"), overwrite=True)
    assert Path("export", WEIGHTS).read_bytes() != before


def test_overwrite_replaces_exports_only() -> None:
    Path("home/documents").mkdir(parents=True)
    Path("home/documents/novel.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="holds more than a model: documents"):
        export(loaded_model(), Path("home"), overwrite=True)
    assert Path("home/documents/novel.txt").exists()
    Path("file").write_text("a file")
    with pytest.raises(CheckpointError, match="is a file"):
        export(loaded_model(), Path("file"), overwrite=True)
    for root in (Path("/"), Path()):
        with pytest.raises(CheckpointError):
            export(loaded_model(), root, overwrite=True)
    Path("empty").mkdir()
    export(loaded_model(), Path("empty"))
    Path("empty/evaluations.json").write_text("{}")  # as eval keeps its scores: those of the model that goes
    export(loaded_model(), Path("empty"), overwrite=True)
    assert not Path("empty/evaluations.json").exists()


def test_the_source_is_no_target() -> None:
    write_folder(Path("model"))
    Path("link").symlink_to("model")
    loaded = load_model("model")
    for target in ("model", "./model/../model", "link", "model/inside", "."):
        with pytest.raises(CheckpointError, match="what is exported"):
            export(loaded, Path(target), overwrite=True)
    assert nothing_is_left() or {path.name for path in Path().iterdir()} == {"model", "link"}


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, *arguments: Any) -> None:
        (folder / WEIGHTS).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "write_model_folder", full)
    with pytest.raises(files.DiskFullError):
        export(loaded_model(), Path("export"))
    assert nothing_is_left()


def test_a_place_that_cannot_be_written_to() -> None:
    Path("file").write_text("a file")
    with pytest.raises(CheckpointError, match=r"cannot be written: (Not a directory|File exists)"):
        export(loaded_model(), Path("file/export"))


def test_a_checkpoint_with_a_flipped_byte_is_not_exported() -> None:
    checkpoint = write_run(Path("runs/one"))
    data = bytearray((checkpoint / WEIGHTS).read_bytes())
    data[-1] ^= 0x01
    (checkpoint / WEIGHTS).write_bytes(data)
    with pytest.raises(CheckpointError, match="sha256 differs"):
        export(load_model(checkpoint="runs/one"), Path("export"))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", "--export-dir", "export"]) == 1
    assert "there is no run in runs/ to export" in capsys.readouterr().err
    write_run(Path("runs/one"))
    assert run(["export", "--export-dir", "export"]) == 0
    out = capsys.readouterr().out
    assert "exported runs/one/checkpoints/step_000040 to export" in out
    assert "model.safetensors" in out and "largest logit difference" in out
    assert "nano-gpt sample --pretrained ./export\n" in out and "nano-gpt upload ./export user/name" in out
    assert not list(Path("export").rglob("*optimizer*"))

    assert run(["export", "--checkpoint", "runs/one", "--export-dir", "export"]) == 1
    assert "hint: --overwrite" in capsys.readouterr().err
    assert run(["export", "--pretrained", "export", "--export-dir", "again", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["folder"] == "again" and values["largest_logit_difference"] <= 1e-4
    assert values["files"][WEIGHTS] > 0
    assert run(["export"]) == 2
    assert "--export-dir DIR, --gguf FILE" in capsys.readouterr().err
    assert run(["export", "--export-dir", "half", "--dtype", "bf16"]) == 0
    assert Path("half", WEIGHTS).stat().st_size < 0.6 * Path("export", WEIGHTS).stat().st_size
