"""finewebedu through the real `datasets` client, from a local server that speaks the hub's protocol."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from fake_dataset_hub import COMMIT, serve, write_repository

from nano_gpt.data.manifest import open_prepared

DOCUMENTS = 1200


def run_command(tmp_path: Path, name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's address is read when its client is imported."""
    arguments = f"prepare_dataset --dataset finewebedu --tokenizer byte --tokens-per-shard 40000 --dataset-dir {name}"
    return subprocess.run(
        [sys.executable, "-m", "nano_gpt", *arguments.split()],
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "hub_cache"), "HF_HUB_OFFLINE": "0", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_streamed_cut_off_gone_on_with_and_then_finished_without_a_network(tmp_path: Path) -> None:
    texts = [f"Page {number}: " + "words and more " * (number * 13 % 60) for number in range(DOCUMENTS)]
    write_repository(tmp_path / "repository", texts, files=3)
    with serve(tmp_path / "repository") as hub:
        whole = run_command(tmp_path, "whole", HF_ENDPOINT=hub.endpoint)
        assert whole.returncode == 0, whole.stderr
        hub.broken = re.compile("002_00000")
        cut = run_command(tmp_path, "cut", HF_ENDPOINT=hub.endpoint)
        assert cut.returncode == 1
        assert "error: lost the connection to HuggingFaceFW/fineweb-edu" in cut.stderr
        assert "run the same command again to go on" in cut.stderr
        journal = json.loads((tmp_path / "cut" / "finewebedu-byte" / "unfinished.json").read_text())
        assert 0 < journal["state_document"] <= journal["document"] < DOCUMENTS
        hub.broken = None
        again = run_command(tmp_path, "cut", HF_ENDPOINT=hub.endpoint)
        assert again.returncode == 0, again.stderr
        assert f"going on with cut/finewebedu-byte at document {journal['document']:,}" in again.stderr
    assert contents(tmp_path / "cut" / "finewebedu-byte") == contents(tmp_path / "whole" / "finewebedu-byte")

    prepared = open_prepared(tmp_path / "whole" / "finewebedu-byte")
    splits = prepared.manifest.splits
    assert splits["train"].documents + splits["validation"].documents == DOCUMENTS
    assert splits["train"].bytes + splits["validation"].bytes == sum(map(len, texts))
    assert 15 <= splits["validation"].documents <= 60  # three in a hundred, by hash
    assert prepared.manifest.revision == COMMIT
    finished = run_command(tmp_path, "whole", HF_HUB_OFFLINE="1")  # the server is gone
    assert finished.returncode == 0, finished.stderr


def test_without_a_network_one_clear_error_soon(tmp_path: Path) -> None:
    for environment, words in (
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "error: cannot reach http://127.0.0.1:9"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
    ):
        start = time.monotonic()
        result = run_command(tmp_path, "none", **environment)
        assert time.monotonic() - start < 5 + 5  # of which starting Python and importing the client take some
        assert result.returncode == 1
        assert words in result.stderr and "--files PATH" in result.stderr
        assert "Traceback" not in result.stderr
