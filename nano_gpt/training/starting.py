"""What a run begins with: its prepared set, its weights, and the settings that follow from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nano_gpt.checkpoint.source import LoadedModel, load_model
from nano_gpt.config import GPTConfig, RunConfig, build
from nano_gpt.config.presets import Values
from nano_gpt.data.manifest import PreparedSet, open_prepared
from nano_gpt.data.preparing.prepare import ensure_prepared, reopen_prepared
from nano_gpt.errors import ConfigError
from nano_gpt.model.gpt import GPT
from nano_gpt.runtime import distributed
from nano_gpt.runtime.logs import logger
from nano_gpt.runtime.seeding import derive_seed
from nano_gpt.training.freezing import choose_trained

_SHAPE = tuple(name for name in GPTConfig.model_fields if name != "dropout")  # what weights decide about a model


@dataclass(frozen=True)
class Start:
    """`config` is complete: it says what the set and the weights have decided."""

    config: RunConfig
    prepared: PreparedSet
    weights: dict[str, Tensor] | None
    """Of `training.pretrained`; None: drawn from the seed, or those of a checkpoint."""

    def with_training(self, **changes: Any) -> Start:
        """The same with other settings of `training`."""
        return replace(self, config=_changed(self.config, training=changes))

    def model(self) -> GPT:
        """On the CPU whatever the device, so that a seed means the same weights everywhere."""
        torch.manual_seed(derive_seed(self.config.training.seed, "weights"))
        model = GPT(self.config.model)
        if self.weights is not None:
            model.load_state_dict(self.weights)
        choose_trained(model, self.config.training)
        return model


def find_start(config: RunConfig, *, resume: bool) -> Start:
    """On all ranks; rank 0 prepares and downloads what is missing. Raises NanoGPTError kin for what does not fit."""
    loaded = None
    if config.training.pretrained is not None and (not resume or config.training.lora.rank is not None):
        loaded = _pretrained(config)  # checkpoints of adapters do not hold what they adapt
        config = _with_lasting_base(_like(config, loaded), loaded)
    find = reopen_prepared if resume else ensure_prepared
    prepared = open_prepared(distributed.from_main(lambda: find(config.data).folder))
    if loaded is not None:
        _check_tokenizer(prepared, loaded)
    config = _with_vocabulary(config, prepared)
    return Start(_with_absolute_checkpoint_dir(config), prepared, dict(loaded.model.state_dict()) if loaded else None)


def _pretrained(config: RunConfig) -> LoadedModel:
    """`training.pretrained`, with as many of its positions as are asked for."""
    name = config.training.pretrained
    asked = config.model.n_positions if "n_positions" in config.model.model_fields_set else None
    logger.info(f"start: the weights of {name}")
    if name is not None and Path(name).is_file():  # a peer's, which says nothing of its tokenizer
        return load_model(name, tokenizer=config.data.tokenizer, sequence_length=asked)
    folder = distributed.from_main(lambda: load_model(name).folder)  # downloads it, where that is needed
    return load_model(str(folder), sequence_length=asked)


def _like(config: RunConfig, loaded: LoadedModel) -> RunConfig:
    """The shape, and where nothing else is asked for the tokenizer, are those of the weights."""
    shape: Values = {name: getattr(loaded.model.config, name) for name in _SHAPE}
    tokenizer = config.data.tokenizer or ("gpt2" if loaded.tokenizer.name == "gpt2" else str(loaded.folder))
    return _changed(config, model=shape, data={"tokenizer": tokenizer})


def _with_lasting_base(config: RunConfig, loaded: LoadedModel) -> RunConfig:
    """Adapters need the very weights that they were trained beside, wherever they are resumed or sampled from: the
    checkpoint, where a run was named that may go on."""
    base = config.training.pretrained
    if config.training.lora.rank is None or base is None:
        return config
    place = loaded.repo_id or str((loaded.folder or Path(base)).absolute())
    return _changed(config, training={"pretrained": place})


def _check_tokenizer(prepared: PreparedSet, loaded: LoadedModel) -> None:
    if prepared.tokenizer().fingerprint != loaded.tokenizer.fingerprint:
        raise ConfigError(
            f"{prepared.folder} was made with tokenizer {prepared.manifest.tokenizer}, and {loaded.origin} was trained "
            f"with {loaded.tokenizer.name}",
            "leave out --tokenizer: the model's own is taken",
        )


def _with_vocabulary(config: RunConfig, prepared: PreparedSet) -> RunConfig:
    wanted, given = prepared.manifest.vocab_size, config.model.vocab_size
    if given not in (None, wanted):
        raise ConfigError(
            f"model.vocab_size is {given}, but the tokenizer of {prepared.folder} has {wanted} ids",
            "leave it out: it is taken from the tokenizer",
        )
    return _changed(config, model={"vocab_size": wanted})


def _with_absolute_checkpoint_dir(config: RunConfig) -> RunConfig:
    """So that the run's config.yaml says where its checkpoints are, wherever it is read."""
    folder: Path | None = config.training.checkpoint_dir
    return config if folder is None else _changed(config, training={"checkpoint_dir": folder.absolute()})


def _changed(config: RunConfig, **groups: dict[str, Any]) -> RunConfig:
    """Built anew, so that settings which no longer fit each other are found."""
    values = config.model_dump()
    return build(RunConfig, {**values, **{name: {**values[name], **group} for name, group in groups.items()}})
