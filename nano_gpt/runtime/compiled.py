"""C of ours, compiled where there is a compiler: for the very CPU that it runs on, on first use, kept for the next.

What it is for has another way where this one does not open: no compiler, another system, an older CPU.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch  # noqa: F401 (whose OpenMP the library takes)

from nano_gpt.runtime.files import sync_file
from nano_gpt.runtime.logs import logger

SWITCH = "NANO_GPT_COMPILE"
"""Set to 0, this environment variable lets nothing be compiled."""

_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-strict-aliasing", "-Wno-psabi")
_SECONDS = 60  # at most, to compile; one or two is usual


@functools.cache
def load(folder: Path, flags: tuple[str, ...] = _FLAGS) -> ctypes.CDLL | None:
    """The library made of the C in `folder`, or None where there is none (Linux on x86-64 with AVX2, GCC or its like).

    Its threads are torch's: it is linked with no OpenMP of its own and takes the one that torch has loaded, as two of
    them would fight for the cores.
    """
    compiler = shutil.which(os.environ.get("CC") or "cc")
    linux = sys.platform == "linux" and platform.machine() == "x86_64"
    if not linux or compiler is None or os.environ.get(SWITCH) == "0":
        return None
    try:
        known = _known(compiler, flags)
        if b"__AVX2__" not in known or b"__FMA__" not in known:
            return None
        sources = [path.read_bytes() for path in sorted(folder.glob("*.[ch]"))]
        key = hashlib.sha256(b"\0".join((*sources, known, " ".join(flags).encode()))).hexdigest()[:16]
        library = _home() / f"{folder.name}-{key}.so"
        if not library.exists():
            _compile(compiler, flags, folder, library)
        return ctypes.CDLL(str(library))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: there is no home
        told = getattr(error, "stderr", None) or str(error).encode()
        logger.warning(f"{folder.name} could not be compiled, slower ways are taken: {_first_line(told)}")
        logger.warning(f"  ({compiler}; {SWITCH}=0 keeps it from being tried)")
        return None


@functools.cache
def _known(compiler: str, flags: tuple[str, ...]) -> bytes:
    """What the compiler says of itself and of this CPU: homes are shared by machines, and machines change."""
    return _run(compiler, *flags, "-dM", "-E", "-x", "c", os.devnull)


def _compile(compiler: str, flags: tuple[str, ...], folder: Path, library: Path) -> None:
    """In two steps: one that compiles and links would put OpenMP's library in."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:

        def compile_one(source: Path) -> None:
            _run(compiler, *flags, "-fopenmp", "-fPIC", "-c", str(source), folder=scratch)

        with ThreadPoolExecutor() as compilers:  # seconds, unless all cores are at it
            list(compilers.map(compile_one, sorted(folder.glob("*.c"))))
        linked = Path(scratch) / "linked.so"
        _run(compiler, "-shared", *map(str, Path(scratch).glob("*.o")), "-o", str(linked))
        sync_file(linked)
        linked.replace(library)  # whole, whoever else is at it


def _run(*command: str, folder: str | None = None) -> bytes:
    ended = subprocess.run(
        command, check=True, capture_output=True, timeout=_SECONDS, stdin=subprocess.DEVNULL, cwd=folder
    )
    return ended.stdout


def _home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nano-gpt"


def _first_line(told: bytes) -> str:
    lines = told.decode(errors="replace").split("\n")
    return next((line for line in lines if "error" in line), lines[0])
