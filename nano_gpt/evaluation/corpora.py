"""The text on which a loss is taken: the validation split of a prepared set, or a text file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nano_gpt.checkpoint.source import LoadedModel
from nano_gpt.config import DataConfig, RunConfig
from nano_gpt.data.catalog import MANIFEST, prepared_folder
from nano_gpt.data.manifest import PreparedSet, open_prepared
from nano_gpt.data.preparing.prepare import reopen_prepared
from nano_gpt.errors import DataError
from nano_gpt.evaluation.sliding import Read
from nano_gpt.runtime.distributed import from_main
from nano_gpt.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class Corpus:
    """Tokens to score, all but the first."""

    name: str
    read: Read
    tokens: int
    bytes_per_token: float


def text_corpus(file: Path, tokenizer: Tokenizer, max_scored: int | None = None) -> Corpus:
    """All of a file, or its first `max_scored` tokens, as one text after `<|endoftext|>`, which itself is not scored.

    Raises DataError for a file that is missing, empty or not UTF-8, or that the tokenizer cannot spell.
    """
    content = from_main(lambda: _read(file))
    ids = np.concatenate([[tokenizer.eot_id], tokenizer.encode_to_numpy(content)])
    size = len(content.encode())
    if max_scored is not None and max_scored < len(ids) - 1:
        ids = ids[: 1 + max_scored]
        size = len(tokenizer.decode_bytes(ids[1:]))
    return Corpus(file.name, lambda start, stop: ids[start:stop], len(ids), size / (len(ids) - 1))


def _read(file: Path) -> str:
    try:
        content = file.read_bytes().decode("utf-8")
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 at byte {error.start}", f"iconv -t utf-8 {file} converts it") from None
    if not content:
        raise DataError(f"{file} is empty")
    return content


def prepared_corpus(loaded: LoadedModel, config: DataConfig, named: str | None) -> Corpus:
    """The validation split of `config`'s set, prepared if need be, or of the folder that a user `named`.

    Raises DataError where it was made with another tokenizer than the model's.
    """
    by_name = config.dataset_dir / (named or ".")  # as `nano-gpt inspect` lists it
    prepared = (
        open_prepared(by_name)
        if (by_name / MANIFEST).is_file() and not (prepared_folder(config) / MANIFEST).is_file()
        else open_prepared(from_main(lambda: reopen_prepared(config).folder))
    )
    _check_tokenizer(prepared, loaded, config)
    reader = prepared.reader("validation")
    return Corpus(prepared.manifest.dataset, reader.read, len(reader), prepared.bytes_per_token("validation"))


def _check_tokenizer(prepared: PreparedSet, loaded: LoadedModel, config: DataConfig) -> None:
    there, ours = prepared.manifest, loaded.tokenizer
    if there.tokenizer_fingerprint != ours.fingerprint:
        raise DataError(
            f"{prepared.folder} was made with the tokenizer {there.tokenizer} ({there.tokenizer_fingerprint[:12]}), "
            f"the model reads {ours.name} ({ours.fingerprint[:12]})",
            f"prepare it with the model's: nano-gpt prepare_dataset --dataset {config.dataset} "
            f"--tokenizer {loaded.folder or ours.name} --dataset-dir ANOTHER; then eval with that --dataset-dir",
        )


def data_config(
    loaded: LoadedModel, run: RunConfig | None, dataset: str | None, config_name: str | None, dataset_dir: Path | None
) -> DataConfig:
    """The run's own set as the run has it; any other with the model's tokenizer."""
    data = run.data if run else DataConfig()
    changed = {"dataset_dir": dataset_dir} if dataset_dir else {}
    if run and dataset in (None, data.dataset):
        return data.model_copy(update=changed)
    return DataConfig(
        dataset=dataset or "",
        config_name=config_name,
        tokenizer=loaded.tokenizer.name,
        dataset_dir=data.dataset_dir,
    ).model_copy(update=changed)
