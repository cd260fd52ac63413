"""How fast `prepare_dataset` is, beside the ways of others and beside the limit; what it needs in memory; and what
reading the result costs a training run.

    script/bench data                                       about ten minutes on two cores
    script/bench data --megabytes 50 --rounds 1             a first look
    script/bench data --files my.jsonl --out my.md          with your own text

All ways do the same job in every round, one after the other and in another order each time, as commands of their own;
ratios are taken within a round, and their medians are what counts. A tiny corpus in the same round says what starting
costs. Every way must give as many tokens as ours, and the same sum of ids. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from corpus import SHARED, Corpus, endless_documents, english_paragraphs, own_documents, write_corpus
from measuring import CommandFailed, Measured, Session, run, use_cores
from report import Memory, Report, Round

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
NANO_GPT = Path(sys.executable).with_name("nano-gpt")
OURS, PEERS = "ours", ("imap", "datasets", "tokenizers")
TINY_MEGABYTES = 0.2


@dataclass
class Bench:
    """The commands, and where they work."""

    folder: Path
    procs: int
    cores: list[int]
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.environment = {
            # Text goes to ids here, there is no arithmetic that could use threads.
            "OMP_NUM_THREADS": "1",
            "HF_HOME": str(self.folder / "huggingface"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT),
        }
        if "TIKTOKEN_CACHE_DIR" not in os.environ and (SHARED / "tiktoken-cache").is_dir():
            self.environment["TIKTOKEN_CACHE_DIR"] = str(SHARED / "tiktoken-cache")

    def way(self, name: str, corpus: Corpus) -> tuple[Measured, tuple[int, int]]:
        """Have `corpus` prepared in one of the ways: time and memory, tokens and the sum of their ids."""
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            out = Path(place) / "out"
            measured = run(self._command(name, corpus.path, out), self.environment, self.folder / f"{name}.log")
            return measured, count_tokens(out)

    def _command(self, name: str, corpus: Path, out: Path) -> list[str | Path]:
        procs = str(self.procs)
        if name == OURS:
            command: list[str | Path] = [NANO_GPT, "prepare_dataset", "--files", corpus, "--num-procs", procs]
            return [*command, "--tokenizer", "gpt2", "--dataset-dir", out]
        return [sys.executable, HERE / "peers.py", name, corpus, out, "--procs", procs]

    def tiktoken(self, corpus: Corpus, processes: int) -> float:
        """Bytes of text that `processes` of tiktoken alone, each pinned to a core, encode in a second together."""
        alone = [sys.executable, str(HERE / "peers.py"), "tiktoken", str(corpus.path), str(self.folder)]
        running = [
            subprocess.Popen(
                [*alone, "--core", str(self.cores[index % len(self.cores)]), "--share", f"{index}/{processes}"],
                stdout=subprocess.PIPE,
                env={**os.environ, **self.environment},
            )
            for index in range(processes)
        ]
        figures = [json.loads(process.communicate()[0]) for process in running]
        return float(sum(figure["bytes"] / figure["seconds"] for figure in figures))

    def import_cost(self) -> int:
        """Resident bytes of one process that has imported what preparing needs and loaded the tokenizer."""
        code = (
            "import psutil, nano_gpt.cli.prepare_dataset, nano_gpt.data.preparing.prepare\n"
            "from nano_gpt.tokenizer import load_tokenizer\n"
            "tokenizer = load_tokenizer('gpt2')\n"
            "print(psutil.Process().memory_info().rss)"
        )
        return int(self._output([sys.executable, "-c", code]))

    def reading(self, gigabytes: float) -> dict[str, Any]:
        """The figures of reading.py."""
        with tempfile.TemporaryDirectory(dir=self.folder) as place:
            command = [sys.executable, str(HERE / "reading.py"), place, "--gigabytes", str(gigabytes)]
            figures: dict[str, Any] = json.loads(
                self._output(command, OMP_NUM_THREADS=str(len(self.cores)))  # here is arithmetic
            )
            return figures

    def _output(self, command: list[str], **environment: str) -> str:
        variables = {**os.environ, **self.environment, **environment}
        return subprocess.run(command, env=variables, check=True, stdout=subprocess.PIPE, text=True).stdout


def count_tokens(folder: Path) -> tuple[int, int]:
    """How many 16-bit ids the files below `folder` hold, and their sum."""
    tokens = total = 0
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".npy":
            ids = np.load(path, mmap_mode="r")
        elif path.suffix == ".bin":
            ids = np.memmap(path, np.uint16, mode="r")
        else:
            continue
        assert ids.dtype == np.uint16, f"{path} is {ids.dtype}"
        tokens += len(ids)
        total += int(ids.sum(dtype=np.uint64))
    return tokens, total


def measure_round(bench: Bench, number: int, corpus: Corpus, tiny: Corpus, say: Callable[[str], None]) -> Round:
    """All ways once, beginning with another one each time. Raises AssertionError when one gives other ids than ours."""
    names = (OURS, *PEERS)
    found: dict[str, tuple[Measured, tuple[int, int]]] = {}
    start_up: dict[str, float] = {}
    for place in range(len(names)):
        name = names[(number + place) % len(names)]
        start_up[name] = bench.way(name, tiny)[0].seconds
        found[name] = bench.way(name, corpus)
        rate = corpus.bytes / 1e6 / found[name][0].seconds
        say(f"round {number + 1}: {name} {found[name][0].seconds:.1f} s, {rate:.1f} MB/s")
    for name in names:
        assert found[name][1] == found[OURS][1], f"{name} gives {found[name][1]}, ours {found[OURS][1]}: tokens, sum"
    one, all_ = bench.tiktoken(corpus, 1), bench.tiktoken(corpus, bench.procs)
    say(f"round {number + 1}: tiktoken alone {one / 1e6:.1f} MB/s, {bench.procs} at once {all_ / 1e6:.1f} MB/s")
    return Round(
        seconds={name: measured.seconds for name, (measured, _) in found.items()},
        start_up=start_up,
        peak_rss={name: measured.peak_rss for name, (measured, _) in found.items()},
        tiktoken=one,
        tiktoken_at_once=all_,
        tokens=found[OURS][1][0],
    )


def measure_memory(bench: Bench, corpora: Iterator[Corpus], say: Callable[[str], None]) -> list[Memory]:
    """Ours at several sizes."""
    each = bench.import_cost()
    found: list[Memory] = []
    for corpus in corpora:
        measured, _ = bench.way(OURS, corpus)
        found.append(Memory(corpus.bytes, measured.peak_each, each))
        say(f"memory: {corpus.bytes / 1e6:.0f} MB of text, peak {measured.peak_rss / 2**20:.0f} MiB")
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/bench data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, default=200, help="text that every way prepares (200)")
    parser.add_argument("--rounds", type=int, default=3, help="how often (3)")
    parser.add_argument("--procs", type=int, default=2, help="processes of every way, and cores that they get (2)")
    parser.add_argument(
        "--memory-megabytes", type=float, nargs="*", default=[50, 300], help="text for the memory of ours (50 300)"
    )
    parser.add_argument("--gigabytes", type=float, default=2, help="shards that are read (2); 0 leaves reading out")
    parser.add_argument("--files", type=Path, nargs="+", help="your own .jsonl (field text) or .txt, UTF-8")
    parser.add_argument("--work-dir", type=Path, help="where files are for the time being: about 6 times the text")
    parser.add_argument("--out", type=Path, default=ROOT / "artifacts" / "benchmarks" / "data.md", help="the table")
    return parser.parse_args()


def main() -> None:
    asked = parse()
    session = Session("data")
    if asked.work_dir is not None:
        asked.work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="nano-gpt-bench-", dir=asked.work_dir) as place:
        bench = Bench(Path(place), asked.procs, use_cores(asked.procs))
        paragraphs = {} if asked.files else english_paragraphs()

        def corpus(name: str, megabytes: float) -> Corpus:
            texts = own_documents(asked.files) if asked.files else endless_documents(paragraphs)
            return write_corpus(bench.folder / f"{name}.jsonl", texts, megabytes)

        text, tiny = corpus("text", asked.megabytes), corpus("tiny", TINY_MEGABYTES)
        session.say(f"text: {text.documents:,} documents, {text.bytes / 1e6:.0f} MB")
        for name in (OURS, *PEERS):  # the first start reads the libraries from disk
            bench.way(name, tiny)
        rounds = [measure_round(bench, number, text, tiny, session.say) for number in range(asked.rounds)]
        memory = measure_memory(bench, (corpus("memory", size) for size in asked.memory_megabytes), session.say)
        reading = bench.reading(asked.gigabytes) if asked.gigabytes else None
    distinct = sum(len(paragraph.encode()) for texts in paragraphs.values() for paragraph in texts)
    report = Report(
        command=session.command,
        procs=asked.procs,
        text=text,
        tiny=tiny,
        sources=tuple(paragraphs) or tuple(path.name for path in asked.files),
        distinct_bytes=min(distinct, text.bytes) if paragraphs else text.bytes,
        load=session.load,
        rounds=rounds,
        memory=memory,
        reading=reading,
    )
    session.write(asked.out, report.markdown())
    print(report.verdicts())


if __name__ == "__main__":
    try:
        main()
    except CommandFailed as failure:
        sys.exit(f"error: {failure}")
