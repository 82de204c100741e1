"""What the positive part of a map is worth: oracles, values by hand, laws, edge cases."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import hirescam
from hirescam.errors import InputError
from hirescam.metrics import Case, Scene, get
from hirescam.metrics.hotspots import (
    area_expansion,
    contradicted_area,
    contradicted_mass,
    dead_hotspot_rate,
    mass_expansion,
    unused_mass,
)
from toys import FlattenNet, PooledNet, images, ready

EXACT = pytest.mark.parametrize(("network", "ndim"), list(product((FlattenNet, PooledNet), (1, 2, 3))))
SMALL = st.integers(-4, 4).map(float)
PAIRS = st.lists(st.tuples(SMALL, SMALL), min_size=1, max_size=9)
LEVELS = st.sampled_from([0.0, 0.15, 0.25, 0.5])


def maps(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def same(found: Tensor, expected: float) -> bool:
    value = float(found)
    return math.isnan(value) if math.isnan(expected) else math.isclose(value, expected, abs_tol=1e-12)


# --- oracles: one cell at a time -----------------------------------------------------------------


def oracle_dead(raw: list[float], effects: list[float]) -> float:
    if max(raw) <= 0:
        return math.nan
    hottest = [effect for value, effect in zip(raw, effects, strict=True) if value == max(raw)]
    return sum(effect <= 0 for effect in hottest) / len(hottest)


def oracle_contradicted(raw: list[float], effects: list[float], level: float) -> tuple[float, float]:
    area = area_wrong = mass = mass_wrong = 0.0
    for value, effect in zip(raw, effects, strict=True):
        if max(raw) > 0 and value > level * max(raw):
            area, mass = area + 1, mass + value
            if effect <= 0:
                area_wrong, mass_wrong = area_wrong + 1, mass_wrong + value
    return (area_wrong / area, mass_wrong / mass) if area else (math.nan, math.nan)


def oracle_size(raw: list[float], level: float) -> tuple[float, float]:
    shown = [value / max(raw) for value in raw if value > level * max(raw)]
    return len(shown) / len(raw), sum(shown) / len(raw)


@given(PAIRS, LEVELS)
def test_oracles_agree(pairs, level):
    raw, effects = (list(column) for column in zip(*pairs, strict=True))
    assert same(dead_hotspot_rate(maps(raw), maps(effects)), oracle_dead(raw, effects))
    area, mass = oracle_contradicted(raw, effects, level)
    assert same(contradicted_area(maps(raw), maps(effects), level=level), area)
    assert same(contradicted_mass(maps(raw), maps(effects), level=level), mass)
    sizes = [area_expansion, mass_expansion]
    found = torch.stack([size(maps(raw), maps(effects), level=level)[0] for size in sizes])
    if max(raw) > 0 and max(effects) > 0:
        expected = np.array([oracle_size(raw, level), oracle_size(effects, level)]).T
        np.testing.assert_allclose(found, expected, atol=1e-12)
    else:
        assert found.isnan().all()


@given(PAIRS)
def test_oracle_of_unused_mass(pairs):
    raw, marks = zip(*pairs, strict=True)
    unused = [mark > 0 for mark in marks]
    positive = [max(value, 0) for value in raw]
    lost = sum(value for value, mark in zip(positive, unused, strict=True) if mark)
    expected = lost / sum(positive) if sum(positive) else math.nan
    assert same(unused_mass(maps(raw), torch.tensor([unused])), expected)


# --- values by hand ------------------------------------------------------------------------------


def test_a_picture_by_hand():
    """Four cells above 15 % of 10; those of 6 and 2 are worthless: half of the area, 8/22 of the mass."""
    raw, effects = maps([10.0, 6.0, 4.0, 2.0, 1.0, -9.0]), maps([3.0, 0.0, 1.0, -1.0, -5.0, -5.0])
    assert contradicted_area(raw, effects).tolist() == [0.5]
    assert same(contradicted_mass(raw, effects), 8 / 22)
    assert dead_hotspot_rate(raw, effects).tolist() == [0.0]
    assert dead_hotspot_rate(raw, -effects).tolist() == [1.0]
    reference = maps([5.0, 0.0, 4.0, 0.0, 0.0, -1.0])
    np.testing.assert_allclose(area_expansion(raw, reference), [[4 / 6, 2 / 6]])
    np.testing.assert_allclose(mass_expansion(raw, reference), [[2.2 / 6, 1.8 / 6]])
    assert math.isclose(get("area_expansion").reduce(area_expansion(raw, reference)), 2.0)
    assert math.isclose(get("mass_expansion").reduce(mass_expansion(raw, reference)), 2.2 / 1.8)


def test_a_cell_at_the_level_is_not_above_it():
    raw, effects = maps([4.0, 2.0, 3.0]), maps([1.0, -1.0, -1.0])
    assert contradicted_area(raw, effects, level=0.5).tolist() == [0.5]
    assert area_expansion(raw, raw, level=0.5).tolist() == [[2 / 3, 2 / 3]]


def test_expansion_divides_sums_over_images():
    raw, reference = maps([1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]), maps([1.0, 0, 0, 0], [1.0, 1.0, 0, 0])
    assert math.isclose(get("area_expansion").reduce(area_expansion(raw, reference)), 5 / 3)


def test_unused_mass_by_hand():
    raw = maps([3.0, -5.0, 1.0, -2.0])
    assert unused_mass(raw, torch.tensor([[False, True, True, True]])).tolist() == [0.25]
    assert unused_mass(raw, torch.zeros(1, 4, dtype=torch.bool)).tolist() == [0.0]


def test_hottest_cells_share():
    """No order of cells decides which of three equal ones is the hotspot."""
    raw, effects = maps([2.0, 2.0, 2.0, 1.0]), maps([1.0, 0.0, -1.0, -1.0])
    assert same(dead_hotspot_rate(raw, effects), 2 / 3)


def test_rounding_is_no_effect():
    raw, effects = maps([2.0, 1.0, -3.0]), maps([1e-7, 1.0, -3.0])
    assert dead_hotspot_rate(raw, effects).tolist() == [1.0]
    assert contradicted_area(raw, effects).tolist() == [0.5]


# --- laws ----------------------------------------------------------------------------------------


@EXACT
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_hirescam_is_perfect_on_exact_heads(network, ndim, dtype):
    shown = Scene(hirescam.Explainer(ready(network(ndim), dtype)), images(3, ndim, dtype=dtype))
    exact, other = Case(shown), Case(shown, "gradcam")
    assert (exact.raw.flatten(1).amax(1) > 0).all()
    assert exact.measure("dead_hotspot_rate").tolist() == [0.0] * 3
    assert exact.measure("contradicted_area").tolist() == [0.0] * 3
    assert exact.measure("contradicted_mass").tolist() == [0.0] * 3
    assert get("area_expansion").reduce(exact.measure("area_expansion")) == 1
    assert get("mass_expansion").reduce(exact.measure("mass_expansion")) == 1
    same_mass = get("mass_expansion").reduce(other.measure("mass_expansion"))
    assert math.isclose(same_mass, 1, rel_tol=1e-5) is (network is PooledNet)


def test_what_the_head_cannot_see_has_no_hirescam():
    model = ready(FlattenNet())
    unused = torch.zeros(8, 8, dtype=torch.bool)
    unused[:, 4:] = True
    with torch.no_grad():
        model.head.weight.view(5, -1, 8, 8).masked_fill_(unused, 0)
    shown = Scene(hirescam.Explainer(model, layer="features"), images(3), unused=unused)
    assert Case(shown).measure("unused_mass").tolist() == [0.0] * 3
    assert Case(shown).measure("dead_hotspot_rate").tolist() == [0.0] * 3
    other = Case(shown, "gradcam")
    assert float(other.measure("unused_mass").min()) > 0.2
    assert float(other.measure("contradicted_mass").min()) > 0.2


@given(PAIRS, st.floats(1e-150, 1e150), LEVELS)
def test_units_do_not_matter(pairs, scale, level):
    raw, effects = (maps(list(column)) for column in zip(*pairs, strict=True))
    for one in (contradicted_area, contradicted_mass, area_expansion, mass_expansion):
        plain = one(raw, effects, level=level)
        torch.testing.assert_close(one(raw * scale, effects * scale, level=level), plain, equal_nan=True)
    plain = dead_hotspot_rate(raw, effects)
    torch.testing.assert_close(dead_hotspot_rate(raw * scale, effects * scale), plain, equal_nan=True)


@given(PAIRS, st.randoms())
def test_the_order_of_cells_does_not_matter(pairs, random):
    mixed = random.sample(pairs, len(pairs))
    for one in (dead_hotspot_rate, contradicted_area, contradicted_mass, area_expansion, mass_expansion):
        first, second = (one(*(maps(list(c)) for c in zip(*p, strict=True))) for p in (pairs, mixed))
        torch.testing.assert_close(first, second, equal_nan=True)


# --- edges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [[0.0, 0.0], [-1.0, -2.0]], ids=["zero", "negative"])
def test_a_map_without_positive_cells_is_undefined_and_not_a_success(raw):
    effects, unused = maps([1.0, 2.0]), torch.tensor([[True, False]])
    for one in (dead_hotspot_rate, contradicted_area, contradicted_mass):
        assert one(maps(raw), effects).isnan().all()
    for one in (area_expansion, mass_expansion):
        assert one(maps(raw), effects).isnan().all()
        assert one(effects, maps(raw)).isnan().all()
    assert unused_mass(maps(raw), unused).isnan().all()


def test_a_constant_positive_map():
    raw, effects = maps([2.0, 2.0, 2.0, 2.0]), maps([1.0, -1.0, 0.0, 2.0])
    assert dead_hotspot_rate(raw, effects).tolist() == [0.5]
    assert contradicted_area(raw, effects).tolist() == [0.5]
    assert area_expansion(raw, effects).tolist() == [[1.0, 0.5]]


def test_a_model_without_effects_contradicts_every_highlight():
    raw, effects = maps([2.0, 1.0]), maps([0.0, 0.0])
    for one in (dead_hotspot_rate, contradicted_area, contradicted_mass):
        assert one(raw, effects).tolist() == [1.0]


def test_no_samples_give_no_values():
    none = torch.zeros(0, 4)
    for one in (dead_hotspot_rate, contradicted_area, contradicted_mass, unused_mass):
        assert one(none, none).shape == (0,)
    for one in (area_expansion, mass_expansion):
        assert one(none, none).shape == (0, 2)


@pytest.mark.parametrize("level", [-0.1, 1.0, math.nan])
def test_bad_levels_are_refused(level):
    for one in (contradicted_area, contradicted_mass, area_expansion, mass_expansion):
        with pytest.raises(InputError, match="level="):
            one(maps([1.0]), maps([1.0]), level=level)


def test_bad_maps_are_refused():
    good, bad = maps([1.0, 2.0]), maps([1.0, math.nan])
    for one in (dead_hotspot_rate, contradicted_area, contradicted_mass, area_expansion, mass_expansion):
        with pytest.raises(InputError, match=r"raw\[0\] has NaN"):
            one(bad, good)
        with pytest.raises(InputError, match=r"(effects|reference)\[0\] has NaN"):
            one(good, bad)
    with pytest.raises(InputError, match="unused has shape"):
        unused_mass(good, torch.ones(1, 3, dtype=torch.bool))
