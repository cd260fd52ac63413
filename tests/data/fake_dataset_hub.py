"""A local HTTP server that serves dataset repositories the way the hub does, as far as its clients for reading ask.

    with serve(tmp_path / "hub") as hub:                     # what lies in tmp_path/hub/OWNER/NAME is its branch `main`
        hub.add("owner/name", folder, branch="refs/convert/parquet")
        subprocess.run(..., env=hub.environment(tmp_path))   # in a process of its own, or
        hub.use(monkeypatch, tmp_path)                       # in this one
        hub.refused["owner/name"] = (403, "GatedRepo")       # every request for files of it
        hub.broken = re.compile("002_00000")                 # files that match answer 403
        hub.cut = Cut(re.compile("000_"), after=10_000)      # their connections end in the middle of the body

A repository's files may be of any kind. A branch may move on: `hub.add` with another commit keeps the old one, too.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

REPOSITORY = "HuggingFaceFW/fineweb-edu"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_parquet(path: Path, columns: dict[str, Sequence[object]], row_group_size: int = 20) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path, row_group_size)


def write_card(folder: Path, configs: dict[str, dict[str, str]], default: str | None = None) -> None:
    """README.md with the front matter that says which files are which split: config -> split -> pattern."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["---", "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", *(["  default: true"] if config == default else []), "  data_files:"]
        for split, pattern in splits.items():
            lines += [f"  - split: {split}", f"    path: {pattern}"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def write_repository(root: Path, texts: list[str], files: int) -> None:
    """fineweb-edu, below the hub's root `root`: one sample, no validation split."""
    folder = root / REPOSITORY
    write_card(folder, {"sample-10BT": {"train": "sample/10BT/*"}})
    size = -(-len(texts) // files)
    for index in range(files):
        rows = texts[index * size : (index + 1) * size]
        columns = {"text": rows, "id": [str(row) for row in range(len(rows))]}
        write_parquet(folder / "sample" / "10BT" / f"{index:03d}_00000.parquet", columns)


@dataclass
class Cut:
    """The first `times` requests for a file that matches end after `after` bytes of the body; None: all of them."""

    files: re.Pattern[str]
    after: int
    times: int | None = None


@dataclass
class _Repository:
    folders: dict[str, Path] = field(default_factory=dict)
    """Commit -> its files."""
    branches: dict[str, str] = field(default_factory=dict)
    """Branch -> commit."""


class Hub:
    """`endpoint` goes into HF_ENDPOINT; `requests` are the files whose content was asked for, `calls` all requests."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[str] = []
        self.calls: list[str] = []
        self.sent = 0  # bytes of file contents
        self.broken: re.Pattern[str] | None = None
        self.refused: dict[str, tuple[int, str]] = {}
        self.cut: Cut | None = None
        self.latency = 0.0  # seconds before each answer
        self._repositories: dict[str, _Repository] = {}
        self._lock = threading.Lock()
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def add(self, repository: str, folder: Path, commit: str | None = None, branch: str = "main") -> str:
        """Serve `folder` as `branch` of `repository`; returns the commit."""
        commit = commit or hashlib.sha1(f"{repository}{branch}{folder}".encode()).hexdigest()
        there = self._repositories.setdefault(repository, _Repository())
        there.folders[commit] = folder
        there.branches[branch] = commit
        return commit

    def find(self, repository: str, revision: str) -> tuple[str, Path] | None:
        """Commit and folder of a branch, a commit or the beginning of one; None where there is no such thing."""
        if repository not in self._repositories and (self.root / repository).is_dir():
            self.add(repository, self.root / repository, COMMIT)
        there = self._repositories.get(repository)
        if there is None:
            return None
        commit = there.branches.get(revision, revision)
        return (commit, there.folders[commit]) if commit in there.folders else None

    def environment(self, folder: Path) -> dict[str, str]:
        """For a process of its own: the hub's address is read when its client is imported."""
        return {**os.environ, **self.variables(folder)}

    def variables(self, folder: Path) -> dict[str, str]:
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(folder / "hub_cache"),
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
        }

    def use(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        """Make the clients of this process ask this hub, and keep what they keep below `folder`."""
        use_endpoint(monkeypatch, self.endpoint, folder)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def use_endpoint(monkeypatch: pytest.MonkeyPatch, endpoint: str, folder: Path) -> None:
    """What HF_ENDPOINT and HF_HOME do when they are set before the clients are imported."""
    import datasets
    from huggingface_hub import HfFileSystem, constants

    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub_cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", endpoint)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HUB_DATASETS_URL", endpoint + "/datasets/{repo_id}/resolve/{revision}/{path}")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "datasets_cache")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    HfFileSystem.clear_instance_cache()


def entries(folder: Path, below: str, *, recursive: bool) -> list[dict[str, object]]:
    base = folder / below
    return [_entry(folder, path) for path in sorted(base.rglob("*") if recursive else base.glob("*"))]


LARGE = (".parquet", ".bin", ".npy", ".gz", ".zst")  # what the hub keeps in its large file storage, under its sha256


