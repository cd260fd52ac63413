"""FineWeb-Edu, the sample of 10 billion tokens (Penedo et al. 2024), streamed from the hub with `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nano_gpt.config.data import DataConfig
from nano_gpt.data.catalog import DatasetInfo
from nano_gpt.data.network import within
from nano_gpt.data.sources import Options, State, TextSource
from nano_gpt.errors import NetworkError

REPOSITORY = "HuggingFaceFW/fineweb-edu"
SAMPLE = "sample-10BT"
COLUMN = "text"


class FineWebEdu(TextSource):
    """Its revision is the commit that the hub has when preparing begins; going on keeps to that one."""

    size = 45_000_000_000

    def __init__(self, info: DatasetInfo, config: DataConfig, revision: str | None = None) -> None:
        super().__init__(info, config, revision)
        self._revision = revision
        self._stream: Any = None

    @property
    def revision(self) -> str:
        if self._revision is None:
            self._revision = newest_commit(REPOSITORY)
        return self._revision

    @property
    def options(self) -> Options:
        return {**super().options, "sample": SAMPLE}

    def texts(self, state: State | None = None) -> Iterator[str]:
        import datasets
        import httpx2

        newest_commit(REPOSITORY)  # is there a network? datasets itself takes 23 seconds to find out
        try:
            stream = datasets.load_dataset(
                REPOSITORY, SAMPLE, split="train", streaming=True, revision=self.revision
            ).select_columns([COLUMN])
            if state is not None:
                stream.load_state_dict(state)
            self._stream = stream
            for row in stream:
                yield row[COLUMN]
        except (httpx2.HTTPError, OSError) as error:
            raise NetworkError(
                f"lost the connection to {REPOSITORY}: {error}",
                "shards that are finished are kept: run the same command again to go on",
            ) from None

    def state(self) -> State | None:
        return None if self._stream is None else dict(self._stream.state_dict())


def newest_commit(repository: str) -> str:
    """The commit that the hub shows first. Raises NetworkError within five seconds."""
    import httpx2
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    hint = "prepare it where there is a network and copy the folder, or use your own text: --files PATH"
    try:
        sha = within(4.5, lambda: HfApi().dataset_info(repository, timeout=4).sha)
    except OfflineModeIsEnabled:
        raise NetworkError(f"{repository} must come from the hub, and HF_HUB_OFFLINE is set", hint) from None
    except HfHubHTTPError as error:
        raise NetworkError(f"the hub refused {repository}: {error.response.status_code}", hint) from None
    except (httpx2.HTTPError, OSError) as error:
        raise NetworkError(f"cannot reach {constants.ENDPOINT} for {repository}: {error}", hint) from None
    assert sha is not None
    return sha
