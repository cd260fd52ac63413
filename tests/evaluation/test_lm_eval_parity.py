"""Item by item, HellaSwag as lm-eval scores it: its task, its prompts, its HF backend, on the folder we wrote."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_evaluation_models import made_up_values, redrawn_model

from nano_gpt.checkpoint.folder import read_model_folder, write_model_folder
from nano_gpt.config import GPTConfig
from nano_gpt.evaluation.hellaswag import HellaSwagTest
from nano_gpt.evaluation.hellaswag_items import load_items
from nano_gpt.model.gpt import GPT
from nano_gpt.model.packed import pack
from nano_gpt.tokenizer import load_tokenizer, train_tokenizer
from nano_gpt.tokenizer.base import Tokenizer

pytestmark = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="needs lm-eval: the test extra")

# lm-eval's own task file, with another place to take the items from. Small batches: all of a row's logits are made.
LM_EVAL = """
import json, sys
from pathlib import Path
import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

model, items, folder = sys.argv[1:]
task = {
    "include": str(Path(lm_eval.__file__).parent / "tasks" / "hellaswag" / "hellaswag.yaml"),
    "task": "local_hellaswag",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"validation": items}},
    "training_split": None,
}
file = Path(folder, "local_hellaswag.yaml")
file.write_text(json.dumps(task))
found = lm_eval.simple_evaluate(
    model=HFLM(pretrained=model, dtype="float32", device="cpu", batch_size=4),
    tasks=[str(file)],
    task_manager=TaskManager(include_defaults=False),
    bootstrap_iters=1,
)
samples = sorted(found["samples"]["local_hellaswag"], key=lambda sample: sample["doc_id"])
Path(folder, "found.json").write_text(json.dumps({
    "results": {k: v for k, v in found["results"]["local_hellaswag"].items() if k.startswith("acc")},
    "samples": [
        {"log_likelihoods": [answer[0] for answer in sample["filtered_resps"]],
         "acc": sample["acc"], "acc_norm": sample["acc_norm"], "prompts": sample["arguments"]}
        for sample in samples
    ],
}))
"""


def lm_eval_scores(model: Path, items: Path, folder: Path) -> dict[str, Any]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "home"),
        "TQDM_DISABLE": "1",
    }
    command = [sys.executable, "-c", LM_EVAL, str(model), str(items), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return found


def check_parity(model: GPT, tokenizer: Tokenizer, items_file: Path, folder: Path, atol: float) -> None:
    exported = folder / "model"
    exported.mkdir()
    write_model_folder(exported, model.config, model.state_dict(), tokenizer)
    theirs = lm_eval_scores(exported, items_file, folder)

    items = load_items(items_file)
    test = HellaSwagTest(items, load_tokenizer(exported))
    reread = read_model_folder(exported)
    ours = test.score(reread, batch_size=16)
    assert len(ours) == len(theirs["samples"])
    for item, mine, sample in zip(items, ours, theirs["samples"], strict=True):
        context, endings = item.cleaned()
        assert sample["prompts"] == [[context, f" {ending}"] for ending in endings]
        np.testing.assert_allclose(mine.cleaned, sample["log_likelihoods"], atol=atol, rtol=0)
        assert mine.choice_acc == np.argmax(sample["log_likelihoods"])
        assert mine.choice_acc_norm == np.argmax(sample["log_likelihoods"] / np.array([len(e) for e in endings]))
        assert float(mine.choice_acc == mine.label) == sample["acc"]
        assert float(mine.choice_acc_norm == mine.label) == sample["acc_norm"]
    result = test.evaluate(pack(reread))  # as `eval` has it on a CPU
    for name, accuracy in (("acc", result.acc), ("acc_norm", result.acc_norm)):
        assert accuracy.value == pytest.approx(theirs["results"][f"{name},none"])
        assert accuracy.stderr == pytest.approx(theirs["results"][f"{name}_stderr,none"])
    assert len({mine.choice_acc for mine in ours}) == 4  # a model that always takes the first ending shows nothing


def test_made_up_items(tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    values = [{**made_up_values(number), "label": str(number % 4)} for number in range(40)]  # arrow wants one type
    items.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    byte = load_tokenizer("byte")
    check_parity(redrawn_model(byte.vocab_size, n_positions=512), byte, items, tmp_path, atol=1e-3)


@pytest.mark.slow
def test_1000_real_items_with_a_trained_model(tmp_path: Path, shared_dir: Path) -> None:
    """Vocabulary and model are made of the contexts and right endings of the other items."""
    file = shared_dir / "data" / "hellaswag_val_first_5000.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()[:1000]
    items = tmp_path / "items.jsonl"
    items.write_text("\n".join(lines) + "\n", encoding="utf-8")
    texts = [f"{item.ctx} {item.endings[item.label]}" for item in load_items(file)[1000:]]
    tokenizer = train_tokenizer("bpe:1024", texts)
    check_parity(trained(tokenizer, texts), tokenizer, items, tmp_path, atol=1e-4)


def trained(tokenizer: Tokenizer, texts: list[str]) -> GPT:
    """Some seconds of AdamW."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, n_positions=512, n_embd=64, n_layer=2, n_head=4))
    ids = torch.from_numpy(tokenizer.document_encoder(texts).ids.astype(np.int64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(150):
        starts = torch.randint(len(ids) - 65, (16, 1))
        windows = ids[starts + torch.arange(65)]
        loss = model(windows[:, :-1], windows[:, 1:]) / windows[:, 1:].numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1.5
    return model.eval()
