"""The table of `script/bench train`: what was measured, and whether it is what was promised."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from measuring import machine, median_ratio, table, verdicts
from train_ways import OURS, SIZES, WAYS

# The promises, at two threads: how much faster than nanoGPT and than the predecessor, and the share of the peak.
TIMES_NANOGPT = {"a": 2.2, "b": 3.4, "c": 4.0}
TIMES_PREDECESSOR = {"b": 1.35, "c": 1.35}
SHARE_OF_PEAK = {"b": 0.65, "c": 0.65}
PROMISED_THREADS = 2

LIBRARIES = ("nano-gpt", "torch")


@dataclass(frozen=True)
class Round:
    """One turn of everybody; dictionaries are by way."""

    seconds: dict[str, float]
    """Of a step."""
    peak_rss: dict[str, int]
    """Bytes of resident memory, the most that the process has had until now."""
    flops_bf16: float
    """FLOP/s of products of matrices, in the process of ours."""
    flops_fp32: float


@dataclass(frozen=True)
class Setting:
    """A model at a number of threads."""

    size: str
    threads: int
    rounds: list[Round]

    def times(self, way: str) -> float:
        """How many times as fast as `way` ours is."""
        return median_ratio((one.seconds[way] for one in self.rounds), (one.seconds[OURS] for one in self.rounds))

    def seconds(self, way: str) -> float:
        return statistics.median(one.seconds[way] for one in self.rounds)

    def share_of_peak(self, way: str) -> float:
        """Model FLOPs utilisation: 6 N + 12 L T C per token (PaLM, appendix B) against the products of the round."""
        size = SIZES[self.size]
        flops = size.model.flops_per_token() * size.tokens
        peaks = (max(one.flops_bf16, one.flops_fp32) for one in self.rounds)
        return median_ratio((flops / one.seconds[way] for one in self.rounds), peaks)


@dataclass(frozen=True)
class Report:
    """All that was measured."""

    command: str
    load: float
    """Processes that wanted a core in the minute before."""
    with_nanogpt: bool
    settings: list[Setting]

    def markdown(self) -> str:
        parts = [
            "# A training step on a CPU\n",
            f"    {self.command}\n",
            f"{date.today()}; {machine(LIBRARIES)}; load before it began {self.load:.2f}.\n",
            "A step is all that moves the weights once: forward, backward, clipped norm, AdamW, gradients let go. "
            f"Medians of {len(self.settings[0].rounds)} rounds, in which the ways take turns, each in a process of its "
            "own; ratios are taken within a round. Of the peak: 6 N + 12 L T C FLOPs a token, against the best of some "
            "products of 2048 x 1024 x 1024 in the same round and with the same threads. Memory: the most that was "
            "resident.\n",
            self.tables(),
            "\n## Promised and found\n",
            self.verdicts(),
            "\nIn brackets: what a step that did nothing but its products, at the peak, would reach on this machine.\n",
            *([] if self.with_nanogpt else ["nanoGPT: left out, since no checkout was given (`--nanogpt PATH`).\n"]),
        ]
        return "\n".join(parts) + "\n"

    def tables(self) -> str:
        return "\n".join(self._table(setting) for setting in self.settings)

    def verdicts(self) -> str:
        return verdicts(self._checks())

    def _table(self, setting: Setting) -> str:
        size = SIZES[setting.size]
        rows = [
            [
                words,
                f"{setting.seconds(way) * 1e3:,.1f}",
                f"{size.tokens / setting.seconds(way):,.0f}",
                f"{setting.times(way):.2f}",
                f"{setting.share_of_peak(way):.0%}",
                f"{max(one.peak_rss[way] for one in setting.rounds) / 2**20:,.0f}",
            ]
            if way in setting.rounds[0].seconds
            else [words, *["-"] * 5]
            for way, words in WAYS.items()
        ]
        bf16 = statistics.median(one.flops_bf16 for one in setting.rounds)
        fp32 = statistics.median(one.flops_fp32 for one in setting.rounds)
        threads = f"{setting.threads} thread{'s' if setting.threads > 1 else ''}"
        header = ["way", "ms a step", "tokens/s", "ours is faster by", "of the peak", "memory, MiB"]
        return (
            f"## ({setting.size}) {size.name}; {threads}\n\n{table(header, rows)}\n\n"
            f"Products: {bf16 / 1e9:,.0f} GFLOP/s in bf16, {fp32 / 1e9:,.0f} in fp32 ({bf16 / fp32:.1f} times).\n"
        )

    def _checks(self) -> Iterator[tuple[str, str, bool]]:
        for setting in self.settings:
            if setting.threads != PROMISED_THREADS:
                continue
            for promised, way, name in (
                (TIMES_NANOGPT, "nanogpt", "nanoGPT"),
                (TIMES_PREDECESSOR, "predecessor", "the predecessor"),
            ):
                if setting.size in promised and way in setting.rounds[0].seconds:
                    times, found = promised[setting.size], setting.times(way)
                    possible = 1 / setting.share_of_peak(way)
                    yield (
                        f"({setting.size}) at least {times} times {name}'s",
                        f"{found:.2f} ({possible:.2f})",
                        found >= times,
                    )
            if setting.size in SHARE_OF_PEAK:
                share, reached = SHARE_OF_PEAK[setting.size], setting.share_of_peak(OURS)
                yield f"({setting.size}) at least {share:.0%} of the peak", f"{reached:.0%}", reached >= share
