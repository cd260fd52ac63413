"""What README.md promises: its commands parse, its Python imports what exists, its tree is the tree."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.main import get_command

import nano_gpt
from nano_gpt.cli.main import _optional_values, app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"\s*(\$ )?([A-Z_]+=\S+ )*(torchrun |(\S*/)?nano-gpt\b|python3? -m nano_gpt\b)")
SHELL_STOPS = {"|", ">", ">>", "<", "&&", "||", ";", "&", "2>&1"}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Arguments of every `nano-gpt ...` in the shell blocks; prompt, torchrun, pipe and comment are cut off."""
    found = []
    for block in blocks(text, "(?:bash|sh|console)"):
        for line in block.replace("\\\n", " ").splitlines():
            if not COMMAND.match(line):
                continue  # another command, or what one printed
            words = shlex.split(line.replace("$(which nano-gpt)", "nano-gpt"), comments=True)
            starts = [index for index, word in enumerate(words) if word == "nano-gpt" or word.endswith("/nano-gpt")]
            if "-m" in words and "nano_gpt" in words:
                starts.append(words.index("nano_gpt"))
            for start in starts:
                rest = words[start + 1 :]
                stop = next((index for index, word in enumerate(rest) if word in SHELL_STOPS), len(rest))
                found.append(rest[:stop])
    return found


def parse(arguments: list[str]) -> None:
    """As the command line would, up to where the command would start. Raises UsageError."""
    root = get_command(app)
    assert isinstance(root, typer.core.TyperGroup)
    try:
        context = root.make_context("nano-gpt", _optional_values(arguments))
        if rest := [*context._protected_args, *context.args]:
            name, command, options = root.resolve_command(context, rest)
            assert command is not None
            command.make_context(name, options, parent=context)
    except typer.Exit:  # --help
        pass


def tree_paths(block: str) -> list[Path]:
    """`nano_gpt/`, and under it by indentation `  config/`, and under that `    model.py data.py   what they are`."""
    paths: list[Path] = []
    folders: list[tuple[int, Path]] = []
    for line in re.sub("[│├└─]", " ", block).splitlines():
        indent = len(line) - len(line.lstrip())
        folders = [(depth, folder) for depth, folder in folders if depth < indent]
        parent = folders[-1][1] if folders else Path()
        for word in line.split():
            if not re.fullmatch(r"[\w.-]+(/|\.\w+)", word):
                break  # the description begins
            paths.append(parent / word)
            if word.endswith("/"):
                folders.append((indent, parent / word))
                break
    return paths


@pytest.mark.parametrize("arguments", commands(README), ids=" ".join)
def test_commands_parse(arguments: list[str]) -> None:
    parse(arguments)


def test_python_imports_what_exists() -> None:
    for block in blocks(README, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "nano_gpt":
                assert {alias.name for alias in node.names} <= set(nano_gpt.__all__)


def test_the_tree_is_the_tree() -> None:
    trees = [block for block in blocks(README, r"\w*") if block.lstrip().startswith("nano_gpt/")]
    if not trees:
        pytest.skip("README.md shows no tree")
    shown = [path for tree in trees for path in tree_paths(tree)]
    assert [str(path) for path in shown if not (ROOT / path).exists()] == []
    packages = {path.parent.relative_to(ROOT) for path in (ROOT / "nano_gpt").glob("*/__init__.py")}
    assert packages <= set(shown)


def test_these_tests_would_notice() -> None:
    text = """
```bash
nano-gpt train --max_steps 10 --resume   # a comment
$ torchrun --nproc_per_node=2 $(which nano-gpt) train \\
    --seed 1 | tee log
nano-gpt config > run.yaml
> I'm what nano-gpt printed
```
"""
    assert commands(text) == [["train", "--max_steps", "10", "--resume"], ["train", "--seed", "1"], ["config"]]
    for arguments in commands(text):
        parse(arguments)
    for wrong in (["train", "--nope"], ["tarin"], ["train", "--max-steps", "many"]):
        with pytest.raises(Exception, match=r"(?i)no such|valid integer"):
            parse(wrong)
    tree = """
nano_gpt/
  __init__.py  py.typed   the version
  config/                 what a run is
    model.py data.py        two of its files
tests/                    mirrors it
"""
    names = ["nano_gpt", "nano_gpt/__init__.py", "nano_gpt/py.typed", "nano_gpt/config"]
    names += ["nano_gpt/config/model.py", "nano_gpt/config/data.py", "tests"]
    assert [str(path) for path in tree_paths(tree)] == names
