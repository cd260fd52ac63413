"""The hub seen from here: fetching a model folder, and what its refusals mean.

Every request of `huggingface_hub` can fail in a dozen ways, each an exception of its own with a page of text;
`hub_error` makes one line of each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from nano_gpt.checkpoint.folder import CONFIG, MODEL_FILES, is_model_folder
from nano_gpt.errors import CheckpointError, ConfigError, NetworkError
from nano_gpt.runtime.logs import logger

_MEANING = {
    401: ("does not accept the token, or wants one", "hf auth login (HF_TOKEN, where it is set, comes first)"),
    403: ("does not allow this token to do that", "check the user name, and that the token may write: hf auth login"),
    404: ("has no such repository, or not for this token", "check the name; a private one needs hf auth login"),
    409: ("says that somebody changed the repository meanwhile", "run the command again"),
    429: ("has had too many requests", "wait some minutes, then run the command again"),
}
# By name, because these classes are of the HTTP library that huggingface_hub happens to use.
_UNREACHABLE = {"ConnectError", "ConnectTimeout", "ProxyError"}
_CUT = {"ReadTimeout", "WriteTimeout", "ReadError", "WriteError", "RemoteProtocolError", "ConnectionResetError"}

# hf_xet, which moves large files, tells an HTTP status in words only: "HTTP status client error (401 Unauthorized)".
_XET_STATUS = re.compile(r"HTTP status \w+ error \((\d{3})")
_XET_CUT = ("error sending request", "connection closed", "connection reset")


def check_repo_id(name: str) -> None:
    """Raises ConfigError unless `name` is a `user/name` that the hub can have."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    reason = None if name.count("/") == 1 else "it is not of the form user/name"
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        reason = reason or _one_line(str(error)).rstrip(".")
    if reason:
        raise ConfigError(f"{name!r} cannot be a hub id: {reason}", "user/name, of letters, digits, '-', '_' and '.'")


def download(repo_id: str) -> Path:
    """The model files of a hub repository, from the local cache where they are there already.

    Raises CheckpointError where there is no such model, NetworkError where the hub cannot be asked.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    logger.info(f"model: {repo_id} from the hub, or from its cache on this machine")
    try:
        folder = Path(snapshot_download(repo_id, allow_patterns=list(MODEL_FILES)))
    except network_errors() as error:
        refused = next((e for e in _chain(error) if isinstance(e, HfHubHTTPError)), None)
        if refused is not None and refused.response.status_code in (401, 404):
            raise CheckpointError(
                f"the hub has no model {repo_id!r}, or it is private",
                "check the name; for a private one, hf auth login",
            ) from None
        explained = hub_error(error, f"fetching {repo_id}")
        if isinstance(error, LocalEntryNotFoundError) and refused is None:
            explained.hint = (
                f"where there is a network: hf download {repo_id}; then copy the folder, --pretrained FOLDER"
            )
        raise explained from None
    if not is_model_folder(folder):
        has = CONFIG if (folder / CONFIG).is_file() else "nothing of it"
        raise CheckpointError(f"{repo_id} is not a GPT-2 in safetensors: of {', '.join(MODEL_FILES[:2])} it has {has}")
    return folder


def hub_error(error: BaseException, doing: str) -> NetworkError:
    """What `error` means for someone who was `doing` that ("uploading to user/name"), with the remedy."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    for cause in _chain(error):
        if isinstance(cause, OfflineModeIsEnabled):
            return NetworkError(
                f"{doing}: HF_HUB_OFFLINE is set, and it is not on this machine", "unset HF_HUB_OFFLINE"
            )
        if isinstance(cause, LocalTokenNotFoundError):
            return NetworkError(f"{doing}: nobody is logged in to the hub", "hf auth login, or set HF_TOKEN")
        if isinstance(cause, HfHubHTTPError):
            return _refusal(cause.response.status_code, cause.server_message, doing)
        if refused := _XET_STATUS.search(str(cause)):
            return _refusal(int(refused[1]), None, doing)
    names = {type(cause).__name__ for cause in _chain(error)}
    if names & _UNREACHABLE:
        return NetworkError(f"{doing}: {constants.ENDPOINT} cannot be reached", "check the network (and HF_ENDPOINT)")
    if names & _CUT or any(words in str(error).lower() for words in _XET_CUT):
        return NetworkError(f"{doing}: the connection to {constants.ENDPOINT} was cut", "run the command again")
    if isinstance(error, (ValueError, KeyError)) or "error decoding response body" in str(error):
        return NetworkError(
            f"{doing}: {constants.ENDPOINT} does not answer as a hub does", "check HF_ENDPOINT, or a proxy"
        )
    return NetworkError(f"{doing}: {type(error).__name__}: {_one_line(str(error))}", "run the command again")


def _refusal(status: int, server_message: str | None, doing: str) -> NetworkError:
    meaning, hint = _MEANING.get(status, ("refuses", None))
    if status >= 500:
        meaning, hint = "is out of order", "try again later; what has arrived is not sent again"
    said = f": {_one_line('; '.join(server_message.splitlines()))}" if server_message else ""
    return NetworkError(f"{doing}: the hub {meaning} (HTTP {status}){said}", hint)


def network_errors() -> tuple[type[Exception], ...]:
    """What `huggingface_hub` raises when a request fails; its HTTP library is its own business, so taken from there."""
    from huggingface_hub.errors import HfHubHTTPError

    http_error = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    assert issubclass(http_error, Exception)
    # OSError, RuntimeError: hf_xet, which moves large files. ValueError, KeyError: an answer that is not the hub's.
    return (http_error, OSError, RuntimeError, ValueError, KeyError)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what caused it, what caused that."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _one_line(text: str) -> str:
    line = next((line for line in text.splitlines() if line.strip()), "no reason given").strip()
    return "".join(character for character in line if character.isprintable())[:200]
