"""What the model card tells, and what it must not."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub.small_models import TINY, small_model, write_run
from huggingface_hub import ModelCard

from nano_gpt.checkpoint.evaluations import save_evaluation
from nano_gpt.checkpoint.folder import write_model_folder
from nano_gpt.checkpoint.source import LoadedModel, load_model
from nano_gpt.config import RunConfig, resolve
from nano_gpt.errors import CheckpointError
from nano_gpt.hub.card import eval_results, model_card
from nano_gpt.hub.export import RESULTS, export
from nano_gpt.hub.record import training_record
from nano_gpt.tokenizer import load_tokenizer

EVENTS: list[dict[str, Any]] = [
    *({"kind": "val", "step": step, "tokens": step * 10, "loss": 5.0 - step / 100} for step in range(0, 200, 10)),
    {"kind": "train", "step": 39, "tokens": 400, "loss": 4.0},
    {"kind": "hellaswag", "step": 20, "tokens": 0, "accuracy": 0.25, "total": 100},
    {"kind": "hellaswag", "step": 40, "tokens": 0, "accuracy": 0.2955, "total": 10042, "stderr": 0.00455, "acc": None},
    {"kind": "hellaswag", "step": 180, "tokens": 0, "accuracy": 0.9, "total": 10042},
]


@pytest.fixture
def fineweb() -> RunConfig:
    return resolve(recipe="finewebedu", flags={"data.dataset": "finewebedu", "training.total_batch_size": 524288})


def card_of(checkpoint: Path) -> tuple[str, dict[str, Any]]:
    text = model_card(load_model(checkpoint=checkpoint))
    _, front, _ = text.split("---\n", 2)
    return text, yaml.safe_load(front)


def test_a_trained_model(tmp_path: Path, fineweb: RunConfig) -> None:
    state = {"validation_loss": 4.55, "best_validation_loss": 4.5}
    text, front = card_of(write_run(tmp_path / "run", 40, state, EVENTS, fineweb))
    assert front["library_name"] == "transformers" and front["pipeline_tag"] == "text-generation"
    assert "gpt2" in front["tags"] and "license" not in front
    assert front["datasets"] == ["HuggingFaceFW/fineweb-edu"]
    results = ModelCard(text).data.eval_results  # as the hub's own library reads it
    assert results is not None
    found = {(result.dataset_type, result.metric_name): result.metric_value for result in results}
    assert found == {
        ("HuggingFaceFW/fineweb-edu", "validation loss"): 4.55,
        ("Rowan/hellaswag", "accuracy"): 0.2955,  # of step 40, not the last line of the file
    }
    assert "trained on `finewebedu`" in text and "It is a base model" in text
    assert "| steps | 40 |" in text and f"| tokens | {40 * 524288:,} |" in text
    assert "| HellaSwag, 10,042 items | accuracy |" in text
    assert "| mean per token, as build-nanogpt scores | 0.2955 ± 0.0046 |" in text
    assert "| 40 | 4.6000 |" in text and "| 50 |" not in text, "the curve ends with the checkpoint"
    assert "AutoModelForCausalLM" in text and "nano-gpt sample --pretrained" in text


def test_results_for_leaderboards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a score that compares with others': by lm-eval's rule, and over all items."""
    monkeypatch.chdir(tmp_path)
    score = {"kind": "hellaswag", "step": 40, "acc_norm": 0.3114, "acc": 0.2892, "accuracy": 0.2955, "total": 10042}
    loaded = load_model(checkpoint=write_run(tmp_path / "run", 40, {}, [score]))
    files = export(loaded, Path("export")).files
    text = Path("export", RESULTS).read_text()
    assert files[RESULTS] == len(text) and RESULTS in Path("export/SHA256SUMS").read_text()
    dataset = {"id": "Rowan/hellaswag", "task_id": "hellaswag"}
    assert yaml.safe_load(text) == [{"dataset": dataset, "value": 0.3114, "notes": "acc_norm, zero-shot"}]
    export(loaded, Path("export"), overwrite=True)
    (Path("export", RESULTS).parent / "mine.yaml").write_text("my own")
    with pytest.raises(CheckpointError, match=r"holds more than a model: \.eval_results/mine\.yaml"):
        export(loaded, Path("export"), overwrite=True)
    for different in ({"total": 2000}, {"acc_norm": None}):
        other = write_run(tmp_path / "other", 40, {}, [{**score, **different}])
        assert eval_results(load_model(checkpoint=other)) is None
    assert eval_results(LoadedModel(small_model(), load_tokenizer("byte"), "no run")) is None


