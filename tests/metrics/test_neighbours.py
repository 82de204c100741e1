"""Linear imputation: by hand, against a dense system made with loops, and its laws."""

import sys
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hirescam.errors import InputError
from hirescam.metrics import neighbours
from hirescam.metrics.neighbours import fill_from_neighbours

SIZES = [(9,), (4, 5), (3, 3, 4)]


def holes(*size: int, share: float = 0.6) -> torch.Tensor:
    gone = torch.rand(2, *size) < share
    gone.flatten(1)[:, 0] = False
    return gone


def test_straight_lines_across_a_gap_in_a_signal():
    images = torch.tensor([[[0.0, 9.0, 9.0, 3.0, 9.0]]])
    gone = torch.tensor([[False, True, True, False, True]])
    torch.testing.assert_close(fill_from_neighbours(images, gone), torch.tensor([[[0.0, 1, 2, 3, 3]]]))


@pytest.mark.parametrize(
    ("place", "direct", "diagonal"),
    [
        ((1, 1), [(0, 1), (1, 0), (1, 2), (2, 1)], [(0, 0), (0, 2), (2, 0), (2, 2)]),
        ((0, 0), [(0, 1), (1, 0)], [(1, 1)]),
    ],
    ids=["middle", "corner"],
)
def test_weights_in_the_plane(place, direct, diagonal):
    """1/6 for direct neighbours, 1/12 for diagonal ones, raised in proportion where some are missing."""
    image = torch.rand(3, 3).double()
    gone = torch.zeros(1, 3, 3, dtype=torch.bool)
    gone[0][place] = True
    sides, corners = sum(float(image[p]) for p in direct), sum(float(image[p]) for p in diagonal)
    expected = (sides / 6 + corners / 12) / (len(direct) / 6 + len(diagonal) / 12)
    assert float(fill_from_neighbours(image[None, None], gone)[0, 0][place]) == pytest.approx(expected)


def test_weights_in_a_volume():
    image = torch.rand(3, 3, 3).double()
    gone = torch.zeros(1, 3, 3, 3, dtype=torch.bool)
    gone[0, 1, 1, 1] = True
    weight = {1: 1 / 14, 2: 1 / 28, 3: 1 / 56}
    around = [p for p in product(range(3), repeat=3) if p != (1, 1, 1)]
    expected = sum(weight[sum(abs(x - 1) for x in p)] * float(image[p]) for p in around)
    assert float(fill_from_neighbours(image[None, None], gone)[0, 0, 1, 1, 1]) == pytest.approx(expected)


@pytest.mark.parametrize("size", SIZES, ids=len)
def test_a_dense_system_gives_the_same(size):
    images, gone = torch.rand(2, 3, *size, dtype=torch.float64), holes(*size)
    found = fill_from_neighbours(images, gone)
    for index in range(2):
        away = [place for place in np.ndindex(*size) if gone[index][place]]
        matrix, right = np.eye(len(away)), np.zeros((len(away), 3))
        for row, place in enumerate(away):
            around = {}
            for offset in product((-1, 0, 1), repeat=len(size)):
                there = tuple(a + b for a, b in zip(place, offset, strict=True))
                if any(offset) and all(0 <= a < n for a, n in zip(there, size, strict=True)):
                    around[there] = 0.5 ** sum(map(abs, offset))
            for there, weight in around.items():
                if there in away:
                    matrix[row, away.index(there)] -= weight / sum(around.values())
                else:
                    right[row] += weight / sum(around.values()) * images[(index, slice(None), *there)].numpy()
        solution = np.linalg.solve(matrix, right)
        for row, place in enumerate(away):
            np.testing.assert_allclose(found[(index, slice(None), *place)], solution[row], atol=1e-9)
        torch.testing.assert_close(
            found[index][:, ~gone[index]], images[index][:, ~gone[index]], rtol=0, atol=0
        )


@given(
    seed=st.integers(0, 10_000), share=st.floats(0.05, 0.95), scale=st.floats(0.1, 10), shift=st.floats(-5, 5)
)
def test_filling_commutes_with_contrast_and_brightness(seed, share, scale, shift):
    """So images may be normalised before or after; and nothing is brighter than what was left."""
    torch.manual_seed(seed)
    images, gone = torch.rand(2, 2, 5, 4, dtype=torch.float64), holes(5, 4, share=share)
    found = fill_from_neighbours(images, gone)
    torch.testing.assert_close(fill_from_neighbours(scale * images + shift, gone), scale * found + shift)
    for image, filled, away in zip(images, found, gone, strict=True):
        left = image[:, ~away]
        assert (filled <= left.amax(1)[:, None, None] + 1e-12).all()
        assert (filled >= left.amin(1)[:, None, None] - 1e-12).all()


def test_a_ramp_is_continued():
    ramp = torch.stack([torch.arange(7.0).expand(7, 7), torch.arange(7.0)[:, None].expand(7, 7)])[
        None
    ].double()
    gone = torch.zeros(1, 7, 7, dtype=torch.bool)
    gone[:, 2:5, 1:6] = True
    torch.testing.assert_close(fill_from_neighbours(ramp.masked_fill(gone, 99), gone), ramp)


def test_the_two_solvers_agree():
    images, gone = torch.rand(1, 2, 12, 12, dtype=torch.float64), holes(12, 12)[:1]
    weights, system = neighbours._system((12, 12))
    away = gone.flatten().numpy()
    known = weights[away][:, ~away] @ images.flatten(2)[0].numpy()[:, ~away].T
    direct, iterative = (
        solve(system[away][:, away], known) for solve in (neighbours._direct, neighbours._iterative)
    )
    np.testing.assert_allclose(direct, iterative, atol=1e-9)


def test_edges_of_the_input():
    images = torch.rand(1, 1, 4)
    nothing = torch.zeros(1, 4, dtype=torch.bool)
    assert torch.equal(fill_from_neighbours(images, nothing), images)
    with pytest.raises(InputError, match="every pixel of an image is removed"):
        fill_from_neighbours(images, ~nothing)


def test_without_scipy_the_remedy_is_named(monkeypatch):
    neighbours._system.cache_clear()
    monkeypatch.setitem(sys.modules, "scipy.sparse.linalg", None)
    with pytest.raises(InputError, match=r'needs the package "scipy".* pip install "hirescam\[metrics\]"'):
        fill_from_neighbours(torch.rand(1, 1, 4), torch.tensor([[True, False, False, False]]))
