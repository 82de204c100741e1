"""IoU and Dice: at one level, at the best, per class, and the oracle."""

import math

import monai.metrics
import numpy as np
import pytest
import torch
import torchmetrics.functional as tm
from hypothesis import given
from hypothesis import strategies as st
from monai.visualize.class_activation_maps import default_normalizer
from sklearn.metrics import f1_score, jaccard_score

from hirescam.errors import InputError
from hirescam.metrics import estimate, get, reductions, thresholds
from hirescam.metrics.overlap import (
    best_dice,
    best_iou,
    class_best_iou,
    dice,
    iou,
    levels,
    oracle_iou,
)
from hirescam.metrics.scales import share_of_max

ROW = torch.tensor([[[4.0, 3.0, 2.0, 1.0, -4.0]]])
FIRST_TWO = torch.tensor([[[1, 1, 0, 0, 0]]]).bool()


def test_by_hand():
    # above 0.5 · 4: the first two pixels only, since 2 is not strictly above
    assert iou(ROW, FIRST_TWO).item() == 1
    assert dice(ROW, FIRST_TWO).item() == 1
    # above 0: the first four
    assert iou(ROW, FIRST_TWO, level=0).item() == 0.5
    assert dice(ROW, FIRST_TWO, level=0).item() == pytest.approx(2 * 2 / (4 + 2))
    # above 0.75 · 4: the first
    assert iou(ROW, FIRST_TWO, level=0.75).item() == 0.5


def test_a_map_that_says_nothing_marks_nothing_and_a_constant_one_everything():
    values = torch.stack([torch.zeros(2, 5), -torch.ones(2, 5), torch.full((2, 5), 3.0)])
    masks = torch.zeros(3, 2, 5, dtype=torch.bool)
    masks[:, 0] = True
    assert iou(values, masks).tolist() == [0, 0, 0.5]
    assert dice(values, masks).tolist() == [0, 0, pytest.approx(2 / 3)]
    assert best_iou(values, masks)[:2].abs().max() == 0
    assert (best_iou(values, masks)[2] == 0.5).all()


def test_an_empty_mask_is_undefined_at_every_level():
    masks = torch.zeros(1, 1, 5, dtype=torch.bool)
    for found in (iou(ROW, masks), dice(ROW, masks), best_iou(ROW, masks), oracle_iou(ROW, masks)):
        assert found.isnan().all()


@pytest.mark.parametrize("level", [-0.1, 1.0, math.nan])
def test_levels_are_shares(level):
    with pytest.raises(InputError, match=r"level=.* must be at least 0 and below 1"):
        iou(ROW, FIRST_TWO, level=level)
    with pytest.raises(InputError, match="steps=0 must be at least 1"):
        best_iou(ROW, FIRST_TWO, steps=0)


def test_the_best_shared_level_by_hand():
    # Sample 1 is perfect only at level 0.5, sample 2 only at level 0.75, steps of 1/4.
    values = torch.cat([ROW, ROW])
    masks = torch.cat([FIRST_TWO, torch.tensor([[[1, 0, 0, 0, 0]]]).bool()])
    curve = best_iou(values, masks, steps=4)
    expected = [[2 / 4, 2 / 3, 1, 1 / 2], [1 / 4, 1 / 3, 1 / 2, 1]]
    torch.testing.assert_close(curve, torch.tensor(expected, dtype=torch.float64))
    assert get("best_iou").reduce(curve) == pytest.approx(0.75)
    assert oracle_iou(values, masks, steps=4).tolist() == [1, 1]
    classes = torch.tensor([3, 8])
    assert get("class_best_iou").reduce(class_best_iou(values, masks, steps=4), classes) == 1
    assert get("class_best_iou").reduce(curve, torch.tensor([3, 3])) == pytest.approx(0.75)


def test_levels_chosen_on_one_set_are_read_on_another():
    validation = torch.tensor([[0.1, 0.9, 0.2], [0.3, 0.5, 0.6], [math.nan] * 3, [0.4, 0.4, 0.1]])
    classes = torch.tensor([0, 1, 1, 2])
    steps = thresholds.best_steps(validation, classes)
    assert steps == {0: 1, 1: 2, 2: 0}
    other = torch.tensor([[0.0, 0.25, 1.0], [1.0, 0.0, 0.5], [1.0, 1.0, 1.0]])
    read = thresholds.at_steps(other, steps, torch.tensor([0, 1, 7]))
    assert read[:2].tolist() == [0.25, 0.5]
    assert math.isnan(read[2])
    assert thresholds.best_steps(validation) == {-1: 1}
    assert thresholds.at_steps(other, {-1: 2}).tolist() == [1, 0.5, 1]


