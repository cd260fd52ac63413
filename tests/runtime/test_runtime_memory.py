"""What a process does with memory that it frees: seen in a process of its own, for it cannot be undone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nano_gpt.runtime import memory
from nano_gpt.runtime.memory import keep_freed_memory

PROGRAM = """
import ctypes, resource, sys
from nano_gpt.runtime.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
for step in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(64 << 20)
    ctypes.memset(block, 1, 64 << 20)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(not memory._is_glibc(), reason="another C library than glibc")
def test_a_block_that_was_freed_is_taken_again() -> None:
    """64 MiB are 16,384 pages, or 32 huge ones where the kernel gives those unasked."""
    assert page_faults("keep") == 0
    assert page_faults("as it is") >= 32


@pytest.mark.parametrize(
    "answer", [ValueError("unrecognized configuration name"), OSError(22, "Invalid argument"), None]
)
def test_other_systems_go_on_as_they_are(monkeypatch: pytest.MonkeyPatch, answer: Exception | None) -> None:
    def confstr(name: str) -> None:
        if answer is not None:
            raise answer

    monkeypatch.setattr(os, "confstr", confstr)
    monkeypatch.setattr(memory.ctypes, "CDLL", None)  # calling it would fail
    assert keep_freed_memory() is False
    monkeypatch.delattr(os, "confstr")  # Windows
    assert keep_freed_memory() is False
