"""IROF: by hand, closed form, and superpixels in one to three dimensions."""

import math
import sys

import pytest
import torch
import torch.nn.functional as F

from hirescam.errors import InputError
from hirescam.metrics import superpixels as module
from hirescam.metrics.superpixels import irof, superpixels
from metrics.affine import Affine, affine, first_class, row

ZERO = torch.tensor([0])
MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def smooth(count: int, *size: int) -> torch.Tensor:
    """Images of three channels with something to find in them."""
    coarse = torch.rand(count, 3, *[max(2, n // 4) for n in size], dtype=torch.float64)
    return F.interpolate(coarse, size=size, mode=MODES[len(size)])


def test_by_hand():
    images = row(0.1, 0.3, 0.2, 0.2)
    model = Affine(torch.ones(1, 4, dtype=torch.float64))
    # two pieces, 0.4 each of 0.8: 1 ½ 0
    found = irof(row(1, 1, 0, 0)[0], images, ZERO, model, segments=2, fill="zeros")
    assert found.tolist() == pytest.approx([1 - (1 / 2 + 1 / 2 + 0) / 2])
    images = row(0.5, 0.1, 0.1, 0.1)
    # 1 ¼ 0, and the other way round 1 ¾ 0
    assert irof(row(2, 0, 0, 1)[0], images, ZERO, model, segments=2, fill="zeros").tolist() == pytest.approx(
        [1 - (1 / 2 + 1 / 4) / 2]
    )
    assert irof(row(0, 0, 1, 2)[0], images, ZERO, model, segments=2, fill="zeros").tolist() == pytest.approx(
        [1 - (1 / 2 + 3 / 4) / 2]
    )
    # the mean colour, 0.2, keeps the sum: nothing is lost at the end
    assert irof(row(2, 0, 0, 1)[0], images, ZERO, model, segments=2).tolist() == pytest.approx(
        [1 - (1 / 2 + 0.6 / 0.8 + 1 / 2) / 2]
    )


def test_a_superpixel_is_ranked_by_its_mean_and_not_by_its_largest_value():
    labels = torch.tensor([0, 0, 1, 1, 2])
    values = torch.tensor([9.0, -9.0, 1.0, 1.0, 0.5])
    assert module._ranked(labels, values, seed=0).tolist() == [2, 2, 0, 0, 1]


@pytest.mark.parametrize("size", [(40,), (16, 20), (8, 8, 8)], ids=len)
def test_closed_form_on_an_affine_model(size):
    """A superpixel of rank r is there for r + ½ of the L steps."""
    images = smooth(2, *size)
    model, target, maps = affine(images), first_class(images), torch.rand(2, *size)
    found = irof(maps, images, target, model, segments=12, fill="zeros")
    for index in range(2):
        labels = superpixels(images[index], 12)
        assert labels.unique().tolist() == list(range(int(labels.max()) + 1))
        count = int(labels.max()) + 1
        assert 4 <= count <= 30
        means = torch.stack([maps[index][labels == one].mean() for one in range(count)])
        parts = model.contributions(images)[index]
        worth = torch.stack([parts[labels == one].sum() for one in range(count)])
        there = (means.argsort(descending=True).argsort() + 0.5) / count
        area = (model.offset + (worth * there).sum()) / (model.offset + worth.sum())
        assert float(found[index]) == pytest.approx(float(1 - area))


def test_superpixels_follow_the_image_in_any_units():
    image = torch.zeros(3, 30, 40)
    image[:, :, 23:] = torch.tensor([0.9, 0.2, 0.1])[:, None, None]
    image[:, 11:, 23:] = torch.tensor([0.1, 0.8, 0.2])[:, None, None]
    labels = superpixels(image, 20)
    regions = [labels[:, :23], labels[:11, 23:], labels[11:, 23:]]
    found = [set(one.flatten().tolist()) for one in regions]
    assert not found[0] & found[1]
    assert not found[1] & found[2]
    assert not found[0] & found[2]
    assert torch.equal(superpixels(5 * image - 3, 20), labels)


def test_of_a_signal_pieces_of_equal_length():
    assert superpixels(torch.rand(2, 10), 3).tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert superpixels(torch.rand(2, 4), 300).tolist() == [0, 1, 2, 3]


def test_a_constant_image_can_be_cut_too():
    labels = superpixels(torch.full((1, 12, 12), 3.0), 9)
    assert 4 <= int(labels.max()) + 1 <= 16


def test_ties_are_drawn_from_the_seed():
    images = torch.rand(2, 1, 24, dtype=torch.float64)
    model, target, flat = affine(images), first_class(images), torch.zeros(2, 24)
    found = irof(flat, images, target, model, segments=8, seed=1)
    assert torch.equal(found, irof(flat, images, target, model, segments=8, seed=1))
    assert (found != irof(flat, images, target, model, segments=8, seed=2)).all()


def test_edges():
    noise = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    assert len(superpixels(noise[0], 12).unique()) == 1
    assert math.isnan(float(irof(torch.rand(1, 16, 16), noise, ZERO, affine(noise), segments=12)))
    maps, images = torch.rand(1, 6), torch.rand(1, 1, 6)
    assert math.isnan(float(irof(maps, images, ZERO, Affine(torch.zeros(1, 6)))))
    rising = Affine(torch.full((1, 6), -0.1), 0.9)
    assert float(irof(maps, images, ZERO, rising, segments=6, fill="zeros")) < 0
    with pytest.raises(InputError, match="segments=1 must be at least 2"):
        irof(maps, images, ZERO, rising, segments=1)


def test_without_scikit_image_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(
        InputError, match=r'needs the package "scikit-image".* pip install "hirescam\[metrics\]"'
    ):
        superpixels(torch.rand(1, 8, 8), 4)
