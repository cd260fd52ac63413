"""`--help` is instant: no heavy library is loaded before a command really runs. Seen from outside, in new processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from nano_gpt import __version__
from nano_gpt.cli.main import COMMANDS, app

HEAVY = ("torch", "numpy", "transformers", "datasets", "tiktoken", "tokenizers", "huggingface_hub", "matplotlib")

# One process asks for every help text, since starting one costs more than all of them.
PROBE = """
import contextlib, io, json, sys
from nano_gpt.cli.main import COMMANDS, run

report = {}
for arguments in ([], *([name] for name in COMMANDS)):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = run([*arguments, "--help"])
    loaded = [name for name in sys.argv[1].split(",") if name in sys.modules]
    report[" ".join(arguments) or "nano-gpt"] = [code, len(out.getvalue()), loaded]
print(json.dumps(report))
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False, env=environment
    )


def test_help_of_every_command_loads_nothing_heavy() -> None:
    done = python("-c", PROBE, ",".join(HEAVY))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert set(report) == {"nano-gpt", *COMMANDS}
    for command, (code, length, loaded) in report.items():
        assert (command, code, loaded) == (command, 0, [])
        assert length > 100


def test_importing_the_package_loads_nothing_heavy() -> None:
    done = python("-c", f"import sys, nano_gpt; print([name for name in {HEAVY!r} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_using_a_model_does_not_load_the_compiler(tmp_path: Path) -> None:
    """`torch._dynamo` takes longer to load than all else together."""
    program = f"""
import sys
from pathlib import Path
from nano_gpt import GPT, GPTConfig, generate, load_model
from nano_gpt.checkpoint.folder import write_model_folder
from nano_gpt.model.packed import pack
from nano_gpt.tokenizer import load_tokenizer

tokenizer = load_tokenizer("byte")
model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, n_positions=16, n_embd=16, n_layer=1, n_head=2))
folder = Path({str(tmp_path)!r})
write_model_folder(folder, model.config, model.state_dict(), tokenizer)
tokenizer.save(folder)
loaded = load_model(str(folder))
generate(loaded, "a", max_new_tokens=3)
pack(loaded.model)
print([name for name in ("torch._dynamo", "transformers") if name in sys.modules])
"""
    done = python("-c", program)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("command", [["-m", "nano_gpt"], [str(Path(sys.executable).with_name("nano-gpt"))]])
def test_both_ways_to_start_it(command: list[str]) -> None:
    if command[0] != "-m" and not Path(command[0]).exists():
        pytest.skip("nano-gpt is not installed beside this Python")
    fastest = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        done = python(*command, "--version")
        fastest = min(fastest, time.perf_counter() - start)
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, __version__, "")
    assert fastest < 3.0  # torch alone costs more than a second; a loaded machine is slow without it too


def test_everything_in_help_is_explained() -> None:
    root = get_command(app)
    assert isinstance(root, typer.core.TyperGroup)
    silent = []
    for name, command in root.commands.items():
        if not command.help:
            silent.append(name)
        silent += [
            f"{name} {parameter.name}"
            for parameter in command.params
            if not getattr(parameter, "hidden", False) and not getattr(parameter, "help", None)
        ]
    assert silent == []