def test_what_eval_has_kept_is_shown(tmp_path: Path) -> None:
    """HellaSwag as it was measured on the most items, and every other task, with standard errors."""
    score = {"kind": "hellaswag", "step": 40, "accuracy": 0.25, "total": 100}
    loaded = load_model(checkpoint=write_run(tmp_path / "run", 40, {}, [score]))
    whole = {"accuracy": 0.2955, "stderr": 0.0046, "acc_norm": 0.3114, "acc_norm_stderr": 0.0046, "total": 10042}
    save_evaluation(loaded, "hellaswag", {**whole, "model": "/home/me/run", "precision": "fp32"})
    save_evaluation(
        loaded, "val my`|text", {"loss": 2.5, "stderr": 0.01, "tokens_evaluated": 77, "model": "/home/me/run"}
    )
    save_evaluation(loaded, "lm-eval:piqa", {"acc": 0.61, "acc_stderr": None, "total": 1838})
    text = model_card(loaded)
    assert "| HellaSwag, 10,042 items | accuracy |" in text and "| lm-eval's `acc_norm` | 0.3114 ± 0.0046 |" in text
    assert "| `val mytext`: loss | 2.5000 ± 0.0100 |" in text
    assert "| `lm-eval:piqa`: acc, 1,838 items | 0.6100 |" in text
    assert "/home/me" not in text
    assert "value: 0.3114" in (eval_results(loaded) or "")
    few = load_model(checkpoint=write_run(tmp_path / "few", 40, {}, [score]))
    save_evaluation(few, "hellaswag", {"accuracy": 0.9, "total": 50})
    assert "| HellaSwag, 100 items | accuracy |" in model_card(few)


def test_results_of_a_model_that_no_run_made(tmp_path: Path) -> None:
    config = TINY.model_copy(update={"vocab_size": load_tokenizer("byte").vocab_size})
    write_model_folder(tmp_path, config, small_model(config).state_dict(), load_tokenizer("byte"))
    loaded = load_model(str(tmp_path))
    assert "## Results" not in model_card(loaded)
    save_evaluation(loaded, "hellaswag", {"accuracy": 0.3, "total": 50})
    assert "## Results\n\n| HellaSwag, 50 items | accuracy |" in model_card(loaded)


def test_a_long_curve_is_thinned(tmp_path: Path) -> None:
    text, _ = card_of(write_run(tmp_path / "run", 190, {}, EVENTS))
    rows = text.split("| step | validation loss |\n|---|---|\n")[1].split("\n\n")[0].splitlines()
    assert len(rows) == 10 and rows[0].startswith("| 0 |") and rows[-1].startswith("| 190 |")


def test_the_state_alone(tmp_path: Path) -> None:
    """A checkpoint that was moved away from its run."""
    write_run(tmp_path / "run", 40, {"tokens": 1000, "validation_loss": None}).rename(tmp_path / "alone")
    loaded = load_model(checkpoint=tmp_path / "alone")
    record = training_record(loaded)
    assert record is not None and (record.step, record.tokens, record.config) == (40, 1000, None)
    assert "| tokens | 1,000 |" in model_card(loaded) and "## Results" not in model_card(loaded)


def test_an_imported_model() -> None:
    text = model_card(LoadedModel(small_model(), load_tokenizer("byte"), "a/b", repo_id="a/b"))
    assert ModelCard(text).data.base_model == "a/b"
    assert "exported from `a/b`" in text and "## Training" not in text
    ModelCard(model_card(LoadedModel(small_model(), load_tokenizer("byte"), "somewhere")))


@pytest.mark.parametrize(
    ("values", "title", "warning"),
    [
        ({}, "# GPT-2 with ", None),
        ({"activation": "relu2"}, "# GPT with ", "every gpt2 with gelu, and this model has relu2"),
        ({"positions": "rope"}, "# GPT with ", None),
        ({"positions": "rope", "norm": "rmsnorm"}, "# GPT with ", "every arcee with relu2, and this model has gelu"),
        ({"positions": "rope", "norm": "rmsnorm", "activation": "relu2"}, "# GPT with ", None),
    ],
)
def test_other_architectures(values: dict[str, Any], title: str, warning: str | None) -> None:
    config = TINY.model_copy(update=values)
    text = model_card(LoadedModel(small_model(config), load_tokenizer("byte"), "a test"))
    assert title in text and all(f"| {name} | {value} |" in text for name, value in values.items())
    assert config.model_type in ModelCard(text).data.tags
    assert (warning in text) if warning else ("llama.cpp" not in text)


def test_nothing_of_this_machine_is_told(tmp_path: Path) -> None:
    config = resolve(
        flags={
            "data.dataset": "mine",
            "data.files": [str(tmp_path / "secret.txt")],
            "data.dataset_dir": str(tmp_path),
            "training.log_file": str(tmp_path / "log"),
        }
    )
    text, _ = card_of(write_run(tmp_path / "run-of-a-person", 40, {}, EVENTS, config))
    assert str(tmp_path) not in text and "secret" not in text and "run-of-a-person" not in text
    assert f"/{getpass.getuser()}" not in text
    assert "| data | `mine` (own files) |" in text


@pytest.mark.parametrize("name", ["/home/me/corpus", "a`b", "a|b", "x\n---\nlicense: mit"])
def test_a_dataset_name_that_would_spoil_the_card(tmp_path: Path, name: str) -> None:
    text, front = card_of(write_run(tmp_path / "run", 40, {}, EVENTS, resolve(flags={"data.dataset": name})))
    assert name not in text and "license" not in front


def test_a_run_that_was_tampered_with(tmp_path: Path) -> None:
    checkpoint = write_run(tmp_path / "run", 40, {"validation_loss": "low"}, EVENTS)
    (tmp_path / "run" / "config.yaml").write_text("model: {n_lair: 3}")
    lines = ["{", "[]", '"x"', '{"kind": 1, "step": 2}', '{"kind": "val", "step": 3, "loss": null}', "\x00"]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(lines))
    record = training_record(load_model(checkpoint=checkpoint))
    assert record is not None and record.config is None and record.validation == () and record.validation_loss is None
    card_of(checkpoint)