def _entry(folder: Path, path: Path) -> dict[str, object]:
    name = path.relative_to(folder).as_posix()
    if not path.is_file():
        return {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
    size = path.stat().st_size
    entry: dict[str, object] = {
        "type": "file",
        "oid": hashlib.sha1(name.encode()).hexdigest(),
        "size": size,
        "path": name,
    }
    if path.suffix in LARGE:
        entry["lfs"] = {"oid": _etag(path), "size": size, "pointerSize": 134}
    return entry


def _sibling(entry: dict[str, object]) -> dict[str, object]:
    sibling = {"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"]}
    lfs = entry.get("lfs")
    return {**sibling, "lfs": {"sha256": lfs["oid"], **lfs}} if isinstance(lfs, dict) else sibling


def _etag(path: Path) -> str:
    status = path.stat()
    return _hash(path, status.st_mtime_ns, status.st_size)


@cache
def _hash(path: Path, *_: int) -> str:
    content = path.read_bytes()
    return hashlib.sha256(content).hexdigest() if path.suffix in LARGE else hashlib.sha1(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        found = self._found()
        if found is None:
            return None
        repository, action, commit, folder, rest = found
        if action == "tree":
            query = parse_qs(urlsplit(self.path).query)
            recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
            if not (folder / rest).is_dir():
                return self._missing("EntryNotFound", "Entry not found")
            return self._json(entries(folder, rest, recursive=recursive))
        if action == "resolve":
            return self._file(folder, rest, commit)
        files = [entry for entry in entries(folder, "", recursive=True) if entry["type"] == "file"]
        siblings = [_sibling(entry) for entry in files]
        return self._json({"id": repository, "sha": commit, "siblings": siblings, "tags": [], "private": False})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        found = self._found()
        if found is None:
            return None
        _, action, _, folder, _ = found
        if action != "paths-info":
            return self._missing("EntryNotFound", "no such route")
        paths = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
        return self._json([_entry(folder, folder / path) for path in paths if (folder / path).exists()])

    def _found(self) -> tuple[str, str, str, Path, str] | None:
        """Repository, action, commit, folder and the rest of the path; None when an error has been answered."""
        hub = self.hub
        time.sleep(hub.latency)
        path = urlsplit(self.path).path
        with hub._lock:
            hub.calls.append(f"{self.command} {unquote(path)}")
        match = re.fullmatch(
            r"(?:/api/datasets/(?P<api>[^/]+/[^/]+)(?:/(?P<action>revision|tree|paths-info)/(?P<revision>[^/]+)(?P<rest>/.*)?)?"
            r"|/datasets/(?P<files>[^/]+/[^/]+)/resolve/(?P<at>[^/]+)/(?P<file>.+))",
            path,
        )
        if match is None:
            self._missing("EntryNotFound", "no such route")
            return None
        repository = unquote(match["api"] or match["files"])
        action = match["action"] or ("resolve" if match["files"] else "revision")
        if repository in hub.refused:
            status, code = hub.refused[repository]
            if code != "GatedRepo" or action == "resolve":  # everyone may see that a gated one is there
                self._missing(code, f"refused: {code}", status)
                return None
        if hub.find(repository, "main") is None:
            self._missing("RepoNotFound", "Repository not found", 401)  # as the hub answers who is not logged in
            return None
        found = hub.find(repository, unquote(match["revision"] or match["at"] or "main"))
        if found is None:
            self._missing("RevisionNotFound", "Invalid rev id")
            return None
        return repository, action, *found, unquote((match["rest"] or match["file"] or "").strip("/"))

    def _file(self, folder: Path, name: str, commit: str) -> None:
        file = folder / name
        hub = self.hub
        if not file.is_file():
            return self._missing("EntryNotFound", "Entry not found", commit=commit)
        if hub.broken is not None and hub.broken.search(name):
            return self._missing("GatedRepo", "no access", 403)
        size = file.stat().st_size
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, stop = 0, size
        if match:
            start, stop = int(match[1]), min(int(match[2]) + 1 if match[2] else size, size)
        if start >= size and match:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            return self._body(b"")
        self.send_response(206 if match else 200)
        if match:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{_etag(file)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("X-Linked-Size", str(size))
        self.send_header("X-Linked-Etag", f'"{_etag(file)}"')
        cut = hub.cut
        with file.open("rb") as stream:
            stream.seek(start)
            content = stream.read(stop - start) if self.command == "GET" else b""
        with hub._lock:
            if self.command == "GET":
                hub.requests.append(name)
            cuts = cut is not None and cut.files.search(name) is not None and len(content) > cut.after
            if cuts and cut is not None and cut.times is not None:
                cuts = cut.times > 0
                cut.times -= 1
        if cuts and cut is not None:
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: cut.after])
            self.close_connection = True
            return None
        hub.sent += len(content)
        return self._body(content, stop - start)

    def _json(self, value: object) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self._body(json.dumps(value).encode())

    def _missing(self, code: str, message: str, status: int = 404, commit: str | None = None) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self._body(json.dumps({"error": message}).encode())

    def _body(self, content: bytes, length: int | None = None) -> None:
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serve(root: Path) -> Iterator[Hub]:
    hub = Hub(root)
    thread = threading.Thread(target=hub.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.stop()
