"""The text that is tokenised: English in documents as long as web pages, of any size, the same on every run.

    write_corpus(Path("corpus.jsonl"), endless_documents(english_paragraphs()), megabytes=200)

Its paragraphs are the docstrings of the standard library, of numpy and of torch, and, where the folder `shared` lies
beside the checkout, the speeches of TinyShakespeare and the contexts of HellaSwag. A large corpus needs them several
times: each time in another order, joined into other documents. GPT-2's BPE sees words, not documents, and a natural
text repeats its words as well; but the fewer the distinct words, the more a cache of words gains.
"""

from __future__ import annotations

import ast
import json
import math
import os
import random
import warnings
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

SHARED = Path(__file__).resolve().parents[3] / "shared"  # as in tests/conftest.py
SHORTEST = 200  # characters of a docstring: shorter ones are mostly "Return the name." and the like
# Characters of a document, log-normal: the middle one of English web text is about this long, the mean 1.6 times that.
_MIDDLE_LENGTH, _SPREAD = 2500, 1.0
# Tests and bundled code: not what the library says of itself.
_LEFT_OUT = {"test", "tests", "testing", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages"}

Paragraphs = dict[str, list[str]]  # by where they are from


class Corpus(NamedTuple):
    """What was written."""

    path: Path
    documents: int
    bytes: int
    """Of text in UTF-8, without what JSON adds."""


def write_corpus(path: Path, documents: Iterable[str], megabytes: float) -> Corpus:
    """The first documents that reach `megabytes` (of 1e6 bytes), one JSON object a line, in a field `text`.

    What is only white space is left out: it is no document for `prepare_dataset`.
    """
    number = size = 0
    with path.open("w", encoding="utf-8") as file:
        for text in documents:
            if not text.strip():
                continue
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            number += 1
            size += len(text.encode())
            if size >= megabytes * 1e6:
                break
    return Corpus(path, number, size)


def own_documents(paths: Iterable[Path]) -> Iterator[str]:
    """The lines of .jsonl files; of others the paragraphs, joined into documents like those of `endless_documents`."""
    for path in paths:
        with path.open(encoding="utf-8") as file:
            if path.suffix == ".jsonl":
                yield from (json.loads(line)["text"] for line in file)
            else:
                yield from _joined(file.read().split("\n\n"), random.Random(0))


def endless_documents(paragraphs: Paragraphs) -> Iterator[str]:
    """Documents without end, no two alike: each begins with its number."""
    number = 0
    for copy in range(2**31):
        order = random.Random(copy)
        documents = [text for texts in paragraphs.values() for text in _joined(texts, order)]
        order.shuffle(documents)
        for text in documents:
            number += 1
            yield f"Page {number}\n\n{text}"


def english_paragraphs(shared: Path | None = SHARED) -> Paragraphs:
    """Everything that there is on this machine. None leaves the shared folder out."""
    found = {"docstrings": list(dict.fromkeys(text for root in _packages() for text in _docstrings(root)))}
    if shared is not None and (plays := shared / "data" / "tinyshakespeare.txt").is_file():
        found["TinyShakespeare"] = plays.read_text(encoding="utf-8").strip().split("\n\n")
    if shared is not None and (items := shared / "data" / "hellaswag_val_first_5000.jsonl").is_file():
        found["HellaSwag"] = [_sentences(json.loads(line)) for line in items.read_text(encoding="utf-8").splitlines()]
    return found


def _joined(texts: list[str], order: random.Random) -> Iterator[str]:
    """All of `texts` in random order, as many in a document as its length asks for."""
    shuffled = order.sample(texts, len(texts))
    document: list[str] = []
    length, wanted = 0, 0.0
    for text in shuffled:
        if not document:
            wanted = order.lognormvariate(math.log(_MIDDLE_LENGTH), _SPREAD)
        document.append(text)
        length += len(text)
        if length >= wanted:
            yield "\n\n".join(document)
            document, length = [], 0
    if document:
        yield "\n\n".join(document)


def _sentences(item: dict[str, str | list[str]]) -> str:
    """The context with each of its endings, as text that goes on."""
    context, endings = item["ctx"], item["endings"]
    return "\n".join(f"{context} {ending}" for ending in endings)


def _packages() -> Iterator[Path]:
    yield Path(os.__file__).parent
    for name in ("numpy", "torch"):
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            yield Path(spec.origin).parent


def _docstrings(root: Path) -> Iterator[str]:
    paths = [path.relative_to(root) for path in root.rglob("*.py")]
    for path in sorted(paths, key=Path.as_posix):
        if not _LEFT_OUT.isdisjoint(path.parts):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # old escapes in old modules
                tree = ast.parse((root / path).read_bytes())
        except (SyntaxError, ValueError):  # templates that only look like modules
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text is not None and len(text) >= SHORTEST:
                    yield text
