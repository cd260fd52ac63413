"""The rules of the house, read from the source with `ast`: layers, imports, and what must not occur at all.

A package imports only from layers with a smaller number, and never from another package of its own layer.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nano_gpt"
FILES = sorted(PACKAGE.rglob("*.py"))
Fault = tuple[int, str]  # line, what is wrong there

LAYERS = {
    "errors": 0,
    "registry": 0,
    "config": 0,
    "runtime": 1,
    "tokenizer": 2,
    "model": 2,
    "data": 3,
    "checkpoint": 3,
    "inference": 4,
    "hub": 4,
    "evaluation": 5,  # lm-eval's tasks have text written
    "training": 6,
    "server": 6,
    "cli": 7,
}
FOUNDATION = ("errors", "registry", "config")  # the three of layer 0 may use each other
FRONT_DOORS = ("__init__.py", "__main__.py")  # of nano_gpt itself: they lead everywhere, lazily
LIGHT = ("cli", "config", "errors.py", "registry.py", *FRONT_DOORS)  # what `nano-gpt --help` loads
HEAVY = ("torch", "numpy", "transformers", "datasets", "tiktoken", "tokenizers", "safetensors", "huggingface_hub")
LAZY = (
    "datasets", "transformers", "huggingface_hub", "lm_eval", "matplotlib", "tokenizers", "pyarrow", "wandb", "trackio",
    "tensorboard",
)  # fmt: skip
UNSAFE = ("trust_remote_code", "shell", "allow_pickle")
LONGEST = 320  # lines of a file; past about 300, look for the second thing that it does


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every imported module (for `from a import b` both a and a.b) and its line, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def imports_when_loaded(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Those that run with the module: not in a function, not under TYPE_CHECKING."""

    def visit(node: ast.AST) -> Iterator[tuple[str, int]]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from imports(node)
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    yield from visit(tree)


def room(module: str) -> str | None:
    """`nano_gpt.model.gpt` -> `model`; None for what is not ours."""
    parts = module.split(".")
    return parts[1] if parts[0] == "nano_gpt" and len(parts) > 1 else None


def test_every_room_has_a_layer() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__", "__main__"} <= set(LAYERS)


def upward(where: tuple[str, ...], tree: ast.Module) -> Iterator[Fault]:
    """Imports that do not go down, wherever they stand; `from nano_gpt import GPT` would be a way around."""
    if len(where) == 1 and where[0] in FRONT_DOORS:
        return
    own = where[0].removesuffix(".py")
    for module, line in imports(tree):
        other = room(module)
        if other in (None, own, "__version__") or (own in FOUNDATION and other in FOUNDATION):
            continue
        if LAYERS.get(other, 6) >= LAYERS[own]:
            yield line, f"{own} is layer {LAYERS[own]} and imports {module}"


def relative_or_star(where: tuple[str, ...], tree: ast.Module) -> Iterator[Fault]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or any(alias.name == "*" for alias in node.names)):
            yield node.lineno, ast.unparse(node)


def heavy(where: tuple[str, ...], tree: ast.Module) -> Iterator[Fault]:
    """The command line and what it loads import nothing heavy with the module; the slowest wait everywhere."""
    for module, line in imports_when_loaded(tree):
        if module.split(".")[0] in (HEAVY if where[0] in LIGHT else LAZY):
            yield line, f"{module} is imported with the module, not where it is needed"


def reads_ranks(where: tuple[str, ...], tree: ast.Module) -> Iterator[Fault]:
    if where == ("runtime", "distributed.py"):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            yield node.lineno, f"{node.value} is read in runtime/distributed.py only"


def runs_code(where: tuple[str, ...], tree: ast.Module) -> Iterator[Fault]:
    """Whatever lets a file or a name run code: pickles, eval, exec, a shell, a hub repository's own modules."""
    for module, line in imports(tree):
        if module.split(".")[0] in ("pickle", "dill", "marshal", "shelve"):
            yield line, f"import of {module}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called in ("eval", "exec", "compile", "__import__", "os.system"):
            yield node.lineno, f"{called}()"
        if called in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"):
            yield node.lineno, f"{called}() instead of yaml.safe_load()"
        if called == "torch.load" and keywords.get("weights_only") != "True":
            yield node.lineno, "torch.load without weights_only=True"
        for name, value in (("weights_only", "False"), *((name, "True") for name in UNSAFE)):
            if keywords.get(name) == value:
                yield node.lineno, f"{called}({name}={value})"


