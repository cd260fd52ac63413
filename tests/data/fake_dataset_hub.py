"""A local HTTP server that serves one dataset repository of parquet files the way the hub does."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

REPOSITORY = "HuggingFaceFW/fineweb-edu"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
README = """---
configs:
- config_name: sample-10BT
  data_files:
  - split: train
    path: sample/10BT/*
---
"""


def write_repository(root: Path, texts: list[str], files: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (root / "sample" / "10BT").mkdir(parents=True)
    (root / "README.md").write_text(README)
    size = -(-len(texts) // files)
    for index in range(files):
        rows = texts[index * size : (index + 1) * size]
        table = pa.table({"text": rows, "id": [str(row) for row in range(len(rows))]})
        pq.write_table(table, root / "sample" / "10BT" / f"{index:03d}_00000.parquet", row_group_size=20)


class Hub:
    """`endpoint` goes into HF_ENDPOINT; `requests` are the files asked for; files that match `broken` are refused."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[str] = []
        self.broken: re.Pattern[str] | None = None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                if path.startswith(f"/api/datasets/{REPOSITORY}/tree/{COMMIT}"):
                    below = path.removeprefix(f"/api/datasets/{REPOSITORY}/tree/{COMMIT}").strip("/")
                    self._json(
                        hub.entries(below, recursive="recursive=True" in self.path or "recursive=true" in self.path)
                    )
                elif path in (f"/api/datasets/{REPOSITORY}", f"/api/datasets/{REPOSITORY}/revision/{COMMIT}"):
                    siblings = [{"rfilename": name} for name in hub.names()]
                    self._json({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False})
                elif path.startswith(f"/datasets/{REPOSITORY}/resolve/{COMMIT}/"):
                    self._file(path.removeprefix(f"/datasets/{REPOSITORY}/resolve/{COMMIT}/"))
                else:
                    self._missing()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                if not self.path.startswith(f"/api/datasets/{REPOSITORY}/paths-info/"):
                    return self._missing()
                paths = (
                    json.loads(body)["paths"] if body.startswith("{") else re.findall(r"paths=([^&]*)", unquote(body))
                )
                self._json([entry for entry in hub.entries("", recursive=True) if entry["path"] in paths])
                return None

            def _file(self, name: str) -> None:
                file = hub.root / name
                if not file.is_file():
                    return self._missing()
                if self.command == "GET":
                    hub.requests.append(name)
                if hub.broken is not None and hub.broken.search(name):
                    self.send_response(403)
                    return self._body(b"")
                content = file.read_bytes()
                found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                start, stop = 0, len(content)
                if found:
                    start, stop = int(found[1]), min(int(found[2]) + 1 if found[2] else stop, stop)
                self.send_response(206 if found else 200)
                if found:
                    self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("ETag", f'"{name}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self._body(content[start:stop])
                return None

            def _json(self, value: object) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self._body(json.dumps(value).encode())

            def _missing(self) -> None:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self._body(b"{}")

            def _body(self, content: bytes) -> None:
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def names(self) -> list[str]:
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())

    def entries(self, below: str, *, recursive: bool) -> list[dict[str, object]]:
        base = self.root / below
        found = base.rglob("*") if recursive else base.glob("*")
        entries: list[dict[str, object]] = []
        for path in sorted(found):
            name = path.relative_to(self.root).as_posix()
            kind = "file" if path.is_file() else "directory"
            size = path.stat().st_size if path.is_file() else 0
            entries.append({"type": kind, "oid": "0" * 40, "size": size, "path": name})
        return entries


@contextmanager
def serve(root: Path) -> Iterator[Hub]:
    hub = Hub(root)
    thread = threading.Thread(target=hub.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
