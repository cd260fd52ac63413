"""One byte of a file is not what was written: whoever opens the model is told which file, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoint.peer_files import little_memory
from hub.small_models import TINY, small_model, write_folder, write_run

from nano_gpt.checkpoint import store, sums
from nano_gpt.checkpoint.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter
from nano_gpt.checkpoint.folder import CONFIG, TOKENIZER_FILES, WEIGHTS
from nano_gpt.checkpoint.source import load_model
from nano_gpt.checkpoint.store import MANIFEST, OPTIMIZER, STATE, Checkpoint, CheckpointStore
from nano_gpt.checkpoint.sums import SUMS, check_sums
from nano_gpt.config.lora import LoRAConfig
from nano_gpt.errors import CheckpointError
from nano_gpt.hub.export import RESULTS, export
from nano_gpt.model.lora import add_adapters, trained_state
from nano_gpt.tokenizer import load_tokenizer


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def flip(path: Path, place: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)


def exported() -> Path:
    write_folder(Path("model"))
    return export(load_model("model"), Path("export")).folder


def refused(folder: Path, tokenizer: str | None = None) -> CheckpointError:
    with little_memory(), pytest.raises(CheckpointError) as caught:
        load_model(checkpoint=folder, tokenizer=tokenizer)
    assert caught.value.message.isprintable() and caught.value.hint
    return caught.value


@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_every_file_of_an_export(place: float) -> None:
    folder = exported()
    for path in sorted(folder.iterdir()):
        if path.name == "README.md":  # its author goes on writing it
            continue
        whole = path.read_bytes()
        flip(path, place)
        error = refused(folder)
        assert path.name == SUMS or error.message == f"{path} is not what was exported: its sha256 differs"
        assert error.hint is not None and f"remove {folder / SUMS}" in error.hint
        path.write_bytes(whole)
    load_model(checkpoint=folder)


def test_what_a_copy_leaves_behind_is_not_missed() -> None:
    """`cp FOLDER/* ELSEWHERE` leaves out names with a dot, and the scores are no part of the model."""
    folder = exported()
    with (folder / SUMS).open("a") as file:
        file.write(f"{'0' * 64}  {RESULTS}\n")
    load_model(checkpoint=folder)
    (folder / "merges.txt").unlink()
    assert "merges.txt is missing" in refused(folder).message


@pytest.mark.parametrize("name", ["../../.ssh/id_rsa", "/etc/passwd", "", "\x1b[2J", "a/../../b"])
def test_sums_of_what_lies_elsewhere(name: str) -> None:
    (exported() / SUMS).write_text(f"{'0' * 64}  {name}\n")
    with pytest.raises(CheckpointError, match="which cannot be a file of the folder"):
        check_sums(Path("export"))


def test_a_folder_without_sums_is_taken_as_it_is() -> None:
    folder = exported()
    (folder / SUMS).unlink()
    flip(folder / WEIGHTS, 0.999)
    load_model(checkpoint=folder)


def write_average(run: Path) -> Path:
    """A second checkpoint of the run, with an average."""
    state, average = (dict(small_model(seed=seed).state_dict()) for seed in (1, 2))
    checkpoint = Checkpoint(state, {"exp_avg/x": torch.zeros(3)}, {"step": 50}, average=average)
    return CheckpointStore(run / "checkpoints", keep=2).save(checkpoint, TINY, load_tokenizer("byte"), best=False)


def test_every_file_of_a_checkpoint() -> None:
    before, checkpoint = write_run(Path("runs/one")), write_average(Path("runs/one"))
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file()]
    assert {*(checkpoint / name for name in (WEIGHTS, CONFIG, MANIFEST, OPTIMIZER, STATE, *TOKENIZER_FILES))} <= {
        *files
    }
    for path in files:
        whole = path.read_bytes()
        flip(path)
        with pytest.raises(CheckpointError):
            store.verify(checkpoint)
        for model in (checkpoint, checkpoint / "ema"):
            if path.parent == model or path == checkpoint / STATE:
                error = refused(model)
                assert error.message == f"{path} is not what was written: its sha256 differs"
                assert error.hint == f"take another of the run's: {before}"
            elif path != checkpoint / MANIFEST:
                load_model(checkpoint=model)
        path.write_bytes(whole)
    store.verify(checkpoint)


@pytest.mark.parametrize("damage", ["[]", "{", '{"config.json": 3}', '{"\\u001b[2J": {}}', '{"config.json": {}}'])
def test_a_manifest_that_is_none(damage: str) -> None:
    checkpoint = write_run(Path("runs/one"))
    (checkpoint / MANIFEST).write_text(damage)
    with pytest.raises(CheckpointError, match=r"no readable training/manifest\.json|and None were written"):
        load_model(checkpoint=checkpoint)


def test_moments_may_be_removed_from_a_model() -> None:
    checkpoint = write_run(Path("runs/one"))
    (checkpoint / OPTIMIZER).unlink()
    load_model(checkpoint=checkpoint)


def test_adapters_of_a_run() -> None:
    write_folder(Path("model"))
    model = small_model()
    add_adapters(model, LoRAConfig(rank=2))
    adapter = Adapter("model", LoRAConfig(rank=2))
    checkpoint = Checkpoint(trained_state(model), {"exp_avg/x": torch.zeros(3)}, {"step": 1}, adapter=adapter)
    folder = CheckpointStore(Path("run/checkpoints"), keep=1).save(checkpoint, TINY, load_tokenizer("byte"), best=True)
    for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG):
        whole = (folder / name).read_bytes()
        flip(folder / name, 0.999)
        with pytest.raises(CheckpointError, match=f"{name} is not what was written"):
            load_model("model", adapter=Path("run"))
        assert name in refused(folder).message
        (folder / name).write_bytes(whole)


def test_nothing_is_hashed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    honest = sums.sha256

    def counted(path: Path) -> str:
        hashed.append(path.name)
        return honest(path)

    checkpoint, folder = write_run(Path("runs/one")), exported()
    for module in (store, sums):
        monkeypatch.setattr(module, "sha256", counted)
    load_model(checkpoint=checkpoint)
    assert sorted(hashed) == sorted({*hashed}) and WEIGHTS in hashed and OPTIMIZER.name not in hashed
    hashed.clear()
    load_model(str(folder))
    assert sorted(hashed) == sorted({*hashed}) and WEIGHTS in hashed
