"""`script/log_analysis.ipynb` runs from its first cell to its last, and is stored without what it showed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "script" / "log_analysis.ipynb"
SHAKESPEARE = ROOT / "artifacts" / "shakespeare_char"


def made_up_run(folder: Path) -> Path:
    """A run with everything: HellaSwag, samples, and a spike at step 150."""
    folder.mkdir()
    events: list[dict[str, Any]] = []
    for step in range(200):
        loss = 3.0 + 1 / (1 + step) + 0.01 * (step % 3) + (step == 150)
        train = {"loss": loss, "grad_norm": 1.0, "dt_ms": 10.0, "tokens_per_second": 51200.0, "lr": 1e-3, "mfu": None}
        if step % 50 == 0:
            events.append({"kind": "val", "step": step, "tokens": 512 * step, "loss": loss, "bits_per_byte": 1.0})
            events.append({"kind": "hellaswag", "step": step, "tokens": 512 * step, "accuracy": 0.26, "stderr": 0.01})
        events.append({"kind": "train", "step": step, "tokens": 512 * step, **train})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    samples = [{"kind": "sample", "step": step, "index": 0, "text": f"Hello of {step}"} for step in (50, 100, 150)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(event) + "\n" for event in samples))
    return folder


def client(notebook: Any) -> NotebookClient:
    return NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": NOTEBOOK.parent}}
    )


def execute(runs: list[Path], baseline: float | None) -> tuple[list[str], int]:
    """What every code cell prints, and how many pictures there are."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source += f"\nRUNS = [Path(run) for run in {[str(run) for run in runs]}]\nLOSS_BASELINE = {baseline}\n"
    client(notebook).execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    printed = ["".join(output.text for output in cell if output.output_type == "stream") for cell in outputs]
    return printed, sum("image/png" in output.get("data", {}) for cell in outputs for output in cell)


def test_it_is_stored_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None


def test_a_made_up_run_and_real_ones(tmp_path: Path) -> None:
    """Everything is shown at once: a folder, a metrics.jsonl and the text form."""
    run = made_up_run(tmp_path / "made_up")
    printed, pictures = execute([run, SHAKESPEARE / "metrics.jsonl", SHAKESPEARE / "train.log"], baseline=3.2)
    everything = "\n".join(printed)
    assert pictures == 4
    assert f"{run}: step 199, loss 3.0150, validation 4.0066, best 3.0199" in everything
    assert f"{run}: better than GPT-2 124M from step 50 on" in everything
    spikes = next(text for text in printed if "nano-gpt inspect" in text)
    assert spikes.splitlines()[0].endswith(f"nano-gpt inspect {run} --step 150")
    assert f"--- {run}, step 50\nHello of 50\n" in everything
    assert f"{SHAKESPEARE / 'metrics.jsonl'}: no samples" in everything
    assert f"--- {SHAKESPEARE / 'train.log'}, step 2,000" in everything


def test_as_it_is_stored(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client(notebook).execute()
    text = json.dumps(notebook)
    assert "no HellaSwag in these runs" in text
    lines = (SHAKESPEARE / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [event["loss"] for event in map(json.loads, lines) if event["kind"] == "val"]
    assert pytest.approx(losses[-1], abs=1e-4) == float(text.split(", validation ")[1][:6])
