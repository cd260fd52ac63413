"""Which documents are kept for validation, where the source does not say.

The rule looks at a document's text and at nothing else, so it depends neither on order nor on the number of
processes, and exact duplicates land on the same side:

- 100 documents or more: by a hash of the text, each with the probability `fraction`;
- fewer: exactly the rounded share, at least one, those with the smallest hashes;
- a single one: it is cut once, at the last blank line (else line end, else character) before the share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from nano_gpt.data.sources.base import Split
from nano_gpt.data.sources.texts import LongText, Text
from nano_gpt.errors import DataError
from nano_gpt.tokenizer.base import well_formed

SMALL_CORPUS = 100  # documents; below it a hash would miss the share by too much, or leave a split empty
_BLOCK_CHARACTERS = 2**20


class Document(NamedTuple):
    split: Split
    text: Text
    digest: bytes
    """16 bytes; equal exactly when the texts are (blake2b)."""
    size: int
    """Bytes of the text in UTF-8."""


class SplitRule(BaseModel):
    """At most one of the two is set; none where the source puts every document in a split itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    below: int | None = None
    """Documents are for validation whose digest begins with 64 bits that are less than this."""
    cut: float | None = None
    """The corpus is one document: cut this share off its end."""

    def apply(self, text: Text, given: Split | None = None) -> list[Document]:
        """The documents that `text` becomes; `given` is the split that its source puts it in."""
        if given is None and self.cut is not None:
            train, validation = cut(text, self.cut)
            return [_document(train, "train"), _document(validation, "validation")]
        return [_document(text, given, self.below)]


def split_rule(texts: Iterable[Text], fraction: float) -> SplitRule:
    """The rule for the corpus that `texts` begins; at most SMALL_CORPUS of them are read, and none is kept."""
    firsts = [_first_bits(measure(text)[0]) for text in islice(texts, SMALL_CORPUS)]
    if not firsts:
        raise no_documents()
    distinct = sorted(set(firsts))
    if len(firsts) == SMALL_CORPUS:
        return SplitRule(below=round(fraction * 2**64))
    if len(distinct) == 1:
        return SplitRule(cut=fraction)
    share = min(max(1, round(fraction * len(distinct))), len(distinct) - 1)
    return SplitRule(below=distinct[share - 1] + 1)


def cleaned(texts: Iterable[Text]) -> Iterator[Text | None]:
    """Every text with what has no UTF-8 replaced; None for one of nothing but white space, which is no document."""
    for text in texts:
        if isinstance(text, LongText):
            yield None if text.is_blank() else text
        else:
            yield None if not text or text.isspace() else well_formed(text)


def measure(text: Text) -> tuple[bytes, int]:
    """The digest and the size in bytes of `text`, which is well-formed."""
    if isinstance(text, str) and len(text) <= _BLOCK_CHARACTERS:
        content = text.encode()
        return hashlib.blake2b(content, digest_size=16).digest(), len(content)
    digest, size = hashlib.blake2b(digest_size=16), 0
    for block in _blocks(text):
        content = block.encode()
        digest.update(content)
        size += len(content)
    return digest.digest(), size


def _blocks(text: Text) -> Iterator[str]:
    """A long text bit by bit: its UTF-8 need not be in memory too."""
    if isinstance(text, LongText):
        return text.blocks()
    return (text[start : start + _BLOCK_CHARACTERS] for start in range(0, len(text), _BLOCK_CHARACTERS))


def cut(text: Text, fraction: float) -> tuple[Text, Text]:
    """One document as two. A break is looked for in the tenth of the text before the share, so as to stay near it."""
    if isinstance(text, LongText):
        return text.cut(fraction)
    if len(text) < 2:
        raise DataError("the corpus is a single character: there is nothing to keep for validation")
    end = min(max(1, int(len(text) * (1 - fraction))), len(text) - 1)
    start = max(end - len(text) // 10, 1)
    for mark in ("\n\n", "\n"):
        at = text.rfind(mark, start, end)
        if at > 0:
            end = at + len(mark)
            break
    return text[:end], text[end:]


def no_documents() -> DataError:
    return DataError("the corpus holds 0 documents", "a document that is empty or only white space does not count")


def _document(text: Text, given: Split | None, below: int | None = None) -> Document:
    digest, size = measure(text)
    if given is None:
        assert below is not None, "neither the source nor a rule says the split"
        given = "validation" if _first_bits(digest) < below else "train"
    return Document(given, text, digest, size)


def _first_bits(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big")
