"""Tokenizer files as Hugging Face's libraries write and read them.

    tokenizer.json  tokenizer_config.json  + vocab.json  merges.txt for byte-level BPE

Written as plain JSON, because importing transformers for it costs seconds. What other programs wrote is accepted where
its ids are sure to be those of our tokenizers, and refused otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from nano_gpt.errors import DataError
from nano_gpt.runtime.files import write_text
from nano_gpt.tokenizer.base import END_OF_TEXT

TOKENIZER, TOKENIZER_CONFIG, VOCABULARY, MERGES = "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"

Merge = tuple[bytes, bytes]

# GPT-2's files spell a byte as one visible character (encoder.py of their release): printable Latin-1 stands for
# itself, the others follow from U+0100 on. Their order is that of the first 256 ids of GPT-2.
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = tuple(byte for byte in range(256) if byte not in _PRINTABLE)
BYTE_ORDER = tuple(bytes([byte]) for byte in (*_PRINTABLE, *_OTHERS))
_CHAR_OF_BYTE = {**{byte: chr(byte) for byte in _PRINTABLE}, **{byte: chr(256 + i) for i, byte in enumerate(_OTHERS)}}
_BYTE_OF_CHAR = {char: byte for byte, char in _CHAR_OF_BYTE.items()}

_ANY_CHARACTER = r"[\s\S]"


def spell(token: bytes) -> str:
    return "".join([_CHAR_OF_BYTE[byte] for byte in token])


def unspell(token: str) -> bytes:
    """Raises KeyError for a character that stands for no byte."""
    return bytes([_BYTE_OF_CHAR[char] for char in token])


# ---------------------------------------------------------------------------------------------------- writing


def write_byte_level_bpe(
    folder: Path, tokens: Sequence[bytes], merges: Sequence[Merge], eot_id: int, model_max_length: int | None
) -> None:
    """`tokens[i]` are the bytes of id i."""
    spelt = {token: END_OF_TEXT if i == eot_id else spell(token) for i, token in enumerate(tokens)}
    vocabulary = {token: i for i, token in enumerate(spelt.values())}
    pairs = [(spelt[first], spelt[second]) for first, second in merges]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocabulary,
        "merges": pairs,
    }
    _write_tokenizer(folder, eot_id, byte_level, {**byte_level, "trim_offsets": False}, byte_level, model)
    _write_json(folder / VOCABULARY, vocabulary)
    write_text(folder / MERGES, "#version: 0.2\n" + "".join([f"{first} {second}\n" for first, second in pairs]))
    _write_config(folder, "GPT2Tokenizer", model_max_length)


def write_char(folder: Path, alphabet: Sequence[str], model_max_length: int | None) -> None:
    """`alphabet[i]` is the character of id i; `<|endoftext|>` follows.

    The name of the unknown token is deliberately not in the vocabulary: the library then raises an error for an unknown
    character, where it would otherwise drop it (a BPE without merges does) or put a stand-in.
    """
    vocabulary = {token: i for i, token in enumerate([*alphabet, END_OF_TEXT])}
    split = {"type": "Split", "pattern": {"Regex": _ANY_CHARACTER}, "behavior": "Isolated", "invert": False}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unknown character>"}
    _write_tokenizer(folder, len(alphabet), split, None, {"type": "Fuse"}, model)
    _write_config(folder, "PreTrainedTokenizerFast", model_max_length)


def _write_tokenizer(
    folder: Path, eot_id: int, pre_tokenizer: Any, post_processor: Any, decoder: Any, model: dict[str, Any]
) -> None:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": eot_id, "content": END_OF_TEXT, **flags}],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": decoder,
        "model": model,
    }
    _write_json(folder / TOKENIZER, content)


def _write_config(folder: Path, tokenizer_class: str, model_max_length: int | None) -> None:
    config: dict[str, Any] = {
        "tokenizer_class": tokenizer_class,
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
    }
    if model_max_length is not None:
        config["model_max_length"] = model_max_length
    write_text(folder / TOKENIZER_CONFIG, json.dumps(config, indent=2) + "\n")


def _write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, ensure_ascii=False))


# ---------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class ByteLevelFiles:
    """What a byte-level BPE's files say: see `nano_gpt.tokenizer.bpe.ByteLevelBPE`."""

    ranks: dict[bytes, int]
    merges: list[Merge]
    eot_id: int


@dataclass(frozen=True)
class CharFiles:
    """What a character tokenizer's files say."""

    alphabet: list[str]


class _AddedToken(BaseModel):
    id: int
    content: str


class _Model(BaseModel):
    type: Literal["BPE", "WordLevel"] = "BPE"  # older files do not name it
    vocab: dict[str, int]
    merges: list[tuple[str, str] | str] = []
    dropout: float | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None


class _TokenizerJson(BaseModel):
    model: _Model
    added_tokens: list[_AddedToken] = []
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None


