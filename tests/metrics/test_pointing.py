"""Pointing game, mass, ranks and the baseline that needs no model."""

import math
from dataclasses import replace

import numpy as np
import pytest
import quantus
import torch
from hypothesis import given
from hypothesis import strategies as st

from hirescam.errors import InputError
from hirescam.metrics import center_map, estimate, get, ground_truth, reductions
from hirescam.metrics.accumulator import MetricAccumulator
from hirescam.metrics.pointing import near, object_area, pointing_game, relevance_mass, relevance_rank


def one(*size, at=()) -> torch.Tensor:
    """A batch of one map that is 1 at the given places and 0 elsewhere."""
    made = torch.zeros(1, *size)
    for place in at:
        made[(0, *place)] = 1
    return made


def mask(*size, at=()) -> torch.Tensor:
    return one(*size, at=at).bool()


# --- pointing game ---------------------------------------------------------------------------


def test_a_point_at_distance_15_misses_and_a_little_closer_hits():
    peak = one(40, 40, at=[(5, 5)])
    assert pointing_game(peak, mask(40, 40, at=[(5, 20)])).item() == 0  # 15
    assert pointing_game(peak, mask(40, 40, at=[(14, 17)])).item() == 0  # 9, 12: 15 again
    assert pointing_game(peak, mask(40, 40, at=[(14, 16)])).item() == 1
    assert pointing_game(peak, mask(40, 40, at=[(5, 19)])).item() == 1
    assert pointing_game(peak, mask(40, 40, at=[(5, 20)]), tolerance=15.001).item() == 1


def test_697_pixels_are_accepted_around_a_point():
    assert int(near(mask(64, 64, at=[(31, 31)]), 15).sum()) == 697


def test_a_tolerance_of_one_asks_for_the_object_itself():
    target = mask(9, 9, at=[(4, 4)])
    assert pointing_game(one(9, 9, at=[(4, 4)]), target, tolerance=1).item() == 1
    assert pointing_game(one(9, 9, at=[(4, 5)]), target, tolerance=1).item() == 0
    with pytest.raises(InputError, match="tolerance=0 must be positive"):
        pointing_game(target.float(), target, tolerance=0)


def test_signs_matter():
    values = torch.tensor([[[0.5, -9.0]]])
    assert pointing_game(values, torch.tensor([[[True, False]]]), tolerance=1).item() == 1
    assert pointing_game(values, torch.tensor([[[False, True]]]), tolerance=1).item() == 0


def test_tied_peaks_score_what_a_random_choice_would():
    values = one(3, 60, at=[(0, 0), (1, 1), (0, 50), (1, 52)])
    assert pointing_game(values, mask(3, 60, at=[(1, 2)])).item() == 0.5
    assert pointing_game(values, mask(3, 60, at=[(1, 2)]), tolerance=2).item() == 0.25
    noisy = values.double() + 1e-9 * torch.rand(3, 60, dtype=torch.float64)
    assert pointing_game(noisy, mask(3, 60, at=[(1, 2)])).item() == 0.5


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_a_constant_map_misses_whatever_rounding_does_to_it(value):
    everywhere = torch.ones(1, 8, 8, dtype=torch.bool)
    constant = torch.full((1, 8, 8), value)
    assert pointing_game(constant, everywhere).item() == 0
    noisy = constant + 1e-7 * value * torch.rand(8, 8)
    assert pointing_game(noisy, everywhere).item() == 0


def test_a_map_without_a_positive_value_misses():
    values = -1 - torch.rand(1, 8, 8)
    values[0, 3, 3] = -0.5
    everywhere = torch.ones(1, 8, 8, dtype=torch.bool)
    assert pointing_game(values, everywhere).item() == 0
    values[0, 3, 3] = 0
    assert pointing_game(values, everywhere).item() == 0
    values[0, 3, 3] = 1e-3
    assert pointing_game(values, everywhere).item() == 1


@given(seed=st.integers(0, 10**6), axes=st.integers(1, 3), tolerance=st.sampled_from([0.5, 1, 1.5, 2, 3, 15]))
def test_the_pointing_game_is_what_slow_loops_say(seed, axes, tolerance):
    generator = torch.Generator().manual_seed(seed)
    size = (6, 5, 4)[:axes]
    values = torch.randint(-2, 3, (2, *size), generator=generator).double()
    masks = torch.rand(2, *size, generator=generator) > 0.85
    found = pointing_game(values, masks, tolerance=tolerance)
    for index in range(2):
        flat = values[index]
        if not masks[index].any():
            assert math.isnan(found[index])
            continue
        if flat.max() <= 0 or flat.max() == flat.min():
            assert found[index] == 0
            continue
        hits = []
        for peak in (flat == flat.max()).nonzero().tolist():
            gaps = [
                sum((a - b) ** 2 for a, b in zip(peak, q, strict=True))
                for q in masks[index].nonzero().tolist()
            ]
            hits.append(min(gaps) < tolerance**2)
        assert found[index].item() == pytest.approx(sum(hits) / len(hits), abs=1e-15)


