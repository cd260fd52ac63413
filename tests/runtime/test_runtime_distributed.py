"""Without torchrun every collective is the identity; with it, ranks come from the environment alone."""

from __future__ import annotations

import pytest
import torch

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
