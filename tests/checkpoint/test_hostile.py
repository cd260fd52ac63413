"""Files that lie, are cut, or want to run something: refused in one line, before memory is taken for them."""

from __future__ import annotations

import collections
import importlib
import json
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint.peer_files import (
    Values,
    little_memory,
    llmc_bytes,
    llmc_header,
    nanogpt_values,
    write_build_nanogpt,
    write_llmc,
    write_nanogpt,
    write_predecessor,
)
from hub.small_models import TINY, small_model, write_folder

from nano_gpt.checkpoint.folder import CONFIG, WEIGHTS
from nano_gpt.checkpoint.source import load_model
from nano_gpt.errors import CheckpointError
from nano_gpt.model.gpt import GPT

FILE = Path("file")


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module", autouse=True)
def all_modules_loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What loads on first use takes memory too, and not on behalf of the file."""
    folder = tmp_path_factory.mktemp("good")
    write_nanogpt(folder / "ckpt.pt", small_model())
    write_folder(folder / "model")
    load_model(str(folder / "ckpt.pt"), tokenizer="byte")
    load_model(str(folder / "model"))


def refused(path: Path = FILE) -> str:
    with little_memory(), pytest.raises(CheckpointError) as caught:
        load_model(checkpoint=path, tokenizer="byte")
    message = caught.value.message
    assert message.isprintable() and len(message) < 400 and str(path) in message
    return message


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


CALLS = {
    "posix.system": Call(os.system, "touch ran"),
    "eval": Call(eval, "open('ran', 'w')"),
    "bytearray": Call(bytearray, 2**62),  # torch's own list would let it pass
    "collections.Counter": Call(collections.Counter, "a"),
    "torch.hub.load": Call(torch.hub.load, "user/name", "model"),
    "importlib.import_module": Call(importlib.import_module, "antigravity"),
    "nano_gpt.model.gpt.GPT": Call(GPT, TINY),
}


@pytest.mark.skipif(os.name != "posix", reason="the system call has another name")
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("bare", [False, True])
def test_a_call_is_refused_by_its_name(name: str, protocol: int, bare: bool) -> None:
    values = {"iter_num": 1, "config": CALLS[name]}
    if bare:
        FILE.write_bytes(pickle.dumps(values, protocol))
    else:
        torch.save(values, FILE, pickle_protocol=protocol)
    assert re.fullmatch(rf"file: refused, since opening it would call (\w+\.)?{re.escape(name)}", refused())
    assert not Path("ran").exists()


def test_a_dataclass_of_a_peer_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name is let pass, and so must not lead to whatever has that name here."""

    class GPTConfig:
        def __init__(self, *arguments: object) -> None:
            Path("ran").touch()

        def __setstate__(self, state: object) -> None:
            Path("ran").touch()

    GPTConfig.__module__, GPTConfig.__qualname__ = "__main__", "GPTConfig"
    monkeypatch.setattr("__main__.GPTConfig", GPTConfig, raising=False)
    torch.save({**nanogpt_values(small_model()), "config": Call(GPTConfig, 1)}, FILE)
    refused()
    assert not Path("ran").exists()


def lying_tensor(shape: tuple[int, int], offset: int = 0) -> Call:
    storage = torch.zeros(4)._typed_storage()
    return Call(
        torch._utils._rebuild_tensor_v2, storage, offset, shape, (shape[1], 1), False, collections.OrderedDict()
    )


def changed(group: str, **entries: Any) -> Callable[[Values], Any]:
    return lambda values: values[group].update({name.replace("__", "."): value for name, value in entries.items()})


