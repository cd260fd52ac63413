"""GPT-2's vocabulary: from tiktoken's cache, or fetched into it once.

Of the two files that OpenAI published, vocab.bpe (merges in order) determines everything; encoder.json repeats it.
tiktoken itself would read both, delete a cached file that is damaged, and wait for a silent network without end, so
the one file is read here, under tiktoken's name for it and checked by tiktoken's sha256.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import uuid
from pathlib import Path

from nano_gpt.errors import NetworkError
from nano_gpt.runtime.logs import logger
from nano_gpt.tokenizer.bpe import ByteLevelBPE
from nano_gpt.tokenizer.hf_files import BYTE_ORDER, parse_merges

VOCABULARY_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe"
VOCABULARY_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
# tiktoken names a cached file by the sha1 of its address.
VOCABULARY_FILE = "6d1cbeee0f20b3d9449abfede4726ed8212e3aee"
ENCODER_FILE = "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6"
_TIMEOUT = (3.0, 10.0)  # seconds to connect, and between two packets


def load_gpt2() -> ByteLevelBPE:
    """The tokenizer of every GPT-2. Raises NetworkError where its vocabulary is neither cached nor reachable."""
    folder = cache_folder()
    content = _read_cached(folder)
    if content is None:
        content = _fetch(folder)
        _write_cached(folder, content)
    merges = parse_merges(content.decode("utf-8"))
    ranks = {token: rank for rank, token in enumerate([*BYTE_ORDER, *(first + second for first, second in merges)])}
    return ByteLevelBPE(ranks, merges, eot_id=len(ranks))


def cache_folder() -> Path | None:
    """Where tiktoken keeps vocabularies; None where the user has switched its cache off by an empty name."""
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if variable in os.environ:
            return Path(os.environ[variable]) if os.environ[variable] else None
    return Path(tempfile.gettempdir()) / "data-gym-cache"


def _read_cached(folder: Path | None) -> bytes | None:
    if folder is None or not (folder / VOCABULARY_FILE).is_file():
        return None
    content = (folder / VOCABULARY_FILE).read_bytes()
    if _is_vocabulary(content):
        return content
    logger.warning(
        f"{folder / VOCABULARY_FILE} is damaged (its sha256 is not that of GPT-2's vocab.bpe): fetching it anew"
    )
    return None


def _fetch(folder: Path | None) -> bytes:
    import requests  # tiktoken brings it

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise _not_available(folder, "HF_HUB_OFFLINE forbids to fetch it")
    try:
        response = requests.get(VOCABULARY_URL, timeout=_TIMEOUT)
        response.raise_for_status()
    except requests.RequestException as error:
        raise _not_available(folder, f"it cannot be fetched ({type(error).__name__})") from None
    if not _is_vocabulary(response.content):
        raise _not_available(folder, "what the network answers is something else (a proxy's page?)")
    return response.content


def _write_cached(folder: Path | None, content: bytes) -> None:
    """For the next time. Several ranks may write at once, and a cache that cannot be written is no reason to stop."""
    if folder is None:
        return
    temporary = folder / f".tmp-{VOCABULARY_FILE}-{uuid.uuid4()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(folder / VOCABULARY_FILE)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        logger.warning(f"GPT-2's vocabulary could not be kept in {folder}: {error.strerror}")


def _is_vocabulary(content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == VOCABULARY_SHA256


def _not_available(folder: Path | None, reason: str) -> NetworkError:
    place = "TIKTOKEN_CACHE_DIR (which is empty)" if folder is None else str(folder)
    return NetworkError(
        f"GPT-2's vocabulary is not in {place}, and {reason}",
        "where there is a network, run: TIKTOKEN_CACHE_DIR=vocabulary python -c "
        "\"import tiktoken; tiktoken.get_encoding('gpt2')\"; bring the folder here with its two files, "
        f"{VOCABULARY_FILE} (vocab.bpe) and {ENCODER_FILE} (encoder.json), and set TIKTOKEN_CACHE_DIR to it",
    )
