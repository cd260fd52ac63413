"""How fast HellaSwag is scored on this machine's CPU with GPT-2 124M, beside lm-eval and the predecessor's loop.

    script/bench hellaswag --file hellaswag_val.jsonl                           about half an hour on two cores
    script/bench hellaswag --file hellaswag_val.jsonl --items 20 --rounds 1     a first look

Every way is a process of its own (hellaswag_ways.py). They take turns, in another order each round, and ratios are
taken within a round; their medians are what counts. lm-eval has its best batch size, which is looked for first.
Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from hellaswag_ways import LM_EVAL, OURS, PREDECESSOR, WAYS
from measuring import Session, machine, median_ratio, table, use_cores, verdicts
from turns import COMMAND_LINE, ROOT, Way, WayFailed, in_turn

LIBRARIES = ("nano-gpt", "torch", "transformers", "lm-eval")
BATCH_SIZES = (1, 4, 16, 32)
SEARCH_ITEMS = 24  # on which the best batch size is found
STEP = 10  # the predecessor's loop, which is slow and takes an item at a time, gets every tenth
# The promises, as times the items a second of the other.
TIMES_LM_EVAL, TIMES_PREDECESSOR = 4.2, 12.0


@dataclass(frozen=True)
class Round:
    """One turn of everybody, by way."""

    seconds: dict[str, float]
    """Of an item, as lm-eval renders it; of the predecessor's loop, as it is."""
    as_is: dict[str, float]
    """Of an item of those that the predecessor's loop gets, as it is, by ours."""


@dataclass(frozen=True)
class Report:
    """All that was measured."""

    threads: int
    items: int
    searched: dict[str, dict[int, float]]
    """Seconds of an item by lm-eval, by way and batch size."""
    rounds: list[Round]
    agreement: dict[str, tuple[int, int]]
    """Choices that are those of lm-eval in fp32 (of the predecessor's loop: those of ours in bf16), and of how many."""

    def best(self, way: str) -> int:
        return min(self.searched[way], key=lambda rows: self.searched[way][rows])

    def times(self, way: str) -> float:
        """How many times as fast as lm-eval in the same precision ours is."""
        return median_ratio(
            (one.seconds[f"lm_eval_{way}"] for one in self.rounds), (one.seconds[way] for one in self.rounds)
        )

    def times_predecessor(self, way: str) -> float:
        return median_ratio((one.seconds[PREDECESSOR] for one in self.rounds), (one.as_is[way] for one in self.rounds))


def measure(threads: int, items: int, rounds: int, folder: Path, file: Path, say: Callable[[str], None]) -> Report:
    with ExitStack() as stack:
        arguments = [str(folder), str(file), "--threads", str(threads)]
        ways = {
            name: stack.enter_context(
                Way(name, "hellaswag_ways.py", [name, *arguments], COMMAND_LINE if name in OURS else {})
            )
            for name in WAYS
        }
        searched = {way: {rows: _search(ways[way], rows, items) for rows in BATCH_SIZES} for way in LM_EVAL}
        say(f"lm-eval, seconds an item by batch size: {searched}")
        best = {way: min(searched[way], key=lambda rows: found[rows]) for way, found in searched.items()}
        found: list[Round] = []
        choices: dict[str, list[int]] = {}
        for number in range(rounds):
            answers: dict[str, dict[str, Any]] = {}
            as_is: dict[str, dict[str, Any]] = {}
            for way in in_turn(list(ways.values()), number):
                if way.name != PREDECESSOR:
                    answers[way.name] = way.ask(f"cleaned {best.get(way.name, 0)} {items}")
                if way.name in (*OURS, PREDECESSOR):
                    as_is[way.name] = way.ask(f"as_is 0 {max(1, items // STEP)} {STEP}")
            answers[PREDECESSOR] = as_is.pop(PREDECESSOR)
            seconds = {name: answers[name]["seconds"] for name in WAYS}
            found.append(Round(seconds, {name: one["seconds"] for name, one in as_is.items()}))
            choices = {name: one["choices"] for name, one in answers.items()}
            say(
                f"round {number + 1}, items/s: "
                + ", ".join(f"{name} {1 / value:.2f}" for name, value in seconds.items())
            )
        reference = dict.fromkeys(WAYS, choices["lm_eval_fp32"]) | {PREDECESSOR: as_is["bf16"]["choices"]}
        agreement = {
            name: (sum(a == b for a, b in zip(mine, reference[name], strict=True)), len(mine))
            for name, mine in choices.items()
        }
        return Report(threads, items, searched, found, agreement)


