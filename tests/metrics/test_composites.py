"""Coherency, ADCC and ARCC: by hand and at their edges."""

import math

import pytest
import torch

from hirescam.errors import InputError
from hirescam.metrics.composites import adcc, arcc, coherency, harmonic_mean
from hirescam.metrics.confidence import average_drop, l1_complexity
from hirescam.metrics.road import road
from metrics.affine import Affine, affine, first_class, row

ZERO = torch.tensor([0])


def answer(maps):
    return lambda images: maps


def test_harmonic_mean_by_hand():
    parts = (torch.tensor([0.5, 0.0, 1.0]), torch.tensor([0.25, 0.5, 1.0]), torch.tensor([1.0, 0.5, 1.0]))
    torch.testing.assert_close(harmonic_mean(*parts), torch.tensor([3 / 7, 0.0, 1.0]))


def test_coherency_by_hand():
    maps, images = row(4, 2, 0, -3)[0], row(1, 1, 1, 1)
    assert coherency(maps, images, answer(10 * maps)).tolist() == pytest.approx([1])
    # M = 1 ½ 0 0 and M' = 0 0 1 1 : r = −3/√11
    correlation = torch.corrcoef(torch.tensor([[1, 0.5, 0, 0], [0, 0, 1, 1]]))[0, 1]
    found = coherency(maps, images, answer(row(-1, 0, 2, 2)[0]))
    assert float(found) == pytest.approx(float(correlation + 1) / 2, abs=1e-7)
    assert coherency(row(1, 1, 0, 0)[0], images, answer(row(0, 0, 1, 1)[0])).tolist() == pytest.approx([0])


def test_the_second_map_is_of_what_the_first_one_shows():
    images, maps = torch.rand(1, 3, 2, 2), torch.tensor([[[2.0, 1.0], [-1.0, 0.0]]])
    seen = []

    def explain(shown):
        seen.append(shown)
        return maps

    coherency(maps, images, explain)
    torch.testing.assert_close(seen[0], images * torch.tensor([[1, 0.5], [0, 0]]))


@pytest.mark.parametrize("constant", [torch.zeros(1, 3), torch.ones(1, 3), -torch.ones(1, 3)])
def test_coherency_with_a_constant_map_is_0(constant):
    maps, images = torch.rand(1, 3), torch.rand(1, 1, 3)
    assert coherency(maps, images, answer(constant)).tolist() == [0]
    assert coherency(constant, images, answer(maps)).tolist() == [0]
    assert coherency(constant, images, answer(constant)).tolist() == [0]


def test_a_second_map_that_does_not_fit_is_an_error():
    with pytest.raises(InputError, match=r"maps has shape \(1, 2\): expected \(1, 3\)"):
        coherency(torch.rand(1, 3), torch.rand(1, 1, 3), answer(torch.rand(1, 2)))


def test_adcc_by_hand():
    images, maps = row(0.1, 0.2, 0.3, 0.2), row(2, 1, 0, -5)[0]
    model = Affine(torch.ones(1, 4).double())
    # AD = 3/4, Com = 3/8, Coh = 1
    found = adcc(maps, images, ZERO, model, answer(maps))
    assert float(found) == pytest.approx(3 / (1 + 1 / (5 / 8) + 1 / (1 / 4)))


def test_the_drop_in_adcc_is_of_the_target_and_not_of_the_predicted_class():
    """The official code divides the fall of one class by the probability of another."""
    images, maps = row(1, 1), row(1, 0)[0]
    model = Affine(torch.tensor([[0.1, 0.2]]).double(), 0.5)
    # the second class: 0.2, of which the map shows 0.4
    assert float(average_drop(maps, images, ZERO + 1, model)) == 0
    assert float(adcc(maps, images, ZERO + 1, model, answer(maps))) == pytest.approx(3 / (1 + 2 + 1))


def test_a_map_of_ones_has_no_drop_and_an_adcc_of_0():
    images = torch.rand(1, 1, 5, dtype=torch.float64)
    model, ones = affine(images), torch.ones(1, 5)
    assert average_drop(ones, images, ZERO, model).tolist() == [0]
    assert l1_complexity(ones).tolist() == [1]
    assert adcc(ones, images, ZERO, model, answer(ones)).tolist() == [0]
    assert arcc(ones, images, ZERO, model, answer(ones)).tolist() == [0]


def test_adcc_of_an_impossible_class_is_undefined():
    images, maps = torch.rand(1, 1, 5), torch.rand(1, 5)
    assert math.isnan(float(adcc(maps, images, ZERO, Affine(torch.zeros(1, 5)), answer(maps))))


def test_arcc_is_the_harmonic_mean_of_its_parts():
    """And not the geometric one."""
    images = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    model, target = affine(images), first_class(images)
    maps = model.contributions(images - images.mean())
    again = maps + 0.01 * torch.rand_like(maps)
    parts = [
        coherency(maps, images, answer(again)),
        1 - l1_complexity(maps),
        2 * road(maps, images, target, model, percentages=(20, 40, 60, 80), seed=3),
    ]
    assert all((part > 0).all() and (part < 1).all() for part in parts)
    found = arcc(maps, images, target, model, answer(again), seed=3)
    torch.testing.assert_close(found, 3 / sum(1 / part for part in parts))
    assert (found < torch.stack(parts).prod(0) ** (1 / 3)).all()


def test_arcc_of_a_map_that_is_upside_down_is_0():
    images = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    model, target = affine(images), first_class(images)
    maps = -model.contributions(images - images.mean())
    assert arcc(maps, images, target, model, answer(maps)).tolist() == [0, 0]
