"""GGUF: weights, shape and tokenizer in one file, for llama.cpp and the programs that are built on it.

Written by llama.cpp's own library `gguf`, name by name and value by value as its converter makes it of an export: but
without a checkout of llama.cpp, and also for a self-trained BPE, whose pre-tokenizer the converter does not recognise.
What was written is read back and compared before the file gets its name.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nano_gpt.checkpoint.folder import read_json
from nano_gpt.checkpoint.source import LoadedModel
from nano_gpt.config.model import GPTConfig
from nano_gpt.errors import CheckpointError, NanoGPTError
from nano_gpt.hub.card import TASK, tags, title
from nano_gpt.hub.precision import Precision, cast
from nano_gpt.model.hf import to_hf
from nano_gpt.runtime.files import atomic_file
from nano_gpt.tokenizer.base import END_OF_TEXT, Tokenizer
from nano_gpt.tokenizer.hf_files import MERGES, VOCABULARY, merge_lines

if TYPE_CHECKING:
    from gguf import GGUFWriter

_SUFFIX = ".gguf"
# Names of the same in `gguf`: GGMLQuantizationType of a matrix, LlamaFileType of the whole.
_TYPES: dict[Precision, tuple[str, str]] = {
    "fp32": ("F32", "ALL_F32"),
    "fp16": ("F16", "MOSTLY_F16"),
    "bf16": ("BF16", "MOSTLY_BF16"),
}
_CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # (in, out) in an export, (out, in) in GGUF


@dataclass(frozen=True)
class GGUFReport:
    """What was written."""

    file: Path
    size: int
    """Bytes."""
    tensors: int


def write_gguf(
    loaded: LoadedModel, file: Path, *, precision: Precision = "fp32", overwrite: bool = False
) -> GGUFReport:
    """Write `loaded` as one GGUF file: matrices in `precision`; vectors and positions in fp32, as llama.cpp wants them.

    Raises CheckpointError, with nothing left behind, where the file exists (unless `overwrite`), where llama.cpp cannot
    do what this model or its tokenizer does, or where a weight does not fit `precision`; NanoGPTError without the
    package `gguf`.
    """
    check_gguf_target(file, overwrite=overwrite)
    _check_architecture(loaded.model.config)
    vocabulary, merges = _spelt(loaded.tokenizer)
    try:
        import gguf
    except ImportError:
        raise NanoGPTError("gguf is not installed", "pip install gguf; in a clone: script/setup gguf") from None
    arrays = _arrays(loaded, precision)
    try:
        with atomic_file(file) as temporary:
            writer = gguf.GGUFWriter(temporary, "gpt2")
            _add_shape(writer, loaded, precision)
            _add_tokenizer(writer, vocabulary, merges, loaded.tokenizer.eot_id)
            for name, (array, kind) in arrays.items():
                writer.add_tensor(name, array, raw_dtype=gguf.GGMLQuantizationType[kind])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            _compare(temporary, {key: value.value for key, value in writer.kv_data[0].items()}, arrays)
            size = temporary.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{file} cannot be written: {error.strerror or error}") from error
    return GGUFReport(file, size, len(arrays))


def check_gguf_target(file: Path, *, overwrite: bool) -> None:
    """Raises CheckpointError where a GGUF must not be written."""
    if file.is_dir():
        raise CheckpointError(f"{file} is a folder", f"name a file: --gguf {file / 'model'}{_SUFFIX}")
    if file.suffix != _SUFFIX:  # --overwrite must not cost anyone another file
        raise CheckpointError(f"{file} does not end in {_SUFFIX}", f"--gguf {file}{_SUFFIX}")
    if file.exists() and not overwrite:
        raise CheckpointError(f"{file} exists", "--overwrite replaces it")


def _check_architecture(config: GPTConfig) -> None:
    if config.model_type != "gpt2" or config.activation != "gelu":
        kind = f"positions {config.positions}, norm {config.norm}, activation {config.activation}"
        raise CheckpointError(
            f"--gguf writes llama.cpp's GPT-2, which is not this model ({kind})",
            "--export-dir DIR; for some of these llama.cpp's convert_hf_to_gguf.py makes a GGUF of it",
        )


def _spelt(tokenizer: Tokenizer) -> tuple[dict[str, int], list[str]]:
    """The vocabulary (token -> id) and the merges, spelt as in GPT-2's files."""
    with tempfile.TemporaryDirectory(prefix="nano-gpt-") as scratch:
        folder = Path(scratch)
        tokenizer.save(folder)
        merges = merge_lines((folder / MERGES).read_text(encoding="utf-8")) if (folder / MERGES).is_file() else []
        if not merges:
            raise CheckpointError(
                f"llama.cpp has no tokenizer without merges, as this model's ({tokenizer.name}) is",
                "models with the tokenizer gpt2 or bpe:SIZE have a GGUF",
            )
        return read_json(folder / VOCABULARY), merges


def _arrays(loaded: LoadedModel, precision: Precision) -> dict[str, tuple[npt.NDArray[Any], str]]:
    """llama.cpp's name -> the tensor's bytes as GGUF keeps them, and their type."""
    import gguf

    config = loaded.model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, config.n_layer)
    tensors = to_hf(loaded.model.state_dict(), config)
    arrays = {}
    for name in list(tensors):
        tensor = tensors.pop(name).cpu()  # one at a time, so that no third copy of the weights is held
        if name.endswith(_CONV1D):
            tensor = tensor.t()
        new_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new_name is not None, name
        matrix = tensor.dim() == 2 and not name.startswith("wpe")
        arrays[new_name] = _encode(name, tensor.contiguous(), precision if matrix else "fp32")
    return arrays


def _encode(name: str, tensor: Tensor, precision: Precision) -> tuple[npt.NDArray[Any], str]:
    rounded = cast(name, tensor, precision)
    if precision == "bf16":
        rounded = rounded.view(torch.uint16)  # numpy has no bf16
    return rounded.numpy(), _TYPES[precision][0]


def _add_shape(writer: GGUFWriter, loaded: LoadedModel, precision: Precision) -> None:
    import gguf

    config = loaded.model.config
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(title(config))
    writer.add_size_label(gguf.size_label(config.num_parameters(), 0, 0, 0))
    writer.add_tags([*tags(config), TASK])
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_file_type(gguf.LlamaFileType[_TYPES[precision][1]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_tokenizer(writer: GGUFWriter, vocabulary: dict[str, int], merges: list[str], eot_id: int) -> None:
    import gguf

    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    kinds = [gguf.TokenType.CONTROL if token == END_OF_TEXT else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")  # the word pattern, which is GPT-2's for every BPE of ours
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(eot_id)
    writer.add_eos_token_id(eot_id)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)


def _compare(file: Path, values: dict[str, Any], arrays: dict[str, tuple[npt.NDArray[Any], str]]) -> None:
    """Raises CheckpointError unless `file`, as the library reads it, holds these values and these tensors."""
    import gguf

    reader = gguf.GGUFReader(file)
    for key, value in values.items():
        found = reader.fields[key].contents() if key in reader.fields else None
        if not (np.float32(value) == found if isinstance(value, float) else value == found):
            raise CheckpointError(f"{key} of the GGUF is not what was written", "nothing is left; write it again")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    for name, (array, kind) in arrays.items():
        tensor = tensors.get(name)
        same = tensor is not None and tensor.tensor_type.name == kind and tensor.data.tobytes() == array.tobytes()
        if not same or tensors[name].shape.tolist() != list(array.shape[::-1]):
            raise CheckpointError(
                f"tensor {name} of the GGUF is not what was written", "nothing is left; write it again"
            )