def _search(way: Way, rows: int, items: int) -> float:
    seconds: float = way.ask(f"cleaned {rows} {min(items, SEARCH_ITEMS)}")["seconds"]
    return seconds


def write_model(folder: Path) -> None:
    """GPT-2 124M with random weights, made by transformers."""
    import torch
    import transformers

    from nano_gpt.tokenizer import load_tokenizer

    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(transformers.GPT2Config()).save_pretrained(folder)
    load_tokenizer("gpt2").save(folder, 1024)


def markdown(command: str, load: float, report: Report) -> str:
    best = ", ".join(f"{report.best(way)} in {way.removeprefix('lm_eval_')}" for way in LM_EVAL)
    parts = [
        "# Scoring HellaSwag on a CPU\n",
        f"    {command}\n",
        f"{date.today()}; {machine(LIBRARIES)}; {report.threads} threads; load before it began {load:.2f}.\n",
        f"GPT-2 124M with random weights that transformers made, {report.items} items as lm-eval renders them, four "
        f"endings each; the predecessor's loop gets every {STEP}th item as it is, and is compared with ours on those. "
        f"lm-eval has the batch size that was fastest on {SEARCH_ITEMS} items ({best}). Medians of "
        f"{len(report.rounds)} rounds, in which the ways take turns, each in a process of its own; ratios are taken "
        "within a round. Tokenizing is included, loading the model is not. `eval` scores both renderings, and takes "
        "twice as long.\n",
        _table(report),
        "\nlm-eval by batch size, items/s on the first of them:\n",
        table(
            ["way", *map(str, BATCH_SIZES)],
            [[WAYS[way], *(f"{1 / report.searched[way][rows]:.2f}" for rows in BATCH_SIZES)] for way in LM_EVAL],
        ),
        "\n## Promised and found\n",
        verdicts(_checks(report)),
    ]
    return "\n".join(parts) + "\n"


def _table(report: Report) -> str:
    rows = [
        [
            words,
            f"{1 / statistics.median(one.seconds[way] for one in report.rounds):.2f}",
            f"{report.times(way):.2f}" if way in OURS else "-",
            f"{report.times_predecessor(way):.1f}" if way in OURS else "-",
            "{} of {}".format(*report.agreement[way]),
        ]
        for way, words in WAYS.items()
    ]
    header = ["way", "items/s", "times lm-eval in its precision", "times the predecessor's", "same choices"]
    return table(header, rows) + (
        "\n\nSame choices: as lm-eval in fp32; of the predecessor's loop, as ours in bf16 on its items.\n"
    )


def _checks(report: Report) -> Iterator[tuple[str, str, bool]]:
    for way in OURS:
        times = report.times(way)
        yield f"{way}: at least {TIMES_LM_EVAL} times lm-eval at its best", f"{times:.2f}", times >= TIMES_LM_EVAL
    times = report.times_predecessor("bf16")
    yield f"bf16: at least {TIMES_PREDECESSOR:.0f} times the predecessor's", f"{times:.1f}", times >= TIMES_PREDECESSOR
    same, of = report.agreement["fp32"]
    yield "fp32: the choices of lm-eval", f"{same} of {of}", same == of


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/bench hellaswag", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", type=Path, required=True, help="HellaSwag's items as .jsonl")
    parser.add_argument("--items", type=int, default=200, help="how many of them (200)")
    parser.add_argument("--rounds", type=int, default=3, help="how often every way takes its turn (3)")
    parser.add_argument("--threads", type=int, default=2, help="threads of every way (2)")
    parser.add_argument("--json", action="store_true", help="print all that was measured as JSON; no table")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "artifacts" / "benchmarks" / "hellaswag.md", help="the table"
    )
    return parser.parse_args(arguments)


def main() -> None:
    asked = parse()
    session = Session("hellaswag")
    use_cores(asked.threads)
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        report = measure(asked.threads, asked.items, asked.rounds, Path(folder), asked.file, session.say)
    if asked.json:
        print(json.dumps(asdict(report), indent=2))
        return
    text = markdown(session.command, session.load, report)
    session.write(asked.out, text)
    print(text[text.index("| way") :])


if __name__ == "__main__":
    try:
        main()
    except WayFailed as failure:
        sys.exit(f"error: {failure}")
