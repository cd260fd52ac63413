"""Which documents are kept for validation, where the source does not say.

The rule looks at a document's text and at nothing else, so it depends neither on order nor on the number of
processes, and exact duplicates land on the same side:

- 100 documents or more: by a hash of the text, each with the probability `fraction`;
- fewer: exactly the rounded share, at least one, those with the smallest hashes;
- a single one: it is cut once, at the last blank line (else line end, else character) before the share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple

from nano_gpt.errors import DataError

SMALL_CORPUS = 100  # documents; below it a hash would miss the share by too much, or leave a split empty


class Document(NamedTuple):
    split: str
    text: str


def split_rule(texts: Iterable[str], fraction: float) -> Callable[[str], list[Document]]:
    """The rule for the corpus that `texts` begins; at most SMALL_CORPUS of them are read, and none is kept."""
    hashes = [text_hash(text) for text in islice(texts, SMALL_CORPUS)]
    if not hashes:
        raise DataError("the corpus holds 0 documents", "a document that is empty or only white space does not count")
    distinct = sorted(set(hashes))
    if len(hashes) == SMALL_CORPUS:
        threshold = round(fraction * 2**64)
    elif len(distinct) == 1:
        return lambda text: cut(text, fraction)
    else:
        share = min(max(1, round(fraction * len(distinct))), len(distinct) - 1)
        threshold = distinct[share - 1] + 1
    return lambda text: [Document("validation" if text_hash(text) < threshold else "train", text)]


def text_hash(text: str) -> int:
    """64 bits, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def cut(text: str, fraction: float) -> list[Document]:
    """One document as two. A break is looked for in the tenth of the text before the share, so as to stay near it."""
    if len(text) < 2:
        raise DataError("the corpus is a single character: there is nothing to keep for validation")
    end = min(max(1, int(len(text) * (1 - fraction))), len(text) - 1)
    start = max(end - len(text) // 10, 1)
    for mark in ("\n\n", "\n"):
        at = text.rfind(mark, start, end)
        if at > 0:
            end = at + len(mark)
            break
    return [Document("train", text[:end]), Document("validation", text[end:])]
