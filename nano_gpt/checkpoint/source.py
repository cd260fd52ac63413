"""What a user means by "that model": one parser for every way to name one.

--checkpoint   a run folder (its newest checkpoint), a checkpoint folder, or a peer's file
--pretrained   gpt2 .. gpt2-xl, any of these, or a hub id user/name
--model        a preset, with untrained weights

What a folder says of its own files is compared with them first: of a run's checkpoint the manifest, of an export its
SHA256SUMS. For GPT-2 124M that takes 0.3 s (AMD EPYC), of more than four before `sample` says a word. A folder of
someone else has neither, and what comes from the hub is its client's care.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nano_gpt.checkpoint.adapter import ADAPTER_CONFIG, SavedAdapter, is_adapter_folder, merge, read_adapter
from nano_gpt.checkpoint.folder import CONFIG, TOKENIZER_FILES, WEIGHTS, is_model_folder, read_json, read_model_folder
from nano_gpt.checkpoint.foreign.reading import is_foreign, read_foreign
from nano_gpt.checkpoint.remote import check_repo_id, download
from nano_gpt.checkpoint.store import MANIFEST, SETTINGS, STATE, checkpoints_of, verify
from nano_gpt.checkpoint.sums import SUMS, check_sums
from nano_gpt.checkpoint.vocabulary import with_tokenizer
from nano_gpt.config.loading import build
from nano_gpt.config.model import GPTConfig
from nano_gpt.config.presets import PRESETS, preset_values
from nano_gpt.errors import CheckpointError, ConfigError, NanoGPTError
from nano_gpt.model.gpt import GPT
from nano_gpt.model.outline import shapes_only
from nano_gpt.runtime.logs import logger
from nano_gpt.runtime.seeding import derive_seed
from nano_gpt.tokenizer import load_tokenizer
from nano_gpt.tokenizer.base import Tokenizer

GPT2_NAMES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
RUNS = Path("runs")


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer, and where they came from."""

    model: GPT
    tokenizer: Tokenizer
    origin: str
    """What was loaded, in words for a log line."""
    folder: Path | None = None
    """The model folder on this machine, if there is one."""
    trainer_state: dict[str, Any] | None = None
    """What training/state.json says (step, validation_loss, ...), where the folder is a checkpoint of a run."""
    repo_id: str | None = None
    """The hub repository that it came from, if it did."""
    adapter: bool = False
    """Whether `folder` holds adapters, which are merged into `model`."""

    def to(self, device: torch.device | str) -> LoadedModel:
        self.model.to(device)
        return self


def load_model(
    pretrained: str | None = None,
    *,
    checkpoint: Path | str | None = None,
    preset: str | None = None,
    tokenizer: str | None = None,
    adapter: Path | str | None = None,
    sequence_length: int | None = None,
    seed: int = 1337,
    device: torch.device | str = "cpu",
) -> LoadedModel:
    """At most one of the three names a model; none means the newest run in runs/, or else the hub's gpt2.

    Weights are fp32 and the model is in eval mode. `tokenizer` is that of a model which comes without one (None:
    GPT-2's, where it fits). `adapter` is a folder or a run with adapters, which are merged into the model.
    `sequence_length` shortens its context; `seed` is that of a preset's untrained weights. Raises CheckpointError for
    what is missing or damaged, ConfigError for an unknown preset or a context that the model does not have,
    NetworkError when the hub is needed and cannot be reached.
    """
    given = [name for name in (pretrained, checkpoint, preset) if name]
    if len(given) > 1:
        raise CheckpointError(f"more than one model is named: {', '.join(map(str, given))}", "name one")
    if checkpoint:
        loaded = _from_path(Path(checkpoint), tokenizer)
    elif preset:
        loaded = _untrained(preset, seed, tokenizer)
    elif pretrained is None and (run := newest_run()) is not None:
        logger.info(f"model: the newest run, {run}")
        loaded = _from_path(run, tokenizer)
    else:
        loaded = _pretrained(pretrained or "gpt2", tokenizer)
    if adapter is not None:
        folder = checkpoint_folder(Path(adapter))
        _check_files(folder)
        model = merge(loaded.model, read_adapter(folder))
        loaded = replace(loaded, model=model, origin=f"{folder} on {loaded.origin}", folder=folder, adapter=True)
    if sequence_length is not None:
        loaded = replace(loaded, model=_shortened(loaded.model, sequence_length))
    return loaded.to(device)


