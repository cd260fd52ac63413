"""Files of other programs and damaged ones: read where the ids are sure, refused with the reason otherwise."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nano_gpt.errors import ConfigError, DataError
from nano_gpt.tokenizer import Tokenizer, load_tokenizer

Json = dict[str, Any]


@pytest.fixture
def edit(tmp_path: Path, bpe: Tokenizer) -> Callable[[Callable[[Json], None]], Path]:
    """Save the BPE, change its tokenizer.json, return the folder."""
    bpe.save(tmp_path)

    def change(how: Callable[[Json], None]) -> Path:
        content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
        how(content)
        (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
        return tmp_path

    return change


def test_the_older_form_of_hugging_face_is_read(edit: Any, bpe: Tokenizer) -> None:
    def older(content: Json) -> None:
        """As in openai-community/gpt2: no model type, merges as strings, empty prefixes."""
        del content["model"]["type"], content["pre_tokenizer"]["use_regex"]
        content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
        content["model"].update(continuing_subword_prefix="", end_of_word_suffix="")

    assert load_tokenizer(edit(older)).fingerprint == bpe.fingerprint


def test_end_of_text_may_have_another_id(edit: Any, bpe: Tokenizer) -> None:
    def first(content: Json) -> None:
        """As the `tokenizers` library numbers it when it is a special token of the training."""
        content["model"]["vocab"] = {token: i + 1 for token, i in content["model"]["vocab"].items()}
        content["model"]["vocab"]["<|endoftext|>"] = content["added_tokens"][0]["id"] = 0

    tokenizer = load_tokenizer(edit(first))
    assert tokenizer.eot_id == 0
    assert tokenizer.encode("some text") == [i + 1 for i in bpe.encode("some text")]
    assert tokenizer.decode([0, *tokenizer.encode("some text")]) == "<|endoftext|>some text"
    assert tokenizer.fingerprint != bpe.fingerprint


def swap_two_merges(content: Json) -> None:
    merges = content["model"]["merges"]
    merges[3], merges[4] = merges[4], merges[3]


def swap_two_ids(content: Json) -> None:
    vocabulary = content["model"]["vocab"]
    vocabulary["!"], vocabulary["<|endoftext|>"] = 256, 0


REFUSED: dict[str, tuple[Callable[[Json], Any], str]] = {
    "no model": (lambda c: c.pop("model"), "model: Field required"),
    "unigram": (lambda c: c["model"].update(type="Unigram"), "model.type"),
    "ids as text": (lambda c: c["model"]["vocab"].update({"!": "zero"}), "vocab.!"),
    "normalizer": (lambda c: c.update(normalizer={"type": "NFC"}), "normalizes"),
    "prefix space": (lambda c: c["pre_tokenizer"].update(add_prefix_space=True), "words"),
    "no regex": (lambda c: c["pre_tokenizer"].update(use_regex=False), "words"),
    "another pre-tokenizer": (lambda c: c.update(pre_tokenizer={"type": "Whitespace"}), "words"),
    "suffix": (lambda c: c["model"].update(end_of_word_suffix="</w>"), "suffix"),
    "dropout": (lambda c: c["model"].update(dropout=0.1), "dropout"),
    "no end of text": (
        lambda c: (c["added_tokens"].clear(), c["model"]["vocab"].pop("<|endoftext|>")),
        r"no <\|endoftext\|>",
    ),
    "more added tokens": (lambda c: c["added_tokens"].append({"id": 1000, "content": "[PAD]"}), r"besides .*'\[PAD\]'"),
    "a gap in the ids": (lambda c: c["model"]["vocab"].update({"!": 5000}), "ids are not"),
    "an id twice": (lambda c: c["model"]["vocab"].update({"!": 1}), "ids are not"),
    "a merge of nothing": (lambda c: c["model"]["merges"].append(["!", "\u00ff"]), "merged but not in"),
    "a merge too few": (lambda c: c["model"]["merges"].pop(), "order of its merges"),
    "merges out of order": (swap_two_merges, "order of its merges"),
    "a merge of three": (lambda c: c["model"]["merges"].append("a b c"), "not a pair"),
    "a word level": (lambda c: c["model"].update(type="WordLevel"), "one id per character"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_reason(case: str, edit: Any) -> None:
    how, reason = REFUSED[case]
    with pytest.raises(DataError, match=reason):
        load_tokenizer(edit(how))


def test_bytes_in_another_order_are_another_tokenizer(edit: Any, bpe: Tokenizer) -> None:
    def swap(content: Json) -> None:
        vocabulary = content["model"]["vocab"]
        vocabulary["!"], vocabulary['"'] = vocabulary['"'], vocabulary["!"]

    tokenizer = load_tokenizer(edit(swap))
    assert tokenizer.encode('!"') == bpe.encode('!"')[::-1]
    assert tokenizer.fingerprint != bpe.fingerprint


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"model": 1}', b'{"model": {"vocab": []}}']
)
def test_damaged_files(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(DataError, match=r"tokenizer\.json is not"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").rename(tmp_path / "vocab.json")
    (tmp_path / "merges.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"vocab\.json"):
        load_tokenizer(tmp_path)


def test_a_character_file_out_of_order_is_refused(tmp_path: Path, char: Tokenizer) -> None:
    char.save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match="sorted order"):
        load_tokenizer(tmp_path)


def test_merges_with_windows_line_ends(tmp_path: Path, bpe: Tokenizer) -> None:
    bpe.save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    merges = (tmp_path / "merges.txt").read_bytes()
    (tmp_path / "merges.txt").write_bytes(merges.replace(b"\n", b"\r\n"))
    assert load_tokenizer(tmp_path).fingerprint == bpe.fingerprint


@pytest.mark.parametrize(
    ("name", "near"), [("gpt-2", "gpt2"), ("bytes", "byte"), ("chars", "char"), ("zzz", "bpe:SIZE")]
)
def test_misspelt_names_get_a_suggestion(name: str, near: str) -> None:
    with pytest.raises(DataError) as error:
        load_tokenizer(name)
    assert repr(name) in error.value.message and near in (error.value.hint or "")


@pytest.mark.parametrize("name", ["char", "bpe:4096"])
def test_names_that_need_a_corpus_ask_for_the_folder(name: str) -> None:
    with pytest.raises(DataError, match="corpus"):
        load_tokenizer(name)


def test_a_folder_without_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)


def test_a_path_is_never_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bpe: Tokenizer) -> None:
    monkeypatch.chdir(tmp_path)
    bpe.save(tmp_path / "byte")
    assert load_tokenizer("byte").name == "byte"
    assert load_tokenizer("./byte").fingerprint == load_tokenizer(Path("byte")).fingerprint == bpe.fingerprint
    shutil.rmtree("byte")
    with pytest.raises(DataError, match="no such folder"):
        load_tokenizer(Path("byte"))


@pytest.mark.parametrize("spec", ["bpe", "bpe:", "bpe:256", "bpe:-1", "bpe:4k", "bpe:1e3", "bpe:" + "9" * 30])
def test_a_size_that_is_none(spec: str) -> None:
    with pytest.raises(ConfigError, match="at least 257"):
        load_tokenizer(spec)
