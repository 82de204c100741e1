"""Compare with every peer again and write agreement.md: ``python docs/_agreement.py``."""

import ast
import sys
from importlib.metadata import version
from inspect import cleandoc
from pathlib import Path

DOCS = Path(__file__).parent
TESTS = DOCS.parent / "tests"
PACKAGES = {"pytorch-grad-cam": "grad-cam", "torchcam": "torchcam", "captum": "captum"}
MODULES = {"pytorch-grad-cam": "test_pytorch_grad_cam.py", "torchcam": "test_torchcam.py"}

HEAD = """\
# Agreement with other libraries

Every method that another library has too is computed by both on the same networks, and compared before and
after the other library's own post-processing (ReLU, min-max, resizing). The numbers are the largest
difference, relative to the largest value of the map: on small networks in double precision (flatten head,
pooled head, a head of two layers, one with curvature; signals and volumes where the other library takes
them), and on resnet18 at 64 pixels in single precision. What remains at 1e-7 and below are small constants
that the others add to denominators, and their conversions to single precision.

This page is written by `python docs/_agreement.py`; the tests compare the same numbers with their
tolerances. Measured with {versions}.

| rule | library | its name | small networks | resnet18 | remarks |
|---|---|---|---|---|---|
"""

MIDDLE = """
## Where they differ

Each difference is asserted by a test of the name given, so that this list notices when a library changes.
"""


def row(entry: object) -> str:
    """One line of the table."""
    found = {name: entry.on(name) for name in entry.settings}
    small = [number for name, number in found.items() if not name.startswith("resnet")]
    large = [number for name, number in found.items() if name.startswith("resnet")]
    cells = [f"{max(numbers):.1e}" if numbers else "" for numbers in (small, large)]
    names = (f"`{entry.rule}`", entry.peer, f"`{entry.method}`")
    return f"| {' | '.join((*names, *cells, entry.note))} |"


def differences(module: str) -> list[str]:
    """What the tests of differences in one module say, a paragraph each."""
    tree = ast.parse((TESTS / "peers" / module).read_text("utf-8"))
    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    named = [test for test in tests if test.name.startswith("test_difference_")]
    texts = [" ".join(cleandoc(ast.get_docstring(test) or "").split()) for test in named]
    return [f"- {text} (`{test.name}`)" for text, test in zip(texts, named, strict=True)]


def page() -> str:
    """Measure everything and return the text of the page."""
    sys.path.insert(0, str(TESTS))
    from peers.agreement import AGREEMENTS

    packages = ["torch", *PACKAGES.values()]
    versions = ", ".join(f"{name} {version(name).split('+')[0]}" for name in packages)
    rows = "\n".join(row(entry) for entry in AGREEMENTS)
    lists = ["\n".join([f"\n### {peer}\n", *differences(module)]) for peer, module in MODULES.items()]
    return HEAD.format(versions=versions) + rows + "\n" + MIDDLE + "\n".join(lists) + "\n"


if __name__ == "__main__":
    (DOCS / "agreement.md").write_text(page(), "utf-8")
