"""The C library's allocator: what a training step frees, the next one takes again."""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of <malloc.h>


def keep_freed_memory() -> bool:
    """Keep large blocks that are freed, instead of giving them back to the kernel; for a whole process, at its start.

    By default glibc maps every block of some MB anew, and the kernel clears its pages one by one as they are touched:
    250,000 page faults in each step of GPT-2 124M on 512 tokens. Without them the step is 1.24 times as fast, one of 6
    layers of 384 1.04 times (one Zen 4 core). The process keeps its peak of memory, which such steps need again anyway.

    Returns whether it was done: other C libraries than glibc, and other systems, go on as they are.
    """
    if not _is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))  # -1: never


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):  # Windows has no confstr, macOS and musl do not know the name
        return False
