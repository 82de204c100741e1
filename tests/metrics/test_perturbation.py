"""Deletion and insertion: by hand, in closed form, against a slow loop, and what ties do."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hirescam.errors import InputError
from hirescam.metrics.imputation import substitute
from hirescam.metrics.ordering import most_relevant_first, ranks
from hirescam.metrics.perturbation import area, deletion, insertion
from metrics.affine import Affine, affine, first_class, row

SIZES = [(7,), (4, 5), (3, 4, 2)]


def test_by_hand():
    images = row(0.1, 0.2, 0.3, 0.4)
    model = Affine(torch.ones(1, 4, dtype=torch.float64))
    down, up = row(4, 3, 2, 1)[0], row(1, 2, 3, 4)[0]
    zero = torch.tensor([0])
    # 1.0 0.9 0.7 0.4 0.0, and 1.0 0.6 0.3 0.1 0.0
    assert deletion(down, images, zero, model, step=1).tolist() == pytest.approx([2.5 / 4])
    assert deletion(up, images, zero, model, step=1).tolist() == pytest.approx([1.5 / 4])
    assert insertion(down, images, zero, model, step=1, fill="zeros").tolist() == pytest.approx([1.5 / 4])
    assert insertion(up, images, zero, model, step=1, fill="zeros").tolist() == pytest.approx([2.5 / 4])
    # 1.0 0.4 0.0: the shorter last step counts as much as the first
    assert deletion(down, images, zero, model, step=3).tolist() == pytest.approx([0.9 / 2])
    # one step: the mean of both ends
    assert deletion(down, images, zero, model, step=99).tolist() == pytest.approx([0.5])
    # the other class: 0.0 0.1 0.3 0.6 1.0
    assert deletion(down, images, zero + 1, model, step=1).tolist() == pytest.approx([1.5 / 4])
    # removed pixels become the mean colour, 0.25: 0.5 0.6 0.5
    half = Affine(torch.full((1, 4), 0.5, dtype=torch.float64))
    assert deletion(down, images, zero, half, step=2, fill="mean").tolist() == pytest.approx([1.1 / 2])


def test_negative_evidence_goes_last():
    images = row(0.5, 0.5, 0.5)
    model = Affine(torch.tensor([[0.6, 0.0, -0.2]]).double(), 0.3)
    # 0.5 0.2 0.2 0.3
    assert deletion(row(3, 0, -1)[0], images, torch.tensor([0]), model, step=1).tolist() == pytest.approx(
        [0.8 / 3]
    )


@pytest.mark.parametrize("size", SIZES, ids=len)
def test_closed_form_on_an_affine_model(size):
    """A pixel of rank r is there for r + ½ of the N steps of deletion, and for the rest of insertion."""
    images = torch.rand(3, 2, *size, dtype=torch.float64)
    model, target = affine(images), first_class(images)
    maps = torch.rand(3, *size, dtype=torch.float64)
    there = (ranks(maps, seed=0) + 0.5) / math.prod(size)
    parts = model.contributions(images)
    found = deletion(maps, images, target, model, step=1)
    torch.testing.assert_close(found, model.offset + (parts * there).flatten(1).sum(1))
    found = insertion(maps, images, target, model, step=1, fill="zeros")
    torch.testing.assert_close(found, model.offset + (parts * (1 - there)).flatten(1).sum(1))


@given(seed=st.integers(0, 10_000), step=st.integers(1, 25), levels=st.integers(1, 30))
def test_on_an_affine_model_deletion_and_insertion_add_up(seed, step, levels):
    """For the same map, the same substitute and any step: deletion + insertion = p(x) + p(0)."""
    torch.manual_seed(seed)
    images = torch.rand(2, 2, 4, 5, dtype=torch.float64)
    maps = torch.randint(levels, (2, 4, 5)).double()
    model, target = affine(images), first_class(images)
    both = [one(maps, images, target, model, step=step, fill="zeros") for one in (deletion, insertion)]
    torch.testing.assert_close(sum(both), model(images)[:, 0] + model.offset)


@given(seed=st.integers(0, 10_000))
def test_no_map_deletes_better_than_the_truth(seed):
    torch.manual_seed(seed)
    images = torch.rand(1, 1, 6, dtype=torch.float64)
    model, target = affine(images), first_class(images)
    best = deletion(model.contributions(images), images, target, model, step=1)
    assert best <= deletion(torch.rand(1, 6), images, target, model, step=1) + 1e-12


@pytest.mark.parametrize("size", SIZES, ids=len)
@pytest.mark.parametrize("fill", ["zeros", "mean", "blur"])
def test_a_slow_loop_gives_the_same(size, fill):
    """On a network, pixel by pixel, with no code in common but the order of ties."""
    images = torch.rand(2, 2, *size)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * math.prod(size), 3), nn.Softmax(1)).eval()
    maps, target = torch.rand(2, *size), torch.tensor([2, 0])
    other = substitute(images, fill)
    for metric, start, end in ((deletion, images, other), (insertion, other, images)):
        found = metric(maps, images, target, model, step=3, fill=fill)
        for index in range(2):
            now = start[index].clone().flatten(1)
            order = sorted(range(math.prod(size)), key=lambda place: -float(maps[index].flatten()[place]))
            curve = []
            while True:
                with torch.no_grad():
                    curve.append(float(model(now.reshape(1, 2, *size))[0, target[index]]))
                if not order:
                    break
                for place in order[:3]:
                    now[:, place] = end[index].flatten(1)[:, place]
                order = order[3:]
            width = 1 / (len(curve) - 1)
            slow = sum(width * (a + b) / 2 for a, b in pairwise(curve))
            assert float(found[index]) == pytest.approx(slow, abs=1e-6)


def test_ties_are_drawn_from_the_seed_and_from_nothing_else():
    images = torch.rand(4, 1, 6, 6, dtype=torch.float64)
    maps = (torch.rand(4, 6, 6) > 0.8).double()
    model, target = affine(images), first_class(images)
    whole = deletion(maps, images, target, model, step=1, seed=5)
    assert torch.equal(whole, deletion(maps, images, target, model, step=1, seed=5))
    assert (whole != deletion(maps, images, target, model, step=1, seed=6)).all()
    alone = [
        deletion(*(part[i : i + 1] for part in (maps, images, target)), model, step=1, seed=5)
        for i in range(4)
    ]
    torch.testing.assert_close(torch.cat(alone), whole)


def test_a_constant_map_is_an_order_at_random():
    """Its deletion is about halfway between both ends, whichever pixels matter; a fixed order is not."""
    images = torch.ones(1, 1, 40, dtype=torch.float64)
    weights = torch.zeros(1, 40, dtype=torch.float64)
    weights[0, :4] = 0.2
    model = Affine(weights, 0.1)
    found = [
        float(deletion(torch.zeros(1, 40), images, torch.tensor([0]), model, step=1, seed=seed))
        for seed in range(200)
    ]
    assert sum(found) / 200 == pytest.approx(0.5, abs=0.02)
    assert max(found) - min(found) > 0.2
    # first index first (torchcam), and last index first (RISE)
    ends = [area(torch.tensor(curve)[:, None]) for curve in ([0.9, *[0.1] * 9], [*[0.9] * 9, 0.1])]
    assert float(ends[1] - ends[0]) > 0.6


def test_order_and_ranks_are_inverse():
    maps = torch.tensor([[[0.0, 2.0], [1.0, 2.0]]])
    order = most_relevant_first(maps, seed=3)[0].tolist()
    assert sorted(order[:2]) == [1, 3]
    assert order[2:] == [2, 0]
    assert [int(ranks(maps, seed=3).flatten()[place]) for place in order] == [0, 1, 2, 3]
    first = {int(most_relevant_first(maps, seed=seed)[0, 0]) for seed in range(20)}
    assert first == {1, 3}


def test_the_default_is_28_steps_and_all_channels_go_together():
    images = torch.rand(1, 3, 56, 28, dtype=torch.float64)
    model = affine(images)
    deletion(torch.rand(1, 56, 28), images, torch.tensor([0]), model)
    assert sum(model.batches) == 29
    seen = []

    def predict(shown):
        seen.extend(shown)
        return model(shown)

    deletion(torch.rand(1, 56, 28), images, torch.tensor([0]), predict)
    for steps, image in enumerate(seen):
        gone = image == 0
        assert (gone == gone[:1]).all()
        assert int(gone[0].sum()) == 56 * steps


def test_options_are_checked():
    images = torch.rand(1, 1, 4)
    with pytest.raises(InputError, match="step=0 must be at least one pixel"):
        deletion(torch.rand(1, 4), images, torch.tensor([0]), Affine(torch.zeros(1, 4)), step=0)
    with pytest.raises(InputError, match="fill='grey' is unknown"):
        insertion(torch.rand(1, 4), images, torch.tensor([0]), Affine(torch.zeros(1, 4)), fill="grey")
