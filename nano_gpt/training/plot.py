"""Pictures of runs: loss, HellaSwag, learning rate and throughput; several runs share the axes and keep their colours.

plot_runs([Path("runs/a"), Path("runs/b")], Path("curves.png"))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nano_gpt.errors import ConfigError, NanoGPTError
from nano_gpt.runtime.files import atomic_file
from nano_gpt.training.history import Floats, Record, XAxis, read_events, series, smoothed
from nano_gpt.training.progress import quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg")
GPT2_HELLASWAG = 0.2955
"""OpenAI's 124M in the rendering of `accuracy`, over all 10,042 items (build-nanogpt's hellaswag.py)."""
LOOK: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
_GREY = "0.45"
_LEGEND_WIDTH = 150  # characters
# Okabe and Ito's: they differ for the colour-blind too, and in print.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_X_LABELS = {"step": "step", "tokens": "tokens", "time": "hours of training"}


@dataclass(frozen=True)
class Style:
    """How curves are drawn."""

    x: XAxis = "step"
    smooth: int | None = None
    """Logged steps in the moving mean of the train loss and the throughput. None: a 25th of the run's."""
    log_x: bool = False
    log_y: bool = False
    """Of the losses."""


@dataclass(frozen=True)
class _Run:
    name: str
    events: Sequence[Record]
    color: Any
    style: Style

    def curve(self, kind: str, field: str) -> tuple[Floats, Floats]:
        x, values = series(self.events, kind, field, self.style.x)
        shown = x > 0 if self.style.log_x else slice(None)
        return x[shown], values[shown]


def plot_runs(sources: Sequence[Path], target: Path, style: Style | None = None) -> None:
    """Write a PNG or SVG, by the ending of `target`; a source is what `history.read_events` takes.

    Raises ConfigError for another ending, CheckpointError for a source, NanoGPTError without matplotlib.
    """
    if target.suffix not in ENDINGS:
        raise ConfigError(f"{target} does not end in {' or '.join(ENDINGS)}", f"-o {target.with_suffix('.png')}")
    runs = {name: read_events(source) for name, source in zip(_names(sources), sources, strict=True)}
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise NanoGPTError(
            "matplotlib is not installed", "pip install matplotlib; in a clone: script/setup plot"
        ) from None
    with rc_context(LOOK):
        figure = Figure(figsize=(10, 5.2), layout="constrained")
        draw_runs(figure, runs, style)
        with atomic_file(target) as temporary:
            figure.savefig(temporary, dpi=160)


def _names(sources: Sequence[Path]) -> list[str]:
    """The folders' names, or the files', where they tell the runs apart."""
    paths = [source.resolve() for source in sources]
    paths = [path.parent if path.stem in ("metrics", "train") and path.is_file() else path for path in paths]
    names = [path.name if path.is_dir() else path.stem for path in paths]
    return names if len(set(names)) == len(names) else [str(source) for source in sources]


def draw_runs(figure: Figure, runs: Mapping[str, Sequence[Record]], style: Style | None = None) -> None:
    """All panels for which a run has something, into `figure`, which has a constrained layout.

    Raises ConfigError where a run knows no loss over the x axis.
    """
    style = style or Style()
    drawn = [_Run(name, runs[name], color, style) for name, color in zip(runs, _colors(len(runs)), strict=False)]
    for run in drawn:
        if not any(len(run.curve(kind, "loss")[0]) for kind in ("train", "val")):
            field = {"time": "dt_ms"}.get(style.x, style.x)
            raise ConfigError(f"{run.name} has no loss over {_X_LABELS[style.x]}: no event has {field}", "--x step")
    left = [_draw_loss, _draw_bits_per_byte] if _tokenizers_differ(drawn) else [_draw_loss]
    right = [panel for panel, kind, field in _SIDE if any(len(run.curve(kind, field)[0]) for run in drawn)]
    columns = [column for column in (left, right) if column]
    rows = math.lcm(*map(len, columns))
    grid = figure.add_gridspec(rows, len(columns), width_ratios=(3, 2)[: len(columns)])
    for index, panels in enumerate(columns):
        height = rows // len(panels)
        stack: list[Axes] = []
        for row, panel in enumerate(panels):
            place = grid[row * height : (row + 1) * height, index]
            axes = figure.add_subplot(place, sharex=stack[0] if stack else None)
            panel(axes, drawn)
            axes.grid(alpha=0.25, linewidth=0.5)
            axes.tick_params(labelbottom=panel is panels[-1])
            stack.append(axes)
        _finish_x(stack[-1], style)
        figure.align_ylabels(stack)
    _add_legend(figure, drawn)


def _colors(number: int) -> Sequence[Any]:
    if number <= len(_COLORS):
        return _COLORS
    from matplotlib import colormaps

    return [colormaps["turbo"](index / (number - 1)) for index in range(number)]


def _tokenizers_differ(runs: Sequence[_Run]) -> bool:
    """Whether a token stands for more text in one run than in another: then only bits per byte compare."""
    nats_per_bit = []
    for run in runs:
        losses, bits = run.curve("val", "loss")[1], run.curve("val", "bits_per_byte")[1]
        if len(losses) and len(bits):
            nats_per_bit.append(losses[-1] / bits[-1])
    return bool(nats_per_bit) and max(nats_per_bit) > 1.001 * min(nats_per_bit)


