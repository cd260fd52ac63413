"""Files from a web server that is slow, cuts connections, knows no ranges, changes its mind, or is not there."""

from __future__ import annotations

import gzip
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nano_gpt.config import DataConfig
from nano_gpt.data.catalog import dataset_info
from nano_gpt.data.preparing.prepare import prepare
from nano_gpt.data.sources import download
from nano_gpt.data.sources.download import check_url, fetch, is_fetched, shown, size_of
from nano_gpt.data.sources.local_files import LocalFiles
from nano_gpt.data.sources.network import within
from nano_gpt.errors import ConfigError, DataError, NetworkError
from nano_gpt.runtime.files import DiskFullError

CONTENT = b"".join(b"line %d of the file\n" % number for number in range(50_000))


class Server(ThreadingHTTPServer):
    """Serves `content` under every name, in the way that its switches say."""

    content = CONTENT
    etag: str | None = '"1"'
    ranges = True
    tells_length = True
    cut_after: int | None = None
    """Close every connection after that many bytes."""
    stall_after: int | None = None
    statuses: list[int]
    """What to answer first instead."""
    requests: list[tuple[str, str, str | None]]
    """Method, path and range of what was asked for."""
    extra: dict[str, str]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses, self.requests, self.extra = [], [], {}
        self.end = threading.Event()

    def url(self, name: str = "corpus.txt") -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.requests.append((self.command, self.path, asked))
        if self.path == "/moved.txt":
            self.send_response(302)
            self.send_header("Location", "/corpus.txt")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if server.statuses and self.command == "GET":
            self.send_error(server.statuses.pop(0))
            return
        body = server.content
        same = self.headers.get("If-Range") == server.etag
        if asked and server.ranges and same:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            body = body[start:]
        else:
            self.send_response(200)
        if server.tells_length:
            self.send_header("Content-Length", str(len(body)))
        for name, value in {**server.extra, **({"ETag": server.etag} if server.etag else {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: server.cut_after] if server.stall_after is None else body[: server.stall_after])
        if server.stall_after is not None:
            self.wfile.flush()
            server.end.wait(20)

    def end_headers(self) -> None:
        """Says that the connection ends: a client that kept it for its next request could find it closed."""
        self.send_header("Connection", "close")
        super().end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.end.set()
        server.shutdown()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "RETRY_SECONDS", (0.01, 0.01))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".part") or path.name.startswith(".tmp")]


def test_a_file_is_downloaded_once(server: Server, tmp_path: Path) -> None:
    url = server.url("a%20b/corpus.txt.gz?download=true")
    server.content = gzip.compress(CONTENT)
    assert not is_fetched(url, tmp_path)
    assert size_of(url) == len(server.content)
    path = fetch(url, tmp_path)
    assert path.read_bytes() == server.content
    assert path.name.endswith("-corpus.txt.gz")
    assert is_fetched(url, tmp_path)
    assert leftovers(tmp_path) == []
    server.requests.clear()
    assert fetch(url, tmp_path) == path
    assert server.requests == []
    assert fetch(server.url("other/corpus.txt.gz"), tmp_path) != path


def test_redirections_are_followed(server: Server, tmp_path: Path) -> None:
    assert fetch(server.url("moved.txt"), tmp_path).read_bytes() == CONTENT


def test_a_cut_connection_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    server.cut_after = 300_000
    assert fetch(server.url(), tmp_path).read_bytes() == CONTENT
    starts = [asked for _, _, asked in server.requests]
    assert starts == [None, *(f"bytes={start}-" for start in range(300_000, len(CONTENT), 300_000))]