def test_the_mean_is_over_classes_that_have_a_sample():
    values = torch.tensor([1.0, 1.0, 1.0, 0.0, math.nan], dtype=torch.float64)
    classes = torch.tensor([0, 0, 0, 2, 4])
    chosen = get("pointing_game")
    assert chosen.reduce(values, classes) == 0.5
    everything = replace(chosen, reduction=reductions.mean_over_all_classes(5))
    assert everything.reduce(values, classes) == pytest.approx((1 + 0 + 0 + 0 + 0) / 5)
    assert estimate(everything, values, classes, resamples=20).value == pytest.approx(0.2)
    collected = MetricAccumulator(everything)
    collected.update(values[:2], classes[:2])
    collected.update(values[2:], classes[2:])
    assert collected.compute().item() == pytest.approx(0.2)


def test_classes_that_do_not_exist_are_refused():
    mean = reductions.mean_over_all_classes(3)
    with pytest.raises(InputError, match=r"one class in 0 … 2 per sample"):
        mean(torch.zeros(2), torch.tensor([0, 3]))
    with pytest.raises(InputError, match=r"one class in 0 … 2 per sample: got None"):
        mean(torch.zeros(2), None)
    assert math.isnan(mean(torch.tensor([math.nan]), torch.tensor([0])))
    assert math.isnan(mean(torch.zeros(0), torch.zeros(0, dtype=torch.int64)))


# --- mass and ranks --------------------------------------------------------------------------


def test_mass_is_the_positive_share_on_the_object():
    values = torch.tensor([[[3.0, 1.0, -5.0, 0.0]]])
    assert relevance_mass(values, torch.tensor([[[True, False, True, False]]])).item() == 0.75
    assert relevance_mass(values, torch.tensor([[[False, False, True, True]]])).item() == 0
    assert relevance_mass(values, torch.ones(1, 1, 4, dtype=torch.bool)).item() == 1


def test_ranks_by_hand():
    values = torch.tensor([[[5.0, 4.0, 3.0, 2.0, 1.0, -7.0]]])
    assert relevance_rank(values, torch.tensor([[[1, 1, 0, 0, 0, 0]]]).bool()).item() == 1
    assert relevance_rank(values, torch.tensor([[[1, 0, 0, 0, 1, 0]]]).bool()).item() == 0.5
    assert relevance_rank(values, torch.tensor([[[0, 0, 0, 0, 1, 1]]]).bool()).item() == 0


def test_tied_ranks_share_the_last_places():
    values = torch.tensor([[[5.0, 1.0, 1.0, 1.0, 0.0, 0.0]]])
    target = torch.tensor([[[1, 1, 0, 0, 1, 0]]]).bool()  # K = 3: the 5, and two of the three ones
    assert relevance_rank(values, target).item() == pytest.approx((1 + 2 / 3) / 3)


@given(seed=st.integers(0, 10**6))
def test_tied_ranks_are_the_mean_over_random_orders(seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 3, (1, 3, 4), generator=generator).double()
    values[0, 0, 0] = 3
    target = torch.rand(1, 3, 4, generator=generator) > 0.5
    target[0, 1, 1] = True
    size, total = int(target.sum()), 0.0
    for _ in range(300):
        broken = values + 1e-3 * torch.rand(1, 3, 4, generator=generator)
        top = broken.flatten().topk(size).indices
        total += float(target.flatten()[top].double().mean())
    assert relevance_rank(values, target).item() == pytest.approx(total / 300, abs=0.12)


def test_a_map_that_says_nothing_scores_nothing_or_the_area():
    target = torch.zeros(3, 4, 4, dtype=torch.bool)
    target[:, :2, :2] = True
    values = torch.stack([torch.zeros(4, 4), torch.ones(4, 4), -torch.rand(4, 4) - 1])
    assert object_area(target).tolist() == [0.25] * 3
    assert relevance_mass(values, target).tolist() == [0, 0.25, 0]
    assert relevance_rank(values, target).tolist() == [0, 0.25, 0]


# --- the baseline ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(9,), (5, 7), (7, 5, 3)])
def test_the_center_map_points_at_the_middle_pixel(size):
    found = center_map(size)
    assert found.argmax() == math.prod(size) // 2
    assert found.min() > 0
    assert found.max() == 1
    torch.testing.assert_close(found, found.flip(tuple(range(len(size)))), rtol=0, atol=0)


def test_the_center_of_an_even_size_lies_between_pixels():
    values = center_map((4, 6)).unsqueeze(0)
    assert pointing_game(values, mask(4, 6, at=[(1, 2)]), tolerance=1).item() == 0.25
    assert pointing_game(values, mask(4, 6, at=[(2, 3)]), tolerance=1).item() == 0.25


