"""One request to stop is noted, however often it is delivered; a second one is obeyed at once."""

from __future__ import annotations

import signal

import pytest

from nano_gpt.runtime import signals
from nano_gpt.runtime.signals import StopRequest


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_the_first_is_noted_and_a_later_one_stops_at_once(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: clock[0])
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.agreed()
        signal.raise_signal(number)
        assert stop.agreed() and stop.signal == number
        clock[0] += 0.5
        signal.raise_signal(signal.SIGTERM)  # torchrun passes on what the worker was sent as well
        assert stop.signal == number
        clock[0] += 1.0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before
