"""Ready shards come from the hub once, whatever happens on the way, and are what the hub says they are."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_dataset_hub import Cut, Hub, serve, use_endpoint

from nano_gpt.config import DataConfig
from nano_gpt.data.catalog import CATALOG, MANIFEST, prepared_folder
from nano_gpt.data.manifest import PreparedSet, open_prepared
from nano_gpt.data.preparing.prepare import ensure_prepared
from nano_gpt.data.ready import prebuilt
from nano_gpt.data.ready.prebuilt import download_prebuilt
from nano_gpt.data.sources import network
from nano_gpt.errors import ConfigError, DataError, NetworkError
from nano_gpt.runtime.files import DiskFullError

EOT = 256  # of the byte tokenizer
OTHER = "someone/byte-shards"
DATASET = f"hf:{OTHER}"
TOKENS = 1000  # of each file


def shard(path: Path, first: int) -> None:
    ids = np.random.default_rng(first).integers(0, 256, TOKENS).astype("<u2")
    ids[0] = EOT
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, TOKENS
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header.tobytes() + ids.tobytes())


def repository(folder: Path) -> Path:
    shard(folder / "bytes_val_000000.bin", 0)
    for number in range(1, 5):
        shard(folder / f"bytes_train_{number:06d}.bin", number)
    (folder / "README.md").write_text("ready shards\n")
    (folder / ".gitattributes").write_text("*.bin filter=lfs\n")
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve(tmp_path / "hub") as hub:
        hub.add(OTHER, repository(tmp_path / "first"), "1" * 40)
        hub.use(monkeypatch, tmp_path)
        yield hub


def config(folder: Path, **values: object) -> DataConfig:
    return DataConfig.model_validate(
        {"dataset": DATASET, "tokenizer": "byte", "dataset_dir": folder / "cache", **values}
    )


def place(folder: Path) -> Path:
    return prepared_folder(config(folder))


def content(prepared: PreparedSet) -> list[int]:
    return prepared.reader("train").read(0, prepared.tokens("train")).tolist()


def expected(folder: Path, *numbers: int) -> list[int]:
    files = [folder / f"bytes_train_{number:06d}.bin" for number in numbers]
    return np.concatenate([np.fromfile(file, "<u2", offset=1024) for file in files]).tolist()


def test_all_of_it(hub: Hub, tmp_path: Path) -> None:
    prepared = download_prebuilt(config(tmp_path))
    assert prepared.folder == place(tmp_path)
    assert content(prepared) == expected(tmp_path / "first", 1, 2, 3, 4)
    manifest = open_prepared(place(tmp_path)).manifest
    assert manifest.options == {"format": "llm.c", "prebuilt": OTHER, "max_tokens": None}
    assert manifest.revision == "1" * 40 and OTHER in manifest.description
    assert manifest.splits["validation"].tokens == TOKENS and manifest.splits["train"].tokens == 4 * TOKENS
    names = {path.name for path in place(tmp_path).iterdir() if not path.name.startswith(".")}
    assert {name for name in names if name.endswith(".bin")} == {shard.file for shard in manifest.shards}
    assert MANIFEST in names and "unfinished" not in names and "README.md" not in names
    prepared.verify()
    assert ensure_prepared(config(tmp_path)).manifest == manifest  # what `train` does


def test_a_finished_one_needs_no_network(hub: Hub, tmp_path: Path) -> None:
    first = download_prebuilt(config(tmp_path))
    hub.calls.clear()
    assert download_prebuilt(config(tmp_path)).manifest == first.manifest
    assert hub.calls == []


@pytest.mark.parametrize(("max_tokens", "files"), [(1, 1), (2 * TOKENS, 1), (2 * TOKENS + 1, 2), (10**6, 4)])
def test_max_tokens_takes_whole_files_from_the_first(max_tokens: int, files: int, hub: Hub, tmp_path: Path) -> None:
    prepared = download_prebuilt(config(tmp_path, max_tokens=max_tokens))
    assert content(prepared) == expected(tmp_path / "first", *range(1, files + 1))
    assert len(hub.requests) == files + 1  # and nothing else is downloaded


def test_more_of_it_keeps_what_is_there(hub: Hub, tmp_path: Path) -> None:
    download_prebuilt(config(tmp_path, max_tokens=1))
    with pytest.raises(DataError, match="max_tokens 1 there, None asked for") as caught:
        download_prebuilt(config(tmp_path))
    assert "--overwrite" in (caught.value.hint or "")
    hub.requests.clear()
    prepared = download_prebuilt(config(tmp_path), overwrite=True)
    assert content(prepared) == expected(tmp_path / "first", 1, 2, 3, 4)
    assert sorted(hub.requests) == [f"bytes_train_{number:06d}.bin" for number in (2, 3, 4)]


def test_a_repository_that_moved_on(hub: Hub, tmp_path: Path) -> None:
    download_prebuilt(config(tmp_path))
    second = repository(tmp_path / "second")
    shard(second / "bytes_train_000002.bin", 99)
    hub.add(OTHER, second, "2" * 40)
    hub.requests.clear()
    prepared = download_prebuilt(config(tmp_path), overwrite=True)
    assert prepared.manifest.revision == "2" * 40 and hub.requests == ["bytes_train_000002.bin"]
    assert content(prepared) == expected(second, 1, 2, 3, 4)


def test_a_lost_network_is_gone_on_with_at_the_same_commit(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.cut = Cut(re.compile("train_000003"), after=1500)
    with monkeypatch.context() as patch, pytest.raises(NetworkError, match=f"lost the connection .* {OTHER}") as caught:
        patch.setattr(time, "sleep", lambda _: None)  # between the client's tries
        download_prebuilt(config(tmp_path))
    assert "the same command goes on" in (caught.value.hint or "")
    with pytest.raises(DataError, match="is not finished") as unfinished:
        open_prepared(place(tmp_path))
    assert "--prebuilt" in (unfinished.value.hint or "")
    hub.cut = None
    second = repository(tmp_path / "second")
    shard(second / "bytes_train_000004.bin", 99)
    hub.add(OTHER, second, "2" * 40)
    hub.requests.clear()
    prepared = download_prebuilt(config(tmp_path))
    assert hub.requests == ["bytes_train_000003.bin", "bytes_train_000004.bin", "bytes_val_000000.bin"]
    assert prepared.manifest.revision == "1" * 40 and content(prepared) == expected(tmp_path / "first", 1, 2, 3, 4)


def test_a_connection_that_ends_early_is_taken_up_again(hub: Hub, tmp_path: Path) -> None:
    hub.cut = Cut(re.compile("train_000002"), after=1500, times=2)
    assert content(download_prebuilt(config(tmp_path))) == expected(tmp_path / "first", 1, 2, 3, 4)


SCRIPT = """
import sys
from pathlib import Path
from nano_gpt.config import DataConfig
from nano_gpt.data.ready.prebuilt import download_prebuilt
download_prebuilt(DataConfig(dataset=sys.argv[1], tokenizer="byte", dataset_dir=Path(sys.argv[2])))
"""


def test_killed_at_any_moment_it_goes_on(hub: Hub, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, DATASET, str(tmp_path / "cache")]
    hub.latency = 0.15
    for after in (2, 4, 7, 9):
        before = len(hub.calls)
        process = subprocess.Popen(command, env=hub.environment(tmp_path), stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while len(hub.calls) - before < after and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    hub.latency = 0
    prepared = download_prebuilt(config(tmp_path))
    assert content(prepared) == expected(tmp_path / "first", 1, 2, 3, 4)
    left = {path.name for path in place(tmp_path).rglob("*")}
    assert "unfinished" not in left and not any(name.endswith(".incomplete") for name in left)


def test_stopped_between_moving_the_files_and_the_manifest(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prebuilt, "finish", stopped)
        with pytest.raises(KeyboardInterrupt):
            download_prebuilt(config(tmp_path))
    hub.requests.clear()
    assert content(download_prebuilt(config(tmp_path))) == expected(tmp_path / "first", 1, 2, 3, 4)
    assert hub.requests == []


def test_what_is_not_what_the_hub_says_is_not_kept(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = prebuilt._listing

    def other_hash(*values: object, **named: object) -> prebuilt.Listing:
        found = listing(*values, **named)  # type: ignore[arg-type]
        first, *rest = found.splits["train"]
        splits = {**found.splits, "train": (first.model_copy(update={"sha256": "0" * 64}), *rest)}
        return found.model_copy(update={"splits": splits})

    with monkeypatch.context() as patch:
        patch.setattr(prebuilt, "_listing", other_hash)
        with pytest.raises(DataError, match=r"bytes_train_000001\.bin is not what the hub has: its sha256 differs"):
            download_prebuilt(config(tmp_path))
    assert not (place(tmp_path) / "bytes_train_000001.bin").exists()
    assert not (place(tmp_path) / MANIFEST).exists()


def test_ids_of_another_tokenizer(hub: Hub, tmp_path: Path) -> None:
    folder = repository(tmp_path / "third")
    content = bytearray((folder / "bytes_train_000002.bin").read_bytes())
    content[1024 + 2 * 7 : 1024 + 2 * 8] = np.array([40_000], "<u2").tobytes()
    (folder / "bytes_train_000002.bin").write_bytes(bytes(content))
    hub.add(OTHER, folder, "3" * 40)
    with pytest.raises(DataError, match=r"bytes_train_000002\.bin holds id 40000 at token 7"):
        download_prebuilt(config(tmp_path))
    assert not (place(tmp_path) / MANIFEST).exists()


def test_a_disk_that_is_too_small(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = prebuilt.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(prebuilt.shutil, "disk_usage", lambda _: usage._replace(free=5000))
    with pytest.raises(DiskFullError, match=r"more, and the disk has 0\.00 GB free") as caught:
        download_prebuilt(config(tmp_path))
    assert "--max-tokens" in (caught.value.hint or "") and hub.requests == []


def test_errors_are_one_line(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the hub has no dataset no/where"):
        download_prebuilt(config(tmp_path, dataset="hf:no/where"))
    hub.add("a/b", tmp_path / "texts", "4" * 40)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "data.parquet").touch()
    with pytest.raises(DataError, match="there are no token files in the hub's a/b"):
        download_prebuilt(config(tmp_path, dataset="hf:a/b"))
    with pytest.raises(ConfigError, match="'python_docs' has no ready shards to download") as caught:
        download_prebuilt(config(tmp_path, dataset="python_docs"))
    assert "fineweb, finewebedu" in (caught.value.hint or "")
    with pytest.raises(ConfigError, match="--max-documents cannot change shards that are ready"):
        download_prebuilt(config(tmp_path, max_documents=5))


def test_no_network_is_told_within_five_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:  # it takes connections and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        use_endpoint(monkeypatch, f"http://127.0.0.1:{port}", tmp_path)
        start = time.monotonic()
        with pytest.raises(NetworkError, match=f"cannot reach .*{port} for {OTHER}"):
            download_prebuilt(config(tmp_path))
        assert time.monotonic() - start < 6
    assert network.within(1, lambda: 5) == 5


def test_the_catalog_knows_where_they_are(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the published ones are named, in the folder that `train --dataset finewebedu` reads."""
    repository_name = CATALOG["finewebedu"].prebuilt
    assert (repository_name, CATALOG["fineweb"].prebuilt) == ("kjj0/finewebedu10B-gpt2", "kjj0/fineweb10B-gpt2")
    folder = tmp_path / "published"
    shard(folder / "finewebedu_val_000000.bin", 1)
    shard(folder / "finewebedu_train_000001.bin", 2)
    assert repository_name is not None
    hub.add(repository_name, folder, "5" * 40)
    prepared = download_prebuilt(config(tmp_path, dataset="finewebedu"))
    assert prepared.folder == prepared_folder(config(tmp_path, dataset="finewebedu"))
    assert [shard.file for shard in prepared.manifest.shards] == [
        "finewebedu_train_000001.bin",
        "finewebedu_val_000000.bin",
    ]
