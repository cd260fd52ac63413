"""Upload of a model folder to the hub: only the files of the model, and every refusal in one line.

What can be known without the network is checked before it is touched, and whether the hub can be reached and knows the
user before anything is sent: the library's own retries take half a minute to say no.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nano_gpt.checkpoint.remote import check_repo_id, hub_error, network_errors
from nano_gpt.checkpoint.source import checkpoint_folder, load_model
from nano_gpt.checkpoint.sums import check_sums
from nano_gpt.errors import ConfigError
from nano_gpt.hub.export import export, export_files, is_export, strangers
from nano_gpt.runtime.logs import logger

# Seconds: to connect, and to wait for an answer. A commit of many files takes the hub a minute or two.
_PROBE_TIMEOUT, _CONNECT_TIMEOUT, _COMMIT_TIMEOUT = 10.0, 10.0, 300.0


def upload(folder: Path, repo_id: str, *, private: bool = False, message: str | None = None) -> str:
    """Create `repo_id` if it is new, send the model files of `folder` in one commit; returns the address of the model.

    An export goes as it is; a run, a checkpoint or another tool's folder is exported on the way, with a model card, so
    that optimizer state and logs stay here. Files that are already there, equal, are not sent again. Raises ConfigError
    for an impossible `repo_id`, CheckpointError for a folder that is no model, NetworkError for everything else.
    """
    check_repo_id(repo_id)
    source = folder if is_export(folder) else checkpoint_folder(folder)
    doing = f"uploading to {repo_id}"
    user = _whoami(doing)
    with _exported(source) as ready:
        names = export_files(ready)
        size = sum((ready / name).stat().st_size for name in names)
        logger.info(f"{doing} as {user}: {len(names)} files, {size / 1e6:.1f} MB")
        return _send(ready, names, repo_id, private, message or "Upload a GPT-2 with nano-gpt", doing)


@contextmanager
def _exported(source: Path) -> Iterator[Path]:
    """An export of `source`: itself, if it is one and undamaged, or else a temporary one."""
    if is_export(source):
        check_sums(source)
        if left_out := strangers(source):
            logger.info(f"not part of the model, so not uploaded: {', '.join(left_out)}")
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="nano-gpt-") as scratch:
        loaded = load_model(checkpoint=source)
        if loaded.adapter:
            logger.info(f"adapters are merged for the upload, into a whole model: {loaded.origin}")
        report = export(loaded, Path(scratch) / "export")
        logger.info(f"exported {source} for the upload; largest logit difference {report.largest_difference:.1e}")
        yield report.folder


def _whoami(doing: str) -> str:
    """The user's name at the hub, in seconds, or the reason why there is none."""
    from huggingface_hub import HfApi, get_session

    get_session().timeout = _PROBE_TIMEOUT
    try:
        return str(HfApi().whoami().get("name"))
    except network_errors() as error:
        raise hub_error(error, doing) from error
    finally:
        get_session().timeout = (_CONNECT_TIMEOUT, _COMMIT_TIMEOUT, _COMMIT_TIMEOUT, None)


def _send(folder: Path, names: list[str], repo_id: str, private: bool, message: str, doing: str) -> str:
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        if private and not api.model_info(repo_id).private:  # exist_ok leaves an older, public one as it is
            raise ConfigError(
                f"{repo_id} exists and is public", "make it private in its settings, or choose another name"
            )
        api.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=names, commit_message=message)
    except network_errors() as error:
        raise hub_error(error, doing) from error
    return str(url)
