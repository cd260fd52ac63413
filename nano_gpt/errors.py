"""The errors that a user can mend: one line of what and where, one of what to do.

The command line prints them without a traceback; everything else that escapes is a bug of ours.
"""

from __future__ import annotations


class NanoGPTError(Exception):
    """`message` names the thing that is wrong and its value; `hint`, where there is one, the remedy."""

    on_all_ranks = False
    """Rank 0 raised it and handed it to the others: one of them needs to tell it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  hint: {self.hint}"


class ConfigError(NanoGPTError):
    """A setting is unknown, of the wrong type, or does not fit another one."""


class DataError(NanoGPTError):
    """A corpus, a prepared set, a shard or a tokenizer is missing or not what it should be."""


class CheckpointError(NanoGPTError):
    """A checkpoint or a model folder is missing, damaged, or of another shape."""


class NetworkError(NanoGPTError):
    """Something must come from a network that cannot be reached."""


class Interrupted(NanoGPTError):  # noqa: N818 (no error: the user wished it)
    """A run was asked to stop by a signal, and has saved; the process exits with 128 + the signal's number."""

    def __init__(self, message: str, hint: str, signal_number: int) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + signal_number
