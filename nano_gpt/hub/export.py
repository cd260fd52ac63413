"""Export: a folder that opens everywhere, and the proof that it does.

    model.safetensors  config.json  generation_config.json  + tokenizer files  README.md  SHA256SUMS
    .eval_results/hellaswag.yaml, where the run has scored it

Written aside; loaded from there by `transformers`, as a stranger would; compared with our own model; only then given
its name. So a folder that is there is whole, and right. At most two copies of the weights are in memory at a time; a
third one while bf16 or fp16 is compared, for our model as rounding leaves it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nano_gpt.checkpoint.evaluations import EVALUATIONS
from nano_gpt.checkpoint.folder import MODEL_FILES, is_model_folder, write_model_folder
from nano_gpt.checkpoint.source import LoadedModel
from nano_gpt.checkpoint.sums import SUMS, write_sums
from nano_gpt.errors import CheckpointError
from nano_gpt.hub.card import caution, eval_results, model_card
from nano_gpt.hub.precision import DTYPES, Precision, cast
from nano_gpt.hub.verify import compare_with_transformers
from nano_gpt.runtime.files import atomic_directory
from nano_gpt.runtime.logs import logger

README = "README.md"
EXPORT_FILES = (*MODEL_FILES, README, SUMS)
RESULTS = ".eval_results/hellaswag.yaml"


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how far its logits are from ours."""

    folder: Path
    files: dict[str, int]
    """Name -> bytes."""
    largest_difference: float
    """Largest absolute difference of a logit between `transformers` on this folder and our model with its weights
    rounded likewise, both computing in fp32."""
    compared_tokens: int
    """Length of the text on which they were compared."""


def export(
    loaded: LoadedModel, folder: Path, *, precision: Precision = "fp32", overwrite: bool = False
) -> ExportReport:
    """Write `loaded` as a plain model folder with weights in `precision`, verified with `transformers`.

    Raises CheckpointError, with nothing left behind, where the target exists (unless `overwrite` and it holds nothing
    but a model), is the source, where a weight does not fit `precision`, or where what was written does not load,
    round-trip and agree.
    """
    target = folder.resolve()
    _check_target(target, loaded.folder, overwrite=overwrite)
    if (warning := caution(loaded.model.config)) is not None:
        logger.warning(warning)
    state = {name: cast(name, tensor, precision) for name, tensor in loaded.model.state_dict().items()}
    dtype = DTYPES[precision]
    try:
        with atomic_directory(target) as temporary:
            stored = {"dtype": str(dtype).removeprefix("torch.")}  # as config.json names it
            write_model_folder(temporary, loaded.model.config, state, loaded.tokenizer, stored)
            difference, tokens = compare_with_transformers(_rounded(loaded, state, dtype), temporary, dtype)
            (temporary / README).write_text(model_card(loaded), encoding="utf-8")
            if (results := eval_results(loaded)) is not None:
                (temporary / RESULTS).parent.mkdir()
                (temporary / RESULTS).write_text(results, encoding="utf-8")
            # not of the card, which its author goes on writing
            write_sums(temporary, [name for name in export_files(temporary) if name != README])
            files = {name: (temporary / name).stat().st_size for name in export_files(temporary)}
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error.strerror or error}") from error
    return ExportReport(folder, files, difference, tokens)


def _rounded(loaded: LoadedModel, state: dict[str, Tensor], dtype: torch.dtype) -> LoadedModel:
    """`loaded` with the values of `state`, which are of `dtype`, computing in fp32."""
    if dtype == torch.float32:
        return loaded
    model = copy.deepcopy(loaded.model)
    model.load_state_dict(state)
    return replace(loaded, model=model)


def _check_target(target: Path, source: Path | None, *, overwrite: bool) -> None:
    if not target.name:
        raise CheckpointError(f"{target} cannot be replaced by an export", "name a new folder")
    if source is not None and (target.is_relative_to(source.resolve()) or source.resolve().is_relative_to(target)):
        raise CheckpointError(f"the export would replace, or lie in, what is exported: {source}", "name another folder")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not target.is_dir():
        raise CheckpointError(f"{target} is a file", "name another folder")
    if foreign := strangers(target):  # replacing removes: --overwrite must not cost anyone a home directory or a run
        raise CheckpointError(f"{target} exists and holds more than a model: {foreign[0]}", "name a new folder")
    if not overwrite:
        raise CheckpointError(f"{target} exists", "--overwrite replaces it")


def export_files(folder: Path) -> list[str]:
    """The files of an export that are there, sorted."""
    return sorted(name for name in (*EXPORT_FILES, RESULTS) if (folder / name).is_file())


def strangers(folder: Path) -> list[str]:
    """What lies in `folder` and is no part of an export, sorted; scores that `eval` has kept there are ours."""
    entries, results = set(folder.iterdir()), (folder / RESULTS).parent
    if results.is_dir() and not results.is_symlink():
        entries = entries - {results} | set(results.iterdir())
    return sorted({entry.relative_to(folder).as_posix() for entry in entries} - {EVALUATIONS, *export_files(folder)})


def is_export(folder: Path) -> bool:
    """Whether `export` made it (and not a training run, or another tool)."""
    return is_model_folder(folder) and (folder / README).is_file() and (folder / SUMS).is_file()
