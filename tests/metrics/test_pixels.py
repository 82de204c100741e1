"""Average precision of pixels, pooled over a data set."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from hirescam.errors import InputError
from hirescam.metrics import estimate, get
from hirescam.metrics.accumulator import MetricAccumulator
from hirescam.metrics.pixels import count_pixels, pixel_ap, pooled_average_precision


def test_counts_and_average_precision_by_hand():
    values = torch.tensor([[[1.0, 0.5, 0.25, 0.0, -3.0]]])
    target = torch.tensor([[[True, False, True, False, False]]])
    counts = pixel_ap(values, target, steps=4)
    assert counts[0].tolist() == [[0, 1, 0, 0, 1], [2, 0, 1, 0, 0]]
    # 1 of 1 at τ = 1; 1 of 2 at .5; 2 of 3 at .25: 1 · ½ + ⅔ · ½
    assert get("pixel_ap").reduce(counts) == pytest.approx(0.5 + 1 / 3)


def test_pixels_are_pooled_and_not_averaged():
    sharp = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])
    target = torch.tensor([[[True, False, False, False]]])
    blurred = torch.tensor([[[1.0, 0.9, 0.0, 0.0]]])  # its object is at 0.9
    second = torch.tensor([[[False, True, False, False]]])
    counts = pixel_ap(torch.cat([sharp, blurred]), torch.cat([target, second]), steps=10)
    # ½ of 2 pixels at 1, then 2 of 3 at .9
    assert pooled_average_precision(counts) == pytest.approx(0.5 * 1 / 2 + 0.5 * 2 / 3)
    each = [pooled_average_precision(one[None]) for one in counts]
    assert each == [1, 0.5]


@given(seed=st.integers(0, 10**6), n=st.integers(1, 4), steps=st.integers(1, 9))
def test_it_is_scikit_learns_average_precision_when_the_bins_tell_all_values_apart(seed, n, steps):
    random = np.random.default_rng(seed)
    grid = random.integers(0, steps + 1, size=(n, 3, 4))
    grid[:, 0, 0], grid[:, 0, 1] = steps, 0  # every map reaches 1 and 0
    masks = random.random((n, 3, 4)) > 0.5
    masks[0, 1, 1] = True
    expected = average_precision_score(masks.ravel(), grid.ravel())
    for scale in ("max", "range"):
        counts = pixel_ap(torch.from_numpy(grid), torch.from_numpy(masks), steps=steps, scale=scale)
        assert pooled_average_precision(counts) == pytest.approx(expected, rel=1e-12)


@given(seed=st.integers(0, 10**6))
def test_the_range_scale_is_the_published_definition(seed):
    """Stretch, histogram into [0, ε), …, [1 − ε, 1), [1, 2), sum precision times gain of recall."""
    random = np.random.default_rng(seed)
    values, masks = random.normal(size=(3, 5, 6)), random.random((3, 5, 6)) > 0.6
    masks[0, 0, 0] = True
    edges = np.append(np.arange(0, 1, 0.1), [1.0, 2.0])
    scaled = np.stack([(v - v.min()) / (v.max() - v.min()) for v in values])
    tp = np.histogram(scaled[masks], edges)[0][::-1].cumsum()
    fp = np.histogram(scaled[~masks], edges)[0][::-1].cumsum()
    recall = np.concatenate([[0], tp / tp[-1]])
    expected = sum(tp[i] / max(1, tp[i] + fp[i]) * (recall[i + 1] - recall[i]) for i in range(len(tp)))
    counts = pixel_ap(torch.from_numpy(values), torch.from_numpy(masks), steps=10, scale="range")
    assert pooled_average_precision(counts) == pytest.approx(expected)


def test_maps_that_say_nothing_score_chance_or_not_by_their_scale():
    target = torch.zeros(1, 4, 4, dtype=torch.bool)
    target[0, 0] = True
    for value in (0.0, 2.0, -2.0):
        for scale in ("max", "range"):
            counts = pixel_ap(torch.full((1, 4, 4), value), target, scale=scale)
            assert pooled_average_precision(counts) == 0.25
    negative = target.double() - 5
    assert pooled_average_precision(pixel_ap(negative, target)) == 0.25
    assert pooled_average_precision(pixel_ap(negative, target, scale="range")) == 1


def test_an_empty_mask_adds_pixels_that_should_not_be_marked():
    values = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    target = torch.tensor([[[True, False]], [[False, False]]])
    counts = pixel_ap(values, target)
    assert pooled_average_precision(counts) == 0.5
    assert math.isnan(pooled_average_precision(counts[1:]))
    assert math.isnan(pooled_average_precision(counts[:0]))


def test_ignored_pixels_count_neither_way():
    values = torch.tensor([[[1.0, 0.8, 0.2, 0.0]]])
    target = torch.tensor([[[False, True, False, False]]])
    counted = torch.tensor([[[False, True, True, True]]])
    assert pooled_average_precision(pixel_ap(values, target)) == 0.5
    counts = count_pixels(values, target, counted)
    assert counts.sum() == 3
    assert pooled_average_precision(counts) == 1


def test_batches_and_intervals_use_the_pooled_number():
    values, target = torch.rand(6, 5, 5), torch.rand(6, 5, 5) > 0.7
    counts = pixel_ap(values, target)
    collected = MetricAccumulator("pixel_ap")
    collected.update(counts[:4])
    collected.update(counts[4:])
    assert collected.compute().item() == pooled_average_precision(counts)
    found = estimate("pixel_ap", counts, resamples=50)
    assert found.low <= found.value <= found.high


def test_unknown_options_are_named():
    values, target = torch.rand(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool)
    with pytest.raises(InputError, match="scale='min' is unknown: give 'max' or 'range'"):
        pixel_ap(values, target, scale="min")
    with pytest.raises(InputError, match="steps=0 must be at least 1"):
        pixel_ap(values, target, steps=0)
