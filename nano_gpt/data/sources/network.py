"""A network that does not answer must be an error soon: a limit around calls that have none, or not for everything."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, function: Callable[[], T]) -> T:
    """The function's value or exception; TimeoutError, an OSError, when it takes longer.

    A timeout of the client itself covers neither a name server that is silent nor a server that sends a byte a
    second. The thread is left behind as a daemon: nothing can stop it, and nothing waits for it.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def call() -> None:
        try:
            outcome.append(function())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:g} seconds")
    return outcome[0]
