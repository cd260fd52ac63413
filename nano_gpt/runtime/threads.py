"""How the threads of an operation wait for each other: what has to be settled before torch is loaded."""

from __future__ import annotations

import os
from pathlib import Path

_BRIEFLY, _LONGER = "1000", "30000"  # turns; libgomp's own default is 300,000 or so
_OTHERS = 0.5  # a load above this, beside which not every core can be ours


def settle_waiting() -> None:
    """Let threads of OpenMP spin between operations for as long as suits this machine now, unless a user has said.

    A thread that sleeps at once is woken for every operation: with two threads the steps of a small model then take
    twice as long (shakespeare_char), and so does a token of GPT-2 124M. A thread that spins takes the core away from
    the one that it waits for, where another program has a core as well: with 10,000 turns a step takes three times
    as long as with 1,000. So they spin for long where the load of the last minute leaves all cores to us, or that of
    this moment: what ran in the last minute may have been our own last command.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _BRIEFLY if _is_shared() else _LONGER)


def _is_shared() -> bool:
    if not hasattr(os, "getloadavg"):
        return False
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    others = min(os.getloadavg()[0], _running_now() - 1)  # one of them is this process
    return others > (os.cpu_count() or 1) - ours + _OTHERS


def _running_now() -> float:
    """Threads on the machine that run or could run; without end where that is not told."""
    try:
        return float(Path("/proc/loadavg").read_text().split()[3].split("/")[0])
    except (OSError, ValueError, IndexError):
        return float("inf")
