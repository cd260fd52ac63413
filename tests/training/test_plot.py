"""What is in the pictures, looked up in matplotlib's figure; that they are pictures, in their first bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nano_gpt.errors import ConfigError, NanoGPTError
from nano_gpt.training.history import Record
from nano_gpt.training.plot import GPT2_HELLASWAG, Style, draw_runs, plot_runs

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "artifacts" / "shakespeare_char"


def made_up(*, steps: int = 100, nats_per_bit: float = 2.0, hellaswag: bool = False) -> list[Record]:
    events: list[Record] = []
    for step in range(steps):
        at = {"step": step, "tokens": 512 * step}
        loss = 2.0 + 8.0 * 0.9**step
        events.append({"kind": "train", **at, "loss": loss, "lr": 1e-3, "tokens_per_second": 1e6, "dt_ms": 1000.0})
        if step % 10 == 9:
            events.append({"kind": "val", **at, "loss": loss, "bits_per_byte": loss / nats_per_bit})
            if hellaswag:
                events.append({"kind": "hellaswag", **at, "accuracy": 0.3, "stderr": 0.01})
    return events


def draw(style: Style | None = None, **runs: list[Record]) -> dict[str, Axes]:
    figure = Figure(layout="constrained")
    draw_runs(figure, runs, style)
    figure.draw_without_rendering()  # what breaks here breaks savefig
    return {axes.get_ylabel(): axes for axes in figure.axes}


def test_one_run_with_all_that_is_known() -> None:
    panels = draw(a=made_up(hellaswag=True))
    assert list(panels) == ["loss (nats per token)", "HellaSwag accuracy", "learning rate", "tokens per second"]
    raw, mean, validation = panels["loss (nats per token)"].lines
    assert (len(raw.get_xdata()), len(mean.get_xdata()), len(validation.get_xdata())) == (100, 100, 10)
    assert raw.get_linewidth() < mean.get_linewidth()
    baseline = panels["HellaSwag accuracy"].lines[-1]
    assert set(baseline.get_ydata()) == {GPT2_HELLASWAG}
    bottom, top = panels["loss (nats per token)"].get_ylim()
    assert bottom < 2.0 < top < 9.0, "the steep beginning is beyond the top"


def test_no_panel_for_what_nobody_knows() -> None:
    validation = [event for event in made_up() if event["kind"] == "val"]
    assert list(draw(a=validation)) == ["loss (nats per token)"]


def test_a_run_keeps_its_colour_through_the_panels() -> None:
    panels = draw(a=made_up(), b=made_up())
    for axes, lines_per_run in (
        (panels["learning rate"], 1),
        (panels["tokens per second"], 2),
    ):
        colors = [line.get_color() for line in axes.lines]
        assert len(colors) == 2 * lines_per_run
        assert len(set(colors[:lines_per_run])) == len(set(colors[lines_per_run:])) == 1
        assert colors[0] != colors[-1]
    (legend,) = next(iter(panels.values())).figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a (validation 2.0002)", "b (validation 2.0002)"]
    assert [line.get_color() for line in legend.get_lines()] == [
        line.get_color() for line in panels["learning rate"].lines
    ]


def test_more_runs_than_the_palette_has_differ_too() -> None:
    panels = draw(**{f"run{number}": made_up(steps=20) for number in range(12)})
    assert len({tuple(line.get_color()) for line in panels["learning rate"].lines}) == 12


def test_bits_per_byte_only_where_tokenizers_differ() -> None:
    assert "validation (bits per byte)" not in draw(a=made_up(), b=made_up())
    panels = draw(a=made_up(nats_per_bit=2.0), b=made_up(nats_per_bit=0.7))
    assert len(panels["validation (bits per byte)"].lines) == 2


def test_the_x_axis() -> None:
    steps = draw(a=made_up())["learning rate"].lines[0].get_xdata()
    tokens = draw(Style(x="tokens"), a=made_up())["learning rate"].lines[0].get_xdata()
    hours = draw(Style(x="time"), a=made_up())["learning rate"].lines[0].get_xdata()
    np.testing.assert_allclose(tokens, 512 * steps)
    np.testing.assert_allclose(hours, steps / 3600)
    panels = draw(Style(log_x=True, log_y=True), a=made_up())
    assert panels["loss (nats per token)"].get_xscale() == panels["loss (nats per token)"].get_yscale() == "log"
    assert panels["learning rate"].lines[0].get_xdata()[0] == 1, "step 0 has no place on a logarithmic axis"


def test_an_axis_that_the_events_do_not_know() -> None:
    events = [{"kind": "train", "step": step, "loss": 1.0} for step in range(3)]
    with pytest.raises(ConfigError, match="no event has dt_ms"):
        draw(Style(x="time"), a=made_up(), b=events)
    with pytest.raises(ConfigError, match="no event has tokens"):
        draw(Style(x="tokens"), b=events)


def test_smoothing_is_asked_for() -> None:
    noisy = [{"kind": "train", "step": step, "loss": 5.0 + step % 2} for step in range(100)]
    raw, as_is, _ = draw(Style(smooth=1), a=noisy)["loss (nats per token)"].lines
    assert raw.get_ydata().tolist() == as_is.get_ydata().tolist()
    assert np.ptp(draw(Style(smooth=20), a=noisy)["loss (nats per token)"].lines[1].get_ydata()[40:]) < 0.2


def test_the_first_event_alone_is_drawn() -> None:
    assert draw(a=[{"kind": "train", "step": 0, "tokens": 0, "loss": 11.0, "lr": 0.0, "tokens_per_second": None}])


def test_png_and_svg(tmp_path: Path) -> None:
    plot_runs([RUN, RUN / "train.log"], tmp_path / "new" / "curves.png")
    assert (tmp_path / "new" / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    plot_runs([RUN / "metrics.jsonl"], tmp_path / "curves.svg")
    assert "<svg" in (tmp_path / "curves.svg").read_text()[:1000]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.svg", "new"]


def test_another_ending_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not end in \.png or \.svg") as caught:
        plot_runs([tmp_path / "no run"], tmp_path / "curves.pdf")
    assert caught.value.hint == f"-o {tmp_path / 'curves.png'}"


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(NanoGPTError, match="matplotlib is not installed"):
        plot_runs([RUN], tmp_path / "curves.png")