def test_the_center_baseline_on_annotations_in_the_style_of_voc():
    """Four (image, class) pairs scored by hand, through boxes, the skip rule and the mean over classes."""
    pairs = [
        # class, boxes (rows, columns; stop exclusive), difficult marks, other classes in the image
        (0, [[[40, 40], [60, 60]]], [False], 1),  # around the middle: hit
        (0, [[[0, 0], [36, 36]]], [False], 1),  # 13.5·√2 = 19.1 px from the middle (49.5, 49.5): miss
        (0, [[[45, 45], [55, 55]]], [True], 1),  # all difficult: left out
        (1, [[[0, 0], [9, 9]], [[50, 62], [80, 90]]], [False, True], 0),  # difficult box hits, 12.5 px away
    ]
    kept = [pair for pair in pairs if ground_truth.counts(pair[2])]
    masks = ground_truth.boxes_to_masks([torch.tensor(pair[1]) for pair in kept], (100, 100))
    values = pointing_game(center_map((100, 100)).expand(len(kept), -1, -1), masks)
    classes = torch.tensor([pair[0] for pair in kept])
    assert values.tolist() == [1, 0, 1]
    assert get("pointing_game").reduce(values, classes) == pytest.approx((1 / 2 + 1) / 2)
    hard = ground_truth.hard(masks, torch.tensor([pair[3] for pair in kept]))
    assert hard.tolist() == [True, True, False]
    assert get("pointing_game").reduce(values[hard], classes[hard]) == 0.5


# --- other libraries -------------------------------------------------------------------------


def ask(metric, maps, masks, images=None) -> list[float]:
    """Score maps (n, h, w) with Quantus."""
    images = np.zeros((len(maps), 1, *maps.shape[1:])) if images is None else images
    return metric(
        model=None,
        x_batch=images,
        y_batch=np.zeros(len(maps), dtype=int),
        a_batch=maps.unsqueeze(1).double().numpy(),
        s_batch=masks.unsqueeze(1).numpy(),
        channel_first=True,
    )


QUIET = {"disable_warnings": True, "display_progressbar": False}


def test_quantus_agrees_about_mass_and_ranks_of_positive_maps():
    values = torch.rand(5, 6, 7).double()
    masks = torch.rand(5, 6, 7) > 0.6
    mass = ask(quantus.RelevanceMassAccuracy(**QUIET), values, masks)
    np.testing.assert_allclose(relevance_mass(values, masks).numpy(), mass, rtol=1e-12)
    ranks = ask(quantus.RelevanceRankAccuracy(**QUIET), values, masks)
    np.testing.assert_allclose(relevance_rank(values, masks).numpy(), ranks, rtol=1e-12)


def test_quantus_takes_negative_mass_off_the_total_so_that_its_share_leaves_0_to_1():
    values = torch.tensor([[[3.0, -2.0]]])
    masks = torch.tensor([[[True, False]]])
    assert ask(quantus.RelevanceMassAccuracy(abs=False, **QUIET), values, masks) == pytest.approx([3.0])
    assert relevance_mass(values, masks).item() == 1


def test_quantus_agrees_about_a_peak_on_or_off_the_object():
    values = torch.rand(6, 5, 5).double()
    masks = torch.rand(6, 5, 5) > 0.5
    found = ask(quantus.PointingGame(**QUIET), values, masks)
    assert pointing_game(values, masks, tolerance=1).tolist() == [float(hit) for hit in found]


def test_quantus_scores_a_hit_for_an_empty_mask_and_for_a_map_of_zeros():
    """Defect 1 of the list: here an empty mask is undefined and a map of zeros misses."""
    peak, zeros = one(4, 4, at=[(0, 0)]), one(4, 4)
    values, masks = torch.cat([peak, zeros]), torch.cat([mask(4, 4), mask(4, 4, at=[(2, 2)])])
    theirs = ask(quantus.PointingGame(normalise=False, **QUIET), values, masks)
    assert [bool(hit) for hit in theirs] == [True, True]
    ours = pointing_game(values, masks)
    assert math.isnan(ours[0])
    assert ours[1] == 0
    with pytest.raises(TypeError):
        ask(quantus.PointingGame(weighted=True, **QUIET), torch.rand(2, 4, 4), masks)


def test_quantus_measures_the_object_against_a_slice_of_the_batch():
    """Defect 2: its "weighted" localisation divides by ``x_batch[2:].size``, so it depends on the batch."""
    values = torch.rand(4, 6, 6).double()
    masks = torch.zeros(4, 6, 6, dtype=torch.bool)
    masks[:, :3, :3] = True
    theirs = quantus.AttributionLocalisation(weighted=True, **QUIET)
    plain = ask(quantus.AttributionLocalisation(**QUIET), values, masks)
    np.testing.assert_allclose(relevance_mass(values, masks).numpy(), plain, rtol=1e-6)
    weighted = ask(theirs, values, masks)  # two images of 36 pixels are left of the batch
    np.testing.assert_allclose(weighted, np.multiply(plain, 9 / (2 * 36)), rtol=1e-6)
    with pytest.warns(RuntimeWarning, match="divide by zero"), pytest.warns(UserWarning, match="max size"):
        pair = ask(theirs, values[:2], masks[:2])
    assert np.isinf(pair).all()
    # Ours: a sample scores alone what it scores in a batch, and the area is its own.
    assert object_area(masks).tolist() == [0.25] * 4
    assert relevance_mass(values[:2], masks[:2]).tolist() == relevance_mass(values, masks)[:2].tolist()
