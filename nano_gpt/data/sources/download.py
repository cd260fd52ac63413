"""Files from the web: downloaded once, gone on with after an interruption, never half a file under the final name.

    0a1b2c3d4e5f-corpus.txt.gz         the file, when it is whole
    0a1b2c3d4e5f-corpus.txt.gz.part    what there is of it until then
    0a1b2c3d4e5f-corpus.txt.gz.json    what the server said of it: size and version

A part is gone on with only if the server confirms that it is of the same version (If-Range, RFC 9110 section 13.1.5).
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import BaseModel, ValidationError

from nano_gpt.data.catalog import safe_name
from nano_gpt.data.sources.network import within
from nano_gpt.data.sources.paths import KINDS_IN_WORDS, kind_of
from nano_gpt.errors import ConfigError, NetworkError
from nano_gpt.runtime.files import disk_full_is_an_error, sync_directory, write_text
from nano_gpt.runtime.logs import logger
from nano_gpt.runtime.progress import ProgressDisplay

if TYPE_CHECKING:
    from requests import Response

REACH_SECONDS = 4.5  # to find the server and connect to it, also where the name server is silent
STALL_SECONDS = 30.0  # without a byte
RETRY_SECONDS = (1.0, 3.0, 9.0)  # waits after an interruption; a byte that comes begins them anew
_BLOCK_BYTES = 2**18
_ELSEWHERE = "fetch it where there is a network, bring it here and name it with --files"


class _Note(BaseModel):
    """What the server said of the file. No validator: a part cannot be gone on with."""

    size: int | None
    validator: str | None
    """ETag, or else the time of the last change."""


class _Interrupted(Exception):  # noqa: N818 (no error yet: it is tried again)
    """The connection ended before the file did."""


def check_url(url: str) -> None:
    """Raises ConfigError for what is not http(s), or does not end like a file that can be used."""
    parts = _parts(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"{_without_secrets(url)!r} is not an address that begins with http:// or https://", "a file here: --files"
        )
    try:
        kind_of(remote_name(url))
    except ConfigError:
        raise ConfigError(f"{shown(url)}: what kind of file this is cannot be told", KINDS_IN_WORDS) from None


def is_fetched(url: str, folder: Path) -> bool:
    path = _path(url, folder)
    note = _read_note(path)
    return path.is_file() and note is not None and note.size == path.stat().st_size


def size_of(url: str) -> int | None:
    """Bytes of the file, None where the server does not tell. Raises NetworkError where it cannot be asked."""
    import requests

    _refuse_if_offline(url)
    _reach(url)
    try:
        headers = {"Accept-Encoding": "identity"}
        with requests.head(url, allow_redirects=True, timeout=(REACH_SECONDS, STALL_SECONDS), headers=headers) as reply:
            return _length(reply) if reply.ok else None
    except requests.RequestException as error:
        raise _unreachable(url, error) from None


def fetch(url: str, folder: Path) -> Path:
    """The file in `folder`, downloaded if need be; two processes at once do it once.

    Raises NetworkError where the server cannot be reached (after 5 seconds), refuses, sends nothing for half a minute,
    or interrupts again and again: what has come is then kept, and the next call goes on with it. Raises DiskFullError.
    """
    check_url(url)
    if is_fetched(url, folder):
        return _path(url, folder)
    _refuse_if_offline(url)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(_path(url, folder), url):
        if not is_fetched(url, folder):
            _Download(url, _path(url, folder)).run()
    return _path(url, folder)


def shown(url: str) -> str:
    """Without a password and without a query, which may hold a key."""
    parts = _parts(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


class _Download:
    def __init__(self, url: str, path: Path) -> None:
        self._url = url
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self._display = ProgressDisplay(f"download {remote_name(url)}")

    def run(self) -> None:
        logger.info(f"downloading {shown(self._url)}")
        _reach(self._url)
        waits = iter(RETRY_SECONDS)
        with disk_full_is_an_error(self._path), self._display:
            while True:
                before = self._held()
                try:
                    self._go_on()
                    break
                except _Interrupted as error:
                    if self._held() > before:
                        waits = iter(RETRY_SECONDS)
                    wait = next(waits, None)
                    if wait is None:
                        raise NetworkError(
                            f"{shown(self._url)}: the download was interrupted again and again: {error}",
                            f"{self._held() / 1e6:.1f} MB are kept; the same command goes on from there",
                        ) from None
                    time.sleep(wait)
            self._part.replace(self._path)
            sync_directory(self._path.parent)

    def _held(self) -> int:
        return self._part.stat().st_size if self._part.is_file() else 0

    def _go_on(self) -> None:
        """One connection: to the end of the file, or `_Interrupted`."""
        import requests

        note, held = _read_note(self._path), self._held()
        headers = {"Accept-Encoding": "identity"}
        if held and note is not None and note.validator is not None:
            headers |= {"Range": f"bytes={held}-", "If-Range": note.validator}
        try:
            timeout = (REACH_SECONDS, STALL_SECONDS)
            with requests.get(self._url, stream=True, timeout=timeout, headers=headers) as reply:
                if reply.status_code == 416 and note is not None and note.size == held:  # all of it is here
                    return
                if reply.status_code == 206 and note is not None and _goes_on(reply, held, note):
                    total = note.size
                    self._receive(reply, held, total)
                    return
                if reply.status_code != 200:
                    if reply.status_code in (206, 416):  # of another stretch, or of another file
                        self._part.unlink(missing_ok=True)
                    self._refused(reply)
                packed = reply.headers.get("Content-Encoding", "identity") != "identity"
                if packed and kind_of(remote_name(self._url))[1] is None:
                    raise NetworkError(f"{shown(self._url)}: the server packs it, although asked not to", _ELSEWHERE)
                total = _length(reply)
                self._part.unlink(missing_ok=True)
                write_text(_note_path(self._path), _Note(size=total, validator=_validator(reply)).model_dump_json())
                self._receive(reply, 0, total)
        except requests.RequestException as error:
            raise _Interrupted(_reason(error)) from None

    def _receive(self, reply: Response, held: int, total: int | None) -> None:
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        begun, first = time.monotonic(), held
        with self._part.open("ab") as file:
            try:
                for block in reply.raw.stream(_BLOCK_BYTES, decode_content=False):
                    file.write(block)
                    held += len(block)
                    rate = (held - first) / max(time.monotonic() - begun, 1e-3)
                    size = "" if total is None else f" of {total / 1e6:.1f}"
                    self._display.tell(f"{held / 1e6:.1f}{size} MB · {rate / 1e6:.1f} MB/s", held, total)
            except (HTTPError, OSError) as error:
                if isinstance(error, OSError) and not isinstance(error, (ConnectionError, TimeoutError)):
                    raise  # of the disk
                if isinstance(error, (ReadTimeoutError, TimeoutError)):
                    raise _Interrupted(f"nothing came for {STALL_SECONDS:g} seconds") from None
                raise _Interrupted(f"the connection ended after byte {held:,}") from None
            file.flush()
            os.fsync(file.fileno())
        if total is not None and held != total:
            raise _Interrupted(f"{held:,} of {total:,} bytes came")
        if total is None:
            note = _read_note(self._path)
            validator = note.validator if note is not None else None
            write_text(_note_path(self._path), _Note(size=held, validator=validator).model_dump_json())

    def _refused(self, reply: Response) -> None:
        if reply.status_code in (429, 500, 502, 503, 504):
            raise _Interrupted(f"the server answers {reply.status_code} {reply.reason}")
        hint = "check the address" if reply.status_code == 404 else _ELSEWHERE
        raise NetworkError(f"{shown(self._url)}: the server answers {reply.status_code} {reply.reason}", hint)


def _path(url: str, folder: Path) -> Path:
    """Its own for every URL, with the ending that tells the kind."""
    digest = hashlib.sha256(url.encode()).hexdigest()[:12]
    return folder / f"{digest}-{safe_name(str(remote_name(url)))[-100:]}"


def _note_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_note(path: Path) -> _Note | None:
    try:
        return _Note.model_validate_json(_note_path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
        return parts
    except ValueError as error:
        raise ConfigError(f"{_without_secrets(url)!r} is not an address: {error}") from None


def remote_name(url: str) -> Path:
    """What the file is called there: a name, never a path."""
    return Path(Path(unquote(_parts(url).path)).name)


def _length(reply: Response) -> int | None:
    length = reply.headers.get("Content-Length", "")
    return int(length) if re.fullmatch("[0-9]+", length) else None


def _goes_on(reply: Response, held: int, note: _Note) -> bool:
    """Whether a partial answer is the rest of the file that was begun; some servers do not look at If-Range."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", reply.headers.get("Content-Range", ""))
    same_size = found is not None and (found[2] == "*" or note.size in (None, int(found[2])))
    return found is not None and int(found[1]) == held and same_size and _validator(reply) in (None, note.validator)


