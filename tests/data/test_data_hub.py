"""Hub datasets through the real clients, from a local server that speaks the hub's protocol."""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.utils._http
import pytest
from fake_dataset_hub import COMMIT, Cut, Hub, serve, use_endpoint, write_card, write_parquet, write_repository

from nano_gpt.config.data import DataConfig
from nano_gpt.data.catalog import dataset_info
from nano_gpt.data.sources import hub as hub_module
from nano_gpt.data.sources import hub_client, hub_reading, parquet_files
from nano_gpt.data.sources.base import Part, Source, State
from nano_gpt.data.sources.hub import HubDataset
from nano_gpt.data.sources.hub_layout import open_builder
from nano_gpt.data.sources.texts import LongText
from nano_gpt.errors import ConfigError, DataError, NetworkError
from nano_gpt.registry import load

TEXTS = [f"Page {number}: " + "words and more " * (number * 13 % 60) for number in range(300)]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve(tmp_path / "hub") as served:
        served.use(monkeypatch, tmp_path)
        monkeypatch.setattr(hub_client, "_told_at", -1e9)
        yield served


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients try as often as ever, but without the pauses."""
    monkeypatch.setattr(huggingface_hub.utils._http, "time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setattr(hub_client, "_PAUSE_SECONDS", 0.0)


def source_of(dataset: str, revision: str | None = None, **settings: object) -> Source:
    config = DataConfig.model_validate({"dataset": dataset, **settings})
    info = dataset_info(config)
    source: Source = load(info.source)(info, config, revision)
    return source


def texts_of(source: Source, part: Part) -> list[str]:
    return [str(text) for text in source.read(part)]


def all_texts(source: Source) -> dict[str | None, list[str]]:
    texts: dict[str | None, list[str]] = {}
    for part in source.parts():
        texts.setdefault(part.split, []).extend(texts_of(source, part))
    return texts


def own_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "nano_gpt"]


def assert_resumes(source: Source, fresh: Source, part: Part, every: int = 7) -> None:
    """From the state after each `every`-th text, another source yields exactly the rest."""
    whole = texts_of(source, part)
    states = []
    for number, text in enumerate(source.read(part), start=1):
        assert text == whole[number - 1]
        if (number - 1) % every == 0 or number == len(whole):
            states.append((number, json.loads(json.dumps(source.state()))))
    assert len(states) >= len(whole) / every
    for number, state in states:
        assert [str(text) for text in fresh.read(part, state)] == whole[number:], number


@pytest.mark.parametrize("piece_bytes", [10**9, 3000, 1000])
def test_parquet_is_read_whole_in_any_number_of_pieces_and_goes_on_anywhere(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    write_repository(hub.root, TEXTS, files=3)
    monkeypatch.setattr(hub_module, "PIECE_BYTES", piece_bytes)
    source = source_of("finewebedu")
    assert source.revision == COMMIT and source.validation_fraction == 0.03
    parts = source.parts()
    assert parts == source_of("finewebedu", COMMIT).parts()
    assert len(parts) == 3 if piece_bytes == 10**9 else len(parts) > 6
    assert all(part.split is None and part.size for part in parts)
    known = 45_000_000_000  # the catalog's figure for the whole
    assert sum(part.size or 0 for part in parts) == pytest.approx(known, rel=0.001)
    downloads = (hub.root / "HuggingFaceFW/fineweb-edu/sample").rglob("*.parquet")
    assert source.download_size == sum(file.stat().st_size for file in downloads)
    worker = source_of("finewebedu", COMMIT)  # as another process would
    assert [text for part in parts for text in texts_of(worker, part)] == TEXTS
    most = max(parts, key=lambda part: len(texts_of(worker, part)))
    assert_resumes(source, source_of("finewebedu", COMMIT), most, every=7 if piece_bytes == 10**9 else 1)


def test_a_process_that_reads_asks_for_little(hub: Hub) -> None:
    write_repository(hub.root, TEXTS, files=3)
    parts = source_of("finewebedu").parts()
    hub.calls.clear()
    worker = source_of("finewebedu", COMMIT)
    for part in parts:
        texts_of(worker, part)
    assert len(hub.calls) <= 1 + 3 * 3, hub.calls
    assert "api/datasets" not in " ".join(hub.calls[3:])


def test_reading_keeps_to_the_commit_at_which_it_began(hub: Hub, tmp_path: Path) -> None:
    write_repository(hub.root, TEXTS, files=1)
    source = source_of("finewebedu")
    parts = source.parts()
    newer = tmp_path / "newer"
    write_repository(newer, ["other"] * 5, files=1)
    commit = hub.add("HuggingFaceFW/fineweb-edu", newer / "HuggingFaceFW/fineweb-edu")
    assert source_of("finewebedu").revision == commit
    again = source_of("finewebedu", source.revision)
    assert again.parts() == parts
    assert all_texts(again) == all_texts(source) == {None: TEXTS}


def test_validation_and_other_kinds_of_files(hub: Hub) -> None:
    folder = hub.root / "some" / "lines"
    write_card(folder, {"one": {"train": "one/a*", "dev": "one/dev*", "test": "one/t*"}, "two": {"train": "two/*"}})
    (folder / "one").mkdir()
    for number in range(2):
        lines = [json.dumps({"content": text, "id": 1}) for text in TEXTS[number * 100 : number * 100 + 100]]
        (folder / "one" / f"a{number}.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (folder / "one" / "dev.json").write_text("\n".join(json.dumps({"content": text}) for text in TEXTS[200:220]))
    (folder / "one" / "test.json").write_text('{"content": "never read"}')
    (folder / "two").mkdir()
    (folder / "two" / "a.json").write_text('{"text": "first", "other": "x"}\n{"text": null, "other": "y"}\n')

    source = source_of("hf:some/lines", config_name="one")
    assert source.validation_fraction is None
    parts = source.parts()
    assert [part.split for part in parts] == ["train", "train", "validation"]
    assert all_texts(source) == {"train": TEXTS[:200], "validation": TEXTS[200:220]}  # the only column of text
    size = (folder / "one" / "a0.jsonl.gz").stat().st_size
    assert parts[0].size == 3 * size and parts[2].size == (folder / "one" / "dev.json").stat().st_size
    assert "test.json" not in " ".join(hub.requests)
    assert_resumes(source, source_of("hf:some/lines", COMMIT, config_name="one"), parts[1])

    own = source_of("hf:some/lines", config_name="one", validation_fraction=0.2)
    assert own.validation_fraction == 0.2
    assert all_texts(own) == {None: TEXTS[:200]}
    two = source_of("hf:some/lines", config_name="two")
    assert two.validation_fraction == 0.01
    assert all_texts(two) == {None: ["first", ""]}


def test_lines_of_a_txt_file_are_documents_and_the_user_is_told(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    (hub.root / "some" / "plain").mkdir(parents=True)
    (hub.root / "some" / "plain" / "a.txt").write_text("one\n\ntwo\n")
    with caplog.at_level(logging.WARNING):
        assert all_texts(source_of("hf:some/plain")) == {None: ["one", "", "two"]}
    assert own_lines(caplog) == ["prepare: some/plain is of .txt files, of which each line is a document"]


def test_columns(hub: Hub) -> None:
    write_parquet(hub.root / "some/two" / "a.parquet", {"id": [1], "content": ["x"], "title": ["t"]})
    write_parquet(hub.root / "some/none" / "a.parquet", {"id": [1]})
    with pytest.raises(ConfigError, match="column 'text' not found; columns: id, content, title") as missing:
        source_of("hf:some/two").parts()
    assert missing.value.hint == "--text-column content or title"
    with pytest.raises(ConfigError, match="column 'id' holds int64, not text"):
        source_of("hf:some/two", text_column="id").parts()
    with pytest.raises(ConfigError, match="column 'contents' not found"):
        source_of("hf:some/two", text_column="contents").parts()
    with pytest.raises(ConfigError, match="column 'text' not found; columns: id"):
        source_of("hf:some/none").parts()
    assert all_texts(source_of("hf:some/two", text_column="title")) == {None: ["t"]}


def test_configurations(hub: Hub) -> None:
    folder = hub.root / "some" / "several"
    write_card(folder, {name: {"train": f"{name}.parquet"} for name in ("english", "french")})
    for name in ("english", "french"):
        write_parquet(folder / f"{name}.parquet", {"text": [name]})
    with pytest.raises(ConfigError, match="several configurations: english, french") as several:
        source_of("hf:some/several").parts()
    assert several.value.hint == "choose one: --config-name english"
    with pytest.raises(ConfigError, match="unknown configuration of some/several 'frensh'") as unknown:
        source_of("hf:some/several", config_name="frensh").parts()
    assert unknown.value.hint == "did you mean 'french'?"
    assert all_texts(source_of("hf:some/several", config_name="french")) == {None: ["french"]}
    write_card(folder, {name: {"train": f"{name}.parquet"} for name in ("english", "french")}, default="french")
    hub.add("some/several", folder, "f" * 40)
    assert all_texts(source_of("hf:some/several")) == {None: ["french"]}


def test_what_only_a_script_could_read_comes_from_the_copy_as_parquet(hub: Hub, tmp_path: Path) -> None:
    script = hub.root / "some" / "scripted"
    script.mkdir(parents=True)
    (script / "scripted.py").write_text("raise SystemExit('never run')")
    with pytest.raises(DataError, match=r"read by a script, scripted.py.* no copy"):
        source_of("hf:some/scripted").parts()
    copy = tmp_path / "copy"
    write_parquet(copy / "plain" / "train" / "0000.parquet", {"text": TEXTS[:50]})
    write_parquet(copy / "plain" / "train" / "0001.parquet", {"text": TEXTS[50:60]})
    write_parquet(copy / "plain" / "partial-validation" / "0000.parquet", {"text": TEXTS[60:70]})
    commit = hub.add("some/scripted", copy, branch="refs/convert/parquet")
    source = source_of("hf:some/scripted")
    assert source.revision == f"refs/convert/parquet@{commit}"
    assert all_texts(source) == {"train": TEXTS[:60], "validation": TEXTS[60:70]}
    again = source_of("hf:some/scripted", source.revision)
    assert again.parts() == source.parts() and all_texts(again) == all_texts(source)
    write_parquet(copy / "other" / "train" / "0000.parquet", {"text": ["other"]})
    with pytest.raises(ConfigError, match="several configurations: other, plain"):
        source_of("hf:some/scripted").parts()
    assert all_texts(source_of("hf:some/scripted", config_name="other")) == {None: ["other"]}


def test_what_the_hub_does_not_give(hub: Hub) -> None:
    write_parquet(hub.root / "some/gated" / "a.parquet", {"text": ["x"]})
    write_parquet(hub.root / "some/private" / "a.parquet", {"text": ["x"]})
    write_parquet(hub.root / "some/down" / "a.parquet", {"text": ["x"]})
    write_parquet(hub.root / "some/splits" / "a-test.parquet", {"text": ["x"]})
    for status in (401, 403, 429):
        write_parquet(hub.root / f"some/http{status}" / "a.parquet", {"text": ["x"]})
    write_parquet(hub.root / "some/card" / "a.parquet", {"text": ["x"]})
    (hub.root / "some/card" / "README.md").write_text("---\nconfigs: [a: b: c\n---\n")
    (hub.root / "some/empty").mkdir()
    (hub.root / "some/empty" / "README.md").write_text("nothing yet")
    hub.refused = {
        "some/gated": (403, "GatedRepo"),
        "some/private": (404, "RepoNotFound"),
        "some/down": (500, ""),
        "some/http401": (401, ""),
        "some/http403": (403, ""),
        "some/http429": (429, ""),
    }
    for dataset, kind, words, hint in (
        ("some/gated", DataError, "some/gated is gated", "hf auth login"),
        ("some/private", DataError, "the hub has no dataset some/private", "hf auth login"),
        ("some/missing", DataError, "the hub has no dataset some/missing", "check the name"),
        ("some/down", NetworkError, "the hub refused some/down: 500", "--files"),
        ("some/http401", NetworkError, "the hub refused some/http401: 401", "a token that may read it, hf auth login"),
        ("some/http403", NetworkError, "the hub refused some/http403: 403", "a token that may read it, hf auth login"),
        ("some/http429", NetworkError, "the hub refused some/http429: 429", "wait some minutes and run the same"),
        ("some/card", DataError, "some/card: the head of its README.md, .* is no YAML: expected", "another upload"),
        ("some/empty", DataError, "some/empty cannot be read", ""),
    ):
        with pytest.raises(kind, match=words) as refused:
            source_of(f"hf:{dataset}").parts()
        assert hint in (refused.value.hint or "") and "\n" not in refused.value.message
    assert all_texts(source_of("hf:some/splits")) == {None: ["x"]}  # the only split there is
    write_card(hub.root / "some/half", {"default": {"validation": "a*"}})
    write_parquet(hub.root / "some/half" / "a.parquet", {"text": ["x"]})
    half = source_of("hf:some/half")
    assert half.validation_fraction == 0.01 and all_texts(half) == {None: ["x"]}  # nothing would be left to train on
    gone = source_of("hf:some/splits", "1" * 40)
    with pytest.raises(DataError, match="no longer"):
        gone.parts()


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz"])
def test_a_connection_that_is_cut_is_taken_up_again(
    hub: Hub, no_waiting: None, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    texts = [os.urandom(500).hex() for _ in range(100)]
    path = hub.root / "some/data" / name
    if name.endswith("parquet"):
        write_parquet(path, {"text": texts})
    else:
        path.parent.mkdir(parents=True)
        path.write_bytes(gzip.compress("\n".join(json.dumps({"text": text}) for text in texts).encode()))
    parts = source_of("hf:some/data").parts()
    hub.cut = Cut(re.compile(re.escape(name)), after=1000, times=2)
    with caplog.at_level(logging.WARNING):
        worker = source_of("hf:some/data", COMMIT)
        assert [text for part in parts for text in texts_of(worker, part)] == texts
        assert own_lines(caplog) == ["network: the hub does not answer; trying again for half a minute"]
        hub.cut = Cut(re.compile(re.escape(name)), after=1000)
        lost = source_of("hf:some/data", COMMIT)
        hub.requests.clear()
        with pytest.raises(NetworkError, match=r"lost the connection to .* for some/data") as error:
            texts_of(lost, parts[0])
        assert hub.requests.count(name) <= 7  # the six tries of huggingface_hub, 23 seconds; `datasets` adds no round
    assert "the same command goes on" in (error.value.hint or "")
    assert len(own_lines(caplog)) == 1  # in a minute
    assert capfd.readouterr() == ("", "")  # and nothing of the clients' own


def test_a_network_that_is_away_when_a_file_is_opened_is_waited_for(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_repository(hub.root, TEXTS, files=1)
    parts = source_of("finewebedu").parts()
    use_endpoint(monkeypatch, "http://127.0.0.1:9", tmp_path)
    monkeypatch.setattr(hub_client, "_PAUSE_SECONDS", 0.05)
    with pytest.raises(NetworkError, match=r"lost the connection to http://127\.0\.0\.1:9"):
        texts_of(source_of("finewebedu", COMMIT), parts[0])
    waits = iter([None, None])

    def sleep(seconds: float) -> None:
        if next(waits, "over") == "over":
            hub.use(monkeypatch, tmp_path)

    monkeypatch.setattr(hub_client.time, "sleep", sleep)
    assert texts_of(source_of("finewebedu", COMMIT), parts[0]) == TEXTS


def test_a_damaged_file_is_named(hub: Hub) -> None:
    folder = hub.root / "some" / "damaged"
    write_parquet(folder / "a.parquet", {"text": ["x"]})
    write_parquet(folder / "b.parquet", {"other": ["x"]})
    (folder / "c.parquet").write_bytes(b"PAR1" + b"\xff" * 100 + b"PAR1")
    source = source_of("hf:some/damaged")
    first, second, third = source.parts()
    assert texts_of(source, first) == ["x"]
    with pytest.raises(DataError, match=r"b\.parquet: column 'text' not found; columns: other"):
        texts_of(source, second)
    with pytest.raises(DataError, match=r"some/damaged: c\.parquet cannot be read"):
        texts_of(source, third)


@pytest.mark.parametrize("at_once", [2**24, 50])
def test_nulls_are_empty_and_long_rows_stay_in_a_file(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    texts = ["one", None, "long \u6f22\U0001f600 " * 200, "", None, "two"] * 4
    write_parquet(hub.root / "some/data" / "a.parquet", {"text": texts}, row_group_size=5)
    monkeypatch.setattr(parquet_files, "LONG_BYTES", 1000)
    monkeypatch.setattr(parquet_files, "_BATCH_ROWS", 3)
    monkeypatch.setattr(hub_reading, "_READ_BYTES", at_once)
    (tmp_path / "copies").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "copies"))
    source = source_of("hf:some/data")
    (part,) = source.parts()

    def read(state: State | None = None) -> Iterator[str]:
        for text in source_of("hf:some/data", COMMIT).read(part, state):
            assert len(list((tmp_path / "copies").glob(".tmp-*"))) == isinstance(text, LongText)
            yield text if isinstance(text, str) else "".join(text.blocks())

    whole = [text or "" for text in texts]
    assert list(read()) == whole
    assert list(read({"row_group": 1, "row": 3})) == whole[8:]
    assert not list((tmp_path / "copies").glob(".tmp-*"))


def test_a_row_that_is_not_utf8_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hub.root / "some/data" / "a.parquet"
    write_parquet(path, {"text": ["fine"] * 5 + ["latxn"]}, row_group_size=3)
    path.write_bytes(path.read_bytes().replace(b"latxn", b"lat\xe9n"))
    source = source_of("hf:some/data")
    (part,) = source.parts()
    for rows, state in (2, None), (2, {"row_group": 1, "row": 2}), (3, {"row_group": 1, "row": 1}):
        monkeypatch.setattr(parquet_files, "_BATCH_ROWS", rows)
        with pytest.raises(DataError, match=r"a\.parquet, row 3 of row group 1: not UTF-8 at byte 3 of it"):
            list(source.read(part, state))


ARTICLES = [
    " = First = \n\n One . \n\n = = Section = = \n\n x \n = 4 = \n y \n",
    " = Second ( song ) = \n\n Two . \n",
    " = Third = \n\n Three . \n\n = = = Deep = = = \n\n end \n",
]


def rows_of(articles: list[str]) -> list[str]:
    rows = [""]
    for article in articles:
        rows += ["" if line == "\n" else line for line in article.splitlines(keepends=True)] + [""]
    return rows


def test_wikitext_is_put_together_into_articles(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub.root / "Salesforce" / "wikitext"
    config = "wikitext-103-raw-v1"
    write_card(folder, {config: {split: f"{config}/{split}*" for split in ("test", "train", "validation")}})
    for cut in (1, 4, 9, 12, 17):  # an article may go on in the next file
        rows = rows_of(ARTICLES)
        write_parquet(folder / config / "train-0.parquet", {"text": rows[:cut]}, row_group_size=3)
        write_parquet(folder / config / "train-1.parquet", {"text": rows[cut:]}, row_group_size=3)
        write_parquet(folder / config / "validation-0.parquet", {"text": rows_of(ARTICLES[:1])})
        write_parquet(folder / config / "test-0.parquet", {"text": ["never read"]})
        monkeypatch.setattr(hub_module, "PIECE_BYTES", 400 if cut % 2 else 10**6)
        commit = hub.add("Salesforce/wikitext", folder, f"{cut:040x}")
        source = source_of("wikitext")
        assert source.validation_fraction is None and source.revision == commit
        articles = [article.strip("\n") for article in ARTICLES]
        assert all_texts(source) == {"train": articles, "validation": articles[:1]}
        parts = source.parts()
        assert [part.split for part in parts] == ["train", "validation"]
        assert_resumes(source, source_of("wikitext", commit), parts[0], every=1)


def run_python(code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "HF_HOME": str(cwd / "home"), "HF_HUB_OFFLINE": "0", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


PARTS = """
from nano_gpt.config.data import DataConfig
from nano_gpt.data.catalog import dataset_info
from nano_gpt.data.sources.hub import HubDataset
from nano_gpt.data.sources.hub_layout import open_builder
from nano_gpt.data.sources.texts import LongText
from nano_gpt.errors import NetworkError
config = DataConfig(dataset="finewebedu")
for revision in (None, "0123456789abcdef0123456789abcdef01234567"):
    try:
        HubDataset(dataset_info(config), config, revision).parts()
    except NetworkError as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot reach http://127.0.0.1:9 for HuggingFaceFW/fineweb-edu"),
        ({"HF_HUB_OFFLINE": "1"}, "HuggingFaceFW/fineweb-edu must come from the hub, and HF_HUB_OFFLINE is set"),
    ],
)
def test_without_a_network_one_clear_error_soon(tmp_path: Path, environment: dict[str, str], words: str) -> None:
    start = time.monotonic()
    result = run_python(PARTS, tmp_path, **environment)
    assert time.monotonic() - start < 8  # twice, and starting Python and importing the client take some of it
    assert result.stdout.count(words) == 2 and result.stdout.count("--files PATH") == 2
    assert result.stderr == ""


