"""Infidelity and sensitivity-n on the pixels: by hand, exact maps, the factor β, and which pixels go."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hirescam.errors import InputError
from hirescam.metrics import infidelity as module
from hirescam.metrics.infidelity import infidelity, input_sensitivity_n
from metrics.affine import Affine, affine, first_class, row

ZERO = torch.tensor([0])
SIZES = [(11,), (6, 5), (4, 3, 3)]


def fixed(monkeypatch, *sets):
    """Take these sets of pixels instead of random ones."""
    monkeypatch.setattr(module, "_squares", lambda *_, **__: (torch.tensor(one) for one in sets))
    monkeypatch.setattr(module, "_random_sets", lambda *_, **__: (torch.tensor(one) for one in sets))


def test_infidelity_by_hand(monkeypatch):
    images, maps = row(1, 2, 3), row(1, 0, 1)[0]
    model = Affine(torch.tensor([[3.0, 1.0, -1.0]]).double())
    fixed(monkeypatch, [0], [1, 2])
    # promised 1 and 1, lost 3 and 2 − 3 = −1
    assert infidelity(maps, images, ZERO, model, rescale=False).tolist() == [(2**2 + 2**2) / 2]
    # β = 1: the same; twice the map, β = ½
    assert infidelity(maps, images, ZERO, model).tolist() == [4]
    assert infidelity(2 * maps, images, ZERO, model, rescale=False).tolist() == [(1 + 9) / 2]
    assert infidelity(2 * maps, images, ZERO, model).tolist() == [4]
    # removed pixels become the mean, 2: lost −3 and −1 + 0 + ... = −1 − 0
    assert infidelity(maps, images, ZERO, model, fill="mean", rescale=False).tolist() == [
        ((1 + 3) ** 2 + 4) / 2
    ]


def test_infidelity_of_a_map_of_zeros_is_what_is_lost(monkeypatch):
    fixed(monkeypatch, [0], [1, 2])
    model = Affine(torch.tensor([[3.0, 1.0, -1.0]]).double())
    assert infidelity(torch.zeros(1, 3), row(1, 2, 3), ZERO, model).tolist() == [(9 + 1) / 2]


@pytest.mark.parametrize("size", SIZES, ids=len)
@pytest.mark.parametrize("fill", ["zeros", "mean"])
def test_an_exact_map_has_no_infidelity_and_full_sensitivity_n(size, fill):
    """In any units, with the factor β; without it only in those of the score."""
    images = torch.rand(3, 2, *size, dtype=torch.float64)
    model, target = affine(images), first_class(images)
    other = images.mean(tuple(range(2, images.ndim)), keepdim=True) if fill == "mean" else 0
    exact = model.contributions(images - other)
    nothing = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(infidelity(exact, images, target, model, fill=fill, rescale=False), nothing)
    torch.testing.assert_close(infidelity(7 * exact, images, target, model, fill=fill), nothing)
    assert (infidelity(7 * exact, images, target, model, fill=fill, rescale=False) > 1e-4).all()
    assert (infidelity(torch.rand_like(exact), images, target, model, fill=fill) > 1e-6).all()
    found = input_sensitivity_n(7 * exact, images, target, model, fill=fill)
    torch.testing.assert_close(found, torch.ones(3, 4, dtype=torch.float64))


@given(seed=st.integers(0, 10_000), factor=st.floats(0.01, 100))
def test_rescaling_is_the_best_there_is(seed, factor):
    torch.manual_seed(seed)
    images, maps = torch.rand(2, 1, 5, 4, dtype=torch.float64), torch.randn(2, 5, 4, dtype=torch.float64)
    model, target = affine(images), first_class(images)
    best = infidelity(maps, images, target, model, samples=30)
    torch.testing.assert_close(infidelity(factor * maps, images, target, model, samples=30), best)
    assert (best <= infidelity(factor * maps, images, target, model, samples=30, rescale=False) + 1e-12).all()


def test_logits_of_any_size_are_welcome():
    images = torch.rand(2, 1, 6, dtype=torch.float64)
    model = Affine(torch.full((1, 6), 50.0).double(), -7.0)
    exact = model.contributions(images)
    found = infidelity(exact, images, first_class(images), model, rescale=False)
    torch.testing.assert_close(found, torch.zeros(2, dtype=torch.float64), atol=1e-20, rtol=0)


def test_squares_are_drawn_evenly_from_all_sides_and_places():
    drawn = Counter(tuple(one.tolist()) for one in module._squares((3, 4), samples=17_000, largest=2, seed=0))
    index = torch.arange(12).reshape(3, 4)
    every = {(int(i),) for i in range(12)}
    every |= {tuple(index[i : i + 2, j : j + 2].flatten().tolist()) for i in range(2) for j in range(3)}
    assert set(drawn) == every
    assert len(every) == 18
    expected = 17_000 / 18
    assert all(abs(count - expected) < 5 * expected**0.5 for count in drawn.values())


def test_the_largest_square_is_10_28ths_of_the_shortest_side():
    images = torch.rand(1, 1, 28, 56, dtype=torch.float64)
    sides = []

    def logits(shown):
        sides.extend(int((one == 0).any(0).any(1).sum()) for one in shown)
        return torch.zeros(len(shown), 1)

    infidelity(torch.rand(1, 28, 56), images, ZERO, logits, samples=3000)
    assert max(sides) == 10
    infidelity(torch.rand(1, 28, 56), images, ZERO, logits, samples=200, largest=28)
    assert max(sides) == 28


def test_sensitivity_n_by_hand(monkeypatch):
    images, maps = row(1, 2, 3), row(3, -5, 2)[0]
    model = Affine(torch.tensor([[3.0, 1.0, -1.0]]).double())
    sets = ([0], [1], [2], [0, 1], [0, 2], [1, 2])
    fixed(monkeypatch, *sets)
    found = input_sensitivity_n(maps, images, ZERO, model, shares=(0.3, 0.6), subsets=3)
    worth = torch.tensor([3.0, 2.0, -3.0])
    for column, chosen in enumerate((sets[:3], sets[3:])):
        pairs = [[float(v[one].sum()) for one in chosen] for v in (maps[0], worth)]
        expected = torch.corrcoef(torch.tensor(pairs))[0, 1]
        assert float(found[0, column]) == pytest.approx(float(expected), abs=1e-6)


def test_random_sets_have_the_size_asked_for_and_differ():
    sets = list(module._random_sets(20, counts=(2, 16), subsets=5, seed=0))
    assert [len(one) for one in sets] == [2] * 5 + [16] * 5
    assert all(len(set(one.tolist())) == len(one) for one in sets)
    assert len({tuple(sorted(one.tolist())) for one in sets}) == 10


def test_constant_maps_and_scores():
    images = torch.rand(1, 1, 10, dtype=torch.float64)
    model = affine(images)
    still = Affine(torch.zeros(1, 10, dtype=torch.float64), 0.5)
    maps = torch.rand(1, 10)
    assert input_sensitivity_n(torch.ones(1, 10), images, ZERO, model).tolist() == [[0, 0, 0, 0]]
    assert input_sensitivity_n(maps, images, ZERO, still).tolist() == [[0, 0, 0, 0]]
    assert input_sensitivity_n(maps, images, ZERO, model, shares=(1.0,)).tolist() == [[1]]


@pytest.mark.parametrize("metric", [infidelity, input_sensitivity_n])
def test_a_seed_says_everything_and_the_batch_nothing(metric):
    images, maps = torch.rand(3, 2, 5, 4, dtype=torch.float64), torch.rand(3, 5, 4)
    model, target = affine(images), first_class(images)
    whole = metric(maps, images, target, model, seed=1)
    assert torch.equal(whole, metric(maps, images, target, model, seed=1))
    assert (whole != metric(maps, images, target, model, seed=2)).all()
    alone = [metric(maps[i : i + 1], images[i : i + 1], target[:1], model, seed=1) for i in range(3)]
    torch.testing.assert_close(torch.cat(alone), whole)


@pytest.mark.parametrize(
    ("metric", "options", "words"),
    [
        (infidelity, {"samples": 0}, "samples=0 and largest=None: expected at least one sample"),
        (infidelity, {"largest": 5}, "a side from 1 to 4, the image's shortest"),
        (input_sensitivity_n, {"shares": ()}, r"shares=\(\) must be numbers above 0 and at most 1"),
        (input_sensitivity_n, {"shares": (0.0,)}, r"shares=\(0.0,\) must be"),
        (input_sensitivity_n, {"subsets": 2}, "subsets=2 is too few for a correlation"),
    ],
)
def test_options_are_checked(metric, options, words):
    with pytest.raises(InputError, match=words):
        metric(torch.rand(1, 5, 4), torch.rand(1, 1, 5, 4), ZERO, Affine(torch.zeros(1, 5, 4)), **options)