def newest_run(runs: Path = RUNS) -> Path | None:
    """The run folder whose checkpoint was written last."""
    pointers = {run: checkpoints_of(run) / "latest" for run in runs.glob("*") if run.is_dir()}
    written = {run: pointer.stat().st_mtime for run, pointer in pointers.items() if pointer.is_file()}
    return max(written, key=lambda run: written[run]) if written else None


def checkpoint_folder(path: Path) -> Path:
    """A run folder, its checkpoints folder, a pointer in it or a checkpoint -> the checkpoint's folder."""
    if not path.exists():
        raise CheckpointError(f"there is no {path}")
    if _is_checkpoint(path):
        return path
    for pointer in (path, path / "latest", checkpoints_of(path) / "latest"):
        if pointer.is_file():
            return _pointed_to(pointer)
    if (path / SETTINGS).is_file():
        raise CheckpointError(
            f"the run {path} has no checkpoint in {checkpoints_of(path)}", f"nano-gpt train --resume {path} goes on"
        )
    peers = sorted(file for file in path.glob("*.*") if file.suffix in (".pt", ".bin") and is_foreign(file))
    raise CheckpointError(
        f"{path} is not a checkpoint: neither a run folder nor a folder with {CONFIG} and {WEIGHTS}",
        f"of another trainer, name the file: {peers[-1]}"
        if peers
        else "a run's checkpoints are in runs/NAME/checkpoints/step_NNNNNN",
    )


def _is_checkpoint(path: Path) -> bool:
    return is_model_folder(path) or is_adapter_folder(path)


def _pointed_to(pointer: Path) -> Path:
    """`latest` and `best` hold one line: the name of a checkpoint beside them."""
    with pointer.open("rb") as file:
        name = file.read(256).strip().decode("utf-8", errors="replace")
    if not name or not name.isprintable() or Path(name).name != name:
        raise CheckpointError(
            f"{pointer} is not a checkpoint folder, nor does it name one",
            "name the folder, or a file of nanoGPT, build-nanogpt, llm.c or allenporter/nano-gpt",
        )
    target = pointer.parent / name
    if not _is_checkpoint(target):
        raise CheckpointError(f"{pointer} names {target}, which is not a checkpoint", f"ls {pointer.parent}")
    return target


def _from_path(path: Path, tokenizer: str | None) -> LoadedModel:
    """A peer's file, or whatever `checkpoint_folder` takes."""
    if not is_foreign(path):
        return _from_folder(checkpoint_folder(path), tokenizer)
    model, found = with_tokenizer(read_foreign(path), tokenizer, str(path))
    return LoadedModel(model, found, str(path))


def _from_folder(folder: Path, asked: str | None, repo_id: str | None = None) -> LoadedModel:
    _check_files(folder)
    try:
        state = read_json(folder / STATE)
    except FileNotFoundError:
        state = None
    if is_adapter_folder(folder):
        adapters = _adapters(folder)
        base = _base(adapters[-1], asked)
        for saved in reversed(adapters):
            merge(base.model, saved)
        origin = " on ".join([*(str(saved.folder) for saved in adapters), base.origin])
        return LoadedModel(base.model, base.tokenizer, origin, folder, state, adapter=True)
    model, origin = read_model_folder(folder), repo_id or str(folder)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        model, tokenizer = with_tokenizer(model, asked, origin)
        return LoadedModel(model, tokenizer, origin, folder, state, repo_id)
    tokenizer, rows = load_tokenizer(folder), model.config.vocab_size or 0
    if asked is not None and load_tokenizer(asked).fingerprint != tokenizer.fingerprint:
        raise CheckpointError(f"{origin} has a tokenizer of its own, which is not {asked}", "leave out --tokenizer")
    if tokenizer.vocab_size > rows:
        raise CheckpointError(
            f"{folder}: its tokenizer has {tokenizer.vocab_size} ids and its model {rows}", "they are not of one model"
        )
    return LoadedModel(model, tokenizer, origin, folder, state, repo_id)


