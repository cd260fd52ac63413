"""What a source of documents is. `local_files.py`, `hub.py` and the built-in corpora are the sources there are.

A source is cut into parts, which are read independently, by any number of processes on any number of machines. The
parts and their texts are a function of the source alone, never of the machine: that is what makes a prepared set the
same whoever prepares it, and lets preparing stop anywhere and go on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from nano_gpt.config.data import DataConfig
from nano_gpt.data.catalog import DatasetInfo
from nano_gpt.data.sources.texts import Text

Split = Literal["train", "validation"]
State = dict[str, Any]  # JSON; a place within a part, in the source's own terms
Options = dict[str, str | int | float | None]


class Part(BaseModel):
    """A stretch of a source that is read on its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    where: dict[str, str | int | None] = {}
    """Which stretch, in the source's own terms."""
    split: Split | None = None
    """The split that the source itself puts these texts in; None leaves it to `splitting.py`."""
    size: int | None = None
    """About how many bytes of text, for progress; None where nobody knows."""


class Source(ABC):
    """The documents of one dataset.

    `info` and `config` say what is asked for. `revision` is that of a preparation which is gone on with, or of the
    process that this worker helps: a source whose text can change under the same name keeps to it, and one that has to
    read everything to compute it does not do so again.
    """

    def __init__(self, info: DatasetInfo, config: DataConfig, revision: str | None = None) -> None:
        self.info = info
        self.config = config

    @property
    @abstractmethod
    def revision(self) -> str:
        """Changes whenever the text does."""

    @property
    def options(self) -> Options:
        """The settings of its own kind that determine which texts come out."""
        return {}

    @property
    def validation_fraction(self) -> float | None:
        """Share of the documents that are kept for validation; None where every part says its split."""
        return self.config.validation_fraction or self.info.validation_fraction

    @property
    def download_size(self) -> int | None:
        """Bytes that reading all of it fetches over the network; None where nobody knows."""
        return 0

    @property
    def is_at_hand(self) -> bool:
        """Whether reading can begin without downloading all of it first."""
        return True

    @abstractmethod
    def parts(self) -> list[Part]:
        """All of the source, in order."""

    @abstractmethod
    def read(self, part: Part, state: State | None = None) -> Iterator[Text]:
        """The texts of a part in order, or those after the point where `state` was taken."""

    def state(self) -> State | None:
        """Where `read` stands: after the text that it yielded last. None where skipping from the start is as good."""
        return None
