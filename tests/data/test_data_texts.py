"""A document that stays in its file: its text, its pieces, its two parts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nano_gpt.data.preparing.splitting import cut as cut_text
from nano_gpt.data.sources import texts
from nano_gpt.data.sources.texts import LongText
from nano_gpt.errors import DataError

BROKEN = b"a\n\x80\x9f\xbf\xc3\xe1\xed\xf0\xff"  # bytes that characters of all lengths begin and go on with
SMALL_BLOCKS = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)


@pytest.fixture(autouse=True)
def _tiny_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_BLOCK_BYTES", 5)
    monkeypatch.setattr(texts.blocks_of, "__defaults__", (5,))


def long_text(path: Path, content: bytes, before: bytes = b"", errors: str = "strict") -> LongText:
    path.write_bytes(before + content + b"\xff behind it")
    return LongText(path, len(before), len(before) + len(content), errors)


@SMALL_BLOCKS
@given(text=st.text(st.sampled_from("ab \n\u00e9\u6f22\U0001f600\0"), max_size=40))
def test_the_text_is_that_of_the_bytes(text: str, tmp_path: Path) -> None:
    document = long_text(tmp_path / "a.txt", text.encode(), b"before\xff")
    assert "".join(document.blocks()) == "".join(document.pieces()) == text
    assert document.is_blank() == (not text or text.isspace())
    assert document.size == len(text.encode())


@SMALL_BLOCKS
@given(content=st.binary(max_size=40) | st.lists(st.sampled_from(BROKEN)).map(bytes))
def test_what_is_not_utf8_is_replaced_as_in_one_go(content: bytes, tmp_path: Path) -> None:
    document = long_text(tmp_path / "a.txt", content, errors="replace")
    assert "".join(document.blocks()) == content.decode("utf-8", "replace")


@SMALL_BLOCKS
@given(
    content=st.lists(st.sampled_from(BROKEN + "e\u0301\u6f22".encode() * 3)).map(bytes), before=st.binary(max_size=7)
)
@example(content=b"abcd\xe1\x80\xff", before=b"")
def test_what_is_not_utf8_is_an_error_with_the_byte_of_the_file(content: bytes, before: bytes, tmp_path: Path) -> None:
    document = long_text(tmp_path / "a.txt", content, before)
    try:
        expected = content.decode()
    except UnicodeDecodeError as error:
        with pytest.raises(DataError) as caught:
            list(document.blocks())
        assert f"a.txt: not UTF-8 at byte {len(before) + error.start}: {error.reason}" in caught.value.message
        assert "iconv" in (caught.value.hint or "")
        assert "--encoding-errors replace" in (caught.value.hint or "")
    else:
        assert "".join(document.blocks()) == expected


@SMALL_BLOCKS
@given(
    text=st.text(st.sampled_from("aab\n"), min_size=2) | st.text(st.sampled_from("aab\n"), min_size=200, max_size=400),
    fraction=st.sampled_from([0.01, 0.1, 0.3, 0.5, 0.9, 0.99]),
)
def test_it_is_cut_as_a_string_is(text: str, fraction: float, tmp_path: Path) -> None:
    first, second = long_text(tmp_path / "a.txt", text.encode(), b"before").cut(fraction)
    assert ("".join(first.blocks()), "".join(second.blocks())) == cut_text(text, fraction)


@SMALL_BLOCKS
@given(text=st.text(st.sampled_from("a\u00e9\u6f22\U0001f600"), min_size=20), fraction=st.floats(0.01, 0.8))
def test_a_cut_is_never_within_a_character(text: str, fraction: float, tmp_path: Path) -> None:
    document = long_text(tmp_path / "a.txt", text.encode())
    first, second = document.cut(fraction)
    assert "".join(first.blocks()) + "".join(second.blocks()) == text
    assert first.size and second.size
    assert abs(second.size - fraction * document.size) <= 4


@SMALL_BLOCKS
@given(content=st.lists(st.sampled_from(BROKEN), min_size=24).map(bytes), fraction=st.floats(0.01, 0.8))
def test_a_cut_changes_nothing_of_what_is_replaced(content: bytes, fraction: float, tmp_path: Path) -> None:
    first, second = long_text(tmp_path / "a.txt", content, errors="replace").cut(fraction)
    assert "".join(first.blocks()) + "".join(second.blocks()) == content.decode("utf-8", "replace")


def test_errors_of_a_copy_name_the_original(tmp_path: Path) -> None:
    document = LongText(tmp_path / "copy", 0, 7, original=tmp_path / "a.txt.gz", shift=1_000_000)
    document.path.write_bytes(b"abcde\xffg")
    with pytest.raises(DataError, match=r"a\.txt\.gz: not UTF-8 at byte 1,000,005") as caught:
        list(document.blocks())
    assert "utf8-a.txt;" in (caught.value.hint or "")
    for part in document.cut(0.7):
        assert part.original == document.original


def test_a_file_that_has_become_shorter_is_an_error(tmp_path: Path) -> None:
    document = long_text(tmp_path / "a.txt", b"0123456789" * 3)
    document.path.write_bytes(b"0123456789")
    with pytest.raises(DataError, match="shorter while it was read: it ended at byte 10"):
        list(document.blocks())