WTE = "transformer__wte__weight"
LIES: dict[str, tuple[Callable[[Values], Any], str]] = {
    "ten to the twelfth ids": (changed("model_args", vocab_size=10**12), "vocab_size is 1000000000000, not a"),
    "2^31 ids": (changed("model_args", vocab_size=2**31 - 1), r"wte.weight is \(257, 24\)"),
    "2^31 layers": (changed("model_args", n_layer=2**31 - 1), "too few for its 2147483647 layers"),
    "one layer more": (changed("model_args", n_layer=3), r"h\.2\.ln_1\.weight is missing"),
    "one layer less": (changed("model_args", n_layer=1), r"h\.1\.\S+ does not belong"),
    "2^31 columns": (changed("model_args", n_embd=2**31 - 8), r"promise \(257, 2147483640\)"),
    "no heads": (changed("model_args", n_head=0), "n_head is 0, not a positive"),
    "five heads": (changed("model_args", n_head=5), "n_embd 24 is not divisible by its n_head 5"),
    "text": (changed("model_args", n_head="3"), "n_head is '3', not a"),
    "a truth": (changed("model_args", n_layer=True), "n_layer is True, not a"),
    "half a truth": (changed("model_args", bias="no"), "bias is neither"),
    "a list": (changed("model_args", block_size=[[1] * 99] * 99), "block_size is 'list', not a"),
    "escapes": (changed("model_args", block_size="\x1b[2J\n" * 999), r"block_size is '\\x1b\[2J\\n"),
    "nothing": (lambda values: values["model_args"].clear(), "vocab_size is 'NoneType'"),
    "settings are none": (lambda values: values.update(model_args=[]), "not tables of names"),
    "weights are none": (lambda values: values.update(model=torch.ones(3)), "not tables of names"),
    "a number among tensors": (changed("model", x=3), "its model has a int where tensors belong"),
    "no name": (lambda values: values["model"].update({3: torch.ones(3)}), "has a Tensor where tensors belong"),
    "a name that clears the screen": (changed("model", **{"\x1b[2J": torch.ones(3)}), r"tensor \?\[2J does not belong"),
    "integers": (changed("model", **{WTE: torch.ones(257, 24, dtype=torch.int64)}), "of type torch.int64"),
    "a head of another type": (changed("model", lm_head__weight=torch.zeros(257, 24).half()), "lm_head.weight is not"),
    "a tensor of one number": (changed("model", **{WTE: torch.zeros(1).expand(10**12, 24)}), "not stored whole"),
    "a tensor beyond its bytes": (changed("model", **{WTE: lying_tensor((2 * 10**9, 24))}), "it is damaged"),
    "a tensor somewhere else": (changed("model", **{WTE: lying_tensor((257, 24), 10**15)}), "it is damaged"),
}


@pytest.mark.parametrize(("lie", "message"), LIES.values(), ids=LIES)
def test_a_lying_pickle(lie: Callable[[Values], Any], message: str) -> None:
    values = nanogpt_values(small_model())
    lie(values)
    torch.save(values, FILE)
    assert re.search(message, refused())


def test_tensors_that_share_their_bytes() -> None:
    """A short file could else ask for as much memory as it has names."""
    values = nanogpt_values(small_model())
    one = torch.zeros(257 * 24)
    values["model"] = {name: one[: tensor.numel()].view(tensor.shape) for name, tensor in values["model"].items()}
    del values["optimizer"]
    torch.save(values, FILE)
    assert "larger than the file" in refused()


def test_a_zip_that_swells() -> None:
    write_nanogpt(Path("good.pt"), small_model())
    with zipfile.ZipFile("good.pt") as good, zipfile.ZipFile(FILE, "w", zipfile.ZIP_DEFLATED) as bad:
        for name in good.namelist():
            bad.writestr(name, good.read(name) if "pkl" not in name else b"\0" * 2**20)
    assert "compressed zip" in refused()