def test_undefined_samples_are_left_out_of_the_best_level():
    curve = torch.tensor([[0.2, 0.8], [math.nan, math.nan], [0.4, 0.4]])
    assert thresholds.best_mean(curve) == pytest.approx(0.6)
    assert thresholds.best_mean_of_each_class(curve, torch.tensor([0, 0, 1])) == pytest.approx(0.6)
    found = estimate("best_iou", curve.double(), resamples=50)
    assert found.value == pytest.approx(0.6)
    assert found.undefined == 1
    for reduction in (thresholds.best_mean, thresholds.best_mean_of_each_class):
        assert math.isnan(reduction(curve[1:2], None))
        assert math.isnan(reduction(curve[:0], None))


@given(seed=st.integers(0, 10**6), axes=st.integers(1, 3), steps=st.integers(1, 12))
def test_curves_are_what_slow_loops_say(seed, axes, steps):
    generator = torch.Generator().manual_seed(seed)
    size = (4, 3, 2)[:axes]
    # Values on the levels themselves, so that "strictly above" is tested.
    values = torch.randint(-2, 9, (2, *size), generator=generator).double()
    masks = torch.rand(2, *size, generator=generator) > 0.5
    curve, smooth = best_iou(values, masks, steps=steps), best_dice(values, masks, steps=steps)
    for index in range(2):
        truth = masks[index].numpy()
        top = values[index].max().item()
        for step in range(steps):
            marked = values[index].numpy() / top > step / steps if top > 0 else np.zeros(size, bool)
            if not truth.any():
                assert math.isnan(curve[index, step])
                continue
            both = (marked & truth).sum()
            assert curve[index, step].item() == pytest.approx(both / (marked | truth).sum())
            assert smooth[index, step].item() == pytest.approx(2 * both / (marked.sum() + truth.sum()))


@given(seed=st.integers(0, 10**6))
def test_the_kinds_of_best_are_ordered(seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(6, 5, 5, generator=generator).double()
    masks = torch.rand(6, 5, 5, generator=generator) > 0.6
    classes = torch.randint(0, 3, (6,), generator=generator)
    curve = best_iou(values, masks)
    fixed = reductions.mean(iou(values, masks, level=0.5))
    shared, by_class = thresholds.best_mean(curve), thresholds.best_mean_of_each_class(curve, classes)
    oracle = reductions.mean(oracle_iou(values, masks))
    assert fixed <= shared + 1e-12
    assert shared <= by_class + 1e-12
    assert by_class <= oracle + 1e-12


@given(seed=st.integers(0, 10**6), level=st.sampled_from([0.0, 0.15, 0.5, 0.9]))
def test_dice_and_iou_of_a_sample_say_the_same(seed, level):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(4, 5, 5, generator=generator).double()
    masks = torch.rand(4, 5, 5, generator=generator) > 0.6
    masks[:, 0, 0] = True
    found = iou(values, masks, level=level)
    torch.testing.assert_close(dice(values, masks, level=level), 2 * found / (1 + found))


def test_the_curve_passes_through_every_fixed_level():
    values, masks = torch.randn(3, 8, 8).double(), torch.rand(3, 8, 8) > 0.7
    curve = best_iou(values, masks, steps=50)
    for step, level in enumerate(levels(50).tolist()):
        assert torch.equal(curve[:, step], iou(values, masks, level=level))


def test_other_libraries_agree_on_marked_pixels():
    values, masks = torch.randn(4, 6, 7).double(), torch.rand(4, 6, 7) > 0.6
    marked = share_of_max(values) > 0.3
    ours_iou, ours_dice = iou(values, masks, level=0.3), dice(values, masks, level=0.3)
    for index in range(4):
        a, b = marked[index], masks[index]
        assert ours_iou[index].item() == pytest.approx(jaccard_score(b.flatten(), a.flatten()))
        assert ours_dice[index].item() == pytest.approx(f1_score(b.flatten(), a.flatten()))
        torchs = tm.classification.binary_jaccard_index(a.int(), b.int())
        assert ours_iou[index].item() == pytest.approx(torchs.item(), rel=1e-6)
        torchs = tm.classification.binary_f1_score(a.int(), b.int())
        assert ours_dice[index].item() == pytest.approx(torchs.item(), rel=1e-6)
    monais = monai.metrics.compute_iou(marked.unsqueeze(1).float(), masks.unsqueeze(1).float())
    torch.testing.assert_close(ours_iou.float(), monais[:, 0])
    monais = monai.metrics.compute_dice(marked.unsqueeze(1).float(), masks.unsqueeze(1).float())
    torch.testing.assert_close(ours_dice.float(), monais[:, 0])


def test_monais_normaliser_turns_a_map_upside_down():
    """Defect 16 of the list: its largest value becomes 0. Here the largest stays the largest."""
    theirs = default_normalizer(ROW.unsqueeze(1))[:, 0]
    assert theirs.flatten().tolist() == [0, 0.125, 0.25, 0.375, 1]
    assert iou(theirs, FIRST_TWO).item() == 0
    assert share_of_max(ROW).flatten().tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert iou(ROW, FIRST_TWO).item() == 1
