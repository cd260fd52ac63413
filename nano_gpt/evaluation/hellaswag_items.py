"""HellaSwag's items (Zellers et al. 2019): where they come from, and the two texts that the field makes of one.

From a .jsonl file, or from the hub through `datasets`. Of the two renderings each has its own published scores, which
must not be mixed: build-nanogpt's takes the text as it is, lm-eval's puts the activity before it and cleans it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_gpt.data.sources.hub_client import newest_commit
from nano_gpt.errors import DataError, NetworkError
from nano_gpt.runtime import distributed

HUB_ID, HUB_SPLIT = "Rowan/hellaswag", "validation"
LEAVE_OUT = "--hellaswag-samples 0 leaves it out"


@dataclass(frozen=True)
class Item:
    """A context, and endings of which the one at `label` is right."""

    activity_label: str
    ctx_a: str
    ctx_b: str
    ctx: str
    endings: tuple[str, ...]
    label: int

    def as_is(self) -> tuple[str, tuple[str, ...]]:
        """Context and endings as build-nanogpt reads them: the text itself."""
        return self.ctx, self.endings

    def cleaned(self) -> tuple[str, tuple[str, ...]]:
        """Context and endings as lm-eval's task `hellaswag` (version 1.0) reads them."""
        context = f"{self.activity_label}: {self.ctx_a} {self.ctx_b.capitalize()}"
        return _clean(context), tuple(_clean(ending) for ending in self.endings)


def _clean(text: str) -> str:
    """WikiHow's markup out: titles end a sentence, every other [bracket] goes, and so does the gap that it leaves."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def load_items(file: Path | None = None, samples: int | None = None) -> list[Item]:
    """The first `samples` items, or all, of `file` or else of the hub. Rank 0 reads; every rank must call.

    Raises DataError for a file or item that is not HellaSwag's, NetworkError when the hub is needed but out of reach.
    """
    return distributed.from_main(lambda: _read_file(file, samples) if file else _read_hub(samples))


def _read_file(file: Path, samples: int | None) -> list[Item]:
    items: list[Item] = []
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if samples is not None and len(items) == samples:
                    break
                if line.strip():
                    items.append(_parse_line(line, f"{file} line {number}"))
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 at byte {error.start}", "HellaSwag's items come as .jsonl") from None
    if not items:
        raise DataError(f"{file} holds no HellaSwag item")
    return items


def _parse_line(line: str, where: str) -> Item:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise DataError(f"{where} is not a JSON object", "HellaSwag's items come as .jsonl, one object per line")
    return parse_item(values, where)


def parse_item(values: Mapping[str, Any], where: str) -> Item:
    """Check one item. Raises DataError that names `where` and the field."""
    texts: dict[str, str] = {}
    for name in ("activity_label", "ctx_a", "ctx_b", "ctx"):
        text = values.get(name)
        if not isinstance(text, str):
            raise DataError(f"{where}: {name!r} is {text!r}, not a text as in a HellaSwag item")
        texts[name] = text
    endings = values.get("endings")
    if not isinstance(endings, list) or len(endings) < 2 or not all(isinstance(e, str) and e for e in endings):
        raise DataError(f"{where}: 'endings' is {endings!r}, not a list of at least two texts")
    label = values.get("label")
    if label == "":
        raise DataError(f"{where}: 'label' is empty", "the test split has no answers; take the validation split")
    known = {str(index): index for index in range(len(endings))}
    if type(label) not in (str, int) or str(label) not in known:
        raise DataError(f"{where}: 'label' is {label!r}, not one of 0 to {len(endings) - 1}")
    return Item(**texts, endings=tuple(endings), label=known[str(label)])


def _read_hub(samples: int | None) -> list[Item]:
    import datasets

    unreachable = _why_unreachable()
    try:
        with hub_offline(unreachable is not None):
            rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(HUB_ID, split=HUB_SPLIT)
    except OSError as error:  # ConnectionError, or FileNotFoundError for what is not in the cache
        raise NetworkError(
            str(unreachable or error), f"--hellaswag-file FILE.jsonl reads it from a file, {LEAVE_OUT}"
        ) from None
    items: list[Item] = []
    for index, row in enumerate(rows):
        if samples is not None and len(items) == samples:
            break
        items.append(parse_item(row, f"{HUB_ID} item {index}"))
    return items


def _why_unreachable() -> str | None:
    """None when the hub answers one request; `datasets` itself tries for 23 seconds before it gives up."""
    try:
        newest_commit(HUB_ID)
    except (NetworkError, DataError) as error:
        return error.message
    return None


@contextmanager
def hub_offline(offline: bool = True) -> Iterator[None]:
    """Let `datasets` look into its cache only. It read the environment when it was imported, so its copy is set."""
    import datasets
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    if offline:
        datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
