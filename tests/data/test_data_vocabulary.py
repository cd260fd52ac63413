"""Vocabularies made from a source: what they learn from and what not, what they say of themselves, where they go."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nano_gpt.config import DataConfig
from nano_gpt.data.catalog import DatasetInfo
from nano_gpt.data.preparing import vocabulary
from nano_gpt.data.preparing.splitting import split_rule
from nano_gpt.data.preparing.vocabulary import RECORD, Training, train_vocabulary
from nano_gpt.data.sources.base import Options, Part, Source, Split, State
from nano_gpt.data.sources.texts import Text
from nano_gpt.errors import ConfigError, DataError, NetworkError
from nano_gpt.tokenizer import load_tokenizer, train_tokenizer

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "and", "then", "it", "sleeps"]
TEXTS = [f"{' '.join(WORDS[i % 7 :])} {i * 7919 % 1009} \u00e9t\u00e9" for i in range(400)]


class Made(Source):
    """Parts of texts; `None` as a split leaves it to the rule. Remembers which texts were asked for."""

    def __init__(self, *parts: tuple[Split | None, list[str]], fraction: float | None = 0.1) -> None:
        info = DatasetInfo("made", "made up", "gpt2", "no:where", small=True, validation_fraction=fraction)
        super().__init__(info, DataConfig(dataset="made"))
        self._texts = parts
        self.read_of: list[int] = [0] * len(parts)

    @property
    def revision(self) -> str:
        return "7"

    @property
    def options(self) -> Options:
        return {"colour": "red"}

    def parts(self) -> list[Part]:
        return [
            Part(where={"part": number}, split=split, size=sum(map(len, texts)))
            for number, (split, texts) in enumerate(self._texts)
        ]

    def read(self, part: Part, state: State | None = None) -> Iterator[Text]:
        number = int(part.where["part"] or 0)
        for text in self._texts[number][1]:
            self.read_of[number] += 1
            yield text


@pytest.fixture(autouse=True)
def no_gpt2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def of_rule(split: str) -> list[str]:
    rule = split_rule(TEXTS, 0.1)
    return [text for text in TEXTS if rule.apply(text)[0].split == split]


def test_it_learns_from_training_documents_only(tmp_path: Path) -> None:
    training = train_vocabulary(Made((None, TEXTS[:150]), (None, TEXTS[150:])), 400, tmp_path / "new")
    tokenizer = load_tokenizer(tmp_path / "new")
    train, held_out = of_rule("train"), of_rule("validation")
    assert 0 < len(held_out) < 100
    assert tokenizer.fingerprint == train_tokenizer("bpe:400", train).fingerprint == training.fingerprint
    assert tokenizer.fingerprint != train_tokenizer("bpe:400", TEXTS).fingerprint
    assert (tokenizer.vocab_size, tokenizer.eot_id) == (400, 399)
    assert (training.documents, training.bytes) == (len(train), sum(len(text.encode()) for text in train))
    assert training.held_out_documents == len(held_out)
    assert training.held_out_tokens == sum(len(tokenizer.encode(text)) for text in held_out)
    assert training.bytes_per_token == pytest.approx(
        sum(len(text.encode()) for text in held_out) / training.held_out_tokens
    )
    assert not training.limited


@pytest.mark.parametrize("order", [1, -1])
def test_splits_of_the_source_itself(order: int, tmp_path: Path) -> None:
    parts: list[tuple[Split | None, list[str]]] = [("train", TEXTS[:300]), ("validation", TEXTS[300:])]
    training = train_vocabulary(Made(*parts[::order], fraction=None), 400, tmp_path)
    assert training.fingerprint == train_tokenizer("bpe:400", TEXTS[:300]).fingerprint
    assert (training.documents, training.held_out_documents) == (300, 100)
    assert "validation_fraction" not in training.options


def test_limits(tmp_path: Path) -> None:
    """They are on what it learns from, and do not move a document from one split to the other."""
    source = Made((None, TEXTS))
    training = train_vocabulary(source, 300, tmp_path / "documents", max_documents=50)
    learned = [text for text in TEXTS[:50] if text in of_rule("train")]
    assert training.limited and training.documents == len(learned) < 50
    assert training.held_out_documents == 50 - len(learned)
    assert training.fingerprint == train_tokenizer("bpe:300", learned).fingerprint
    assert source.read_of[0] == 100 + 51  # the rule looks at the first hundred

    source = Made((None, TEXTS))
    training = train_vocabulary(source, 300, tmp_path / "bytes", max_bytes=2000)
    assert training.limited and 2000 <= training.bytes < 2000 + max(map(len, TEXTS)) + 9
    assert source.read_of[0] == 100 + training.documents + training.held_out_documents + 1
    exact = sum(len(text.encode()) for text in TEXTS)
    all_of_it = train_vocabulary(
        Made(("train", TEXTS), ("validation", ["other"]), fraction=None), 300, tmp_path / "all", max_bytes=exact
    )
    assert not all_of_it.limited and all_of_it.documents == len(TEXTS)

    long = Made(("train", [" ".join(TEXTS * 50)]), fraction=None)
    cut = train_vocabulary(long, 300, tmp_path / "long", max_bytes=1000)
    assert cut.limited and cut.documents == 1 and 60_000 < cut.bytes < 80_000

    source = Made(("train", TEXTS), ("train", TEXTS), ("validation", TEXTS), fraction=None)
    limited = train_vocabulary(source, 300, tmp_path / "split", max_documents=10)
    assert (limited.documents, limited.held_out_documents) == (10, 400)
    assert source.read_of == [11, 0, 400]
    turned = Made(("validation", TEXTS), ("train", TEXTS), fraction=None)
    assert train_vocabulary(turned, 300, tmp_path / "turned", max_documents=10).documents == 10


def test_held_out_text_is_kept_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "HELD_OUT_BYTES", 500)
    source = Made(("validation", TEXTS), ("train", TEXTS), fraction=None)
    training = train_vocabulary(source, 300, tmp_path)
    assert 500 <= training.held_out_bytes < 700
    assert source.read_of[0] == training.held_out_documents < 15
    assert training.documents == 400


def test_gpt2_beside_it(tmp_path: Path, gpt2_bpe: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    training = train_vocabulary(Made((None, TEXTS)), 300, tmp_path)
    gpt2 = load_tokenizer("gpt2")
    assert training.gpt2_tokens == sum(len(gpt2.encode(text)) for text in of_rule("validation"))
    assert training.gpt2_missing is None


def test_without_gpt2_it_says_why(tmp_path: Path) -> None:
    training = train_vocabulary(Made((None, TEXTS)), 300, tmp_path)
    assert training.gpt2_tokens is None and training.gpt2_bytes_per_token is None
    assert "HF_HUB_OFFLINE forbids" in (training.gpt2_missing or "") and "\n" not in (training.gpt2_missing or "")
    none = train_vocabulary(Made(("train", TEXTS), fraction=None), 300, tmp_path / "train-only")
    assert none.bytes_per_token is None and none.gpt2_missing == "no document is held out"


def test_the_same_again_returns_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = train_vocabulary(Made((None, TEXTS)), 300, tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    source = Made((None, TEXTS))
    with caplog.at_level(logging.INFO, logger="nano_gpt"):
        assert train_vocabulary(source, 300, tmp_path) == first
    assert source.read_of == [0] and "holds it already" in caplog.text
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("size", "options", "words"),
    [
        (301, {}, "vocab_size 300 there, 301 asked for"),
        (300, {"max_documents": 9}, "max_documents null there, 9 asked for"),
        (300, {"max_bytes": 9}, "max_bytes 1000000000 there, 9 asked for"),
    ],
)
def test_another_one_is_not_replaced(size: int, options: dict[str, Any], words: str, tmp_path: Path) -> None:
    first = train_vocabulary(Made((None, TEXTS)), 300, tmp_path)
    with pytest.raises(DataError, match=words) as error:
        train_vocabulary(Made((None, TEXTS)), size, tmp_path, **options)
    assert "--overwrite" in (error.value.hint or "")
    assert load_tokenizer(tmp_path).fingerprint == first.fingerprint
    replaced = train_vocabulary(Made((None, TEXTS)), size, tmp_path, overwrite=True, **options)
    assert load_tokenizer(tmp_path).fingerprint == replaced.fingerprint
    assert Training.model_validate_json((tmp_path / RECORD).read_text()) == replaced


def test_what_is_not_a_tokenizer_of_ours_is_not_replaced(tmp_path: Path) -> None:
    source = Made((None, TEXTS))
    train_tokenizer("bpe:300", TEXTS).save(tmp_path / "theirs")
    with pytest.raises(DataError, match=r"holds another tokenizer already \(tokenizer\.json\)"):
        train_vocabulary(source, 300, tmp_path / "theirs")
    train_vocabulary(source, 300, tmp_path / "changed")
    train_tokenizer("bpe:290", TEXTS).save(tmp_path / "changed")  # its record is about another one now
    with pytest.raises(DataError, match="holds another tokenizer already"):
        train_vocabulary(source, 300, tmp_path / "changed")
    for name in ("manifest.json", "config.json"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("{}")
        with pytest.raises(DataError, match="which has its own tokenizer"):
            train_vocabulary(source, 300, tmp_path / name, overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file is not a folder"):
        train_vocabulary(source, 300, tmp_path / "file")


def test_nothing_is_written_before_the_end(tmp_path: Path) -> None:
    class Lost(Made):
        def read(self, part: Part, state: State | None = None) -> Iterator[Text]:
            yield from TEXTS[:200]
            raise NetworkError("the connection is lost")

    with pytest.raises(NetworkError, match="lost"):
        train_vocabulary(Lost((None, TEXTS)), 300, tmp_path / "new")
    with pytest.raises(DataError, match="0 documents"):
        train_vocabulary(Made((None, ["", "  \n"])), 300, tmp_path / "new")
    with pytest.raises(DataError, match="without text"):
        train_vocabulary(Made(("train", [" "]), fraction=None), 300, tmp_path / "new")
    with pytest.raises(ConfigError, match="256 ids is too small"):
        train_vocabulary(Made((None, TEXTS)), 256, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_full_disk_leaves_no_record_of_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_vocabulary(Made((None, TEXTS)), 300, tmp_path)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr("nano_gpt.tokenizer.bpe.ByteLevelBPE.save", full)
        train_vocabulary(Made((None, TEXTS)), 310, tmp_path, overwrite=True)
    with pytest.raises(DataError, match="holds another tokenizer"):
        train_vocabulary(Made((None, TEXTS)), 300, tmp_path)


def test_a_tiny_corpus_gives_fewer_ids(tmp_path: Path) -> None:
    training = train_vocabulary(Made(("train", ["ab ab"]), fraction=None), 8192, tmp_path)
    assert (training.asked_vocab_size, training.vocab_size) == (8192, 258)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["added_tokens"][0]["id"] == 257
