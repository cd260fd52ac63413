"""Where HellaSwag's items come from, and what is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from small_evaluation_models import made_up_values

from nano_gpt.errors import DataError, NetworkError
from nano_gpt.evaluation import hellaswag_items
from nano_gpt.evaluation.hellaswag_items import load_items, parse_item

REAL_SHAPE: dict[str, Any] = {
    "activity_label": "Home and Garden",
    "ctx_a": "[header] How to mow [title] Find a  mower. [step] It is  blue.",
    "ctx_b": "then He",
    "ctx": "[header] How to mow [title] Find a  mower. [step] It is  blue. then He",
    "endings": ["goes [substeps] on.", " stops. ", "runs", "[a] sits"],
    "label": "2",
}


def write(path: Path, *values: object) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def test_the_two_renderings() -> None:
    item = parse_item(REAL_SHAPE, "item")
    assert item.as_is() == (REAL_SHAPE["ctx"], tuple(REAL_SHAPE["endings"]))
    context, endings = item.cleaned()
    # Double spaces are halved once, in one pass, as lm-eval does it; the gap before "It" had three.
    assert context == "Home and Garden: How to mow. Find a mower. It is blue. Then he"
    assert endings == ("goes on.", "stops.", "runs", " sits")
    assert item.label == 2


def test_label_as_text_or_number() -> None:
    assert parse_item({**REAL_SHAPE, "label": 2}, "item") == parse_item(REAL_SHAPE, "item")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": ""}, "'label' is empty"),
        ({"label": "4"}, "'label' is '4', not one of 0 to 3"),
        ({"label": -1}, "'label' is -1"),
        ({"label": True}, "'label' is True"),
        ({"label": None}, "'label' is None"),
        ({"ctx_b": None}, "'ctx_b' is None"),
        ({"ctx": 3}, "'ctx' is 3"),
        ({"endings": "abcd"}, "'endings' is 'abcd'"),
        ({"endings": ["a"]}, "at least two"),
        ({"endings": ["a", ""]}, "at least two"),
    ],
)
def test_an_item_that_is_none(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    file = write(tmp_path / "items.jsonl", REAL_SHAPE, {**REAL_SHAPE, **change})
    with pytest.raises(DataError, match="line 2") as raised:
        load_items(file)
    assert words in raised.value.message
    assert len(load_items(file, samples=1)) == 1  # what is not wanted is not looked at


def test_a_file(tmp_path: Path) -> None:
    file = write(tmp_path / "items.jsonl", *(made_up_values(number) for number in range(5)))
    assert len(load_items(file)) == 5
    assert load_items(file, 3) == load_items(file)[:3]
    assert len(load_items(file, 9)) == 5


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "holds no HellaSwag item"), (b"not json\n", "line 1 is not a JSON object"), (b"[1]\n", "not a JSON object"),
     (b"\xff\xfe\n", "is not UTF-8")],
)  # fmt: skip
def test_a_file_that_is_none(content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_bytes(content)
    with pytest.raises(DataError, match=words):
        load_items(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        load_items(tmp_path / "nowhere.jsonl")


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(name: str, split: str) -> list[dict[str, Any]]:
        asked.append((name, split, datasets.config.HF_HUB_OFFLINE))
        return [made_up_values(number) for number in range(5)]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hellaswag_items, "newest_commit", lambda repository: "0123abc")
    assert len(load_items()) == 5
    assert len(load_items(samples=2)) == 2

    def unreachable(repository: str) -> str:
        raise NetworkError(f"cannot reach the hub for {repository}")

    monkeypatch.setattr(hellaswag_items, "newest_commit", unreachable)
    assert len(load_items()) == 5  # from the cache
    name = ("Rowan/hellaswag", "validation")
    assert asked == [(*name, False), (*name, False), (*name, True)]
    assert not datasets.config.HF_HUB_OFFLINE


def test_no_network_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` alone tries five times, for 23 seconds."""

    def unreachable(repository: str) -> str:
        raise NetworkError(f"cannot reach the hub for {repository}")

    monkeypatch.setattr(hellaswag_items, "newest_commit", unreachable)
    import datasets  # the import takes a second

    assert datasets.__version__
    started = time.monotonic()
    with pytest.raises(NetworkError, match="cannot reach the hub for Rowan/hellaswag") as raised:
        load_items()
    assert time.monotonic() - started < 5
    assert "--hellaswag-file" in str(raised.value)
