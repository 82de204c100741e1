"""The layers hold, on the package as it is installed; and each guard is seen to fail."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hirescam

ROOT = Path(__file__).parents[1]
PACKAGE = Path(hirescam.__file__).parent

HOOKING = {"passes/taps"}
"""The module that may hook into a model."""

HOOK_MODULES = ("torch.overrides", "torch.utils.hooks", "torch.utils._python_dispatch")


def lint_imports(parent: Path) -> subprocess.CompletedProcess[str]:
    """Run the contracts of pyproject.toml on the package `hirescam` in a directory."""
    return subprocess.run(
        [
            *(sys.executable, "-c", "from importlinter import cli; cli.lint_imports_command()"),
            *("--config", ROOT / "pyproject.toml", "--no-cache", "--no-logo"),
        ],
        cwd=parent,
        env=os.environ | {"PYTHONPATH": str(parent), "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the package that may be spoilt."""
    return Path(shutil.copytree(PACKAGE, tmp_path / "hirescam", ignore=shutil.ignore_patterns("__pycache__")))


def append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")


def test_contracts_hold():
    result = lint_imports(PACKAGE.parent)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 kept, 0 broken" in result.stdout


def test_contracts_hold_on_the_unspoilt_copy(copy):
    result = lint_imports(copy.parent)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("errors.py", "from hirescam.passes import targets", "hirescam.errors -> hirescam.passes.targets"),
        (
            "passes/targets.py",
            "import hirescam.passes.trace",
            "hirescam.passes.targets -> hirescam.passes.trace",
        ),
        ("passes/targets.py", "import numpy", "hirescam.passes.targets -> numpy"),
        ("passes/trace.py", "from PIL import Image", "hirescam.passes.trace -> PIL"),
        (
            "rulebook/__init__.py",
            "def f():\n    import matplotlib",
            "hirescam.rulebook -> matplotlib",
        ),
        ("stray.py", "", "hirescam.stray"),
    ],
)
def test_violation_is_seen(copy, module, line, complaint):
    append(copy / module, line)
    result = lint_imports(copy.parent)
    assert result.returncode == 1
    assert complaint in result.stdout


def hooking(source: str) -> list[str]:
    """List the ways in which a module reaches into a model: hooks, dispatch and function modes.

    import-linter sees other packages only as a whole, so this reads the syntax tree.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [a.name for a in names if a.name.startswith(HOOK_MODULES)]
            case ast.ImportFrom(module=str(module), names=names):
                full = [f"{module}.{alias.name}" for alias in names]
                found += [name for name in full if name.startswith(HOOK_MODULES)]
            case ast.Attribute(attr=attr) if is_hook(attr) or is_hook_module(node):
                found.append(ast.unparse(node))
    return found


def is_hook(attribute: str) -> bool:
    return attribute.startswith("register_") and "hook" in attribute


def is_hook_module(node: ast.Attribute) -> bool:
    return ast.unparse(node) in HOOK_MODULES


def test_only_one_module_hooks_into_a_model():
    sources = {
        path.relative_to(PACKAGE).with_suffix("").as_posix(): path.read_text(encoding="utf-8")
        for path in PACKAGE.rglob("*.py")
    }
    assert len(sources) > len(HOOKING)
    found = {name: hooking(source) for name, source in sources.items() if name not in HOOKING}
    assert {name: uses for name, uses in found.items() if uses} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import torch.overrides",
        "from torch.overrides import TorchFunctionMode",
        "from torch import overrides",
        "from torch.utils.hooks import RemovableHandle",
        "import torch\ntorch.overrides.get_overridable_functions()",
        "from torch.utils import _python_dispatch",
        "def f(module):\n    module.register_forward_hook(print)",
        "tensor.register_hook(print)",
    ],
)
def test_hooking_is_seen(source):
    assert hooking(source)


@pytest.mark.parametrize(
    "source", ["import torch", "from torch.utils import data", "module.register_buffer('a', b)"]
)
def test_other_uses_of_torch_are_not(source):
    assert hooking(source) == []
