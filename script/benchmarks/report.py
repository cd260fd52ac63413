"""The table of `script/bench data`: what was measured, and whether it is what was promised."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

from corpus import Corpus
from measuring import machine, median_ratio, table, verdicts

# The promises, of the issue "Any corpus, any tokenizer, prepared once, fast, and provably right".
TIMES_BEST_PEER, SHARE_OF_LIMIT = 1.5, 0.85
MEMORY_BYTES, SHARE_OF_STEP = 2**30, 0.01
MEMORY_GROWTH = READING_GROWTH = 32 * 2**20  # bytes by which two runs differ anyway

LIBRARIES = ("nano-gpt", "tiktoken", "numpy", "datasets", "tokenizers", "torch")
NAMES = {
    "ours": "`nano-gpt prepare_dataset`",
    "imap": "the predecessor's: `Pool.imap`, a document at a time",
    "datasets": "nanoGPT's: `datasets.map`, then a memory map",
    "tokenizers": "HF tokenizers: `encode_batch_fast`, 1024 documents",
}


@dataclass(frozen=True)
class Round:
    """One round; dictionaries are by way."""

    seconds: dict[str, float]
    start_up: dict[str, float]
    """Seconds for the tiny corpus."""
    peak_rss: dict[str, int]
    tiktoken: float
    """Bytes a second of one process, alone on the machine."""
    tiktoken_at_once: float
    """Bytes a second of as many processes as there are cores, together."""
    tokens: int


@dataclass(frozen=True)
class Memory:
    """Ours on a corpus of `bytes`."""

    bytes: int
    peak_each: tuple[int, ...]
    """Resident bytes of every process at the moment when their sum was highest."""
    import_cost: int
    """What one process has before it does anything: libraries, and the tokenizer."""

    @property
    def peak(self) -> int:
        return sum(self.peak_each)

    @property
    def imports(self) -> int:
        """The part of the peak that is import cost. Helpers of multiprocessing import less."""
        return sum(min(size, self.import_cost) for size in self.peak_each)

    @property
    def above_imports(self) -> int:
        return self.peak - self.imports


@dataclass(frozen=True)
class Report:
    """All that was measured."""

    command: str
    procs: int
    text: Corpus
    tiny: Corpus
    sources: tuple[str, ...]
    distinct_bytes: int
    load: float
    """Processes that wanted a core in the minute before."""
    rounds: list[Round]
    memory: list[Memory]
    reading: dict[str, Any] | None

    def markdown(self) -> str:
        parts = [
            "# Preparing a corpus, and reading it\n",
            f"    {self.command}\n",
            f"{date.today()}; {machine(LIBRARIES)}; load before it began {self.load:.2f}.\n",
            self._text(),
            "## Speed\n",
            self._speed(),
            "\n## Memory\n",
            self._memory(),
            *(["\n## Reading\n", self._reading(self.reading)] if self.reading else []),
            "\n## Promised and found\n",
            self.verdicts(),
            "\n## Every round\n",
            self._rounds(),
        ]
        return "\n".join(parts) + "\n"

    def verdicts(self) -> str:
        return verdicts(self._checks())

    # --- Sections

    def _text(self) -> str:
        tokens = self.rounds[0].tokens
        return (
            f"{self.text.bytes / 1e6:.1f} MB of text in {self.text.documents:,} documents, "
            f"{self.distinct_bytes / 1e6:.1f} MB of it distinct, from {', '.join(self.sources)}: {tokens:,} tokens "
            f"with the `<|endoftext|>` of each, {self.text.bytes / tokens:.2f} bytes per token. Every way gave the "
            f"same number of tokens and the same sum of ids. {self.procs} processes or threads each, on as many "
            "cores.\n"
        )

    def _speed(self) -> str:
        rows = [
            [
                NAMES[way],
                f"{self._rate(way) / 1e6:.1f}",
                f"{self._rate(way) * self._tokens_per_byte / 1e6:.2f}",
                f"{self._rate(way, started=True) / 1e6:.1f}",
                f"{statistics.median(round_.start_up[way] for round_ in self.rounds):.2f}",
                f"{self._times(way):.2f}",
                f"{self._of_limit(way):.0%}",
                f"{max(round_.peak_rss[way] for round_ in self.rounds) / 2**20:.0f}",
            ]
            for way in NAMES
        ]
        for name, rate in self._limits():
            rows.append([name, f"{rate / 1e6:.1f}", f"{rate * self._tokens_per_byte / 1e6:.2f}", *["-"] * 5])
        header = [
            "way",
            "MB/s",
            "M tokens/s",
            "MB/s once started",
            "start, s",
            "ours is faster by",
            "of the limit",
            "peak, MiB",
        ]
        return table(header, rows) + (
            f"\n\nWhole commands, medians of {len(self.rounds)} rounds. Start: the same command on "
            f"{self.tiny.bytes / 1e6:.1f} MB; once started: without that time and that text. The limit is cores x "
            "tiktoken's rate on one core, documents in memory and ids thrown away; it reads no files, and a second "
            "process does not always get a second core's worth, which the last row measures. Peak: resident memory "
            "summed over all processes, shared pages counted for each.\n"
        )

    def _memory(self) -> str:
        rows = [
            [
                f"{one.bytes / 1e6:.0f}",
                f"{one.peak / 2**20:.0f}",
                str(len(one.peak_each)),
                f"{one.imports / 2**20:.0f}",
                f"{one.above_imports / 2**20:.0f}",
            ]
            for one in self.memory
        ]
        return table(["text, MB", "peak, MiB", "processes", "imports", "above them"], rows) + (
            "\n\n`nano-gpt prepare_dataset`, sampled every 50 ms: the sum over its processes.\n"
        )

    def _reading(self, found: dict[str, Any]) -> str:
        batch, step = found["batch_seconds"], found["step_seconds"]
        return (
            f"{found['gigabytes']:.1f} GB of shards, read from end to end in random order by `TokenLoader`, in batches "
            f"of 16 x 1024, files in the page cache: **{batch * 1e6:.0f} us** a batch (median of "
            f"{found['batches']:,}), 1% of a step at {16 * 1024 / (batch * 100) / 1e6:.2f}M tokens/s; resident memory "
            f"grew by **{found['rss_growth'] / 2**20:.1f} MiB**. A train step of a real model ({found['model']}, "
            f"{found['device']}) takes {step * 1e3:,.1f} ms, reading its batch "
            f"**{found['step_batch_seconds'] * 1e6:.0f} us**, files in the page cache too.\n"
        )

    def _rounds(self) -> str:
        rows = [
            [
                str(number),
                *(f"{one.seconds[way]:.2f} ({one.start_up[way]:.2f})" for way in NAMES),
                f"{one.tiktoken / 1e6:.1f}",
                f"{one.tiktoken_at_once / 1e6:.1f}",
            ]
            for number, one in enumerate(self.rounds, 1)
        ]
        header = ["round", *(f"{way}, s (start)" for way in NAMES), "tiktoken, MB/s", f"{self.procs} at once"]
        return table(header, rows)

    def _checks(self) -> list[tuple[str, str, bool]]:
        best = min(self._times(way) for way in NAMES if way != "ours")
        share, at_once = self._of_limit("ours"), self._of_at_once("ours")
        started = self._of_limit("ours", started=True)
        checks = [
            (f"at least {TIMES_BEST_PEER} times the best peer", f"{best:.2f}", best >= TIMES_BEST_PEER),
            (
                f"at least {SHARE_OF_LIMIT:.0%} of cores x tiktoken",
                f"{share:.0%}; once started {started:.0%}; of {self.procs} at once {at_once:.0%}",
                share >= SHARE_OF_LIMIT,
            ),
        ]
        if self.memory:
            most = max(one.above_imports for one in self.memory)
            checks.append(("peak memory under 1024 MiB above imports", f"{most / 2**20:.0f} MiB", most < MEMORY_BYTES))
        if len(self.memory) > 1:
            small, large = min(self.memory, key=_size), max(self.memory, key=_size)
            growth = large.above_imports - small.above_imports
            checks.append(
                (
                    "memory does not grow with the corpus",
                    f"{growth / 2**20:+.0f} MiB from {small.bytes / 1e6:.0f} to {large.bytes / 1e6:.0f} MB",
                    growth < MEMORY_GROWTH,
                )
            )
        if self.reading:
            of_step = self.reading["step_batch_seconds"] / self.reading["step_seconds"]
            grown = self.reading["rss_growth"]
            checks.append(("a batch under 1% of a train step", f"{of_step:.3%}", of_step < SHARE_OF_STEP))
            checks.append(
                ("reading does not grow with the corpus", f"{grown / 2**20:+.1f} MiB", grown < READING_GROWTH)
            )
        return checks

    # --- Figures

    @property
    def _tokens_per_byte(self) -> float:
        return self.rounds[0].tokens / self.text.bytes

    def _rate_of(self, way: str, *, started: bool = False) -> Callable[[Round], float]:
        """Bytes a second in a round."""

        def rate(one: Round) -> float:
            if started:
                return (self.text.bytes - self.tiny.bytes) / (one.seconds[way] - one.start_up[way])
            return self.text.bytes / one.seconds[way]

        return rate

    def _rate(self, way: str, *, started: bool = False) -> float:
        return statistics.median(map(self._rate_of(way, started=started), self.rounds))

    def _times(self, way: str) -> float:
        return median_ratio(map(self._rate_of("ours"), self.rounds), map(self._rate_of(way), self.rounds))

    def _of_limit(self, way: str, *, started: bool = False) -> float:
        limits = [self.procs * one.tiktoken for one in self.rounds]
        return median_ratio(map(self._rate_of(way, started=started), self.rounds), limits)

    def _of_at_once(self, way: str) -> float:
        return median_ratio(map(self._rate_of(way), self.rounds), [one.tiktoken_at_once for one in self.rounds])

    def _limits(self) -> list[tuple[str, float]]:
        one = statistics.median(round_.tiktoken for round_ in self.rounds)
        all_ = statistics.median(round_.tiktoken_at_once for round_ in self.rounds)
        return [
            ("tiktoken alone, one process", one),
            (f"limit: {self.procs} x that", self.procs * one),
            (f"tiktoken alone, {self.procs} processes at once", all_),
        ]


def _size(one: Memory) -> int:
    return one.bytes
