"""Every method that a peer has too, compared numerically, and the page that lists the numbers."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("captum", reason="needs captum")
pytest.importorskip("pytorch_grad_cam", reason="needs grad-cam")
pytest.importorskip("torchcam", reason="needs torchcam")

from peers.agreement import AGREEMENTS, Agreement, apart

DOCS = Path(__file__).parents[2] / "docs"
TOLERANCE = {"resnet18": 2e-5}
"""Single precision on a deep network; in double, what is left is the peers' small constants and float32."""


@pytest.mark.parametrize(
    ("entry", "name"),
    [pytest.param(entry, name, id=f"{entry} on {name}") for entry in AGREEMENTS for name in entry.settings],
)
def test_both_compute_the_same_map(entry: Agreement, name: str) -> None:
    assert entry.on(name) < TOLERANCE.get(name.split(",")[0], 2e-6)


def test_a_difference_would_be_seen() -> None:
    for other in ("gradcam", "layercam", "elementwise"):
        entry = Agreement(other, "pytorch-grad-cam", "HiResCAM")
        assert entry.on("two layers") > 0.1


def test_the_measure_of_difference() -> None:
    assert apart([1.0, -2.0], [1.0, -4.0]) == 0.5
    assert apart([0.0], [0.0]) == 0
    assert apart([1.0], [0.0]) > 1e9


def page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("_agreement", DOCS / "_agreement.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_lists_every_pair_and_every_difference() -> None:
    written = (DOCS / "agreement.md").read_text("utf-8")
    for entry in AGREEMENTS:
        assert re.search(rf"^\| `{entry.rule}` \| {entry.peer} \| `{entry.method}` \|.*\|$", written, re.M), (
            entry
        )
    script = page()
    differences = [found for module in script.MODULES.values() for found in script.differences(module)]
    assert len(differences) >= 20
    for difference in differences:
        assert difference in written, "run: python docs/_agreement.py"


def test_the_numbers_on_the_page_are_below_the_tolerances() -> None:
    """The page may be of another machine; its numbers must still be agreement."""
    rows = [
        line for line in (DOCS / "agreement.md").read_text("utf-8").splitlines() if line.startswith("| `")
    ]
    numbers = [float(found) for row in rows for found in re.findall(r"\d\.\de[+-]\d\d", row)]
    assert len(rows) == len(AGREEMENTS)
    assert numbers
    assert max(numbers) < 2e-5
