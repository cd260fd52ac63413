"""How fast a training step is on this machine's CPU, beside the ways of others and beside the speed of its products.

    script/bench train                          about six minutes on two cores
    script/bench train --nanogpt ../nanoGPT     beside a checkout of karpathy/nanoGPT too
    script/bench train --sizes b --rounds 3     one model, a first look

Every way to make a step is a process of its own (train_ways.py). They take turns, in another order each round, and
ratios are taken within a round; their medians are what counts. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from measuring import use_cores
from train_report import OURS, Report, Round, Setting
from train_ways import SIZES, WAYS

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
TURN_SECONDS = 0.5  # a turn is as many steps as ours makes in this time, at least one


class WayFailed(Exception):  # noqa: N818 - it names the event, as subprocess does
    """A process that makes steps has ended."""


class Way:
    """A process that makes steps when it is told to."""

    def __init__(self, name: str, size: str, threads: int, nanogpt: Path | None) -> None:
        self.name = name
        command = [sys.executable, str(HERE / "train_ways.py"), name, size, "--threads", str(threads)]
        if nanogpt is not None:
            command += ["--nanogpt", str(nanogpt)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WayFailed(f"{self.name} ended with {self._process.wait()}; its last words are above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # the end of its input is the end of it


def measure(size: str, threads: int, rounds: int, nanogpt: Path | None, say: Callable[[str], None]) -> Setting:
    """One model at one number of threads."""
    names = [name for name in WAYS if name != "nanogpt" or nanogpt is not None]  # ours is the first
    with ExitStack() as stack:
        ways = [stack.enter_context(Way(name, size, threads, nanogpt)) for name in names]  # they start together
        for way in ways:  # the first step makes the optimizer's state
            way.ask("steps 1")
        steps = max(1, round(TURN_SECONDS / ways[0].ask("steps 1")["seconds"]))
        found = []
        for number in range(rounds):
            found.append(_round(ways, number, steps))
            times = ", ".join(f"{name} {seconds * 1e3:.1f}" for name, seconds in found[-1].seconds.items())
            say(f"{size}, {threads} threads, round {number + 1}, ms a step: {times}")
    return Setting(size, threads, found)


def _round(ways: Sequence[Way], number: int, steps: int) -> Round:
    """Every way once, beginning with another one each time; ours also says how fast products are now."""
    first = number % len(ways)
    seconds, memory, peak = {}, {}, {}
    for way in (*ways[first:], *ways[:first]):
        if way.name == OURS:
            peak = way.ask("peak")
        answer = way.ask(f"steps {steps}")
        seconds[way.name], memory[way.name] = answer["seconds"], answer["peak_rss"]
    return Round(
        seconds={way.name: seconds[way.name] for way in ways},
        peak_rss=memory,
        flops_bf16=peak["bf16"],
        flops_fp32=peak["fp32"],
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/bench train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often every way takes its turn (5)")
    parser.add_argument(
        "--sizes",
        type=_sizes,
        default=list(SIZES),
        help="models, with commas between: " + "; ".join(f"{key}: {size.name}" for key, size in SIZES.items()),
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1], help="threads of every way (2 1)")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of karpathy/nanoGPT; without it its row is left out")
    parser.add_argument("--json", action="store_true", help="print all that was measured as JSON; no table")
    parser.add_argument("--out", type=Path, default=ROOT / "artifacts" / "benchmarks" / "train.md", help="the table")
    asked = parser.parse_args(arguments)
    if asked.nanogpt is not None and not (asked.nanogpt / "model.py").is_file():
        parser.error(f"--nanogpt {asked.nanogpt}: there is no model.py")
    return asked


def _sizes(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in SIZES:
            raise argparse.ArgumentTypeError(f"no size {name!r}: {', '.join(SIZES)}")
    return names


def main() -> None:
    asked = parse()
    begun = time.perf_counter()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0

    def say(text: str) -> None:
        print(f"{time.perf_counter() - begun:6.0f} s  {text}", file=sys.stderr, flush=True)

    use_cores(max(asked.threads))
    settings = [
        measure(size, threads, asked.rounds, asked.nanogpt, say) for threads in asked.threads for size in asked.sizes
    ]
    if asked.json:
        print(json.dumps([asdict(setting) for setting in settings], indent=2))
        return
    report = Report(" ".join(["script/bench train", *sys.argv[1:]]), load, asked.nanogpt is not None, settings)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(report.markdown(), encoding="utf-8")
    say(f"wrote {asked.out}")
    print(report.tables())
    print(report.verdicts())


if __name__ == "__main__":
    try:
        main()
    except WayFailed as failure:
        sys.exit(f"error: {failure}")
