"""lm-eval on our engine, beside lm-eval's own HF backend on the same weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from small_evaluation_models import redrawn_model

from nano_gpt.checkpoint.folder import write_model_folder
from nano_gpt.errors import ConfigError, NetworkError
from nano_gpt.evaluation import harness
from nano_gpt.evaluation.harness import Harness, HarnessResult
from nano_gpt.inference.writing import Writer
from nano_gpt.model.gpt import GPT
from nano_gpt.model.packed import pack
from nano_gpt.tokenizer import train_tokenizer
from nano_gpt.tokenizer.base import Tokenizer

lm_eval = pytest.importorskip("lm_eval", reason="needs lm-eval: the extra of that name")

TEXT = "the cat sat on the mat and then it ran off to the hills, where nobody saw it again. "


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer("bpe:300", [TEXT * 3])


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    return redrawn_model(tokenizer.vocab_size, n_positions=64)


@pytest.fixture(scope="module")
def results(model: GPT, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    """By task: ours, and what lm-eval finds with its HF backend on the folder that we wrote."""
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("harness")
    write_tasks(folder)
    exported = folder / "model"
    exported.mkdir()
    write_model_folder(exported, model.config, model.state_dict(), tokenizer)
    names = ["my_choices", "my_text", "my_answers"]
    ours = {one.kind: one for one in Harness(names, folder).run(model, Writer(pack(model), tokenizer))}
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    theirs = lm_eval.simple_evaluate(
        HFLM(pretrained=str(exported), device="cpu", dtype="float32", batch_size=4), tasks=names, task_manager=manager
    )
    return {name: (ours[f"lm-eval:{name}"], theirs["results"][name]) for name in names}


def write_tasks(folder: Path) -> None:
    """Of a multiple choice, of whole texts, longer than the context, and of answers, on items that lie beside them."""
    items = [
        {
            "question": TEXT * 3 if number == 3 else f"the cat {number} sat",
            "choices": [" on the mat", " off", "there", " again and again"],
            "label": number % 4,
            "answer": "the",
        }
        for number in range(9)
    ]
    (folder / "items.json").write_text(json.dumps(items))
    common: dict[str, Any] = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "items.json")}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
    }
    mean = {"aggregation": "mean", "higher_is_better": True}
    tasks: dict[str, dict[str, Any]] = {
        "my_choices": {
            "output_type": "multiple_choice",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{label}}",
            "metric_list": [{"metric": "acc", **mean}, {"metric": "acc_norm", **mean}],
        },
        "my_text": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{question}}",
            "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
        },
        "my_answers": {
            "output_type": "generate_until",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": ["s"], "max_gen_toks": 8},
            "metric_list": [{"metric": "exact_match", **mean}],
        },
    }
    for name, task in tasks.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **common, **task}))


@pytest.mark.parametrize("task", ["my_choices", "my_text", "my_answers"])
def test_scores_are_those_of_the_hf_backend(
    task: str, results: dict[str, tuple[HarnessResult, dict[str, float]]]
) -> None:
    ours, theirs = results[task]
    assert ours.metrics and ours.total == 9
    for name, value in ours.metrics.items():
        assert value == pytest.approx(theirs[f"{name},none"], rel=1e-4)
    for name, values in ours.items().items():
        assert values[:, 0].mean() == pytest.approx(ours.metrics[name])
    assert list(ours.items()) == {"my_choices": ["acc", "acc_norm"], "my_answers": ["exact_match"]}.get(task, [])


def test_every_method_answers_as_the_hf_backend(model: GPT, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Empty and long contexts, spaces at the end of a context, answers that end early."""
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.models.huggingface import HFLM

    write_model_folder(tmp_path, model.config, model.state_dict(), tokenizer)
    theirs: Any = HFLM(pretrained=str(tmp_path), device="cpu", dtype="float32", batch_size=4)
    ours: Any = type("Ours", (harness._Model, LM), {})(
        model, Writer(pack(model), tokenizer), 32, model.wte.weight.dtype, None
    )

    def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
        return [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]

    pairs = [("the cat", " sat"), ("the cat ", "sat"), ("", "the mat"), (TEXT * 3, " the"), ("x", "y")]
    for mine, other in zip(
        ours.loglikelihood(requests("loglikelihood", pairs)),
        theirs.loglikelihood(requests("loglikelihood", pairs), disable_tqdm=True),
        strict=True,
    ):
        assert mine[0] == pytest.approx(other[0], abs=1e-3) and mine[1] == other[1]
    texts = [(TEXT * count,) for count in (1, 4, 9)]
    rolling = ours.loglikelihood_rolling(requests("loglikelihood_rolling", texts))
    assert rolling == pytest.approx(theirs.loglikelihood_rolling(requests("x", texts), disable_tqdm=True), abs=2e-3)
    asked = [(text, {"until": ["a"], "max_gen_toks": 16}) for text in ("the cat", TEXT * 3, "x")]
    answers = ours.generate_until(requests("generate_until", asked))
    assert answers == theirs.generate_until(requests("generate_until", asked), disable_tqdm=True)
    assert any(answers) and not any("a" in answer for answer in answers)


def test_the_fields_have_every_standard_error(results: dict[str, tuple[HarnessResult, Any]]) -> None:
    ours, _ = results["my_choices"]
    assert list(ours.fields()) == ["acc", "acc_stderr", "acc_norm", "acc_norm_stderr", "total"]
    share = ours.metrics["acc"]
    assert ours.fields()["acc_stderr"] == pytest.approx(math.sqrt(share * (1 - share) / 8))


def test_what_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="unknown task of lm-eval 'piq'"):
        Harness(["piq"])

    def unreachable(repository: str) -> str:
        raise NetworkError(f"cannot reach the hub for {repository}")

    monkeypatch.setattr(harness, "newest_commit", unreachable)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(NetworkError, match="the data of piqa is not on this machine") as raised:
        Harness(["piqa"])
    assert raised.value.hint and "where there is a network" in raised.value.hint
