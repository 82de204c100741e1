"""What loads when: help without torch, the package without a compiler, a public name at its first use."""

import ast
import importlib.metadata
import inspect
import os
import pickle
import pkgutil
import pydoc
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import hirescam
from hirescam import evaluation
from hirescam.cli import later
from hirescam.cli.app import app
from hirescam.metrics import Kind

COMMANDS = [command.callback.__name__ for command in app.registered_commands]
HEAVY = {
    "torch",
    "numpy",
    "PIL",
    "jinja2",
    "safetensors",
    "matplotlib",
    "pandas",
    "scipy",
    "sklearn",
    "skimage",
}
"""What help must not load."""
BEYOND = {
    *("torch._inductor", "torch._dynamo", "torch.onnx", "matplotlib", "jinja2", "rich", "typer", "pandas"),
    *("pyarrow", "scipy", "sklearn", "skimage", "torchvision", "timm", "onnx", "onnxruntime", "onnxscript"),
    *("captum", "zennit", "quantus", "torchmetrics"),
}
"""What using every public name must not load, unless torch does."""
PUBLIC = "import torch, sys; before = set(sys.modules); from hirescam import *"


def fresh(code: str, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run code in a process that has imported nothing."""
    result = subprocess.run(
        [sys.executable, "-c", code, *words], env=os.environ, capture_output=True, text=True, check=False
    )
    assert result.returncode == status, result.stderr
    return result


def loaded_by(code: str, *words: str, status: int = 0) -> set[str]:
    """The modules that a fresh process has loaded when it ends, less those in its variable ``before``."""
    listing = (
        "import atexit, sys\n"
        "before = set()\n"
        "atexit.register(lambda: print('', *set(sys.modules) - before, sep='\\n', file=sys.stderr))\n"
    )
    return set(fresh(listing + code, *words, status=status).stderr.split("\n"))


def run_command(*words: str, status: int = 0) -> set[str]:
    """The modules that a command loads."""
    return loaded_by("import sys; from hirescam.cli import main; sys.exit(main())", *words, status=status)


# --- the command line ----------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("--help",), ("--version",), *((name, "--help") for name in COMMANDS)])
def test_help_loads_nothing_heavy(words):
    loaded = run_command(*words)
    assert "hirescam.cli.app" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize(
    "words", [("paint",), ("explain",), ("certify", "--model"), ("layers", "--top", "3")]
)
def test_complaints_about_the_command_line_load_nothing_heavy(words):
    assert run_command(*words, status=2).isdisjoint(HEAVY)


def test_what_a_command_loads_is_seen():
    assert "torch" in run_command("rules", "--json")


def test_the_commands_are_all_there():
    assert {"demo", "explain", "compare", "layers", "certify", "rules"} <= set(COMMANDS)


@pytest.mark.parametrize("name", later.__all__)
def test_a_later_module_is_the_one_of_its_name(name):
    stands_in = getattr(later, name)
    module = import_module(stands_in.__name__)
    assert stands_in.__name__ in (name, f"hirescam.{name}")
    some = next(one for one in vars(module) if not one.startswith("_"))
    assert getattr(stands_in, some) is getattr(module, some)


def test_a_later_module_has_only_what_the_module_has():
    with pytest.raises(AttributeError, match=r"hirescam\.models.* has no attribute 'resolv'"):
        later.models.resolv  # noqa: B018 - that it fails is the point


def test_the_words_of_the_help_are_those_of_the_library():
    assert set(evaluation.DEFAULT_RULES) <= set(hirescam.rules())
    assert set(evaluation.DEFAULT_METRICS) <= set(Kind)


# --- the package ---------------------------------------------------------------------------------


def test_the_package_alone_loads_nothing_heavy():
    loaded = loaded_by("import hirescam; hirescam.__version__; hirescam.InputError; dir(hirescam)")
    assert loaded.isdisjoint(HEAVY | {"typer", "rich"})
    assert {name for name in loaded if name.startswith("hirescam")} == {"hirescam", "hirescam.errors"}


def test_all_public_names_load_no_compiler():
    loaded = loaded_by(f"{PUBLIC}; explain, Explainer, export")
    assert "hirescam.compiled" in loaded
    assert loaded.isdisjoint(BEYOND)


def test_what_the_package_loads_is_seen():
    assert "jinja2" in loaded_by(f"{PUBLIC}; import hirescam; hirescam.pages")


@pytest.mark.parametrize("name", hirescam.__all__)
def test_a_public_name_is_found_where_it_is_defined(name):
    found = getattr(hirescam, name)
    assert found.__module__ == f"hirescam.{hirescam._HOMES[name]}"
    assert found.__name__ == name


def test_the_three_lists_of_public_names_agree():
    tree = ast.parse(Path(hirescam.__file__).read_text("utf-8"))
    typed = next(node for node in tree.body if isinstance(node, ast.If)).body
    imports = {
        (one.name, node.module) for node in typed if isinstance(node, ast.ImportFrom) for one in node.names
    }
    assert imports == {(name, f"hirescam.{home}") for name, home in hirescam._HOMES.items()}
    assert set(hirescam.__all__) == set(hirescam._HOMES)
    assert len(hirescam.__all__) == len(imports)


def test_public_names_are_listed():
    assert set(hirescam.__all__) | {"__version__"} <= set(dir(hirescam))
    listed = fresh("import hirescam; print(*dir(hirescam))").stdout.split()
    assert set(hirescam.__all__) | {"__version__"} <= set(listed)


def test_help_of_the_package_shows_them():
    page = pydoc.plain(pydoc.render_doc(hirescam))
    for words in ("class Explainer(", "class TopK(", "explain(model", "certify(model"):
        assert words in page


def test_no_module_has_the_name_of_a_public_function():
    modules = {module.name for module in pkgutil.iter_modules(hirescam.__path__)}
    assert "explainer" in modules
    assert modules.isdisjoint(hirescam.__all__)
    functions = [name for name in hirescam.__all__ if inspect.isfunction(getattr(hirescam, name))]
    assert {"explain", "certify", "layers", "rules", "load"} <= set(functions)


def test_modules_are_found_without_an_import_of_their_own():
    code = "import hirescam; print(hirescam.models.resolve.__name__, hirescam.proof.laws.__name__)"
    assert fresh(code).stdout.split() == ["resolve", "hirescam.proof.laws"]


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'hirescam' has no attribute 'explian'") as failure:
        hirescam.explian  # noqa: B018 - that it fails is the point
    assert (failure.value.name, failure.value.obj) == ("explian", hirescam)
    assert not hasattr(hirescam, "hirescam")
    with pytest.raises(ImportError, match="cannot import name 'explian' from 'hirescam'"):
        from hirescam import explian  # noqa: F401


def test_an_unknown_name_gets_a_hint():
    complaint = fresh("import hirescam; hirescam.explian", status=1).stderr.splitlines()[-1]
    assert complaint.endswith("has no attribute 'explian'. Did you mean: 'explain'?")


def test_a_version_that_is_not_installed(monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    assert hirescam.__version__ == importlib.metadata.version("hirescam") == hirescam._version()
    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert hirescam._version() == "unknown"


def test_public_objects_are_unpickled_where_nothing_was_used_yet():
    made = (hirescam.TopK(3), hirescam.Guarantee.EXACT, hirescam.Classes(1, 2))
    code = "import pickle, sys; print(*pickle.loads(bytes.fromhex(sys.argv[1])))"
    assert fresh(code, pickle.dumps(made).hex()).stdout.split() == " ".join(map(str, made)).split()


def test_threads_may_use_the_first_name_at_once():
    code = (
        "from concurrent.futures import ThreadPoolExecutor as Pool; import hirescam\n"
        "names = hirescam.__all__ * 2\n"
        "found = list(Pool(8).map(lambda name: getattr(hirescam, name), names))\n"
        "assert all(one is getattr(hirescam, name) for one, name in zip(found, names))"
    )
    fresh(code)
