"""The built-in corpus: what the running Python says about itself. Nothing is bundled and no network is needed.

The topics of the language manual (`pydoc_data`) and the docstrings of the standard library, each a document. The
library is parsed, not imported: importing all of it opens windows, prints poems and depends on the system.
"""

from __future__ import annotations

import ast
import os
import platform
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from nano_gpt.data.sources.base import Part, Source, State

SHORTEST = 60  # characters; below it docstrings are mostly "Return the name." and the like

# Tests, bundled applications and other people's packages: not the library's documentation.
_LEFT_OUT = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "turtledemo",
    "pydoc_data",
    "site-packages",
    "dist-packages",
    "_bundled",
}


class PythonDocs(Source):
    """About 2 MB in 5,000 documents; the exact text depends on the Python version, which is its revision."""

    @property
    def revision(self) -> str:
        return f"{platform.python_implementation()} {platform.python_version()}"

    def parts(self) -> list[Part]:
        return [Part(size=1_970_000)]

    def read(self, part: Part, state: State | None = None) -> Iterator[str]:
        return iter(self._texts)

    @cached_property
    def _texts(self) -> list[str]:
        root = Path(os.__file__).parent
        return list(dict.fromkeys([*_topics(), *_docstrings(root)]))  # duplicates dropped, order kept


def _topics() -> Iterator[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions package it apart
        return
    for name in sorted(topics):
        yield topics[name]


def _docstrings(root: Path) -> Iterator[str]:
    """Docstrings of modules, classes and functions below `root`, by path, then in the order of the file."""
    paths = [path.relative_to(root) for path in root.rglob("*.py")]
    for path in sorted(paths, key=lambda path: path.as_posix()):
        if _LEFT_OUT.isdisjoint(path.parts):
            yield from _docstrings_of((root / path).read_bytes())


def _docstrings_of(source: bytes) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in old modules
            tree = ast.parse(source)
    except (SyntaxError, ValueError):  # templates that only look like modules
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)  # cleaned by inspect.cleandoc
            if text is not None and len(text) >= SHORTEST:
                yield text
