"""Every way to name a model, and every way to name none."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub.fake_hub import FakeHub
from hub.small_models import TINY, write_folder, write_run

from nano_gpt.checkpoint.folder import CONFIG, WEIGHTS
from nano_gpt.checkpoint.source import checkpoint_folder, load_model, newest_run
from nano_gpt.checkpoint.store import MANIFEST, STATE
from nano_gpt.errors import CheckpointError, ConfigError, NetworkError
from nano_gpt.tokenizer import load_tokenizer


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_by_any_of_its_names() -> None:
    checkpoint = write_run(Path("runs/one"), 40)
    for name in (
        "runs/one",
        "runs/one/checkpoints",
        "runs/one/checkpoints/latest",
        "runs/one/checkpoints/best",
        checkpoint,
    ):
        assert checkpoint_folder(Path(name)) == checkpoint
        loaded = load_model(checkpoint=name)
        assert loaded.folder == checkpoint and loaded.origin == str(checkpoint)
        assert loaded.trainer_state is not None and loaded.trainer_state["step"] == 40
    assert load_model("runs/one").folder == checkpoint, "--pretrained takes a run's folder as well"


def test_latest_is_what_the_pointer_says() -> None:
    write_run(Path("runs/one"), 40)
    newer = write_run(Path("runs/one"), 50)
    assert checkpoint_folder(Path("runs/one")) == newer
    Path("runs/one/checkpoints/latest").write_text("step_000040\n")
    assert checkpoint_folder(Path("runs/one")).name == "step_000040"


def test_without_a_name_the_newest_run() -> None:
    assert newest_run() is None
    write_run(Path("runs/b_older"), 1)
    newer = write_run(Path("runs/a_newer"), 2)
    Path("runs/c_empty").mkdir()
    os.utime("runs/b_older/checkpoints/latest", (1, 1))
    assert newest_run() == Path("runs/a_newer")
    assert load_model().folder == newer


def test_a_plain_folder_is_no_checkpoint_of_a_run() -> None:
    write_folder(Path("model"))
    loaded = load_model("model")
    assert loaded.trainer_state is None and loaded.repo_id is None
    assert loaded.tokenizer.fingerprint == load_tokenizer("byte").fingerprint
    assert not loaded.model.training


@pytest.mark.parametrize(
    "content", [b"\x7f\x02\xff" * 100, b"", b"../../elsewhere", b"/etc", b"a\nb", b"step\x00", b"\x1b[2J"]
)
def test_a_file_that_points_nowhere(content: bytes) -> None:
    Path("ckpt.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"ckpt\.pt is not a checkpoint folder, nor does it name one"):
        load_model(checkpoint="ckpt.pt")


def test_a_pointer_to_a_checkpoint_that_is_gone() -> None:
    checkpoint = write_run(Path("runs/one"), 40)
    (checkpoint / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"latest names .*step_000040, which is not a checkpoint"):
        load_model(checkpoint="runs/one")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"checkpoint": "nowhere"}, CheckpointError, "there is no nowhere"),
        ({"checkpoint": "."}, CheckpointError, "neither a run folder nor a folder with config.json"),
        ({"pretrained": "."}, CheckpointError, "neither a run folder nor a folder with config.json"),
        ({"pretrained": "./nowhere"}, CheckpointError, "there is no folder ./nowhere"),
        ({"pretrained": "/no/where"}, CheckpointError, "there is no folder /no/where"),
        ({"pretrained": "a/b/c"}, CheckpointError, "there is no folder a/b/c"),
        ({"pretrained": "nowhere"}, CheckpointError, "there is no folder nowhere"),
        ({"pretrained": "gpt2-xs"}, CheckpointError, "no published weights for 'gpt2-xs'"),
        ({"pretrained": "us er/name"}, ConfigError, "'us er/name' cannot be a hub id"),
        ({"pretrained": "user/na--me"}, ConfigError, "cannot be a hub id"),
        ({"preset": "gpt3"}, ConfigError, "unknown model preset 'gpt3'"),
        ({"pretrained": "gpt2", "checkpoint": "x"}, CheckpointError, "more than one model is named: gpt2, x"),
    ],
    ids=str,
)
def test_what_is_no_model(arguments: dict[str, str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_model(**arguments)  # type: ignore[arg-type]


def test_a_damaged_trainer_state() -> None:
    checkpoint = write_run(Path("runs/one"), 40)
    (checkpoint / MANIFEST).unlink()  # which would tell of it before
    (checkpoint / STATE).write_text('{"step": ')
    with pytest.raises(CheckpointError, match=r"state\.json cannot be read as JSON"):
        load_model(checkpoint="runs/one")


def test_a_tokenizer_of_another_model() -> None:
    write_folder(Path("model"), TINY.model_copy(update={"vocab_size": 200}))
    with pytest.raises(CheckpointError, match="its tokenizer has 257 ids and its model 200"):
        load_model("model")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as running:
        running.use(monkeypatch, tmp_path)
        yield running


def test_a_hub_id_and_then_its_cache(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(Path("model"))
    Path("model/pytorch_model.bin").write_bytes(b"a pickle that nobody should fetch")
    hub.add("some/one", Path("model"))
    loaded = load_model("some/one")
    assert loaded.origin == loaded.repo_id == "some/one"
    assert not any("pytorch_model" in request for request in hub.requests if "resolve" in request)

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_model("some/one").folder == loaded.folder


def test_gpt2_is_openais(hub: FakeHub) -> None:
    write_folder(Path("model"))
    hub.add("openai-community/gpt2", Path("model"))
    assert load_model().repo_id == "openai-community/gpt2", "without a run"
    assert load_model("gpt2").repo_id == "openai-community/gpt2"


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (401, CheckpointError, "the hub has no model 'some/one', or it is private"),
        (403, NetworkError, r"fetching some/one: the hub does not allow .*HTTP 403"),
        (429, NetworkError, r"fetching some/one: the hub has had too many requests \(HTTP 429\)"),
        (500, NetworkError, r"fetching some/one: the hub is out of order \(HTTP 500\)"),
        ("cut", NetworkError, "fetching some/one: the connection to http.* was cut"),
        ("html", NetworkError, "fetching some/one: http.* does not answer as a hub does"),
    ],
)
def test_refusals(hub: FakeHub, failure: int | str, error: type[Exception], message: str) -> None:
    write_folder(Path("model"))
    hub.add("some/one", Path("model"))
    hub.failures["/api/models"] = failure
    with pytest.raises(error, match=message):
        load_model("some/one")


def test_a_connection_that_ends_in_the_weights(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(Path("model"))
    hub.add("some/one", Path("model"))
    hub.failures["model.safetensors"] = "cut"
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library waits between its attempts
    with pytest.raises(NetworkError, match="fetching some/one: "):
        load_model("some/one")
    hub.failures.clear()
    assert load_model("some/one").repo_id == "some/one"


def test_no_such_model(hub: FakeHub) -> None:
    with pytest.raises(CheckpointError, match="the hub has no model 'some/one', or it is private"):
        load_model("some/one")


def test_offline_with_an_empty_cache(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NetworkError, match="HF_HUB_OFFLINE is set") as caught:
        load_model("some/one")
    assert caught.value.hint is not None and "hf download some/one" in caught.value.hint
    assert not hub.requests


def test_no_network(hub: FakeHub) -> None:
    hub.__exit__()
    with pytest.raises(NetworkError, match=r"fetching some/one: http.* cannot be reached"):
        load_model("some/one")


def test_a_repository_without_safetensors(hub: FakeHub) -> None:
    write_folder(Path("model"))
    Path("model", WEIGHTS).rename("model/pytorch_model.bin")
    hub.add("some/one", Path("model"))
    with pytest.raises(CheckpointError, match="some/one is not a GPT-2 in safetensors"):
        load_model("some/one")


def test_another_architecture(hub: FakeHub) -> None:
    write_folder(Path("model"))
    values = json.loads(Path("model", CONFIG).read_text())
    Path("model", CONFIG).write_text(json.dumps({**values, "model_type": "llama"}))
    hub.add("some/one", Path("model"))
    with pytest.raises(CheckpointError, match="model_type is 'llama'"):
        load_model("some/one")


def test_a_shorter_context_says_the_same_of_short_texts() -> None:
    write_folder(Path("model"))
    whole, short = load_model("model").model, load_model("model", sequence_length=4).model
    ids = torch.tensor([[1, 2, 3, 4]])
    assert short.config.n_positions == 4 and short.wpe.weight.shape == (4, TINY.n_embd)
    assert torch.equal(whole(ids), short(ids))
    with pytest.raises(ConfigError, match=f"more than the model's {TINY.n_positions}"):
        load_model("model", sequence_length=TINY.n_positions + 1)


def test_a_shorter_context_of_a_model_without_a_table_of_positions() -> None:
    write_folder(Path("model"), TINY.model_copy(update={"positions": "rope"}))
    whole, short = load_model("model").model, load_model("model", sequence_length=4).model
    ids = torch.tensor([[1, 2, 3, 4]])
    assert short.config.n_positions == 4 and torch.equal(whole(ids), short(ids))


def test_untrained_weights_follow_the_seed(gpt2_bpe: None) -> None:
    weights = [load_model(preset="gpt2-xxs", seed=seed).model.wte.weight for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
