"""Your own files: the same documents from every format, cut in parts of any size, with errors that name the place."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from nano_gpt.config import DataConfig
from nano_gpt.data.catalog import dataset_info
from nano_gpt.data.sources import hashes, json_lines, local_files, local_text, parquet_files
from nano_gpt.data.sources.base import State
from nano_gpt.data.sources.local_files import LocalFiles
from nano_gpt.data.sources.texts import LongText, Text
from nano_gpt.errors import ConfigError, DataError
from nano_gpt.tokenizer.base import well_formed

TEXTS = [
    "one\ntwo\n",
    "",
    "<|endoftext|> within\n",
    "\u00e9 \u6f22 \U0001f600",
    " \n",
    'nul \0 and "quotes" \\ /',
    "end",
] * 3
SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)


def source_of(*files: Path, **given: Any) -> LocalFiles:
    given = {"dataset": "mine", "files": files, "dataset_dir": files[0].parent / "cache", **given}
    config = DataConfig.model_validate(given)
    return LocalFiles(dataset_info(config), config)


def string(text: Text) -> str:
    return text if isinstance(text, str) else "".join(text.blocks())


def texts_of(source: LocalFiles) -> list[str]:
    return [string(text) for part in source.parts() for text in source.read(part)]


def read(path: Path, content: bytes, **given: Any) -> list[str]:
    path.write_bytes(content)
    return texts_of(source_of(path, **given))


def as_txt(path: Path, texts: Sequence[str]) -> None:
    path.write_bytes("\n<|endoftext|>\n".join(texts).encode())


def as_jsonl(path: Path, texts: Sequence[str | None]) -> None:
    path.write_bytes("".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts).encode())


def as_parquet(path: Path, texts: Sequence[str | None], kind: pa.DataType | None = None) -> None:
    column = pa.array(texts, pa.string()).cast(kind or pa.string())
    parquet.write_table(pa.table({"id": range(len(texts)), "text": column}), path, row_group_size=4)


def pack(path: Path, compression: str) -> Path:
    content = path.read_bytes()
    packed = path.with_name(f"{path.name}.{compression}")
    zstd = pa.Codec("zstd")
    packed.write_bytes(gzip.compress(content) if compression == "gz" else zstd.compress(content, asbytes=True))
    return packed


@pytest.fixture
def tiny_parts(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda size: monkeypatch.setattr(local_files, "PART_BYTES", size)


# ------------------------------------------------------------------------------------------- documents


@pytest.mark.parametrize(
    ("content", "documents"),
    [
        ("one\ntwo\n", ["one\ntwo\n"]),
        ("one\n<|endoftext|>\ntwo\n<|endoftext|>\n", ["one\n", "two\n", ""]),
        ("one\n<|endoftext|>\ntwo\n<|endoftext|>", ["one\n", "two\n", ""]),
        ("one\r\n<|endoftext|>\r\ntwo", ["one\r\n", "two"]),
        ("<|endoftext|>  \t\none", ["", "one"]),
        ("<|endoftext|>" + " " * 255 + "\none", ["", "one"]),
        ("<|endoftext|>" + " " * 256 + "\none", ["<|endoftext|>" + " " * 256 + "\none"]),
        ("<|endoftext|>\n<|endoftext|>\n", ["", "", ""]),
        ("one <|endoftext|> two\n <|endoftext|>\n", ["one <|endoftext|> two\n <|endoftext|>\n"]),
        ("<|endoftext|>x\n<|endoftext|", ["<|endoftext|>x\n<|endoftext|"]),
        ("\ufeffone", ["one"]),
        ("\ufeff<|endoftext|>\none", ["", "one"]),
        ("\ufeff", []),
        ("", []),
        ("nul \0 \u00e9 \u6f22 \U0001f642", ["nul \0 \u00e9 \u6f22 \U0001f642"]),
    ],
)
@pytest.mark.parametrize("compression", [None, "gz", "zst"])
def test_text_files_are_cut_at_separator_lines_only(
    content: str, documents: list[str], compression: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content.encode())
    path = pack(path, compression) if compression else path
    assert texts_of(source_of(path)) == documents


def test_text_files_are_cut_at_a_separator_of_your_own(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    assert read(path, "\u00e9\u00a7\u00fc\n\u00a7\n".encode(), document_separator="\u00a7") == [
        "\u00e9",
        "\u00fc\n",
        "\n",
    ]
    assert read(path, b"a.b\n<|endoftext|>\n", document_separator=".") == ["a", "b\n<|endoftext|>\n"]
    assert read(path, b"\n\n\n\n\n", document_separator="\n\n") == ["", "", "\n"]
    with pytest.raises(ConfigError, match="document_separator is empty"):
        read(path, b"a", document_separator="")


def test_json_lines(tmp_path: Path) -> None:
    rows = [{"text": "one\n<|endoftext|>\n", "id": 1}, {"text": "tw\u00f6"}, {"text": "\U0001f600 \ud800"}]
    content = "\ufeff" + "\n\n".join(json.dumps(row) for row in rows)
    assert read(tmp_path / "a.jsonl", content.encode()) == ["one\n<|endoftext|>\n", "tw\u00f6", "\U0001f600 \ud800"]
    content = '{"body": "a", "text": 1}\r\n{"body": "b\u2028c", "text": NaN}\n'
    assert read(tmp_path / "a.jsonl", content.encode(), text_column="body") == ["a", "b\u2028c"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_of_all_string_types(kind: pa.DataType, tmp_path: Path) -> None:
    as_parquet(tmp_path / "a.parquet", TEXTS, kind)
    assert texts_of(source_of(tmp_path / "a.parquet")) == TEXTS


@pytest.mark.parametrize("write", [as_jsonl, as_parquet])
def test_a_null_is_an_empty_text(write: Callable[[Path, Sequence[str | None]], None], tmp_path: Path) -> None:
    write(tmp_path / f"a.{write.__name__.removeprefix('as_')}", [None, "one", None, "two", None])
    assert texts_of(source_of(tmp_path)) == ["", "one", "", "two", ""]


@pytest.mark.parametrize("write", [as_txt, as_jsonl, as_parquet])
@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_all_formats_hold_the_same(
    write: Callable[[Path, Sequence[str]], None], compression: str, tmp_path: Path, tiny_parts: Callable[[int], None]
) -> None:
    path = tmp_path / f"a.{write.__name__.removeprefix('as_')}"
    write(path, TEXTS)
    expected = [text + "\n" for text in TEXTS[:-1]] + TEXTS[-1:] if write is as_txt else TEXTS
    assert texts_of(source_of(path)) == expected
    source = source_of(pack(path, compression))
    assert texts_of(source) == expected
    tiny_parts(20)
    assert texts_of(source_of(pack(path, compression))) == expected
    left = [file.name for file in (tmp_path / "cache" / ".downloads").glob("*")]
    assert left == []  # no copy stays


def test_folders_and_files_of_all_kinds_make_one_corpus(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    as_txt(folder / "b.txt", ["x"])
    as_jsonl(folder / "c.jsonl", ["y", "z"])
    as_parquet(folder / "a.parquet", ["w"])
    as_txt(tmp_path / "first.txt", ["v"])
    source = source_of(tmp_path / "first.txt", folder)
    assert [file.name for file in source.files] == ["first.txt", "a.parquet", "b.txt", "c.jsonl"]
    assert texts_of(source) == ["v", "w", "x", "y", "z"]


# ----------------------------------------------------------------------------------------------- parts


PIECES = ["a", "\n", "\n\n", "ab", "<|endoftext|>\n", "\n<|endoftext|>\r\n", "\u00e9"]


@SAME_FOLDER
@given(
    content=st.lists(st.sampled_from(PIECES)) | st.lists(st.sampled_from("ab\n"), min_size=20),
    between=st.sampled_from([None, "\n\n", "\n", "aba", "aa", "abab", "ab"]),
    size=st.integers(1, 30),
)
def test_parts_of_a_text_file_lose_and_double_nothing(
    content: list[str], between: str | None, size: int, tmp_path: Path, tiny_parts: Callable[[int], None]
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("".join(content).encode())
    tiny_parts(2**20)
    whole = texts_of(source_of(path, document_separator=between))
    if between is not None and content:
        assert whole == "".join(content).split(between)
    tiny_parts(size)
    source = source_of(path, document_separator=between)
    assert texts_of(source) == whole
    assert all(part.size for part in source.parts()) or not any(content)


@SAME_FOLDER
@given(lengths=st.lists(st.integers(0, 40)), size=st.integers(1, 60), blank=st.sampled_from(["", "\n"]))
def test_parts_of_json_lines_lose_and_double_nothing(
    lengths: list[int], size: int, blank: str, tmp_path: Path, tiny_parts: Callable[[int], None]
) -> None:
    texts = [f"{number} {'x' * length}" for number, length in enumerate(lengths)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" + blank for text in texts))
    tiny_parts(size)
    assert texts_of(source_of(path)) == texts


def test_large_files_are_cut_and_small_ones_put_together(tmp_path: Path, tiny_parts: Callable[[int], None]) -> None:
    for number in range(10):
        as_jsonl(tmp_path / f"a{number}.jsonl", [f"{number}"])  # 23 bytes each
    as_jsonl(tmp_path / "b.jsonl", [str(number) * 20 for number in range(10)])
    as_parquet(tmp_path / "c.parquet", TEXTS)
    as_txt(tmp_path / "d.txt", ["end"])
    tiny_parts(110)
    source = source_of(tmp_path)
    where = [part.where for part in source.parts()]
    parts = [(source.files[int(place["file"] or 0)].name, place.get("files"), place.get("stop")) for place in where]
    assert parts[:3] == [("a0.jsonl", 4, None), ("a4.jsonl", 4, None), ("a8.jsonl", 2, None)]
    assert [stop for name, _, stop in parts if name == "b.jsonl"] == [126, 252, 378, 420]
    stops = [stop for name, _, stop in parts if name == "c.parquet"]
    assert len(stops) > 3 and stops[-1] == 6  # row groups
    assert parts[-1] == ("d.txt", 1, None)
    assert texts_of(source) == [*map(str, range(10)), *(str(number) * 20 for number in range(10)), *TEXTS, "end"]


def test_there_are_never_many_thousand_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_jsonl(tmp_path / "a.jsonl", ["x" * 50] * 200)
    monkeypatch.setattr(local_files, "PART_BYTES", 1)
    monkeypatch.setattr(local_files, "MOST_PARTS", 7)
    assert len(source_of(tmp_path / "a.jsonl").parts()) == 7


def states_of(source: LocalFiles) -> list[tuple[str, State]]:
    found = []
    for part in source.parts():
        for text in source.read(part):
            state = source.state()
            assert state is not None
            found.append((string(text), json.loads(json.dumps(state))))
    return found


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet", "a.txt.gz", "a.jsonl.zst", "a.parquet.gz"])
@pytest.mark.parametrize("size", [30, 2**20])
def test_reading_goes_on_where_a_state_was_taken(
    name: str, size: int, tmp_path: Path, tiny_parts: Callable[[int], None]
) -> None:
    plain = tmp_path / ".".join(name.split(".")[:2])
    {".txt": as_txt, ".jsonl": as_jsonl, ".parquet": as_parquet}[plain.suffix](plain, TEXTS)
    path = pack(plain, name.split(".")[2]) if name.count(".") == 2 else plain
    other = tmp_path / "z.jsonl"  # with the larger size both share a part
    as_jsonl(other, ["y", "z"])
    tiny_parts(size)
    source = source_of(path, other)
    for part in source.parts():
        whole = [string(text) for text in source.read(part)]
        states = []
        for _ in source.read(part):
            states.append(json.loads(json.dumps(source.state())))
        for number, state in enumerate(states):
            assert [string(text) for text in source_of(path, other).read(part, state)] == whole[number + 1 :]


def test_a_folder_with_other_files_than_before_is_an_error(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        as_txt(tmp_path / name, [name])
    (part,) = source_of(tmp_path).parts()
    as_txt(tmp_path / "bb.txt", ["new"])
    with pytest.raises(DataError, match="and there were 3 when this was begun"):
        list(source_of(tmp_path).read(part))
    (tmp_path / "bb.txt").unlink()
    (tmp_path / "a.txt").unlink()
    with pytest.raises(DataError, match="and there were 3 when this was begun"):
        list(source_of(tmp_path).read(part))


def test_going_on_elsewhere_reads_the_files_that_are_named_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part is a place among the files, which the revision pins; by path it could be another file of that name."""
    for folder, texts in (("one", ["right"]), ("two", ["wrong"])):
        (tmp_path / folder).mkdir()
        as_txt(tmp_path / folder / "a.txt", texts)
    monkeypatch.chdir(tmp_path / "one")
    source = source_of(Path("a.txt"))
    (part,) = source.parts()
    monkeypatch.chdir(tmp_path / "two")
    assert list(source_of(tmp_path / "one" / "a.txt").read(part)) == ["right"]


