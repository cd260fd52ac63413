"""A hub on 127.0.0.1: enough of its HTTP protocol for whoami, create, upload, and download of small files.

    with FakeHub() as hub:
        hub.use(monkeypatch, tmp_path)          # in this process, or
        subprocess.run(..., env=hub.environment(tmp_path))
        hub.failures["/commit/"] = 429          # an HTTP status, or "cut": the connection ends without an answer

What was sent lies in `hub.repositories["user/name"].files`. With `hub.large_files` weights go by Git LFS, and are kept
in `hub.objects` from then on, commit or no commit. Of Xet, which the real hub prefers, there is only the refusal.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

TOKEN, USER = "hf_test_token", "user"


@dataclass
class Repository:
    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)

    @property
    def sha(self) -> str:
        return hashlib.sha1(repr((sorted(self.files.items()), self.commits)).encode()).hexdigest()


class FakeHub:
    """Serves from a thread while the context is open."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.failures: dict[str, int | str] = {}
        self.requests: list[str] = []
        self.large_files = False
        self.objects: dict[str, bytes] = {}
        """Of Git LFS, by their sha256."""
        hub = self

        class Handler(_Handler):
            def __init__(self, *args: Any) -> None:
                self.hub = hub
                super().__init__(*args)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeHub:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, repo_id: str, folder: Path) -> None:
        files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        self.repositories[repo_id] = Repository(files=files)

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """For a subprocess: this hub, an own cache, and nobody's real token."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        environment |= {"HF_ENDPOINT": self.url, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        return environment | ({"HF_TOKEN": token} if token else {})

    def use(self, monkeypatch: pytest.MonkeyPatch, home: Path, token: str | None = TOKEN) -> None:
        """The same for this process: huggingface_hub reads its environment when it is imported, so set what it read."""
        from huggingface_hub import constants

        point_at(monkeypatch, self.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hf" / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "hf" / "token"))
        monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "hf" / "stored_tokens"))
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        else:
            monkeypatch.delenv("HF_TOKEN", raising=False)


def point_at(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Make `url` the hub of this process."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 (http.server looks for these names)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append(f"{self.command} {path}")
        for part, failure in self.hub.failures.items():
            if part in path:
                return self._fail(failure)
        if path == "/api/whoami-v2":
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self._json({"error": "Invalid credentials in Authorization header"}, 401)
            return self._json({"name": USER, "type": "user", "orgs": []})
        if path == "/api/validate-yaml":
            return self._validate_card(json.loads(body)["content"])
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith("/info/lfs/objects/batch"):
            return self._batch(json.loads(body)["objects"])
        if path.startswith("/storage/"):
            return self._keep(path.removeprefix("/storage/"), body)
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(preupload|commit|revision|tree)/([^/]+))?", path)
        if match and match[1] in self.hub.repositories:
            return self._model(match[1], match[2], body)
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        if match and match[2] in self.hub.repositories.get(match[1], Repository()).files:
            return self._file(self.hub.repositories[match[1]], match[2])
        return self._json({"error": "not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def _fail(self, failure: int | str) -> None:
        if failure == "cut":
            self.close_connection = True
            self.connection.close()
        elif failure == "html":
            self._send(200, b"<html>Please log in to this WiFi</html>", {"Content-Type": "text/html"})
        else:
            assert isinstance(failure, int)
            self._json({"error": f"refused with {failure}"}, failure)

    def _validate_card(self, text: str) -> None:
        front = yaml.safe_load(text.split("---\n")[1]) if text.startswith("---\n") else {}
        if front.get("license", "mit") not in ("mit", "apache-2.0", "other"):
            fault = {"message": f'"license" must be one of [mit, apache-2.0, other], not {front["license"]}'}
            self._json({"error": "Invalid metadata", "errors": [fault], "warnings": []}, 400)
        else:
            self._json({"errors": [], "warnings": []})

    def _create(self, values: dict[str, Any]) -> None:
        repo_id = f"{values['organization']}/{values['name']}"
        answer = {"url": f"{self.hub.url}/{repo_id}", "name": repo_id}
        if values["organization"] != USER:
            return self._json({"error": "You don't have the rights to create a model under this namespace"}, 403)
        if repo_id in self.hub.repositories:
            return self._json({"error": "You already created this model repo", **answer}, 409)
        self.hub.repositories[repo_id] = Repository(
            private=values.get("visibility") == "private" or bool(values.get("private"))
        )
        return self._json(answer)

    def _model(self, repo_id: str, action: str | None, body: bytes) -> None:
        repository = self.hub.repositories[repo_id]
        if action == "preupload":
            asked = [file["path"] for file in json.loads(body)["files"]]
            files = [
                {
                    "path": path,
                    "uploadMode": "lfs" if self.hub.large_files and path.endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": _blob_id(repository.files[path]) if path in repository.files else None,
                }
                for path in asked
            ]
            return self._json({"files": files})
        if action == "commit":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "header":
                    repository.commits.append(line["value"]["summary"])
                if line["key"] == "file":
                    repository.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                if line["key"] == "lfsFile":
                    repository.files[line["value"]["path"]] = self.hub.objects[line["value"]["oid"]]
            sha = repository.sha
            return self._json(
                {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{sha}"}
            )
        if action == "tree":
            return self._json(
                [
                    {"type": "file", "path": path, "size": len(data), "oid": _blob_id(data)}
                    for path, data in sorted(repository.files.items())
                ]
            )
        siblings = [{"rfilename": path} for path in sorted(repository.files)]
        return self._json({"id": repo_id, "sha": repository.sha, "private": repository.private, "siblings": siblings})

    def _batch(self, objects: list[dict[str, Any]]) -> None:
        """Where to put what is not here yet."""
        answers = []
        for wanted in objects:
            upload = {"actions": {"upload": {"href": f"{self.hub.url}/storage/{wanted['oid']}"}}}
            answers.append({**wanted, **({} if wanted["oid"] in self.hub.objects else upload)})
        self._json({"transfer": "basic", "objects": answers})

    def _keep(self, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self._json({"error": "not what was announced"}, 422)
        self.hub.objects[oid] = body
        return self._json({})

    def _file(self, repository: Repository, path: str) -> None:
        data = repository.files[path]
        headers = {"ETag": f'"{_blob_id(data)}"', "X-Repo-Commit": repository.sha, "Accept-Ranges": "bytes"}
        self._send(200, data, headers)

    def _json(self, values: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        more = {"Content-Type": "application/json", **(headers or {})}
        if status >= 400 and isinstance(values, dict):
            more["X-Error-Message"] = str(values.get("error"))
        self._send(status, json.dumps(values).encode(), more)

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _blob_id(data: bytes) -> str:
    """git's name for a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
