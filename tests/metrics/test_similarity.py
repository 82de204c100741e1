"""How alike two maps are: against scipy and scikit-image, and where those have no answer."""

import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from skimage.feature import hog
from skimage.metrics import structural_similarity

from hirescam.errors import InputError, MetricError
from hirescam.metrics.similarity import alike

EVERY = ("spearman", "spearman_abs", "ssim", "hog")
SIZES = [(9,), (6, 5), (4, 3, 5)]


def pairs(*size: int, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, *size), torch.randn(count, *size)


@pytest.mark.parametrize("size", SIZES, ids=len)
def test_spearman_is_scipys(size):
    first, second = pairs(*size)
    first, second = first.round(), second.round(decimals=3)  # ties in both, and no values that nearly tie
    wanted = [spearmanr(a.flatten(), b.flatten())[0] for a, b in zip(first, second, strict=True)]
    assert alike(first, second).tolist() == pytest.approx(wanted)
    wanted = [spearmanr(a.abs().flatten(), b.abs().flatten())[0] for a, b in zip(first, second, strict=True)]
    assert alike(first, second, "spearman_abs").tolist() == pytest.approx(wanted)


def test_spearman_by_hand():
    first = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    # 1 − 6 Σ d² / (n (n² − 1)) with d = 1, 1, 1, 1
    assert alike(first, torch.tensor([[20.0, 10.0, 40.0, 30.0]])).tolist() == pytest.approx([0.6])
    assert alike(first, torch.tensor([[-2.0, 1.0, 4.0, -3.0]]), "spearman_abs").tolist() == pytest.approx(
        [0.6]
    )


@pytest.mark.parametrize(("size", "window"), [((9,), 7), ((5, 8), 5), ((4, 6, 5), 3)])
def test_structural_similarity_is_that_of_maps_on_a_diverging_scale(size, window):
    first, second = pairs(*size)
    wanted = []
    for pair in zip(first, second, strict=True):
        grey = [(0.5 + one / (2 * one.abs().max())).double().numpy() for one in pair]
        wanted.append(structural_similarity(*grey, data_range=1, win_size=window))
    assert alike(first, 1000 * second, "ssim").tolist() == pytest.approx(wanted, abs=1e-6)


def test_structural_similarity_by_hand():
    """One window of three pixels: (2 μ μ' + c)(2 cov + d) / ((μ² + μ'² + c)(var + var' + d))."""
    first, second = torch.tensor([[-3.0, 0.0, 3.0]]), torch.tensor([[1.0, 0.0, -1.0]])  # 0, 1/2, 1
    c, d = 0.01**2, 0.03**2
    mean, variance, covariance = 0.5, 0.25, -0.25
    luminance = (2 * mean * mean + c) / (mean**2 + mean**2 + c)
    wanted = luminance * (2 * covariance + d) / (variance + variance + d)
    assert alike(first, second, "ssim").tolist() == pytest.approx([wanted])


@pytest.mark.parametrize(("side", "cell"), [(16, 4), (40, 10), (64, 16), (100, 16)])
def test_gradient_histograms_are_those_of_scikit_image(side, cell):
    first, second = pairs(side, side, count=2)
    wanted = []
    for pair in zip(first, second, strict=True):
        unit = [(one / one.abs().max()).double().numpy() for one in pair]
        vectors = [hog(one, orientations=9, pixels_per_cell=(cell, cell)) for one in unit]
        wanted.append(pearsonr(*vectors)[0])
    assert alike(first, second, "hog").tolist() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("by", EVERY)
def test_a_map_is_like_itself(by):
    maps, _ = pairs(16, 16)
    assert alike(maps, maps, by).tolist() == pytest.approx([1, 1, 1])
    assert alike(maps, 7 * maps, by).tolist() == pytest.approx([1, 1, 1])


