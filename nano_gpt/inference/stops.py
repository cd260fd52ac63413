"""From ids to text while they come: whole characters, and nothing with which a stop string could begin."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from nano_gpt.tokenizer.base import Tokenizer


class TextBuilder:
    """Ids of one sequence in, pieces of text out; joined, they are its text up to the first stop string.

    Where that is does not depend on how the text falls into tokens: the first one to be complete counts, as if
    characters came one by one, and of several that end together the longest.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.stopped = False
        """Whether a stop string has come; no id is needed any more."""

    def add(self, token: int) -> str:
        """What can be shown since the last call. Bytes that are no character yet wait, and so may a stop string's."""
        return self._shown(self._decoder.decode(self._tokenizer.decode_bytes([token])))

    def close(self) -> str:
        """What has waited, when no id follows."""
        shown = self._shown(self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        return shown + held

    def _shown(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        end = len(text) - _begun(text, self._stops)
        self._held = text[end:]
        return text[:end]


def _begun(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of `text` could be the beginning of a stop string."""
    longest = min(len(text), max(map(len, stops), default=0))
    return next((n for n in range(longest, 0, -1) if any(stop.startswith(text[-n:]) for stop in stops)), 0)