# ------------------------------------------------------------------------------------------ long texts


@pytest.mark.parametrize("compression", [None, "gz", "zst"])
@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_a_long_document_stays_in_a_file(
    kind: str, compression: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (local_text, json_lines, parquet_files):
        monkeypatch.setattr(module, "LONG_BYTES", 1000)
    monkeypatch.setattr(parquet_files, "BLOCK_BYTES", 64)
    texts = ["short\n", "long \u6f22\U0001f600 " * 200 + "\n", "x" * 999 + "\n", "y" * 900 + "\n", "end"]
    path = tmp_path / f"a.{kind}"
    if kind == "txt":
        path.write_text("<|endoftext|>\n".join(texts), encoding="utf-8")
    else:
        {"jsonl": as_jsonl, "parquet": as_parquet}[kind](path, texts)
    copied = kind != "txt" or compression is not None
    table = kind == "parquet" and compression is not None  # which is itself a copy
    source = source_of(pack(path, compression) if compression else path)
    found, kinds = [], []
    for text in source.read(source.parts()[0]):
        found.append(string(text))
        kinds.append(type(text))
        copies = list((tmp_path / "cache").glob(".downloads/.tmp-*"))
        assert len(copies) == (copied and isinstance(text, LongText)) + table
    assert found == texts
    assert kinds == [str, LongText, LongText, str, str]
    assert not list((tmp_path / "cache").glob(".downloads/.tmp-*"))


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary("int32", pa.string())]
)
def test_long_rows_of_all_string_types(kind: pa.DataType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["one", None, "\u6f22\U0001f600" * 100, None, "", "two"]
    as_parquet(tmp_path / "a.parquet", texts, kind)
    monkeypatch.setattr(parquet_files, "LONG_BYTES", 100)
    monkeypatch.setattr(parquet_files, "BLOCK_BYTES", 5)
    source = source_of(tmp_path / "a.parquet")
    found = [(type(text), string(text)) for text in source.read(source.parts()[0])]
    assert found == [(LongText if text and len(text) > 50 else str, text or "") for text in texts]


CHARACTERS = st.text(st.sampled_from('ab"\\/\n\0\u00e9\u6f22\U0001f600\ud83d\ude42\ud800'), max_size=60)
VALUES = st.recursive(
    CHARACTERS | st.none() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(CHARACTERS, inner)
)
ROWS = st.builds(
    lambda text, rest, ascii: json.dumps({**rest, "text": text, "more": rest}, ensure_ascii=ascii),
    CHARACTERS | VALUES,
    st.dictionaries(CHARACTERS, VALUES),
    st.booleans(),
).map(lambda row: row.encode("utf-8", "surrogatepass"))
FRAGMENTS = rb'ab|"|\|\u|\ud83d|\ude42|00e9|\n|{"text": "|", "id": "|"}|[|]|,| '.split(b"|")
FRAGMENTS += [b"\n", b"\x01", b"\xff", b"\xe6\xbc", "\u00e9\ufeff\U0001f600".encode(), b"x" * 30]
NO_ROWS = st.lists(st.sampled_from(FRAGMENTS), min_size=3).map(lambda more: b'{"text": "' + b"".join(more))


@SAME_FOLDER
@given(
    content=ROWS | NO_ROWS,
    block=st.integers(1, 40),
    errors=st.sampled_from(["strict", "replace"]),
)
@example(content=json.dumps({"text": "\U0001f600" * 9}).encode(), block=1, errors="strict")  # halves of pairs
@example(content=b'{"text": "' + b"x" * 40 + b'"\n', block=7, errors="strict")  # an error behind the line's end
def test_a_long_line_is_read_as_a_short_one_is(content: bytes, block: int, errors: str, tmp_path: Path) -> None:
    """Whatever it holds, also where that is no JSON or no UTF-8, wherever it is cut, to the letter of the error."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + content)

    def outcome() -> list[str] | str:
        try:
            return [well_formed(text) for text in texts_of(source_of(path, encoding_errors=errors))]
        except DataError as error:
            return error.message

    expected = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lines, "LONG_BYTES", 20)
        patch.setattr(json_lines, "_PIECE_BYTES", block)
        patch.setattr(json_lines, "_KEPT_CHARACTERS", 30)
        assert outcome() == expected


def test_a_long_document_of_an_archive_that_is_not_utf8_names_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_text, "LONG_BYTES", 100)
    (tmp_path / "a.txt").write_bytes(b"one\n<|endoftext|>\n" + b"x" * 200 + b"\xff")
    path = pack(tmp_path / "a.txt", "gz")
    with pytest.raises(DataError, match=r"a\.txt\.gz: not UTF-8 at byte 218"):
        texts_of(source_of(path))


def test_copies_of_a_process_that_was_killed_are_removed(tmp_path: Path) -> None:
    import socket

    folder = tmp_path / "cache" / ".downloads"
    folder.mkdir(parents=True)
    host = socket.gethostname()
    dead, alive = folder / f".tmp-{host}-{2**22 + 1}-{'0' * 32}", folder / f".tmp-{host}-{os.getpid()}-{'0' * 32}"
    other = folder / f".tmp-{host}x-{2**22 + 1}-{'0' * 32}"
    for path in (dead, alive, other):
        path.write_text("copy")
    as_parquet(tmp_path / "a.parquet", TEXTS)
    texts_of(source_of(pack(tmp_path / "a.parquet", "gz")))
    assert sorted(folder.iterdir()) == sorted([alive, other])


# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"fine\n" + b"\xc3\xa9\xff", "not UTF-8 at byte 7"),
        ("a.txt", b"fine\n<|endoftext|>\nlat\xe9n", "not UTF-8 at byte 22"),
        ("a.txt", b"\xef\xbb\xbf\xff", "not UTF-8 at byte 3"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}', "not UTF-8 at byte 24"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', "line 2: not JSON"),
        ("a.jsonl", b"[1]", "line 1: an object is expected"),
        ("a.jsonl", b'\n{"content": "a", "id": 1}', "line 2: column 'text' not found; columns: content, id"),
        ("a.jsonl", b"{}", "line 1: column 'text' not found; columns: none"),
        ("a.jsonl", b'{"text": null}\n{"text": 1}', "line 2: column 'text' is int, not text"),
        ("a.jsonl", b"[" * 100_000, "line 1: not JSON"),
    ],
)
@pytest.mark.parametrize("compression", [None, "gz"])
def test_bad_files_are_named_with_the_place(
    name: str, content: bytes, message: str, compression: str | None, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    path = pack(path, compression) if compression else path
    with pytest.raises(DataError) as caught:
        texts_of(source_of(path))
    assert caught.value.message.startswith(f"{path}") and message in caught.value.message
    if "not UTF-8" in message:
        assert "--encoding-errors replace" in (caught.value.hint or "")
    if "not found" in message:
        assert "--text-column" in (caught.value.hint or "")


def test_the_line_number_is_right_in_every_part(
    tmp_path: Path, tiny_parts: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_jsonl(tmp_path / "a.jsonl", ["x"] * 50)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write("broken\n")
    tiny_parts(100)
    source = source_of(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="line 51: not JSON"):
        list(source.read(source.parts()[-1]))
    monkeypatch.setattr("nano_gpt.data.sources.json_lines._COUNTED_BYTES", 1000)
    with pytest.raises(DataError, match=r"the line at byte 1,150: not JSON"):
        list(source.read(source.parts()[-1]))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_bytes_that_are_not_utf8_are_replaced_on_request(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "a.parquet":
        binary = pa.array([b"lat\xe9n", None, b"fine"], pa.binary())
        strings = pa.StringArray.from_buffers(3, binary.buffers()[1], binary.buffers()[2], binary.buffers()[0])
        parquet.write_table(pa.table({"text": strings}), path)
    else:
        path.write_bytes(b"lat\xe9n" if name == "a.txt" else b'{"text": "lat\xe9n"}\n{"text": "fine"}')
    assert texts_of(source_of(path, encoding_errors="replace"))[0] == "lat\ufffdn"
    with pytest.raises(DataError, match="not UTF-8 at byte") as caught:
        texts_of(source_of(path))
    assert "--encoding-errors replace" in (caught.value.hint or "")
    assert source_of(path, encoding_errors="replace").options != source_of(path).options


@pytest.mark.parametrize("size", [1, 2**20])
def test_bad_tables_are_named(size: int, tmp_path: Path, tiny_parts: Callable[[int], None]) -> None:
    tiny_parts(size)
    path = tmp_path / "a.parquet"
    as_parquet(path, TEXTS)
    with pytest.raises(DataError, match=r"a\.parquet: column 'body' not found; columns: id, text") as caught:
        texts_of(source_of(path, text_column="body"))
    assert "--text-column" in (caught.value.hint or "")
    with pytest.raises(DataError, match="column 'id' is int64, not text"):
        texts_of(source_of(path, text_column="id"))
    content = path.read_bytes()
    for damaged in (b"", b"no parquet at all", content[:-20], content[: len(content) // 2]):
        with pytest.raises(DataError, match=r"a\.parquet is no parquet file, or a damaged one"):
            read(path, damaged)
    with pytest.raises(DataError, match=r"b\.parquet\.gz is no parquet file"):
        (tmp_path / "b.parquet").write_bytes(content[:-20])
        texts_of(source_of(pack(tmp_path / "b.parquet", "gz")))


@pytest.mark.parametrize("compression", ["gz", "zst"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_damaged_archives_are_an_error(name: str, compression: str, tmp_path: Path) -> None:
    write = {"a.txt": as_txt, "a.jsonl": as_jsonl, "a.parquet": as_parquet}[name]
    write(tmp_path / name, [f"{number * 7919}" for number in range(5000)])
    path = pack(tmp_path / name, compression)
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0xFF  # Arrow's zstd, unlike the zstd command, writes no checksum that would tell
    damages = [
        content[:-1],
        content[: len(content) // 2],
        b"no archive",
        b"",
        *([flipped] if compression == "gz" else []),
    ]
    for damaged in damages:
        with pytest.raises(DataError) as caught:
            read(path, damaged)
        assert f"{path} is" in caught.value.message
    path.write_bytes(content * 2)  # archives in a row are one
    if name != "a.parquet":
        assert len(texts_of(source_of(path))) >= 2 * 5000 - 1


def test_files_that_are_missing_or_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        source_of(tmp_path / "a.txt")
    (tmp_path / "a.csv").write_text("text")
    with pytest.raises(ConfigError, match=r"neither a \.txt nor a \.jsonl"):
        source_of(tmp_path / "a.csv")


def test_a_file_that_goes_away_is_an_error(tmp_path: Path) -> None:
    as_jsonl(tmp_path / "a.jsonl", TEXTS)
    source = source_of(tmp_path / "a.jsonl")
    parts = source.parts()
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(DataError, match=r"there is no file .*a\.jsonl any more"):
        list(source.read(parts[0]))


# -------------------------------------------------------------------------------------------- revision


def test_the_revision_of_files_is_their_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    revisions = []
    for content in ("one", "two", "one"):
        path.write_text(content)
        revisions.append(source_of(path).revision)
    assert revisions[0] == revisions[2] != revisions[1]
    (tmp_path / "other.txt").write_text("one")
    assert source_of(tmp_path / "other.txt").revision == revisions[0]
    assert source_of(tmp_path / "other.txt", path).revision != revisions[0]
    (tmp_path / "a.jsonl").write_text("one")
    assert source_of(tmp_path / "a.jsonl").revision != revisions[0]


def test_a_file_that_is_the_same_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, new = tmp_path / "a.txt", tmp_path / "b.txt"
    path.write_bytes(b"x" * 2**20)
    os.utime(path, (time.time() - 100, time.time() - 100))
    new.write_bytes(b"y" * 2**20)
    revision = source_of(path, new).revision
    read_files: list[Path] = []
    digest = hashes._sha256
    monkeypatch.setattr(hashes, "_sha256", lambda file, *rest: (read_files.append(file), digest(file, *rest))[1])
    assert source_of(path, new).revision == revision
    assert read_files == [new]  # it may still change without another time
    path.write_bytes(b"z" * 2**20)
    os.utime(path, (time.time() - 50, time.time() - 50))
    assert source_of(path, new).revision != revision
    assert read_files == [new, path, new]


@pytest.mark.parametrize("damage", [b"", b"[1]", b'{"a": 1}', b'{"a": [1, 2]}', b"\xff"])
def test_a_damaged_memory_of_hashes_is_no_memory(damage: bytes, tmp_path: Path) -> None:
    path, memory = tmp_path / "a.txt", tmp_path / "cache" / ".downloads" / "hashes.json"
    path.write_bytes(b"x" * 2**20)
    os.utime(path, (time.time() - 100, time.time() - 100))
    revision = source_of(path).revision
    memory.write_bytes(damage)
    assert source_of(path).revision == revision
    assert str(path) in memory.read_text()


# ------------------------------------------------------------------------------------------- real data


def test_real_rows_are_the_same_from_every_format(
    shared_dir: Path, tmp_path: Path, tiny_parts: Callable[[int], None]
) -> None:
    original = shared_dir / "data" / "hellaswag_val_first_5000.jsonl"
    rows = [json.loads(line) for line in original.read_text(encoding="utf-8").splitlines()]
    plain = tmp_path / "a.jsonl"
    plain.write_bytes(original.read_bytes())
    table = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"ctx": [row["ctx"] for row in rows]}), table, row_group_size=700)
    tiny_parts(100_000)
    for path in (plain, pack(plain, "gz"), pack(plain, "zst"), table, pack(table, "zst")):
        assert texts_of(source_of(path, text_column="ctx")) == [row["ctx"] for row in rows]
