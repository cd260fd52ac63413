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
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from measuring import Session, use_cores
from train_report import OURS, Report, Round, Setting
from train_ways import SIZES, WAYS
from turns import COMMAND_LINE, ROOT, Way, WayFailed, in_turn

TURN_SECONDS = 0.5  # a turn is as many steps as ours makes in this time, at least one


def way(name: str, size: str, threads: int, nanogpt: Path | None) -> Way:
    """A process that makes steps when it is told to."""
    arguments = [name, size, "--threads", str(threads), *(["--nanogpt", str(nanogpt)] if nanogpt else [])]
    return Way(name, "train_ways.py", arguments, COMMAND_LINE if name == OURS else {})


def measure(size: str, threads: int, rounds: int, nanogpt: Path | None, say: Callable[[str], None]) -> Setting:
    """One model at one number of threads."""
    names = [name for name in WAYS if name != "nanogpt" or nanogpt is not None]  # ours is the first
    with ExitStack() as stack:
        ways = [stack.enter_context(way(name, size, threads, nanogpt)) for name in names]  # they start together
        for one in ways:  # the first step makes the optimizer's state
            one.ask("steps 1")
        steps = max(1, round(TURN_SECONDS / ways[0].ask("steps 1")["seconds"]))
        found = []
        for number in range(rounds):
            found.append(_round(ways, number, steps))
            times = ", ".join(f"{name} {seconds * 1e3:.1f}" for name, seconds in found[-1].seconds.items())
            say(f"{size}, {threads} threads, round {number + 1}, ms a step: {times}")
    return Setting(size, threads, found)


def _round(ways: Sequence[Way], number: int, steps: int) -> Round:
    """Every way once; ours also says how fast products are now."""
    seconds, memory, peak = {}, {}, {}
    for one in in_turn(ways, number):
        if one.name == OURS:
            peak = one.ask("peak")
        answer = one.ask(f"steps {steps}")
        seconds[one.name], memory[one.name] = answer["seconds"], answer["peak_rss"]
    return Round(
        seconds={one.name: seconds[one.name] for one in ways},
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
    session = Session("train")
    use_cores(max(asked.threads))
    settings = [
        measure(size, threads, asked.rounds, asked.nanogpt, session.say)
        for threads in asked.threads
        for size in asked.sizes
    ]
    if asked.json:
        print(json.dumps([asdict(setting) for setting in settings], indent=2))
        return
    report = Report(session.command, session.load, asked.nanogpt is not None, settings)
    session.write(asked.out, report.markdown())
    print(report.tables())
    print(report.verdicts())


if __name__ == "__main__":
    try:
        main()
    except WayFailed as failure:
        sys.exit(f"error: {failure}")
