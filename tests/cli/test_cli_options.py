"""Values that people write with units."""

from __future__ import annotations

import pytest
import typer

from nano_gpt.cli.options import count, rows, seconds


@pytest.mark.parametrize(
    ("text", "value"),
    [("90", 90), ("90s", 90), ("1.5s", 1.5), ("45m", 2700), ("11h30m", 41400), ("2d", 172800), ("1d2h3m4s", 93784)],
)
def test_times(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "0", "0m", "m", "1x", "-5", "30m1h", "1h 2m", "inf"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a time, such as 3600, 45m or 11h30m"):
        seconds(text)


def test_counts() -> None:
    assert [count(text) for text in ("12", "1e8", "100M", "2.5B", "3k")] == [12, 10**8, 10**8, 2_500_000_000, 3000]
    for text in ("", "0", "1.5", "-3", "M", "1e-3"):
        with pytest.raises(typer.BadParameter):
            count(text)


def test_micro_batches() -> None:
    assert rows("16") == 16 and rows("auto") == "auto"
    for text in ("0", "-1", "big", "1.5"):
        with pytest.raises(typer.BadParameter, match="neither a number of windows nor auto"):
            rows(text)