def read_tokenizer_json(path: Path) -> ByteLevelFiles | CharFiles:
    """Raises DataError where the file is damaged, or describes a tokenizer whose ids ours would not give."""
    try:
        content = _TokenizerJson.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise _refused(path, f"{where + ': ' if where else ''}{problem['msg']}") from None
    model, split = content.model, content.pre_tokenizer or {}
    vocabulary = {**model.vocab, **{token.content: token.id for token in content.added_tokens}}
    if strangers := [token.content for token in content.added_tokens if token.content != END_OF_TEXT]:
        raise _refused(path, f"it has special tokens besides {END_OF_TEXT}: {strangers[0]!r}")
    if content.normalizer is not None:
        raise _refused(path, "it normalizes text")
    if model.type == "WordLevel":
        if split.get("type") != "Split" or split.get("pattern") != {"Regex": _ANY_CHARACTER}:
            raise _refused(path, "it is not one id per character")
        return _char_files(path, vocabulary)
    if split.get("type") != "ByteLevel" or split.get("add_prefix_space") or not split.get("use_regex", True):
        raise _refused(path, "it does not cut text into words as GPT-2 does (pre_tokenizer)")
    if model.dropout or model.continuing_subword_prefix or model.end_of_word_suffix:
        raise _refused(path, "its BPE has dropout, a prefix or a suffix")
    return _byte_level_files(path, vocabulary, [_pair(path, merge) for merge in model.merges])


def read_vocabulary_and_merges(folder: Path) -> ByteLevelFiles:
    """`vocab.json` with `merges.txt`, the older form of a GPT-2's tokenizer. Raises like `read_tokenizer_json`."""
    path = folder / VOCABULARY
    try:
        vocabulary = _Model.model_validate({"vocab": json.loads(path.read_text(encoding="utf-8"))}).vocab
        lines = (folder / MERGES).read_text(encoding="utf-8")
    except ValueError:  # JSON, UTF-8 and pydantic's errors are all of this kind
        raise _refused(path, f"it, or {MERGES} beside it, is damaged") from None
    return _byte_level_files(path, vocabulary, [_pair(path, line) for line in merge_lines(lines)])


def parse_merges(content: str) -> list[Merge]:
    """Of a merges.txt (or vocab.bpe, its other name) that is known to be whole."""
    return [(unspell(first), unspell(second)) for first, second in (line.split(" ") for line in merge_lines(content))]


def merge_lines(content: str) -> list[str]:
    """Without the `#version` of the first line. Not `splitlines`: it knows more line ends than the format does."""
    lines = [line.removesuffix("\r") for line in content.split("\n")]
    return [line for i, line in enumerate(lines) if line and not (i == 0 and line.startswith("#version"))]


def _pair(path: Path, merge: tuple[str, str] | str) -> tuple[str, str]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if len(parts) != 2:
        raise _refused(path, f"{merge!r} is not a pair to merge")
    return parts[0], parts[1]


def _byte_level_files(path: Path, vocabulary: dict[str, int], pairs: Sequence[tuple[str, str]]) -> ByteLevelFiles:
    eot_id = _check_ids(path, vocabulary)
    try:
        unspelt = {token: unspell(token) for token in vocabulary if token != END_OF_TEXT}
        ranks = {unspelt[token]: i for token, i in vocabulary.items() if token != END_OF_TEXT}
        merges = [(unspelt[first], unspelt[second]) for first, second in pairs]
        made = [ranks[first + second] for first, second in merges]
    except KeyError as error:
        raise _refused(
            path, f"{error.args[0]!r} is not made of bytes, or is merged but not in the vocabulary"
        ) from None
    if not all(byte in ranks for byte in BYTE_ORDER):
        raise _refused(path, "some of the 256 bytes are not in its vocabulary")
    # tiktoken merges by id: these must be the merges' order, and every longer token must come from one of them.
    if any(earlier >= later for earlier, later in pairwise(made)) or len(made) != len(ranks) - 256:
        raise _refused(path, "its ids are not in the order of its merges")
    return ByteLevelFiles(ranks=ranks, merges=merges, eot_id=eot_id)


def _char_files(path: Path, vocabulary: dict[str, int]) -> CharFiles:
    eot_id = _check_ids(path, vocabulary)
    alphabet = sorted(vocabulary, key=lambda token: vocabulary[token])[:-1]
    if eot_id != len(alphabet) or alphabet != sorted(alphabet) or any(len(char) != 1 for char in alphabet):
        raise _refused(path, f"its ids are not single characters in sorted order, then {END_OF_TEXT}")
    return CharFiles(alphabet=alphabet)


def _check_ids(path: Path, vocabulary: dict[str, int]) -> int:
    """The id of `<|endoftext|>`."""
    if END_OF_TEXT not in vocabulary:
        raise _refused(path, f"it has no {END_OF_TEXT}")
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise _refused(path, f"its {len(vocabulary)} ids are not 0 .. {len(vocabulary) - 1}")
    return vocabulary[END_OF_TEXT]


def _refused(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path} is not a tokenizer that can be used here: {reason}",
        "used are byte-level BPE with GPT-2's word pattern and <|endoftext|>, and what nano-gpt itself has saved",
    )
