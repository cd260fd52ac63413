"""A tokenizer from its name, or from the files beside a model or a prepared set."""

from __future__ import annotations

from pathlib import Path

from nano_gpt.errors import DataError
from nano_gpt.registry import unknown_name
from nano_gpt.tokenizer import hf_files
from nano_gpt.tokenizer.base import Tokenizer
from nano_gpt.tokenizer.bpe import ByteLevelBPE
from nano_gpt.tokenizer.char import CharTokenizer
from nano_gpt.tokenizer.gpt2 import load_gpt2
from nano_gpt.tokenizer.training import needs_corpus


def load_tokenizer(name_or_path: str | Path) -> Tokenizer:
    """`gpt2`, `byte`, a folder with tokenizer files, or a tokenizer.json. A `Path` is never taken for a name.

    Raises DataError where it is none of these or the files are damaged or of another kind of tokenizer, NetworkError
    where GPT-2's vocabulary is not on this machine and cannot be fetched.
    """
    if name_or_path == "gpt2":
        return load_gpt2()
    if name_or_path == "byte":
        return ByteLevelBPE({bytes([byte]): byte for byte in range(256)}, merges=[], eot_id=256)
    if isinstance(name_or_path, str) and needs_corpus(name_or_path):
        raise DataError(
            f"tokenizer {name_or_path!r} is made from a corpus, so that its name alone does not tell its ids",
            "give the folder where it was saved: a prepared dataset, a checkpoint or an export",
        )
    return _from_files(Path(name_or_path).expanduser(), str(name_or_path))


def _from_files(path: Path, given: str) -> Tokenizer:
    if path.is_file():
        files = hf_files.read_tokenizer_json(path)
    elif (path / hf_files.TOKENIZER).is_file():
        files = hf_files.read_tokenizer_json(path / hf_files.TOKENIZER)
    elif (path / hf_files.VOCABULARY).is_file() and (path / hf_files.MERGES).is_file():
        files = hf_files.read_vocabulary_and_merges(path)
    elif path.exists():
        raise DataError(
            f"{path} holds no tokenizer",
            f"looked for {hf_files.TOKENIZER}, or {hf_files.VOCABULARY} with {hf_files.MERGES}",
        )
    else:
        error = unknown_name("tokenizer", given, ("gpt2", "byte", "char", "bpe:SIZE"))
        raise DataError(f"{error.message}, and there is no such folder or file", error.hint)
    if isinstance(files, hf_files.CharFiles):
        return CharTokenizer(files.alphabet)
    return ByteLevelBPE(files.ranks, files.merges, files.eot_id)