@pytest.mark.parametrize("write", [write_nanogpt, write_build_nanogpt, write_predecessor, write_llmc])
def test_a_file_that_was_cut(write: Callable[[Path, GPT], None]) -> None:
    write(FILE, small_model())
    whole = FILE.read_bytes()
    for size in (4, 5, 100, 1023, 1024, 1100, len(whole) // 2, len(whole) - 1):
        FILE.write_bytes(whole[:size])
        refused()


@pytest.mark.parametrize("write", [write_nanogpt, write_build_nanogpt, write_predecessor])
def test_flipped_bytes_in_a_pickle(write: Callable[[Path, GPT], None]) -> None:
    """The zip has a checksum of the pickle. Without it: whatever torch says of such bytes is one line."""
    write(Path("good.pt"), small_model())
    with zipfile.ZipFile("good.pt") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in entries if name.endswith("/data.pkl"))
    whole, start = Path("good.pt").read_bytes(), Path("good.pt").read_bytes().index(entries[name])
    FILE.write_bytes(whole[: start + 40] + bytes([whole[start + 40] ^ 1]) + whole[start + 41 :])
    assert "it is damaged: Bad CRC-32" in refused()
    for position in range(2, len(entries[name]), 97):
        data = bytearray(entries[name])
        data[position] ^= 0x15
        with zipfile.ZipFile(FILE, "w") as archive:
            for other, content in entries.items():
                archive.writestr(other, bytes(data) if other == name else content)
        try:
            with little_memory():
                load_model(checkpoint=FILE, tokenizer="byte")
        except CheckpointError as error:
            assert error.message.isprintable() and error.message.startswith("file: ")


HEADER_LIES = {
    2: (10**9, -1, 0),
    3: (2**31 - 1, 0),
    4: (2**31 - 1, 1, 0),
    5: (0, 5),
    6: (2**31 - 1, 48),
    7: (2**31 - 1, 9),
}


@pytest.mark.parametrize(("place", "lie"), [(place, lie) for place, lies in HEADER_LIES.items() for lie in lies])
def test_a_lying_header_of_llmc(place: int, lie: int) -> None:
    header = llmc_header(TINY)
    header[place] = lie
    FILE.write_bytes(llmc_bytes(header, small_model()))
    refused()


def test_rows_that_are_taken_away_from_llmc() -> None:
    """-1 rows of the embedding: less than none, in a file that is as long as that promises."""
    header = llmc_header(TINY)
    data = llmc_bytes([*header[:7], -1, *header[8:]], small_model())
    FILE.write_bytes(data[: len(data) - (header[7] + 1) * TINY.n_embd * 4])
    assert "its header has -1 rows for 257 ids" in refused()


def safetensors(entries: dict[str, tuple[list[int], list[int]]], size: int) -> bytes:
    """A file whose header promises these shapes at these offsets."""
    header = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": offsets} for name, (shape, offsets) in entries.items()
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * size


WTE_BYTES = 257 * 24 * 4
WPE_BYTES = 32 * 24 * 4
BAD_WEIGHTS = {
    "overlap": ({"wte.weight": ([257, 24], [0, WTE_BYTES]), "wpe.weight": ([32, 24], [0, WPE_BYTES])}, WTE_BYTES),
    "gap": (
        {
            "wte.weight": ([257, 24], [0, WTE_BYTES]),
            "wpe.weight": ([32, 24], [WTE_BYTES + 4, WTE_BYTES + 4 + WPE_BYTES]),
        },
        WTE_BYTES + WPE_BYTES + 4,
    ),
    "backwards": ({"wte.weight": ([257, 24], [WTE_BYTES, 0])}, WTE_BYTES),
    "fewer bytes than numbers": ({"wte.weight": ([257, 24], [0, 4])}, 4),
    "past the end": ({"wte.weight": ([2**40, 24], [0, 2**40 * 96])}, 4),
    "negative": ({"wte.weight": ([-257, 24], [0, WTE_BYTES])}, WTE_BYTES),
}


@pytest.mark.parametrize(("entries", "size"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_safetensors_that_do_not_add_up(entries: dict[str, tuple[list[int], list[int]]], size: int) -> None:
    write_folder(Path("model"))
    Path("model", WEIGHTS).write_bytes(safetensors(entries, size))
    assert f"model/{WEIGHTS} is damaged" in refused(Path("model"))


@pytest.mark.parametrize("key", ["n_layer", "n_head", "n_embd", "vocab_size", "n_positions"])
@pytest.mark.parametrize("value", [10**12, 2**31 - 1, "2", True, -1, [2], None])
def test_a_lying_config(key: str, value: object) -> None:
    write_folder(Path("model"))
    path = Path("model", CONFIG)
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    refused(Path("model"))