def test_the_sign_counts_or_does_not():
    maps, _ = pairs(16, 16)
    assert alike(maps, -maps).tolist() == pytest.approx([-1, -1, -1])
    assert alike(maps, -maps, "spearman_abs").tolist() == pytest.approx([1, 1, 1])
    assert alike(maps, -maps, "ssim").max() < -0.8
    assert alike(maps, -maps, "hog").tolist() == pytest.approx([1, 1, 1]), "orientations have no direction"


def test_structural_similarity_of_signed_values_would_call_opposites_alike():
    """Where a map is above or below zero in all of a window: both factors are negative, their product not."""
    map_ = 0.2 + 0.8 * torch.rand(1, 16, 16).double()
    unit = map_[0].numpy() / map_.max().item()
    assert structural_similarity(unit, -unit, data_range=2) > 0.5
    assert alike(map_, -map_, "ssim") < 0


def test_structural_similarity_of_coarse_maps_is_high_whatever_they_are():
    """Unrelated maps on 7 × 7 cells, at 224 × 224 pixels as pictures show them."""
    first, second = torch.randn(2, 20, 7, 7).double()
    shown = [F.interpolate(maps[:, None], (224, 224), mode="bilinear")[:, 0] for maps in (first, second)]
    assert alike(first, second, "ssim").mean() < 0.2
    assert alike(*shown, "ssim").mean() > 0.4
    assert alike(*shown).mean() < 0.2


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
@pytest.mark.parametrize("by", EVERY)
def test_constant_maps_have_an_answer(by, value):
    """No coefficient has one: scipy gives NaN, and scikit-image 1 or anything."""
    varies, _ = pairs(16, 16)
    constant = torch.full_like(varies, value)
    assert alike(varies, constant, by).tolist() == [0, 0, 0]
    assert alike(constant, varies, by).tolist() == [0, 0, 0]
    assert alike(constant, constant, by).tolist() == [1, 1, 1]
    assert alike(constant, torch.zeros_like(constant), by).tolist() == [1, 1, 1]


@pytest.mark.parametrize("by", EVERY)
def test_rounding_does_not_make_a_constant_map_vary(by):
    varies, noise = pairs(16, 16)
    assert alike(varies, 1 + 1e-6 * noise, by).tolist() == [0, 0, 0]


@pytest.mark.parametrize("by", EVERY)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-20, 1e20))
def test_laws(by, seed, scale):
    """Symmetric, bounded, blind to units, and one sample does not see another."""
    torch.manual_seed(seed)
    first, second = (one.double() for one in pairs(12, 9, count=2))
    found = alike(first, second, by)
    assert (found.abs() <= 1 + 1e-9).all()
    torch.testing.assert_close(alike(second, first, by), found)
    torch.testing.assert_close(alike(scale * first, second, by), found)
    torch.testing.assert_close(alike(first[1:], second[1:], by), found[1:])


def test_maps_of_another_shape_or_not_finite_are_refused():
    with pytest.raises(InputError, match=r"shapes \(1, 4\) and \(1, 5\)"):
        alike(torch.ones(1, 4), torch.ones(1, 5))
    with pytest.raises(InputError, match=r"maps\[1\] has NaN"):
        alike(torch.ones(2, 4), torch.tensor([[1.0] * 4, [math.nan] * 4]))


def test_measures_that_do_not_fit_say_so():
    with pytest.raises(InputError, match=r"similarity='cosine' is unknown: use one of 'spearman'"):
        alike(torch.ones(1, 4), torch.ones(1, 4), "cosine")
    with pytest.raises(InputError, match=r"at least 3 pixels along every axis, the maps are \(2, 9\)"):
        alike(torch.ones(1, 2, 9), torch.ones(1, 2, 9), "ssim")
    for size in [(9,), (7, 9), (9, 9, 9)]:
        with pytest.raises(InputError, match="at least 8 pixels each way"):
            alike(torch.ones(1, *size), torch.ones(1, *size), "hog")


def test_scikit_image_is_needed_for_two_of_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    maps, _ = pairs(9, 9)
    assert np.allclose(alike(maps, maps), 1)
    with pytest.raises(MetricError, match=r"pip install hirescam\[metrics\]"):
        alike(maps, maps, "ssim")
