"""What every benchmark needs: run a command and see its time and memory, compare rounds, name the machine."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

SAMPLE_SECONDS = 0.05
# Finding new processes costs a walk over all of the machine, so it is done less often: 0.5% of a core.
_SEARCH_EVERY = 10


@dataclass(frozen=True)
class Measured:
    """One run of a command."""

    seconds: float
    peak_rss: int
    """Bytes of resident memory, summed over the process and its descendants, at the highest of all samples. Pages that
    processes share count for each of them."""
    peak_each: tuple[int, ...]
    """The same by process."""


class Session:
    """A benchmark that is under way: what it says meanwhile, and the page that it ends with."""

    def __init__(self, name: str) -> None:
        self.command = " ".join([f"script/bench {name}", *sys.argv[1:]])
        self.load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        """Processes that wanted a core in the minute before."""
        self._begun = time.perf_counter()

    def say(self, text: str) -> None:
        """To stderr, after the seconds since it began."""
        print(f"{time.perf_counter() - self._begun:6.0f} s  {text}", file=sys.stderr, flush=True)

    def write(self, page: Path, markdown: str) -> None:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(markdown, encoding="utf-8")
        self.say(f"wrote {page}")


class CommandFailed(Exception):  # noqa: N818 - it names the event, as subprocess does
    """A command that is measured ended with an error."""


def run(command: Sequence[str | Path], environment: Mapping[str, str], log: Path) -> Measured:
    """Run to the end; what it prints goes to `log`. Raises CommandFailed with the end of that."""
    with log.open("w", encoding="utf-8") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command], stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
        memory = _MemoryOf(process.pid)
        memory.start()
        try:
            code = process.wait()
            seconds = time.perf_counter() - start
        except BaseException:  # Ctrl-C has reached it as well
            process.wait()
            raise
        finally:
            memory.stop()
    if code:
        end = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise CommandFailed(f"{' '.join(map(str, command))} ended with {code}:\n{end}")
    return Measured(seconds, sum(memory.peak), memory.peak)


class _MemoryOf(threading.Thread):
    """Watches a process and its descendants."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak: tuple[int, ...] = ()
        self._root = psutil.Process(pid)
        self._ended = threading.Event()

    def run(self) -> None:
        tree = [self._root]
        sample = 0
        while not self._ended.wait(SAMPLE_SECONDS):
            if sample % _SEARCH_EVERY == 0:
                tree = [self._root, *_descendants(self._root)]
            sample += 1
            sizes = tuple(size for process in tree if (size := _rss(process)))
            if sum(sizes) > sum(self.peak):
                self.peak = sizes

    def stop(self) -> None:
        self._ended.set()
        self.join()


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # it has ended
        return 0


def median_ratio(numerators: Iterable[float], denominators: Iterable[float]) -> float:
    """The median of the ratios of each round. What disturbs the machine disturbs both sides of a round alike."""
    return statistics.median(one / other for one, other in zip(numerators, denominators, strict=True))


def use_cores(number: int) -> list[int]:
    """Keep this process and what it starts to `number` cores, where the system can; returns them."""
    if not hasattr(os, "sched_setaffinity"):
        return list(range(number))
    cores = sorted(os.sched_getaffinity(0))[:number]
    os.sched_setaffinity(0, cores)
    return cores


def machine(libraries: Sequence[str]) -> str:
    """One line on what a table was measured with."""
    cores = psutil.cpu_count() or 1
    memory = psutil.virtual_memory().total / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in libraries)
    return (
        f"{_cpu()}, {cores} core{'s' if cores > 1 else ''}, {memory:.0f} GiB, {platform.system()}; "
        f"Python {platform.python_version()}, {versions}"
    )


def _cpu() -> str:
    """Its name, with the model number where the name says nothing: virtual machines often hide it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {name.strip(): value.strip() for name, value in facts.items()}
    if "model name" not in named:
        return platform.machine()
    family, model = named.get("cpu family", "?"), named.get("model", "?")
    return f"{named['model name']} (family {family}, model {model}, {named.get('cpu MHz', '?').split('.')[0]} MHz)"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def verdicts(checks: Iterable[tuple[str, str, bool]]) -> str:
    """What was promised, what was found, and whether the one keeps the other."""
    rows = ([promise, found, "kept" if kept else "**missed**"] for promise, found, kept in checks)
    return table(["promise", "found", ""], rows)