def test_without_ranges_it_is_begun_again(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cut_after = False, 300_000
    with pytest.raises(NetworkError, match="again and again: the connection ended after byte 300,000") as caught:
        fetch(server.url(), tmp_path)
    assert "0.3 MB are kept; the same command goes on" in (caught.value.hint or "")
    assert not is_fetched(server.url(), tmp_path)
    server.cut_after = None
    assert fetch(server.url(), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("etag", ['"2"', None])
def test_a_part_of_another_version_is_not_gone_on_with(server: Server, etag: str | None, tmp_path: Path) -> None:
    server.cut_after, server.ranges = 300_000, False
    with pytest.raises(NetworkError):
        fetch(server.url(), tmp_path)
    server.content, server.etag, server.cut_after, server.ranges = CONTENT[::-1], etag, None, True
    assert fetch(server.url(), tmp_path).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_a_part_without_a_version_is_not_gone_on_with(server: Server, etag: str | None, tmp_path: Path) -> None:
    server.etag, server.cut_after = etag, 300_000
    with pytest.raises(NetworkError):
        fetch(server.url(), tmp_path)
    server.cut_after = None
    fetch(server.url(), tmp_path)
    assert {asked for _, _, asked in server.requests} == {None}


def test_the_time_of_the_last_change_is_a_version(server: Server, tmp_path: Path) -> None:
    server.etag, server.extra = None, {"Last-Modified": "Sat, 01 Nov 2026 10:00:00 GMT"}
    server.cut_after = 300_000
    with pytest.raises(NetworkError):  # this server compares with the ETag alone, so it begins anew each time
        fetch(server.url(), tmp_path)
    assert server.requests[-1][2] == "bytes=300000-"


def test_a_part_that_is_the_whole_file_is_taken(server: Server, tmp_path: Path) -> None:
    server.cut_after = 300_000
    path = fetch(server.url(), tmp_path)
    path.rename(path.with_name(f"{path.name}.part"))
    assert fetch(server.url(), tmp_path).read_bytes() == CONTENT
    assert server.requests[-1][2] == f"bytes={len(CONTENT)}-"


def test_a_file_of_unknown_length(server: Server, tmp_path: Path) -> None:
    server.tells_length = False
    assert size_of(server.url()) is None
    assert fetch(server.url(), tmp_path).read_bytes() == CONTENT
    assert is_fetched(server.url(), tmp_path)


def test_a_file_that_was_damaged_here_is_fetched_again(server: Server, tmp_path: Path) -> None:
    path = fetch(server.url(), tmp_path)
    path.write_bytes(CONTENT[:100])
    assert fetch(server.url(), tmp_path).read_bytes() == CONTENT


def test_a_server_that_is_busy_for_a_moment(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    assert fetch(server.url(), tmp_path).read_bytes() == CONTENT
    server.statuses = [500] * 9
    with pytest.raises(NetworkError, match="again and again: the server answers 500"):
        fetch(server.url("other.txt"), tmp_path)


@pytest.mark.parametrize(("status", "words"), [(404, "check the address"), (403, "--files"), (401, "--files")])
def test_a_refusal_is_told_at_once(server: Server, status: int, words: str, tmp_path: Path) -> None:
    server.statuses = [status]
    with pytest.raises(NetworkError, match=f"the server answers {status}") as caught:
        fetch(server.url(), tmp_path)
    assert words in (caught.value.hint or "")
    assert len(server.requests) == 1


def test_a_server_that_falls_silent(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "STALL_SECONDS", 0.2)
    server.stall_after = 1000
    with pytest.raises(NetworkError, match=r"again and again: nothing came for 0\.2 seconds"):
        fetch(server.url(), tmp_path)
    server.stall_after = None
    assert fetch(server.url(), tmp_path).read_bytes() == CONTENT


def test_a_server_that_packs_what_it_sends(server: Server, tmp_path: Path) -> None:
    server.content, server.extra = gzip.compress(CONTENT), {"Content-Encoding": "gzip"}
    assert fetch(server.url("corpus.txt.gz"), tmp_path).read_bytes() == server.content  # it means the file itself
    with pytest.raises(NetworkError, match="packs it"):
        fetch(server.url("corpus.txt"), tmp_path)


def test_nobody_there_is_one_error_soon(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/corpus.txt"
        start = time.monotonic()
        for call in (lambda: fetch(url, tmp_path), lambda: size_of(url)):
            with pytest.raises(NetworkError, match=r"cannot download .*Connection refused") as caught:
                call()
            assert "--files" in (caught.value.hint or "")
        assert time.monotonic() - start < 5


def test_a_silent_name_server_is_one_error_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "REACH_SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(30))
    start = time.monotonic()
    with pytest.raises(NetworkError, match=r"no answer within 0\.2 seconds"):
        fetch("http://example.invalid/corpus.txt", tmp_path)
    assert time.monotonic() - start < 5


def test_offline_is_refused_at_once(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(server.url(), tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    server.requests.clear()
    for call in (lambda: fetch(server.url("b.txt"), tmp_path), lambda: size_of(server.url("b.txt"))):
        with pytest.raises(NetworkError, match="HF_HUB_OFFLINE forbids"):
            call()
    fetch(server.url(), tmp_path)
    assert server.requests == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/a.txt", "http:// or https://"),
        ("file:///etc/passwd.txt", "http:// or https://"),
        ("a.txt", "http:// or https://"),
        ("http://host:port/a.txt", "not an address"),
        ("http://[host/a.txt", "not an address"),
        ("https://host/page.html", "what kind of file this is cannot be told"),
        ("https://host/", "what kind of file this is cannot be told"),
        ("https://host/get?file=a.txt", "what kind of file this is cannot be told"),
    ],
)
def test_other_addresses_are_refused(url: str, message: str, tmp_path: Path) -> None:
    for call in (lambda: check_url(url), lambda: fetch(url, tmp_path)):
        with pytest.raises(ConfigError, match=message):
            call()


def test_passwords_and_keys_are_not_shown(tmp_path: Path) -> None:
    url = "https://me:secret@127.0.0.1:9/a.txt?key=secret"
    assert shown(url) == "https://127.0.0.1:9/a.txt"
    with pytest.raises(NetworkError) as caught:
        fetch(url, tmp_path)
    assert "secret" not in str(caught.value)


def test_a_full_disk_is_told_and_the_part_is_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", full)
    with pytest.raises(DiskFullError):
        fetch(server.url(), tmp_path)
    assert not is_fetched(server.url(), tmp_path)


def test_two_at_once_download_it_once(server: Server, tmp_path: Path) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(fetch(server.url(), tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 3 and len(set(paths)) == 1
    assert [method for method, _, _ in server.requests] == ["GET"]


def test_a_call_that_does_not_return_is_given_up() -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        within(0.2, lambda: time.sleep(30))
    assert time.monotonic() - start < 10
    assert within(5, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)


# ----------------------------------------------------------------------------------------- as a source


def source_of(config: DataConfig) -> LocalFiles:
    return LocalFiles(dataset_info(config), config)


def test_urls_are_read_after_files_and_by_others_without_a_network(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("mine")
    server.content = b"theirs"
    urls = (server.url(), server.url("b.txt"))
    config = DataConfig(dataset="mine", files=(tmp_path / "a.txt",), urls=urls, dataset_dir=tmp_path / "sets")
    source = source_of(config)
    assert source.download_size == 2 * len(b"theirs")
    parts = source.parts()
    assert [text for part in parts for text in source.read(part)] == ["mine", "theirs", "theirs"]
    revision = source.revision
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    worker = source_of(config)
    assert [text for part in parts for text in worker.read(part)] == ["mine", "theirs", "theirs"]
    assert (worker.download_size, worker.revision) == (0, revision)


def test_a_finished_set_is_not_downloaded_again_to_know_that_it_is_finished(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(dataset="mine", urls=(server.url("a.txt?key=1"),), tokenizer="byte", dataset_dir=tmp_path)
    made = prepare(config)
    assert "key" not in made.manifest.model_dump_json()
    shutil.rmtree(tmp_path / ".downloads")
    before = len(server.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert prepare(config).manifest == made.manifest
    assert len(server.requests) == before and not list((tmp_path / ".downloads").glob("*a.txt*"))
    with pytest.raises(DataError, match="prepared otherwise: max_documents"):
        prepare(config.model_copy(update={"max_documents": 1}))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    mirror = config.model_copy(update={"urls": (server.url("b.txt"),)})
    assert prepare(mirror).manifest == made.manifest  # another address with the same content: it is looked at
    server.content = b"something else"
    for urls in ((server.url("c.txt"),), (server.url("a.txt?key=1"), server.url("c.txt"))):
        with pytest.raises(DataError, match="prepared otherwise: revision"):
            prepare(config.model_copy(update={"urls": urls}))


def test_a_url_of_another_kind_is_refused_before_anything_is_fetched(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="what kind of file"):
        source_of(DataConfig(dataset="mine", urls=(server.url(), server.url("a.zip")), dataset_dir=tmp_path))
    assert server.requests == []
