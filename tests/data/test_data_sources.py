"""Documents of files, of the running Python and of TinyShakespeare."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from nano_gpt.config import DataConfig
from nano_gpt.data import sources
from nano_gpt.data.network import within
from nano_gpt.data.prepare import make_source
from nano_gpt.data.python_docs import PythonDocs
from nano_gpt.data.sources import LocalFiles, TinyShakespeare
from nano_gpt.errors import ConfigError, DataError, NetworkError


def texts_of(path: Path, content: bytes, **settings: str) -> list[str]:
    path.write_bytes(content)
    source = make_source(DataConfig.model_validate({"dataset": "mine", "files": (path,), **settings}))
    assert isinstance(source, LocalFiles)
    return list(source.texts())


@pytest.mark.parametrize(
    ("content", "documents"),
    [
        ("one\ntwo\n", ["one\ntwo\n"]),
        ("one\n<|endoftext|>\ntwo\n<|endoftext|>\n", ["one\n", "two\n", ""]),
        ("one\r\n<|endoftext|>\r\ntwo", ["one\r\n", "two"]),
        ("<|endoftext|>  \none", ["", "one"]),
        ("one <|endoftext|> two\n <|endoftext|>\n", ["one <|endoftext|> two\n <|endoftext|>\n"]),
        ("\ufeffone", ["one"]),
        ("", []),
        ("nul \0 é 漢 🙂", ["nul \0 é 漢 🙂"]),
    ],
)
def test_text_files_are_cut_at_separator_lines_only(content: str, documents: list[str], tmp_path: Path) -> None:
    assert texts_of(tmp_path / "a.txt", content.encode()) == documents


def test_text_files_are_cut_at_a_separator_of_your_own(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    assert texts_of(path, "é§ü\n§\n".encode(), document_separator="§") == ["é", "ü\n", "\n"]
    assert texts_of(path, b"a.b\n<|endoftext|>\n", document_separator=".") == ["a", "b\n<|endoftext|>\n"]


def test_json_lines(tmp_path: Path) -> None:
    rows = [{"text": "one\n<|endoftext|>\n", "id": 1}, {"text": "tw\u00f6"}]
    content = "\n\n".join(json.dumps(row) for row in rows)
    assert texts_of(tmp_path / "a.jsonl", content.encode()) == ["one\n<|endoftext|>\n", "twö"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine\n" + b"\xc3\xa9\xff", "not UTF-8 at byte 7"),
        ("a.txt", b"fine\n<|endoftext|>\nlat\xe9n", "not UTF-8 at byte 22"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}', "not UTF-8 at byte 24"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', "line 2: not JSON"),
        ("a.jsonl", b"[1]", "line 1: an object is expected"),
        ("a.jsonl", b'{"content": "a", "id": 1}', "column 'text' not found; columns: content, id"),
        ("a.jsonl", b'{"text": null}', "column 'text' is NoneType, not text"),
        ("a.jsonl", b"[" * 100_000, "line 1: not JSON"),
    ],
)
def test_bad_files_are_named_with_the_place(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        texts_of(tmp_path / name, content)
    assert message in caught.value.message
    assert str(tmp_path / name) in caught.value.message


def test_files_that_are_missing_or_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        make_source(DataConfig(dataset="mine", files=(tmp_path / "a.txt",)))
    with pytest.raises(ConfigError, match=r"neither a \.txt nor a \.jsonl"):
        make_source(DataConfig(dataset="mine", files=(tmp_path / "a.csv",)))


def test_the_revision_of_files_is_their_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    config = DataConfig(dataset="mine", files=(path,))
    revisions = []
    for content in ("one", "two", "one"):
        path.write_text(content)
        revisions.append(make_source(config).revision)
    assert revisions[0] == revisions[2] != revisions[1]


def test_blank_documents_are_left_out_and_lone_surrogates_mended(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": " \\n"}\n{"text": ""}\n{"text": "\\ud800x"}\n{"text": "y"}\n')
    documents = [text for _, text in make_source(DataConfig(dataset="mine", files=(path,))).documents()]
    assert documents == ["\ufffdx", "y"]


@pytest.fixture(scope="module")
def python_docs() -> PythonDocs:
    source = make_source(DataConfig())
    assert isinstance(source, PythonDocs)
    return source


def test_python_docs_is_two_megabytes_of_distinct_prose(python_docs: PythonDocs) -> None:
    texts = list(python_docs.texts())
    assert 1_500_000 < sum(len(text.encode()) for text in texts) < 3_000_000
    assert len(texts) == len(set(texts)) > 3000
    assert any(text.startswith("Serialize ``obj`` to a JSON formatted ``str``.") for text in texts)
    assert any("The standard type hierarchy" in text for text in texts)
    assert texts == list(python_docs.texts())
    kept = sum(split == "validation" for split, _ in python_docs.documents())
    assert 0.08 < kept / len(texts) < 0.12


def test_tinyshakespeare_is_read_from_a_verified_copy_without_a_network(
    shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object) -> bytes:
        raise AssertionError("a copy is there")

    monkeypatch.setattr(sources, "download", no_network)
    copy = tmp_path / ".downloads" / "tinyshakespeare.txt"
    copy.parent.mkdir()
    copy.write_bytes((shared_dir / "data" / "tinyshakespeare.txt").read_bytes())
    source = make_source(DataConfig(dataset="tinyshakespeare", dataset_dir=tmp_path))
    (first, train), (second, kept) = source.documents()
    assert (first, second) == ("train", "validation")
    assert (len(train), len(kept)) == (1_003_854, 111_540)


def test_a_damaged_copy_is_fetched_again_and_checked(
    shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = (shared_dir / "data" / "tinyshakespeare.txt").read_bytes()
    copy = tmp_path / ".downloads" / "tinyshakespeare.txt"
    copy.parent.mkdir()
    copy.write_bytes(right[:-1] + b"?")
    source = make_source(DataConfig(dataset="tinyshakespeare", dataset_dir=tmp_path))
    monkeypatch.setattr(sources, "download", lambda *_: b"<html>log in</html>")
    with pytest.raises(NetworkError, match="not TinyShakespeare"):
        next(source.documents())
    monkeypatch.setattr(sources, "download", lambda *_: right)
    next(source.documents())
    assert copy.read_bytes() == right


def test_no_network_is_one_error_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TinyShakespeare, "url", "http://127.0.0.1:9/input.txt")
    source = make_source(DataConfig(dataset="tinyshakespeare", dataset_dir=tmp_path))
    start = time.monotonic()
    with pytest.raises(NetworkError, match=r"cannot download .* refused") as caught:
        next(source.documents())
    assert time.monotonic() - start < 5
    assert "--files input.txt" in (caught.value.hint or "")
    assert str(tmp_path / ".downloads" / "tinyshakespeare.txt") in (caught.value.hint or "")


def test_a_call_that_does_not_return_is_given_up() -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        within(0.2, lambda: time.sleep(30))
    assert time.monotonic() - start < 10
    assert within(5, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)


def test_a_fraction_for_a_source_with_its_own_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its own validation split"):
        make_source(DataConfig(dataset="tinyshakespeare", validation_fraction=0.2))
