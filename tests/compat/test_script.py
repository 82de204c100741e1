"""A script for pytorch-grad-cam runs after changing its imports, and draws the same picture."""

import runpy
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torchvision")

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("script_example.py")
PEER = "pytorch_grad_cam"

EIGEN = {"eigencam", "eigen_smooth"}
"""Maps whose sign that library leaves to the linear algebra."""

CLOSE = {"gradcam++": 0.05}
"""Where a constant in that library's denominator weighs."""


def run(source: Path, folder: Path) -> dict[str, np.ndarray]:
    folder.mkdir()
    return runpy.run_path(str(source))["main"](folder)


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("script")
    text = SCRIPT.read_text(encoding="utf-8")
    changed = folder / "script.py"
    changed.write_text(text.replace(f"from {PEER}", f"from hirescam.compat.{PEER}"), encoding="utf-8")
    maps = run(changed, folder / "out")
    with Image.open(folder / "out" / "overlay.png") as overlay:
        assert overlay.size == (64, 64)
    return maps


def test_script_runs_after_changing_its_imports(ours):
    maps = [value for name, value in ours.items() if name != "overlay"]
    assert len(maps) == 11
    for values in maps:
        assert values.shape == (64, 64)
        assert values.dtype == np.float32
        assert values.min() >= 0
        assert 0.5 < values.max() <= 1


@pytest.mark.filterwarnings("ignore")
def test_script_draws_the_same_with_the_peer(ours, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(PEER, reason="needs grad-cam")
    theirs = run(SCRIPT, tmp_path / "out")
    assert theirs.keys() == ours.keys()
    for name in ours.keys() - EIGEN - {"overlay"}:
        np.testing.assert_allclose(ours[name], theirs[name], atol=CLOSE.get(name, 1e-5), err_msg=name)
    assert np.abs(ours["overlay"].astype(int) - theirs["overlay"]).max() <= 1
    for name in EIGEN:
        alike = np.abs(ours[name] - theirs[name]).max() < 1e-5
        assert alike or np.corrcoef(ours[name].ravel(), theirs[name].ravel())[0, 1] < 0
