"""How much of the map lies in the allowed organ."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hirescam.metrics import get, thresholds
from hirescam.metrics.organs import LEVELS, organ_iou


def test_the_levels_are_the_53_of_the_reference():
    assert len(LEVELS) == 53
    assert LEVELS[:6] == (0.004, 0.008, 0.012, 0.016, 0.02, 0.04)
    assert LEVELS[-1] == 0.98
    assert list(LEVELS) == sorted(LEVELS)


def test_the_reference_gives_a_perfect_map_nothing():
    """Defect 17 of the list: it asks for a voxel outside. 10 inside and 0 outside: 0; and 1 outside: 0.91."""
    organ = torch.zeros(1, 2, 4, 5, dtype=torch.bool)
    organ[0, 0, :2] = True  # 10 voxels
    perfect = organ.double()
    assert organ_iou(perfect, organ, legacy=True).max() == 0
    assert organ_iou(perfect, organ).min() == 1
    nearly = perfect.clone()
    nearly[0, 1, 3, 4] = 1
    for legacy in (True, False):
        torch.testing.assert_close(
            organ_iou(nearly, organ, legacy=legacy), torch.full((1, 53), 10 / 11).double()
        )


def test_missing_the_organ_costs_nothing_which_is_why_it_is_no_iou():
    organ = torch.ones(1, 10, 10, dtype=torch.bool)
    organ[0, 9] = False
    speck = torch.zeros(1, 10, 10)
    speck[0, 0, 0] = 1
    assert organ_iou(speck, organ).min() == 1
    assert get("class_best_iou").function(speck, organ).max() == pytest.approx(1 / 90)


def test_maps_that_mark_nothing_score_0_and_an_empty_organ_is_undefined():
    organ = torch.ones(1, 3, 3, dtype=torch.bool)
    for value in (0.0, 1.0, -1.0):
        assert organ_iou(torch.full((1, 3, 3), value), organ).max() == 0
    assert organ_iou(-torch.rand(1, 3, 3), organ).max() == 0
    assert organ_iou(torch.rand(1, 3, 3), ~organ).isnan().all()


@given(seed=st.integers(0, 10**6), axes=st.integers(1, 3), legacy=st.booleans())
def test_it_is_what_slow_loops_say(seed, axes, legacy):
    random = np.random.default_rng(seed)
    size = (4, 3, 3)[:axes]
    values = random.normal(size=(2, *size)) + random.choice([0, 3])
    organ = random.random((2, *size)) > 0.5
    found = organ_iou(torch.from_numpy(values), torch.from_numpy(organ), legacy=legacy)
    for index in range(2):
        positive = np.maximum(values[index], 0)
        positive = positive - positive.min()
        positive = positive / positive.max() if positive.max() > 0 else positive
        for column, level in enumerate(LEVELS):
            a = sum(positive[p] > level and organ[index][p] for p in np.ndindex(size))
            b = sum(positive[p] > level and not organ[index][p] for p in np.ndindex(size))
            expected = a / (a + b) if (a and b if legacy else a + b) else 0
            if not organ[index].any():
                assert math.isnan(found[index, column])
                continue
            assert found[index, column].item() == pytest.approx(expected)


def test_levels_are_chosen_for_each_class_and_samples_weigh_alike():
    organ = torch.zeros(3, 1, 4, dtype=torch.bool)
    organ[:, 0, :2] = True
    values = torch.tensor([[[1.0, 0.0, 0.5, 0.0]], [[0.5, 0.0, 1.0, 0.0]], [[0.5, 0.0, 1.0, 0.0]]])
    curves = organ_iou(values, organ)
    classes = torch.tensor([0, 1, 1])
    # Class 0 is perfect from 0.5 on; class 1 is best (1/2) below it.
    assert thresholds.best_steps(curves, classes) == {0: LEVELS.index(0.5), 1: 0}
    assert get("organ_iou").reduce(curves, classes) == pytest.approx((1 + 0.5 + 0.5) / 3)
    read = thresholds.at_steps(curves, {0: 0, 1: LEVELS.index(0.5)}, classes)
    assert read.tolist() == [0.5, 0, 0]
