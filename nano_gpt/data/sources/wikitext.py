"""WikiText (Merity et al. 2016): good articles of Wikipedia. Its rows are lines, put together into articles here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from nano_gpt.data.sources.base import Part, State
from nano_gpt.data.sources.hub import HubDataset
from nano_gpt.data.sources.texts import Text

_TITLE = re.compile(r" = (?!= ).*(?<! =) = \n?")  # ` = Robert Boulter = `, while sections have ` = = Career = = `


class WikiText(HubDataset):
    """An article begins with its title, between two empty lines, and ends before the next one.

    Every split is one part, since an article may go on in the next file. An empty row is an empty line.
    """

    _place: State | None = None

    def parts(self) -> list[Part]:
        splits: dict[str, list[Part]] = {}
        for piece in super().parts():
            splits.setdefault(str(piece.where["in"]), []).append(piece)
        return [
            Part(
                where={"pieces": json.dumps([piece.where for piece in pieces])},
                split=pieces[0].split,
                size=None if any(piece.size is None for piece in pieces) else sum(piece.size or 0 for piece in pieces),
            )
            for pieces in splits.values()
        ]

    def read(self, part: Part, state: State | None = None) -> Iterator[Text]:
        self._place = state
        pieces = [Part(where=where) for where in json.loads(str(part.where["pieces"]))]
        return self._articles(self._rows(pieces, state))

    def state(self) -> State | None:
        """Before the title of the article that comes next."""
        return self._place

    def _rows(self, pieces: list[Part], state: State | None) -> Iterator[tuple[str, State]]:
        """Every row with the place before it, and at last an empty one."""
        first, within = (state["piece"], state["state"]) if state else (0, None)
        for number in range(first, len(pieces)):
            rows = super().read(pieces[number], within)
            place = {"piece": number, "state": within}
            for row in rows:
                yield str(row), place
                place = {"piece": number, "state": super().state()}
            within = None
        yield "", {"piece": len(pieces), "state": None}

    def _articles(self, rows: Iterator[tuple[str, State]]) -> Iterator[str]:
        lines: list[str] = []
        empty_before = True
        row, place = next(rows)
        for following, place_of_following in rows:
            title = _TITLE.fullmatch(row) is not None and empty_before and not following.strip()
            if title and lines:
                self._place = place
                yield "".join(lines).strip("\n")
                lines = []
            if lines or title or row.strip():
                lines.append(row or "\n")
            empty_before = not row.strip()
            row, place = following, place_of_following
        if lines:
            self._place = place
            yield "".join(lines).strip("\n")
