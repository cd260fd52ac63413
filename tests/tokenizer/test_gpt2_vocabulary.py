"""Where GPT-2's vocabulary comes from: a cache, a network that may be silent, or an error that tells what to do."""

from __future__ import annotations

import hashlib
import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from nano_gpt.errors import NetworkError
from nano_gpt.tokenizer import gpt2, load_tokenizer

FAKE = "#version: 0.2\n\u0120 t\n\u0120t h\n# #\n".encode()


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HUB_OFFLINE", "DATA_GYM_CACHE_DIR", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """A server that answers with `served["content"]`, in the place of the real one."""
    answer = {"content": FAKE}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer["content"])

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(gpt2, "VOCABULARY_URL", f"http://127.0.0.1:{server.server_port}/vocab.bpe")
    monkeypatch.setattr(gpt2, "VOCABULARY_SHA256", hashlib.sha256(FAKE).hexdigest())
    yield answer
    server.shutdown()
    server.server_close()


def use_proxy(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")


def test_cache_names_are_those_of_tiktoken() -> None:
    encoder_url = gpt2.VOCABULARY_URL.replace("vocab.bpe", "encoder.json")
    assert hashlib.sha1(gpt2.VOCABULARY_URL.encode()).hexdigest() == gpt2.VOCABULARY_FILE
    assert hashlib.sha1(encoder_url.encode()).hexdigest() == gpt2.ENCODER_FILE


def test_no_network_is_said_at_once(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        use_proxy(monkeypatch, closed.getsockname()[1])  # bound, not listening: refused
        start = time.monotonic()
        with pytest.raises(NetworkError) as error:
            load_tokenizer("gpt2")
    assert time.monotonic() - start < 5
    assert str(empty_cache) in error.value.message
    hint = error.value.hint or ""
    assert all(word in hint for word in ("TIKTOKEN_CACHE_DIR", gpt2.VOCABULARY_FILE, gpt2.ENCODER_FILE))


def test_a_silent_network_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpt2._TIMEOUT[0] < 5
    monkeypatch.setattr(gpt2, "_TIMEOUT", (0.2, 0.2))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # connects, and never answers
        use_proxy(monkeypatch, silent.getsockname()[1])
        start = time.monotonic()
        with pytest.raises(NetworkError, match="cannot be fetched"):
            load_tokenizer("gpt2")
    assert time.monotonic() - start < 5


def test_offline_mode_does_not_even_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(requests, "get", None)
    with pytest.raises(NetworkError, match="HF_HUB_OFFLINE"):
        load_tokenizer("gpt2")


def test_what_was_fetched_is_kept(served: dict[str, bytes], empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_tokenizer("gpt2")
    assert tokenizer.encode(" th##") == [257, 258]
    assert (tokenizer.vocab_size, tokenizer.eot_id) == (260, 259)
    assert [file.name for file in empty_cache.iterdir()] == [gpt2.VOCABULARY_FILE]
    monkeypatch.setattr(requests, "get", None)
    assert load_tokenizer("gpt2").fingerprint == tokenizer.fingerprint


def test_a_damaged_cache_is_fetched_anew(served: dict[str, bytes], empty_cache: Path) -> None:
    empty_cache.mkdir()
    (empty_cache / gpt2.VOCABULARY_FILE).write_bytes(FAKE[:-3])
    assert load_tokenizer("gpt2").vocab_size == 260
    assert (empty_cache / gpt2.VOCABULARY_FILE).read_bytes() == FAKE


def test_a_damaged_cache_is_not_deleted_without_a_better_one(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_cache.mkdir()
    (empty_cache / gpt2.VOCABULARY_FILE).write_bytes(FAKE)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NetworkError):
        load_tokenizer("gpt2")
    assert (empty_cache / gpt2.VOCABULARY_FILE).read_bytes() == FAKE


def test_an_answer_that_is_something_else_is_not_used(served: dict[str, bytes], empty_cache: Path) -> None:
    served["content"] = b"<html>Please log in</html>"
    with pytest.raises(NetworkError, match="something else"):
        load_tokenizer("gpt2")
    assert not empty_cache.exists()


def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(served: dict[str, bytes], empty_cache: Path) -> None:
    empty_cache.write_text("a file where the folder should be")
    assert load_tokenizer("gpt2").vocab_size == 260


def test_an_empty_name_switches_the_cache_off(served: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    assert load_tokenizer("gpt2").vocab_size == 260
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NetworkError, match="TIKTOKEN_CACHE_DIR"):
        load_tokenizer("gpt2")