def too_long_or_silent(where: tuple[str, ...], tree: ast.Module) -> Iterator[Fault]:
    lines = max((node.end_lineno or 0 for node in tree.body), default=0)
    if lines > LONGEST:
        yield lines, f"{lines} lines, more than {LONGEST}"
    if tree.body and not ast.get_docstring(tree):
        yield 1, "does not open with its purpose"


Rule = Callable[[tuple[str, ...], ast.Module], Iterator[Fault]]
RULES: list[Rule] = [upward, relative_or_star, heavy, reads_ranks, runs_code, too_long_or_silent]


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: Rule) -> None:
    faults = []
    for file in FILES:
        where = file.relative_to(PACKAGE).parts
        faults += [f"nano_gpt/{'/'.join(where)}:{line}: {fault}" for line, fault in rule(where, parse(file))]
    assert FILES
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize(
    ("rule", "where", "source"),
    [
        (upward, "model/x.py", "from nano_gpt.data.loader import TokenLoader"),
        (upward, "model/x.py", "import nano_gpt.tokenizer.base"),
        (upward, "data/x.py", "def f():\n    from nano_gpt import training"),
        (upward, "inference/x.py", "from nano_gpt import train"),
        (upward, "config/x.py", "if TYPE_CHECKING:\n    from nano_gpt.runtime.files import sha256"),
        (upward, "errors.py", "from nano_gpt.runtime import logs"),
        (relative_or_star, "model/x.py", "from . import gpt"),
        (relative_or_star, "model/x.py", "from math import *"),
        (heavy, "cli/x.py", "import torch.nn"),
        (heavy, "config/x.py", "try:\n    import numpy\nexcept ImportError:\n    pass"),
        (heavy, "data/x.py", "from datasets import load_dataset"),
        (reads_ranks, "training/x.py", "os.environ['RANK']"),
        (runs_code, "checkpoint/x.py", "from pickle import loads"),
        (runs_code, "checkpoint/x.py", "torch.load(path)"),
        (runs_code, "checkpoint/x.py", "torch.load(path, weights_only=False)"),
        (runs_code, "data/x.py", "np.load(path, allow_pickle=True)"),
        (runs_code, "cli/x.py", "eval(text)"),
        (runs_code, "config/x.py", "yaml.load(text)"),
        (runs_code, "hub/x.py", "from_pretrained(name, trust_remote_code=True)"),
        (too_long_or_silent, "model/x.py", "x = 1"),
        (too_long_or_silent, "model/x.py", '"""Long."""' + "\n" * LONGEST + "x = 1"),
    ],
)
def test_rule_finds_a_breach(rule: Rule, where: str, source: str) -> None:
    assert list(rule(tuple(where.split("/")), ast.parse(source)))


@pytest.mark.parametrize(
    ("rule", "where", "source"),
    [
        (upward, "cli/x.py", "from nano_gpt.training.setup import train"),
        (upward, "config/x.py", "from nano_gpt.registry import unknown_name"),
        (upward, "hub/x.py", "from nano_gpt import __version__"),
        (heavy, "cli/x.py", "def f():\n    import torch"),
        (heavy, "cli/x.py", "if TYPE_CHECKING:\n    import torch"),
        (heavy, "model/x.py", "import torch"),
        (runs_code, "model/x.py", "model.eval()\ntorch.compile(model)"),
        (runs_code, "checkpoint/x.py", "torch.load(path, weights_only=True)"),
    ],
)
def test_rule_lets_good_code_pass(rule: Rule, where: str, source: str) -> None:
    assert not list(rule(tuple(where.split("/")), ast.parse(source)))


def test_what_is_not_python_is_installed_too() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    installed = {path for pattern in settings["package-data"]["nano_gpt"] for path in PACKAGE.glob(pattern)}
    assert installed == {path for path in PACKAGE.rglob("*.*") if path.suffix not in (".py", ".pyc")}