def _adapters(folder: Path) -> list[SavedAdapter]:
    """Those of `folder`, and of what they adapt where that is adapters too, and so on down to a model.

    Raises CheckpointError where they adapt each other.
    """
    found = [read_adapter(folder)]
    while (below := _adapters_below(found[-1])) is not None:
        if any(below.samefile(saved.folder) for saved in found):
            raise CheckpointError(
                f"{below} adapts itself: the base that {ADAPTER_CONFIG} names leads back to it",
                f"name the model: --pretrained BASE --adapter {folder}",
            )
        _check_files(below)
        found.append(read_adapter(below))
    return found


def _adapters_below(saved: SavedAdapter) -> Path | None:
    try:
        folder = checkpoint_folder(Path(saved.base))
    except (CheckpointError, OSError):  # a peer's file, a hub id, or nothing: who opens it tells
        return None
    return folder if is_adapter_folder(folder) else None


def _base(saved: SavedAdapter, tokenizer: str | None) -> LoadedModel:
    try:
        return load_model(saved.base, tokenizer=tokenizer)
    except (NanoGPTError, OSError) as error:
        reason, hint = (error.message, error.hint) if isinstance(error, NanoGPTError) else (error.strerror, None)
        if isinstance(error, CheckpointError) and not Path(saved.base).exists():
            hint = (
                f"from elsewhere, sample, eval and export take it by --pretrained BASE --adapter {saved.folder}; "
                "it must be those very weights, and no other checkpoint of their run"
            )
        raise CheckpointError(
            f"{saved.folder} holds adapters, and the model that they adapt cannot be opened: {reason}", hint
        ) from None


def _check_files(folder: Path) -> None:
    """As far as the folder says of its files what they are. Raises CheckpointError for the first that is not so."""
    try:
        if (folder / SUMS).is_file():
            check_sums(folder)
        for checkpoint in {folder, folder.parent}:  # its `ema` is a model folder too
            if (checkpoint / MANIFEST).is_file():
                verify(checkpoint, model=folder)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror or error}") from None


def _shortened(model: GPT, sequence_length: int) -> GPT:
    """The same model with its first positions only: what it says of short texts does not change."""
    if sequence_length > model.config.n_positions:
        raise ConfigError(
            f"a sequence length of {sequence_length} is more than the model's {model.config.n_positions} positions",
            "shorten it; a longer context has to be trained",
        )
    config = model.config.model_copy(update={"n_positions": sequence_length})
    with shapes_only():
        shorter = GPT(config)
    state = model.state_dict()
    if config.positions == "learned":
        state["wpe.weight"] = state["wpe.weight"][:sequence_length].clone()
    shorter.load_state_dict(state, assign=True)
    return shorter.eval()


def _untrained(preset: str, seed: int, asked: str | None) -> LoadedModel:
    shape = preset_values(preset)["model"]
    tokenizer = load_tokenizer(asked or "gpt2")
    torch.manual_seed(derive_seed(seed, "weights"))
    logger.info(f"model: {preset} with untrained weights")
    return LoadedModel(
        GPT(build(GPTConfig, {**shape, "vocab_size": tokenizer.vocab_size})).eval(), tokenizer, f"untrained {preset}"
    )


def _pretrained(name: str, tokenizer: str | None) -> LoadedModel:
    if Path(name).exists():
        return _from_path(Path(name), tokenizer)
    if name in PRESETS and name not in GPT2_NAMES:
        raise CheckpointError(f"there are no published weights for {name!r}", f"published: {', '.join(GPT2_NAMES)}")
    kind = "file" if name.endswith((".pt", ".bin")) else "folder"
    if name not in GPT2_NAMES and (kind == "file" or name.startswith((".", "/", "~")) or name.count("/") != 1):
        raise CheckpointError(f"there is no {kind} {name}", "a hub id looks like user/name; GPT-2 is gpt2 .. gpt2-xl")
    repo_id = f"openai-community/{name}" if name in GPT2_NAMES else name
    check_repo_id(repo_id)
    return _from_folder(download(repo_id), tokenizer, repo_id)
