"""How we talk to the hub: quietly, with an end to every wait, and with one clear line for whatever goes wrong."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from nano_gpt.data.sources.network import within
from nano_gpt.errors import DataError, NanoGPTError, NetworkError
from nano_gpt.runtime.logs import logger

CONVERTED = "refs/convert/parquet"
"""The branch in which the hub keeps as parquet what it could convert."""
_FIRST_CONTACT_SECONDS = 4.0
_TRIES, _PAUSE_SECONDS = 6, 4.0
_TELL_SECONDS = 60.0
_LOG_IN = "hf auth login"
T = TypeVar("T")


def newest_commit(repository: str, branch: str | None = None) -> str:
    """The commit that the hub shows first, on `branch` or by default.

    Raises NetworkError within five seconds, DataError where there is no such dataset for this user.
    """
    from huggingface_hub import HfApi

    quiet()
    with told(repository):
        sha = within(
            _FIRST_CONTACT_SECONDS,
            lambda: HfApi().dataset_info(repository, revision=branch, expand=["sha"], timeout=4).sha,
        )
    assert sha is not None
    return sha


def patiently(request: Callable[[], T]) -> T:
    """The value of a request that the client itself makes only once, tried again while there is no network.

    Reading a file needs none of this: the client tries six times, over 23 seconds and the time that failing takes.
    """
    import httpx2

    for _ in range(_TRIES - 1):
        try:
            return request()
        except httpx2.TransportError:
            _tell_waiting()
            time.sleep(_PAUSE_SECONDS)
    return request()


@contextmanager
def told(repository: str, path: str | None = None, *, reading: bool = False) -> Iterator[None]:
    """What the clients raise becomes one line with a remedy: about the network, the hub, or what is in the file `path`.

    `reading`: the preparation is on its way already.
    """
    try:
        yield
    except NanoGPTError:
        raise
    except Exception as error:
        known = _refused(repository, error, reading) or _unreadable(repository, path, error)
        if known is None:
            raise
        raise known from error


def _refused(repository: str, error: Exception, reading: bool) -> NanoGPTError | None:
    import httpx2
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    hint = (
        "what is finished is kept: the same command goes on from there"
        if reading
        else "prepare it where there is a network and copy the folder, or use your own text: --files PATH"
    )
    page = f"{constants.ENDPOINT}/datasets/{repository}"
    cause: BaseException | None = error
    while cause is not None:  # `datasets` and pyarrow put their own around what the network raised
        if isinstance(cause, OfflineModeIsEnabled):
            return NetworkError(f"{repository} must come from the hub, and HF_HUB_OFFLINE is set", hint)
        if isinstance(cause, GatedRepoError):
            return DataError(
                f"{repository} is gated: its owners say who may read it", f"ask for access at {page}, then: {_LOG_IN}"
            )
        if isinstance(cause, RepositoryNotFoundError):
            return DataError(
                f"the hub has no dataset {repository}, or does not show it to you",
                f"check the name; if it is private: {_LOG_IN}",
            )
        if isinstance(cause, RevisionNotFoundError):
            return DataError(
                f"{repository} no longer has the revision that this preparation began with", "begin anew: --overwrite"
            )
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            if status in (401, 403):
                hint = f"log in with a token that may read it, {_LOG_IN}; if it has terms, accept them at {page}"
            elif status == 429:
                hint = f"wait some minutes and run the same command again; {_LOG_IN} lets more requests in"
            return NetworkError(f"the hub refused {repository}: {status}", hint)
        if isinstance(cause, httpx2.HTTPError | ConnectionError | TimeoutError):
            what = "lost the connection to" if reading else "cannot reach"
            return NetworkError(f"{what} {constants.ENDPOINT} for {repository}: {cause}", hint)
        cause = cause.__cause__
    if type(error).__name__ == "DatasetNotFoundError":  # of `datasets`, which drops the cause
        return DataError(str(error), f"check the name; if it is private or gated: {_LOG_IN}")
    return None


def _unreadable(repository: str, path: str | None, error: Exception) -> NanoGPTError | None:
    import pyarrow as pa
    import yaml

    if isinstance(error, yaml.YAMLError):
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        return DataError(
            f"{repository}: the head of its README.md, which says what there is to read, is no YAML: {reason}",
            "its owner can mend it; or look for another upload of the same data",
        )
    client = sys.modules.get("datasets")
    kinds = (ValueError, TypeError, RuntimeError, NotImplementedError, FileNotFoundError, pa.lib.ArrowException)
    if not isinstance(error, kinds) and not (client and isinstance(error, client.exceptions.DatasetsError)):
        return None
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return DataError(f"{repository}{f': {path}' if path else ''} cannot be read: {reason}")


def quiet() -> None:
    """No progress bars and warnings of the client on the terminal; of its retries, one line a minute."""
    from huggingface_hub import utils

    utils.disable_progress_bars()  # type: ignore[attr-defined]  # in __init__, but not in __all__
    _listen("huggingface_hub")


def datasets_client() -> Any:
    """The `datasets` package, quiet, and without its own rounds of waiting: twenty of those of huggingface_hub."""
    import datasets

    quiet()
    datasets.disable_progress_bars()
    _listen("datasets")
    datasets.config.STREAMING_READ_MAX_RETRIES = 1
    datasets.config.STREAMING_READ_RETRY_INTERVAL = 0
    datasets.config.STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL = 0
    datasets.config.STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL = 0
    datasets.config.STREAMING_OPEN_MAX_RETRIES = _TRIES
    datasets.config.STREAMING_OPEN_RETRY_INTERVAL = _PAUSE_SECONDS
    return datasets


def _listen(name: str) -> None:
    client = logging.getLogger(name)
    if not any(isinstance(handler, _Client) for handler in client.handlers):
        client.handlers[:] = [_Client()]
        client.propagate = False


class _Client(logging.Handler):
    """What the clients log: that they wait is told, the rest is for --debug."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        logger.debug(f"{record.name}: {message}")
        if "etrying in" in message:
            _tell_waiting()


_told_at = -_TELL_SECONDS


def _tell_waiting() -> None:
    global _told_at
    if time.monotonic() - _told_at >= _TELL_SECONDS:
        _told_at = time.monotonic()
        logger.warning("network: the hub does not answer; trying again for half a minute")
