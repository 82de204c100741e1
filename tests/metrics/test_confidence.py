"""The average-drop family: by hand, at its edges, and what it must not show."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hirescam.errors import InputError
from hirescam.metrics.confidence import (
    average_drop,
    average_drop_in_deletion,
    average_gain,
    increase_in_confidence,
    l1_complexity,
    shown,
    window,
)
from metrics.affine import Affine, affine, first_class, row

FAMILY = (average_drop, increase_in_confidence, average_gain, average_drop_in_deletion)
ZERO = torch.tensor([0])


def values(maps, images, model, target=ZERO):
    return [float(one(maps, images, target, model)) for one in FAMILY]


def test_by_hand_where_the_probability_falls():
    images = row(0.1, 0.2, 0.3, 0.2)
    model = Affine(torch.ones(1, 4).double())
    # M = 1, 1/2, 0, 0: Y = 0.8, O = 0.2, D = 0.6
    assert values(row(2, 1, 0, -5)[0], images, model) == pytest.approx([75, 0, 0, 25])


def test_by_hand_where_the_probability_rises():
    images = row(1, 1, 1)
    model = Affine(torch.tensor([[0.2, -0.1, -0.3]]).double(), 0.4)
    # M = 1, 0, 0: Y = 0.2, O = 0.6, D = 0
    assert values(row(3, -1, -2)[0], images, model) == pytest.approx([0, 100, 50, 100])
    # M = 0, 1, 1: Y = 0.2, O = 0, D = 0.6, so that hiding helps
    assert values(row(0, 4, 4)[0], images, model) == pytest.approx([100, 0, 0, -200])


def test_all_channels_are_seen_through_one_window():
    images = torch.ones(1, 3, 2, 2)
    assert shown(torch.tensor([[[4.0, 2.0], [0.0, -4.0]]]), images)[0].tolist() == [[[1, 0.5], [0, 0]]] * 3


@pytest.mark.parametrize("size", [(9,), (4, 3), (2, 3, 2)], ids=len)
def test_a_map_of_ones_loses_nothing_and_its_complexity_says_why(size):
    images = torch.rand(2, 2, *size, dtype=torch.float64)
    model, target = affine(images), first_class(images)
    ones = torch.full((2, *size), 7.0)
    assert average_drop(ones, images, target, model).tolist() == [0, 0]
    assert average_gain(ones, images, target, model).tolist() == [0, 0]
    assert increase_in_confidence(ones, images, target, model).tolist() == [0, 0]
    assert l1_complexity(ones).tolist() == [1, 1]
    torch.testing.assert_close(
        average_drop_in_deletion(ones, images, target, model),
        100 * (1 - model.offset / model(images)[:, 0]),
    )


@pytest.mark.parametrize("maps", [torch.zeros(1, 4), -torch.ones(1, 4)], ids=["zero", "negative"])
def test_a_map_without_a_positive_part_shows_nothing(maps):
    """It is scored, never dropped: the model sees zeros."""
    images = row(0.1, 0.2, 0.3, 0.1)
    model = Affine(torch.ones(1, 4).double(), 0.1)
    assert not shown(maps, images).any()
    assert values(maps, images, model) == pytest.approx([100 * 0.7 / 0.8, 0, 0, 0])
    assert l1_complexity(maps).tolist() == [0]


def test_complexity_by_hand():
    maps = torch.tensor([[4.0, 0.0, -9.0, 0.0], [1.0, 1.0, 1.0, 0.0], [3.0, 1.5, 0.0, 0.0]])
    torch.testing.assert_close(l1_complexity(maps), torch.tensor([0.25, 0.75, 0.375]).double())
    with pytest.raises(InputError, match=r"maps\[0\] has NaN"):
        l1_complexity(torch.tensor([[math.nan, 1.0]]))


@given(seed=st.integers(0, 10_000), factor=st.floats(1e-3, 1e3))
def test_only_positive_evidence_counts_and_only_in_proportion(seed, factor):
    """Negative values, however strong, are never shown, and the units of the map do not matter."""
    torch.manual_seed(seed)
    images = torch.rand(2, 1, 3, 4, dtype=torch.float64)
    maps = torch.randn(2, 3, 4, dtype=torch.float64)
    model, target = affine(images), first_class(images)
    changed = (factor * maps).where(maps > 0, -100 * torch.rand_like(maps))
    for one in FAMILY:
        before, after = one(maps, images, target, model), one(changed, images, target, model)
        torch.testing.assert_close(before, after)


def test_strong_negative_evidence_is_never_shown():
    """The absolute value, as Xplique takes it, would show the model the distractor in full."""
    images = row(1, 1)
    model = Affine(torch.tensor([[0.3, -0.4]]).double(), 0.5)
    maps = row(1, -10)[0]
    assert window(maps).tolist() == [[1, 0]]
    # Y = 0.4, O = 0.8; with the distractor shown and the object nearly hidden O would be 0.13
    assert average_drop(maps, images, ZERO, model).tolist() == [0]
    assert average_gain(maps, images, ZERO, model).tolist() == pytest.approx([100 * 0.4 / 0.6])


def test_where_the_formulas_divide_by_nothing():
    images = row(1, 1)
    impossible = Affine(torch.zeros(1, 2).double(), 0.0)
    drop, increase, gain, deletion = values(row(1, 0)[0], images, impossible)
    assert math.isnan(drop)
    assert math.isnan(deletion)
    assert (increase, gain) == (0, 0)
    rising = Affine(torch.tensor([[0.0, -0.5]]).double(), 0.5)
    assert math.isnan(values(row(1, 0)[0], images, rising)[0])
    assert math.isnan(values(row(0, 1)[0], images, rising)[3])
    certain = Affine(torch.zeros(1, 2).double(), 1.0)
    assert values(row(1, 0)[0], images, certain) == [0, 0, 0, 0]


@pytest.mark.parametrize("one", FAMILY)
def test_logits_are_refused(one):
    """From 0.5 to −3 the formula would give a drop of 700 %."""
    model = Affine(torch.tensor([[3.5, 3.5]]), -6.5)
    with pytest.raises(InputError, match="this metric is defined on probabilities"):
        one(row(1, 0)[0], row(1, 1).float(), ZERO, model)