def _validator(reply: Response) -> str | None:
    etag = reply.headers.get("ETag")
    if etag is not None and not etag.startswith("W/"):  # weak ones promise the same meaning, not the same bytes
        return etag
    return reply.headers.get("Last-Modified")


def _refuse_if_offline(url: str) -> None:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise NetworkError(f"{shown(url)} is not here, and HF_HUB_OFFLINE forbids to fetch it", _ELSEWHERE)


def _reach(url: str) -> None:
    """Raises NetworkError within REACH_SECONDS where there is nobody to talk to: the server, or the proxy before it."""
    parts = _parts(url)
    host = parts.hostname or ""
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(host):
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    try:
        within(REACH_SECONDS, lambda: socket.create_connection(address, timeout=REACH_SECONDS).close())
    except OSError as error:
        raise _unreachable(url, error) from None


def _unreachable(url: str, error: Exception) -> NetworkError:
    return NetworkError(f"cannot download {shown(url)}: {_reason(error)}", _ELSEWHERE)


def _reason(error: BaseException) -> str:
    """The innermost error in words: requests and urllib3 wrap it several times."""
    inner: Any = error
    while (deeper := getattr(inner, "reason", None) or next(iter(inner.args), None)) is not None:
        if not isinstance(deeper, BaseException):
            break
        inner = deeper
    text = getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
    return _without_secrets(re.sub(r"^<.*?>: |^[\w.]+\(.*?\): ", "", text))


def _without_secrets(text: str) -> str:
    """Without what stands for a user and a password, and what may be a key."""
    return re.sub(r"(?<=//)[^/@\s]*@|\?[^\s']*", "", text)


@contextmanager
def _alone(path: Path, url: str) -> Iterator[None]:
    """Wait until no other process downloads the same file."""
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info(f"waiting for another process that downloads {shown(url)}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