def _finish_x(axes: Axes, style: Style) -> None:
    axes.set_xlabel(_X_LABELS[style.x])
    if style.log_x:
        axes.set_xscale("log")
    elif style.x != "time":
        axes.xaxis.set_major_formatter(lambda value, _: quantity(value))


def _add_legend(figure: Figure, runs: Sequence[_Run]) -> None:
    """What a run is called, and where its validation got to."""
    from matplotlib.lines import Line2D

    labels = []
    for run in runs:
        losses = run.curve("val", "loss")[1]
        best = f", best {losses.min():.4f}" if len(losses) and losses.min() < losses[-1] else ""
        labels.append(f"{run.name} (validation {losses[-1]:.4f}{best})" if len(losses) else run.name)
    handles = [
        Line2D([], [], color=run.color, linewidth=2, label=label) for run, label in zip(runs, labels, strict=True)
    ]
    columns = _LEGEND_WIDTH // (max(map(len, labels)) + 8)
    figure.legend(handles=handles, loc="outside upper left", ncols=min(len(runs), max(1, columns)))


# --- Panels.

_Panel = Callable[["Axes", Sequence[_Run]], None]


def _draw_loss(axes: Axes, runs: Sequence[_Run]) -> None:
    from matplotlib.lines import Line2D

    curves = [_draw_noisy(axes, run, "loss") for run in runs]
    curves += [_draw_measured(axes, run, "val", "loss") for run in runs]
    _scale_losses(axes, curves, runs[0].style)
    axes.set_ylabel("loss (nats per token)")
    keys = [
        Line2D([], [], color=_GREY, label="train, as logged", **_RAW),
        Line2D([], [], color=_GREY, label="train, smoothed", **_SMOOTH),
        Line2D([], [], color=_GREY, label="validation", **_MEASURED),
    ]
    axes.legend(handles=keys, loc="upper right")


def _draw_bits_per_byte(axes: Axes, runs: Sequence[_Run]) -> None:
    _scale_losses(axes, [_draw_measured(axes, run, "val", "bits_per_byte") for run in runs], runs[0].style)
    axes.set_ylabel("validation (bits per byte)")


def _scale_losses(axes: Axes, curves: Sequence[tuple[Floats, Floats]], style: Style) -> None:
    """On plain axes the first twentieth of a run goes beyond the top: it falls so far that little else would show."""
    if style.log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    elif not style.log_x:
        late = [values[x >= x[-1] / 20] for x, values in curves if len(x)]
        bottom, top = axes.dataLim.ymin, max(map(max, late))
        margin = 0.05 * (top - bottom) or 0.1
        axes.set_ylim(bottom - margin, top + margin)


def _draw_hellaswag(axes: Axes, runs: Sequence[_Run]) -> None:
    for run in runs:
        x, accuracy = _draw_measured(axes, run, "hellaswag", "accuracy")
        error = run.curve("hellaswag", "stderr")[1]
        if len(error) == len(accuracy):
            axes.fill_between(x, accuracy - error, accuracy + error, color=run.color, alpha=0.15, linewidth=0)
    axes.axhline(GPT2_HELLASWAG, color=_GREY, linewidth=0.8, linestyle="--")
    axes.annotate(
        f"GPT-2 124M: {GPT2_HELLASWAG}",
        (0, GPT2_HELLASWAG),
        xycoords=("axes fraction", "data"),
        xytext=(2, 2),
        textcoords="offset points",
        color=_GREY,
        fontsize="small",
    )
    axes.set_ylabel("HellaSwag accuracy")


def _draw_rate(axes: Axes, runs: Sequence[_Run]) -> None:
    for index, run in enumerate(runs):
        later = len(runs) - 1 - index  # the first lines are the widest: schedules are often the same
        axes.plot(*run.curve("train", "lr"), color=run.color, linewidth=1.4 + min(later, 4))
    axes.ticklabel_format(axis="y", scilimits=(0, 0), useMathText=True)
    axes.set_ylabel("learning rate")


def _draw_throughput(axes: Axes, runs: Sequence[_Run]) -> None:
    for run in runs:
        _draw_noisy(axes, run, "tokens_per_second")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: quantity(value))
    axes.set_ylabel("tokens per second")


_SIDE: tuple[tuple[_Panel, str, str], ...] = (
    (_draw_hellaswag, "hellaswag", "accuracy"),
    (_draw_rate, "train", "lr"),
    (_draw_throughput, "train", "tokens_per_second"),
)
_RAW: dict[str, Any] = {"linewidth": 0.6, "alpha": 0.35}
_SMOOTH: dict[str, Any] = {"linewidth": 1.6}
_MEASURED: dict[str, Any] = {"marker": "o", "markersize": 3.5, "markerfacecolor": "white", "linewidth": 1.0}


def _draw_noisy(axes: Axes, run: _Run, field: str) -> tuple[Floats, Floats]:
    """A field of every training step, thin, and its moving mean, which is returned."""
    x, values = run.curve("train", field)
    mean = smoothed(values, len(values) // 25 if run.style.smooth is None else run.style.smooth)
    axes.plot(x, values, color=run.color, **_RAW)
    axes.plot(x, mean, color=run.color, **_SMOOTH)
    return x, mean


def _draw_measured(axes: Axes, run: _Run, kind: str, field: str) -> tuple[Floats, Floats]:
    """A field of an evaluation, with at most about 25 markers."""
    x, values = run.curve(kind, field)
    axes.plot(x, values, color=run.color, markevery=max(1, len(x) // 25), **_MEASURED)
    return x, values
