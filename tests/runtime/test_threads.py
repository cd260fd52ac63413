"""How long threads spin: long on a quiet machine, briefly on a shared one, as told where a user has said."""

from __future__ import annotations

import os

import pytest

from nano_gpt.runtime import threads
from nano_gpt.runtime.threads import settle_waiting


@pytest.mark.parametrize(
    ("load", "running", "cores", "ours", "spins"),
    [
        (0.2, 2, 2, 2, "30000"),
        (1.1, 2, 2, 2, "1000"),  # another program has one of the two
        (1.9, 1, 2, 2, "30000"),  # had: our own last command, it may be
        (20.0, 70, 64, 4, "30000"),  # a large machine has cores left for our four
        (63.0, 70, 64, 4, "1000"),
        (1.1, float("inf"), 2, 2, "1000"),  # it is not told
    ],
)
def test_threads_spin_for_long_only_where_cores_are_free(
    load: float, running: float, cores: int, ours: int, spins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    monkeypatch.setattr(threads, "_running_now", lambda: running)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(ours)), raising=False)
    settle_waiting()
    assert os.environ.pop("GOMP_SPINCOUNT") == spins


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_what_a_user_has_said_holds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "7")
    settle_waiting()
    assert os.environ.get("GOMP_SPINCOUNT") == ("7" if name == "GOMP_SPINCOUNT" else None)


def test_this_process_is_one_of_those_that_run() -> None:
    assert threads._running_now() >= 1
