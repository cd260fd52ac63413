"""How fast text is written on this machine's CPU by GPT-2 124M, beside others and beside what memory allows.

    script/bench decode                 about half an hour on two cores
    script/bench decode --rounds 1      a first look

Every way is a process of its own (decode_ways.py). They take turns, in another order each round, and ratios are taken
within a round; their medians are what counts. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from decode_ways import OURS, TOP_K, WAYS
from measuring import Session, machine, median_ratio, table, use_cores, verdicts
from turns import COMMAND_LINE, ROOT, Way, WayFailed, in_turn

LIBRARIES = ("nano-gpt", "torch", "transformers")
SLOW = ("nanogpt", "predecessor")  # these read everything anew for every token
SLOW_TOKENS = 12  # of them, at the mean length of the others
# What a token has to read: the matrices of 12 layers and the head, which with bf16 is in fp32 (model/packed.py).
_LAYERS, _HEAD = 12 * 12 * 768 * 768, 50257 * 768
BYTES = {"fp32": 4 * (_LAYERS + _HEAD), "bf16": 2 * _LAYERS + 4 * _HEAD, "int8": _LAYERS + _HEAD}


@dataclass(frozen=True)
class Job:
    """What is written."""

    sequences: int
    prompt: int
    new: int = 128


JOBS = (Job(1, 8), Job(5, 8), Job(1, 512))

# The promises, as times the tokens of HF's fp32: by threads, job and way.
PROMISED = {
    (2, JOBS[0]): {"fp32": 2.1, "bf16": 2.2, "int8": 6.0},
    (2, JOBS[1]): {"bf16": 3.4, "int8": 6.5},
    (1, JOBS[0]): {"fp32": 1.3, "bf16": 1.4, "int8": 3.8},
    (1, JOBS[1]): {"bf16": 2.9, "int8": 6.0},
}
OF_BOUND = 0.8


@dataclass(frozen=True)
class Setting:
    """A job at a number of threads; a round is a dictionary by way."""

    threads: int
    job: Job
    seconds: list[dict[str, float]]
    """Of a token: one of every sequence."""
    bandwidth: list[float]
    """Bytes a second, in the process of ours."""

    def rate(self, way: str) -> float:
        return self.job.sequences / statistics.median(one[way] for one in self.seconds)

    def times(self, way: str, other: str = "hf") -> float:
        return median_ratio((one[other] for one in self.seconds), (one[way] for one in self.seconds))

    def of_bound(self, way: str) -> float:
        bounds = (BYTES[way] / bandwidth for bandwidth in self.bandwidth)
        return median_ratio(bounds, (one[way] for one in self.seconds))


def measure(threads: int, jobs: Sequence[Job], rounds: int, say: Callable[[str], None]) -> Iterator[Setting]:
    with ExitStack() as stack:
        ways = [
            stack.enter_context(
                Way(name, "decode_ways.py", [name, "--threads", str(threads)], COMMAND_LINE if name in OURS else {})
            )
            for name in WAYS
        ]
        for way in ways:
            way.ask("write 1 8 2")
        for job in jobs:
            seconds, bandwidth = [], []
            for number in range(rounds):
                bandwidth.append(ways[0].ask("bandwidth")["bytes"])
                seconds.append({way.name: _seconds_of_a_token(way, job) for way in in_turn(ways, number)})
                times = ", ".join(f"{name} {seconds[-1][name] * 1e3:.1f}" for name in WAYS)
                say(f"{threads} threads, {job.sequences} x {job.prompt}, round {number + 1}, ms a token: {times}")
            yield Setting(threads, job, seconds, bandwidth)


def _seconds_of_a_token(way: Way, job: Job) -> float:
    prompt, new = job.prompt, job.new
    if way.name in SLOW:
        prompt, new = job.prompt + job.new // 2 - SLOW_TOKENS // 2, SLOW_TOKENS
    seconds: float = way.ask(f"write {job.sequences} {prompt} {new}")["seconds"]
    return seconds / new


def markdown(command: str, load: float, settings: Sequence[Setting]) -> str:
    rounds = len(settings[0].seconds)
    parts = [
        "# Writing text on a CPU\n",
        f"    {command}\n",
        f"{date.today()}; {machine(LIBRARIES)}; load before it began {load:.2f}.\n",
        f"GPT-2 124M with random weights, top-k {TOP_K}, {settings[0].job.new} new tokens for every sequence, the "
        f"reading of the prompt included; the two ways without a cache write {SLOW_TOKENS} tokens at the mean length "
        f"of the others. Medians of {rounds} rounds, in which the ways take turns, each in a process of its own; "
        "ratios are taken within a round. The bound: every matrix read once a token, as fast as a sum over 512 MiB "
        "reads memory in the same round and with the same threads.\n",
        *(_table(setting) for setting in settings),
        "\n## Promised and found\n",
        verdicts(_checks(settings)),
    ]
    return "\n".join(parts) + "\n"


def _table(setting: Setting) -> str:
    rows = [
        [
            words,
            f"{setting.rate(way):,.1f}",
            f"{setting.times(way):.2f}",
            f"{setting.times(way, 'predecessor'):.1f}",
            f"{setting.of_bound(way):.0%}" if way in BYTES else "-",
        ]
        for way, words in WAYS.items()
    ]
    job = setting.job
    name = f"{job.sequences} sequence{'s' if job.sequences > 1 else ''} after a prompt of {job.prompt} tokens"
    header = ["way", "tokens/s", "times HF's fp32", "times the predecessor's", "of the bound"]
    return (
        f"## {name}; {setting.threads} thread{'s' if setting.threads > 1 else ''}\n\n{table(header, rows)}\n\n"
        f"Memory: {statistics.median(setting.bandwidth) / 1e9:.0f} GB/s.\n"
    )


def _checks(settings: Sequence[Setting]) -> Iterator[tuple[str, str, bool]]:
    for setting in settings:
        what = f"{setting.job.sequences} x {setting.job.prompt}, {setting.threads} threads"
        for way, promised in PROMISED.get((setting.threads, setting.job), {}).items():
            found = setting.times(way)
            yield f"{what}: {way} at least {promised} times HF", f"{found:.2f}", found >= promised
        if (setting.threads, setting.job) in PROMISED and setting.job.sequences == 1:
            best = max(setting.of_bound(way) for way in OURS)
            yield f"{what}: {OF_BOUND:.0%} of the bound aimed at", f"{best:.0%}", best >= OF_BOUND


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/bench decode", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often every way takes its turn (5)")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1], help="threads of every way (2 1)")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2, 3], help="1: 1 x 8, 2: 5 x 8, 3: 1 x 512 (all)")
    parser.add_argument("--json", action="store_true", help="print all that was measured as JSON; no table")
    parser.add_argument("--out", type=Path, default=ROOT / "artifacts" / "benchmarks" / "decode.md", help="the table")
    return parser.parse_args(arguments)


def main() -> None:
    asked = parse()
    session = Session("decode")
    use_cores(max(asked.threads))
    jobs = [JOBS[number - 1] for number in asked.jobs]
    settings = [setting for threads in asked.threads for setting in measure(threads, jobs, asked.rounds, session.say)]
    if asked.json:
        print(json.dumps([asdict(setting) for setting in settings], indent=2))
        return
    text = markdown(session.command, session.load, settings)
    session.write(asked.out, text)
    print(text[text.index("## ") :])


if __name__ == "__main__":
    try:
        main()
    except WayFailed as failure:
        sys.exit(f"error: {failure}")
