"""Shape of maps: by hand, against slow derivations of another kind, and at the edges."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import hirescam
from hirescam.errors import InputError
from hirescam.metrics import Case, Scene
from hirescam.metrics.shape import complexity, continuity, effective_complexity, hot_area, sparseness
from toys import FlattenNet

OF_RAW = (sparseness, complexity, hot_area)
SIZES = [(6,), (3, 4), (2, 3, 2)]


def gini(values: list[float]) -> float:
    """Half the mean absolute difference of two draws, over the mean."""
    values = [abs(value) for value in values]
    mean = sum(values) / len(values)
    return sum(abs(a - b) for a in values for b in values) / (2 * len(values) ** 2 * mean)


def entropy(values: list[float]) -> float:
    total = sum(abs(value) for value in values)
    return sum(abs(value) / total * math.log(total / abs(value)) for value in values if value)


@pytest.mark.parametrize("size", SIZES, ids=len)
def test_against_other_derivations(size):
    raw = torch.randn(4, *size)
    rows = raw.flatten(1).tolist()
    assert sparseness(raw).tolist() == pytest.approx([gini(row) for row in rows], rel=1e-6)
    assert complexity(raw).tolist() == pytest.approx([entropy(row) for row in rows], rel=1e-6)
    above = [sum(value > max(row) / 2 for value in row) / len(row) for row in rows]
    assert hot_area(raw).tolist() == pytest.approx(above)


def test_by_hand():
    raw = torch.tensor([[1.0, 0.0, -3.0, 0.0]])
    # 1/4 · (1·1 + 3·3) / 4, and p = 1/4, 3/4
    assert sparseness(raw).tolist() == pytest.approx([10 / 16])
    assert complexity(raw).tolist() == pytest.approx([math.log(4) / 4 + 3 / 4 * math.log(4 / 3)])
    raw = torch.tensor([[4.0, 2.0, 2.1, -9.0]])
    assert hot_area(raw).tolist() == [0.5]
    assert hot_area(raw, level=0.15).tolist() == [0.75]


@pytest.mark.parametrize("count", [1, 2, 49])
def test_limits(count):
    """One location: the sparsest there is. One magnitude: the most complex."""
    single, even = torch.zeros(1, count), torch.full((1, count), -0.3)
    single[0, count // 2] = -5
    assert sparseness(single).tolist() == pytest.approx([1 - 1 / count])
    assert complexity(single).tolist() == pytest.approx([0], abs=1e-12)
    assert sparseness(even).tolist() == pytest.approx([0], abs=1e-12)
    assert complexity(even).tolist() == pytest.approx([math.log(count)], abs=1e-12)


@given(seed=st.integers(0, 10_000), scale=st.floats(1e-30, 1e30))
def test_laws(seed, scale):
    """Blind to units, places and other samples; within bounds; sign counts for the hot area alone."""
    torch.manual_seed(seed)
    raw = torch.randn(3, 2, 5).double()
    moved = scale * raw.flatten(1)[:, torch.randperm(10)]
    for one in OF_RAW:
        torch.testing.assert_close(one(moved), one(raw))
        torch.testing.assert_close(one(raw[1:]), one(raw)[1:])
    for one in (sparseness, complexity):
        torch.testing.assert_close(one(-raw), one(raw))
    assert ((sparseness(raw) >= 0) & (sparseness(raw) <= 0.9)).all()
    assert ((complexity(raw) >= 0) & (complexity(raw) <= math.log(10))).all()


def test_edges():
    zero, negative, constant = torch.zeros(1, 4), -torch.ones(1, 4), torch.ones(1, 4)
    assert sparseness(zero).isnan().all()
    assert complexity(zero).isnan().all()
    assert [float(hot_area(one)) for one in (zero, negative, constant)] == [0, 0, 1]
    for one in OF_RAW:
        with pytest.raises(InputError, match=r"raw\[0\] has NaN"):
            one(torch.tensor([[1.0, math.nan]]))
    for level in (-0.1, 1, math.nan):
        with pytest.raises(InputError, match="must be at least 0 and below 1"):
            hot_area(constant, level=level)


def added(contributions: Tensor, bias: float = 7.0):
    """A head that adds up what locations contribute."""
    return lambda keep: bias + (keep * contributions).flatten(2).sum(2)


def kept_by_hand(raw: list[float], worth: list[float], tolerance: float) -> float:
    order = sorted(range(len(raw)), key=lambda place: -abs(raw[place]))
    total = sum(worth)
    enough = len(raw)
    for count in reversed(range(len(raw) + 1)):
        if abs(total - sum(worth[place] for place in order[:count])) > tolerance * abs(total):
            break
        enough = count
    return enough / len(raw)


def test_how_many_locations_tell_all():
    worth = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    assert effective_complexity(worth, added(worth)).tolist() == [0.75]  # 9 of 10
    assert effective_complexity(worth, added(worth), tolerance=0).tolist() == [1]
    assert effective_complexity(worth, added(worth), tolerance=0.3).tolist() == [0.5]
    assert effective_complexity(worth, added(worth), tolerance=1).tolist() == [0]
    assert effective_complexity(-worth.flip(1), added(worth)).tolist() == [1]


def test_passing_through_the_score_is_not_arriving():
    """4 alone is within a tenth of the whole; with −3 it is not."""
    worth = torch.tensor([[4.0, -3.0, 2.9]])
    assert effective_complexity(worth, added(worth)).tolist() == [1]


def test_a_layer_that_adds_nothing():
    nothing = torch.zeros(1, 3)
    assert effective_complexity(torch.rand(1, 3), added(nothing)).tolist() == [0]
    cancel = torch.tensor([[1.0, -1.0, 0.0]])
    assert effective_complexity(cancel, added(cancel)).tolist() == pytest.approx([2 / 3])
    assert effective_complexity(nothing, added(cancel)).tolist() == pytest.approx([2 / 3]), "order of places"
    with pytest.raises(InputError, match="tolerance=-1 must be at least 0"):
        effective_complexity(cancel, added(cancel), tolerance=-1)


@pytest.mark.parametrize("size", SIZES, ids=len)
def test_locations_that_tell_all_against_a_loop(size):
    raw, worth = torch.randn(5, *size), torch.randn(5, *size).double()
    wanted = [
        kept_by_hand(a.flatten().tolist(), b.flatten().tolist(), 0.2) for a, b in zip(raw, worth, strict=True)
    ]
    assert effective_complexity(raw, added(worth), tolerance=0.2).tolist() == pytest.approx(wanted)


def test_exact_maps_name_fewer_locations_than_others():
    scene = Scene(hirescam.Explainer(FlattenNet().eval()), torch.rand(8, 2, 8, 8))
    needed = {rule: Case(scene, rule).measure("effective_complexity") for rule in ("hirescam", "gradcam")}
    assert needed["hirescam"].mean() < needed["gradcam"].mean()


def product(weights: Tensor):
    return lambda images: (weights * images).sum(1)


def slope_by_hand(weights: Tensor, image: Tensor, shift: int) -> float:
    """Of maps weights ∘ image in two dimensions, one channel."""
    height, width = image.shape
    slopes = []
    for down, right in [(-shift, 0), (shift, 0), (0, -shift), (0, shift)]:
        change = distance = 0.0
        for y in range(height):
            for x in range(width):
                source = image[min(max(y + down, 0), height - 1), min(max(x + right, 0), width - 1)]
                change += abs(float(weights[y, x] * (source - image[y, x])))
                distance += float(source - image[y, x]) ** 2
        slopes.append(change / distance**0.5)
    return max(slopes) * float(image.square().sum().sqrt()) / float((weights * image).abs().sum())


@pytest.mark.parametrize("shift", [1, 2])
def test_continuity_against_a_loop(shift):
    weights, images = torch.randn(4, 5).double(), torch.rand(3, 1, 4, 5).double()
    explain = product(weights)
    wanted = [slope_by_hand(weights, image[0], shift) for image in images]
    assert continuity(explain(images), images, explain, shift=shift).tolist() == pytest.approx(wanted)


def test_continuity_by_hand():
    image = torch.tensor([[[1.0, 2.0, 4.0]]])
    # moved: 2, 4, 4 changes by 1, 2, 0; and 1, 1, 2 by 0, 1, 2. The map is the image.
    assert continuity(image[:, 0], image, product(torch.ones(1, 3))).tolist() == pytest.approx(
        [3 / 7 / (5 / 21) ** 0.5]
    )


@pytest.mark.parametrize("size", SIZES, ids=len)
def test_continuity_does_not_depend_on_units(size):
    images = torch.rand(2, 3, *size).double()
    weights = torch.randn(3, *size).double()
    first = continuity(product(weights)(images), images, product(weights))
    assert (first > 0).all()
    torch.testing.assert_close(
        continuity(-9 * product(weights)(images), images, product(-9 * weights)), first
    )
    halved = continuity(product(weights)(images), 2 * images, lambda x: product(weights)(x / 2))
    torch.testing.assert_close(halved, first)


def test_continuity_at_its_edges():
    images = torch.rand(1, 1, 4, 4)
    constant = torch.ones(1, 4, 4)
    assert continuity(constant, images, lambda x: constant).tolist() == [0], "perfect, and worth nothing"
    assert continuity(0 * constant, images, lambda x: constant).isnan().all()
    assert continuity(constant, torch.ones_like(images), lambda x: constant).isnan().all()
    stripes = torch.arange(4.0).expand(1, 1, 4, 4)
    assert continuity(stripes[0], stripes, lambda x: x[:, 0]).isfinite().all(), (
        "changed by two of four shifts"
    )
    with pytest.raises(InputError, match="shift=4 must be at least 1 and less than 4"):
        continuity(constant, images, lambda x: constant, shift=4)
    with pytest.raises(InputError, match=r"maps has shape \(1, 2, 2\): expected \(1, 4, 4\)"):
        continuity(constant, images, lambda x: torch.ones(1, 2, 2))
    with pytest.raises(InputError, match=r"maps\[0\] has NaN"):
        continuity(constant, images, lambda x: math.nan * constant)


def test_a_case_has_a_shape():
    case = Case(Scene(hirescam.Explainer(FlattenNet().eval()), torch.rand(2, 2, 8, 8)))
    for name in ("sparseness", "complexity", "effective_complexity", "hot_area", "continuity"):
        assert case.measure(name).shape == (2,)
        assert case.measure(name).isfinite().all()
