"""What every localisation metric of maps and masks keeps to, whatever its formula."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import hirescam
from hirescam.errors import InputError
from hirescam.metrics import Case, Kind, Scene, boxes_to_masks, get, metrics
from hirescam.metrics.seeds import SEED_MIOU

LOCALISERS = [one for one in metrics().values() if one.kind is Kind.LOCALISATION]
OF_MASKS = [one for one in LOCALISERS if one.needs == ("maps", "masks")]
every = pytest.mark.parametrize("one", OF_MASKS, ids=lambda one: one.name)
seeds = given(seed=st.integers(0, 10**6), axes=st.integers(1, 3))


def sample(seed: int, axes: int, n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size = (7, 6, 5)[:axes]
    masks = torch.rand(n, *size, generator=generator) > 0.6
    masks[:, 0] |= ~masks.flatten(1).any(1).reshape(-1, *[1] * (axes - 1))
    return torch.randn(n, *size, generator=generator).double(), masks


def options(one) -> dict:
    """A tolerance that does not cover the whole of a small map."""
    return {"tolerance": 1.5} if "tolerance" in one.options else {}


def test_there_are_metrics_to_test():
    assert {one.name for one in OF_MASKS} >= {
        "pointing_game",
        "relevance_mass",
        "relevance_rank",
        "iou",
        "dice",
    }


@every
@seeds
def test_values_are_in_bounds_and_one_row_per_sample(one, seed, axes):
    values, masks = sample(seed, axes)
    found = one.function(values, masks)
    assert found.dtype == torch.float64
    assert found.shape[0] == 3
    reduced = one.reduce(found, torch.tensor([0, 1, 0]))
    low, high = one.bounds
    assert low <= reduced <= high


@every
@seeds
def test_samples_do_not_touch_each_other(one, seed, axes):
    values, masks = sample(seed, axes)
    order = torch.tensor([2, 0, 1])
    whole = one.function(values, masks)
    torch.testing.assert_close(one.function(values[order], masks[order]), whole[order], rtol=0, atol=0)
    torch.testing.assert_close(one.function(values[1:2], masks[1:2]), whole[1:2], rtol=0, atol=0)


@every
@seeds
def test_a_mirror_changes_nothing(one, seed, axes):
    values, masks = sample(seed, axes)
    one = one.configure(options(one))
    plain = one.function(values, masks)
    for axis in range(1, axes + 1):
        torch.testing.assert_close(one.function(values.flip(axis), masks.flip(axis)), plain)
    swapped = one.function(values.movedim(1, -1), masks.movedim(1, -1))
    torch.testing.assert_close(swapped, plain)


@every
@seeds
def test_the_unit_of_the_score_does_not_matter(one, seed, axes):
    values, masks = sample(seed, axes)
    torch.testing.assert_close(one.function(values * 8, masks), one.function(values, masks))


@every
def test_the_object_itself_is_a_perfect_map(one):
    _, masks = sample(5, 2)
    found = one.function(masks.double(), masks)
    assert one.reduce(found, torch.zeros(3, dtype=torch.int64)) == pytest.approx(1)


@every
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_map_that_claims_nothing_never_hits(one, value):
    masks = torch.ones(1, 4, 4, dtype=torch.bool)
    masks[0, 3] = False
    found = one.function(torch.full((1, 4, 4), value), masks)
    nothing = one.reduce(found, torch.zeros(1, dtype=torch.int64))
    chance = 0.75 if one.name == "pixel_ap" else 0  # all pixels are marked last, and then all at once
    assert nothing == pytest.approx(chance)


@every
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_broken_maps_are_refused(one, bad):
    values, masks = sample(1, 2)
    values[1, 2, 3] = bad
    with pytest.raises(InputError, match=r"maps\[1\] has NaN or infinite values"):
        one.function(values, masks)


@every
def test_maps_and_masks_must_fit(one):
    values, masks = sample(1, 2)
    with pytest.raises(InputError, match=r"maps has shape \(3, 7, 5\) and masks \(3, 7, 6\)"):
        one.function(values[..., :5], masks)
    with pytest.raises(InputError, match=r"masks has dtype torch.float32: expected bool"):
        one.function(values, masks.float())
    with pytest.raises(InputError, match=r"expected \(n, \*space\)"):
        one.function(values[:, 0, 0], masks[:, 0, 0])


@every
def test_precision_and_gradients_do_not_matter(one):
    values, masks = sample(3, 2)
    single = values.float()
    expected = one.function(single.double(), masks)
    found = one.function(single.requires_grad_(), masks)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@every
def test_no_sample_is_no_error(one):
    values, masks = sample(3, 2)
    found = one.function(values[:0], masks[:0])
    assert len(found) == 0
    assert math.isnan(one.reduce(found, torch.zeros(0, dtype=torch.int64)))


def test_a_case_measures_all_of_them():
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    model = nn.Sequential(*layers).double().eval()
    boxes = [torch.tensor([[[1, 1], [5, 6]]]), torch.tensor([[[0, 2], [4, 8]], [[6, 6], [8, 8]]])]
    scene = Scene(
        hirescam.Explainer(model),
        torch.rand(2, 3, 8, 8).double(),
        masks=boxes_to_masks(boxes, (8, 8)),
        boxes=boxes,
    )
    case = Case(scene, "gradcam")
    for one in LOCALISERS:
        values = case.measure(one)
        assert len(values) == 2
        assert 0 <= one.reduce(values, scene.classes) <= 1
    maps = case.maps
    torch.testing.assert_close(
        case.measure("pointing_game"), get("pointing_game").function(maps, scene.masks)
    )
    torch.testing.assert_close(case.measure("box_iou"), get("box_iou").function(maps, boxes))


@pytest.mark.parametrize("one", LOCALISERS, ids=lambda one: one.name)
def test_sources_are_in_the_bibliography(one):
    bibliography = (Path(__file__).parents[2] / "docs" / "bibliography.bib").read_text("utf-8")
    for key in (one.cite, SEED_MIOU.cite):
        assert f"{{{key}," in bibliography
