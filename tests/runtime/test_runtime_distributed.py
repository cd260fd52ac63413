"""Without torchrun every collective is the identity; with it, ranks come from the environment alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nano_gpt.errors import ConfigError
from nano_gpt.runtime import distributed
from nano_gpt.runtime.distributed import Ranks, from_environment


def test_ranks_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert from_environment() == Ranks(0, 1, 0)
    assert from_environment().is_main
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert from_environment() == Ranks(rank=5, world_size=8, local_rank=1)
    assert not from_environment().is_main


def test_a_single_process_needs_no_group() -> None:
    with distributed.process_group(Ranks(), torch.device("cpu")):
        assert not distributed.is_distributed()
        assert distributed.all_reduce_sum(torch.tensor([3.0])).item() == 3.0
        assert distributed.any_rank(True)
        assert not distributed.any_rank(False)
        assert distributed.broadcast({"a": 1}) == {"a": 1}
        assert distributed.from_main(lambda: 7) == 7
        distributed.barrier()


def test_a_metal_gpu_is_for_one_process() -> None:
    with (
        pytest.raises(ConfigError, match="2 processes cannot share a Metal GPU"),
        distributed.process_group(Ranks(0, 2, 0), torch.device("mps")),
    ):
        pass


RANKS = """
import sys
from pathlib import Path
import torch
from nano_gpt.errors import DataError
from nano_gpt.runtime import distributed

ranks = distributed.from_environment()
said = []

def attempt(function):
    try:
        said.append(repr(distributed.from_main(function)))
    except Exception as error:
        said.append(f"{type(error).__name__}: {error}")
        said.append(getattr(error, "on_all_ranks", "no"))

def refuse():
    raise DataError("no such set", "prepare it")

with distributed.process_group(ranks, torch.device("cpu")):
    attempt(lambda: ranks.rank)
    attempt(refuse)
    attempt(lambda: 1 / 0)
    attempt(lambda: "still together")
    said.append(distributed.all_reduce_sum(torch.tensor([ranks.rank + 1.0])).item())
    said.append((distributed.any_rank(ranks.rank == 1), distributed.any_rank(False)))
Path(sys.argv[1], str(ranks.rank)).write_text("\\n".join(map(str, said)))
"""


def test_two_ranks_agree_also_when_the_first_one_fails(tmp_path: Path) -> None:
    """What only rank 0 raised left the others in a collective that never came, with an error of the network."""
    (tmp_path / "ranks.py").write_text(RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(tmp_path / "ranks.py"), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for rank in "01":
        lines = (tmp_path / rank).read_text().split("\n")
        unexpected = "ZeroDivisionError: division by zero"
        assert lines == [
            "0",
            "DataError: no such set",
            "  hint: prepare it",
            "True",
            *([unexpected, "no"] if rank == "0" else [f"NanoGPTError: rank 0 stopped: {unexpected}", "True"]),
            "'still together'",
            "3.0",
            "(True, False)",
        ]
