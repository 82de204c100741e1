"""Maps of all classes as seeds for segmentation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, jaccard_score

from hirescam.errors import InputError
from hirescam.metrics import estimate
from hirescam.metrics.accumulator import MetricAccumulator
from hirescam.metrics.seeds import SEED_MIOU, count_seeds, mean_iou

MAPS = torch.tensor([[[4.0, 2.0, 0.5, -1.0], [0.0, 0.2, 0.4, 0.02], [9.0, 9.0, 9.0, 9.0]]])  # three classes
PRESENT = torch.tensor([[True, True, False]])


def test_by_hand():
    # shares: 1 .5 .125 0 | 0 .5 1 .05 | absent; background .15. The tie at pixel 1 goes to the first class.
    counts = count_seeds(MAPS, torch.tensor([[1, 2, 2, 0]]), PRESENT)[0]
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[1, 1] = expected[2, 1] = expected[2, 2] = expected[0, 0] = 1
    assert torch.equal(counts, expected)
    assert SEED_MIOU.reduce(counts[None]) == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)


def test_the_background_wins_ties_and_its_score_is_an_option():
    maps = torch.tensor([[[1.0, 0.5, 0.25]]])
    counts = count_seeds(maps, torch.tensor([[0, 0, 0]]), torch.tensor([[True]]), background=0.5)
    assert counts[0, 0].tolist() == [2, 1]


def test_ignored_pixels_count_neither_way():
    counts = count_seeds(MAPS, torch.tensor([[1, 255, 255, 0]]), PRESENT)
    assert counts.sum() == 2
    assert SEED_MIOU.reduce(counts) == 1


@pytest.mark.parametrize("value", [0.0, -2.0])
def test_a_map_that_claims_nothing_leaves_the_image_to_the_background(value):
    counts = count_seeds(torch.full((1, 1, 4), value), torch.tensor([[1, 1, 0, 0]]), torch.tensor([[True]]))
    assert counts[0].tolist() == [[2, 0], [2, 0]]
    assert SEED_MIOU.reduce(counts) == pytest.approx((2 / 4 + 0) / 2)


def test_a_constant_positive_map_takes_the_whole_image():
    counts = count_seeds(torch.ones(1, 1, 4), torch.tensor([[1, 1, 0, 0]]), torch.tensor([[True]]))
    assert counts[0].tolist() == [[0, 2], [0, 2]]


@given(seed=st.integers(0, 10**6), axes=st.integers(1, 3), background=st.sampled_from([0.0, 0.15, 0.6]))
def test_counts_are_scikit_learns_confusion_of_the_seed_by_loops(seed, axes, background):
    random = np.random.default_rng(seed)
    size = (4, 3, 2)[:axes]
    maps = random.normal(size=(2, 3, *size))
    labels = random.choice([0, 1, 2, 3, 255], size=(2, *size))
    present = random.random((2, 3)) > 0.3
    counts = count_seeds(*map(torch.from_numpy, (maps, labels, present)), background=background)
    truth, seeds = [], []
    for index in range(2):
        mine = []
        for place in np.ndindex(size):
            best, label = background, 0
            for c in range(3):
                top = maps[index, c].max()
                share = max(0, maps[index, c][place] / top) if top > 0 else 0
                if present[index, c] and share > best:
                    best, label = share, c + 1
            mine.append(label)
        kept = labels[index].ravel() != 255
        truth += list(labels[index].ravel()[kept])
        seeds += list(np.array(mine)[kept])
        if kept.any():
            expected = confusion_matrix(truth[-kept.sum() :], seeds[-kept.sum() :], labels=range(4))
            assert counts[index].tolist() == expected.tolist()
    if truth:
        seen = sorted({*truth, *seeds})
        assert mean_iou(counts) == pytest.approx(jaccard_score(truth, seeds, labels=seen, average="macro"))


def test_classes_nowhere_to_be_seen_are_left_out_of_the_mean():
    counts = torch.zeros(1, 3, 3, dtype=torch.float64)
    counts[0, 0, 0] = 5
    assert mean_iou(counts) == 1
    assert math.isnan(mean_iou(counts * 0))
    assert math.isnan(mean_iou(counts[:0]))


def test_images_add_up_in_batches_and_intervals():
    maps, labels = torch.randn(5, 2, 4, 4), torch.randint(0, 3, (5, 4, 4))
    counts = count_seeds(maps, labels, torch.ones(5, 2, dtype=torch.bool))
    collected = MetricAccumulator(SEED_MIOU)
    collected.update(counts[:2])
    collected.update(counts[2:])
    assert collected.compute().item() == mean_iou(counts)
    found = estimate(SEED_MIOU, counts, resamples=30)
    assert found.low <= found.value <= found.high


def test_what_does_not_fit_is_named():
    labels = torch.tensor([[1, 2, 2, 0]])
    with pytest.raises(InputError, match=r"labels has shape \(1, 3\): expected \(1, 4\)"):
        count_seeds(MAPS, labels[:, :3], PRESENT)
    with pytest.raises(InputError, match=r"labels has 4: expected 0 for background, 1 … 3 for the classes"):
        count_seeds(MAPS, labels + 2, PRESENT)
    with pytest.raises(
        InputError, match=r"present is torch.bool with shape \(1, 2\): expected bool with \(1, 3\)"
    ):
        count_seeds(MAPS, labels, PRESENT[:, :2])
    with pytest.raises(InputError, match=r"present is torch.int64"):
        count_seeds(MAPS, labels, PRESENT.long())
    with pytest.raises(InputError, match=r"maps\[0\] has NaN"):
        count_seeds(MAPS * math.nan, labels, PRESENT)
    with pytest.raises(InputError, match=r"background=-0\.1 must be at least 0 and below 1"):
        count_seeds(MAPS, labels, PRESENT, background=-0.1)