def test_a_server_that_never_answers_is_given_up_within_five_seconds(hub: Hub) -> None:
    write_repository(hub.root, TEXTS, files=1)
    hub.latency = 30.0
    start = time.monotonic()
    with pytest.raises(NetworkError, match="cannot reach"):
        source_of("finewebedu").parts()
    assert time.monotonic() - start < 5


def test_a_silent_name_server_is_given_up_within_five_seconds(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *args, **kwargs: time.sleep(20))
    start = time.monotonic()
    with pytest.raises(NetworkError, match="cannot reach"):
        source_of("finewebedu").parts()
    assert time.monotonic() - start < 5


def test_no_file_is_fetched_as_a_whole_and_none_is_kept(hub: Hub, tmp_path: Path) -> None:
    rows = [os.urandom(2500).hex() for _ in range(12_000)]
    write_parquet(hub.root / "some/large" / "a.parquet", {"text": rows}, row_group_size=len(rows))
    source = source_of("hf:some/large")
    first = source.parts()[0]
    hub.sent = 0
    texts = iter(source.read(first))
    assert next(texts) == rows[0]
    size = (hub.root / "some/large" / "a.parquet").stat().st_size
    assert hub.sent < size * 0.8
    del texts
    kept = sum(file.stat().st_size for file in (tmp_path / "hub_cache").rglob("*") if file.is_file())
    assert kept < 100_000


def test_a_folder_of_the_same_name_is_not_taken_for_the_dataset(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_repository(hub.root, TEXTS[:10], files=1)
    write_parquet(tmp_path / "here" / "HuggingFaceFW/fineweb-edu" / "a.parquet", {"text": ["local"]})
    monkeypatch.chdir(tmp_path / "here")
    assert all_texts(source_of("finewebedu")) == {None: TEXTS[:10]}


def test_what_the_client_has_of_another_revision_is_not_taken_for_this_one(hub: Hub, tmp_path: Path) -> None:
    import datasets

    write_parquet(hub.root / "some/data" / "a.parquet", {"text": ["x"]})
    datasets.load_dataset("some/data", cache_dir=str(datasets.config.HF_DATASETS_CACHE))
    open_builder("some/data", None, COMMIT)
    hub.refused["some/data"] = (404, "RepoNotFound")
    with pytest.raises(DataError, match="some/data"):
        open_builder("some/data", None, COMMIT)


def test_every_source_of_the_hub_is_one_class() -> None:
    assert isinstance(source_of("openwebtext", COMMIT), HubDataset)
    assert isinstance(source_of("wikitext", COMMIT), HubDataset)
