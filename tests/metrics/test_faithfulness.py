"""Exact faithfulness: oracles, values by hand, closed forms on linear heads, laws, edge cases."""

import math
from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

import hirescam
from hirescam.errors import InputError
from hirescam.metrics import Case, Scene, estimate, get, reductions
from hirescam.metrics.correlations import pearson, ranks, spearman
from hirescam.metrics.faithfulness import (
    ablation_correlation,
    ablation_error,
    completeness_error,
    sensitivity_n,
    wrong_sign_rate,
)
from toys import FlattenNet, PooledNet, TwoLayerNet, images, ready

EXACT = pytest.mark.parametrize(("network", "ndim"), list(product((FlattenNet, PooledNet), (1, 2, 3))))
FEW = st.integers(-3, 3)


def maps(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def linear(worth: Tensor, bias: float = 0.0):
    """The scores of a head in which location s of image i is worth ``worth[i, s]``."""

    def score_kept(keep: Tensor) -> Tensor:
        return (keep.to(worth) * worth).flatten(2).sum(-1) + bias

    return score_kept


def scene(model: torch.nn.Module, ndim: int = 2, batch: int = 3, dtype=torch.float64) -> Scene:
    return Scene(hirescam.Explainer(ready(model, dtype)), images(batch, ndim, dtype=dtype))


def random_maps(seed: int, batch: int = 4, cells: int = 12) -> Tensor:
    return torch.randn((batch, cells), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- what the metrics rest on --------------------------------------------------------------------


@EXACT
def test_effects_are_found_by_hand(network, ndim):
    """Set one location of the layer to zero, run the rest of the network, cell by cell."""
    model = network(ndim)
    shown = scene(model, ndim, batch=2)
    pool = getattr(model, "pool", torch.nn.Identity())
    with torch.no_grad():
        layer = model.features(shown.images)
        for image, label in enumerate(shown.classes.tolist()):
            one = layer[image : image + 1]
            whole = model.head(pool(one).flatten(1))[0, label]
            for s in np.ndindex(*layer.shape[2:]):
                without = one.clone()
                without[(0, slice(None), *s)] = 0
                lost = whole - model.head(pool(without).flatten(1))[0, label]
                assert math.isclose(float(shown.effects[(image, *s)]), float(lost), abs_tol=1e-12)


def test_effects_come_in_blocks(monkeypatch):
    first = scene(FlattenNet())
    whole = first.effects
    monkeypatch.setattr("hirescam.metrics.case._CELLS_TOGETHER", 7)
    torch.testing.assert_close(Scene(first.explainer, first.images).effects, whole, rtol=0, atol=1e-13)


@given(st.lists(st.tuples(FEW, FEW), min_size=2, max_size=12))
def test_spearman_is_scipys(pairs):
    x, y = np.array(pairs, dtype=float).T
    if np.ptp(x) and np.ptp(y):
        found = spearman(torch.from_numpy(x)[None], torch.from_numpy(y)[None])
        assert math.isclose(float(found), stats.spearmanr(x, y).statistic, abs_tol=1e-12)


def test_ties_share_their_average_rank():
    assert ranks(maps([3.0, 1.0, 3.0, 2.0, 3.0])).tolist() == [[4.0, 1.0, 4.0, 2.0, 4.0]]
    values = random_maps(0).round(decimals=0)
    assert np.array_equal(ranks(values).numpy(), stats.rankdata(values.numpy(), axis=1))


def test_rounding_makes_no_ranks():
    noisy = maps([0.0, 1e-7, -1e-7, 1.0, -1.0])
    assert ranks(noisy).tolist() == ranks(maps([0.0, 0.0, 0.0, 1.0, -1.0])).tolist()
    assert ranks(maps([1.0, 1 + 1e-9, 1 - 1e-9])).tolist() == [[2.0, 2.0, 2.0]]


def test_pearson_is_numpys_at_every_scale():
    x, y = random_maps(1), random_maps(2)
    for scale in (1e-200, 1.0, 1e200):
        expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(x.numpy(), y.numpy(), strict=True)]
        np.testing.assert_allclose(pearson(x * scale, y * scale).numpy(), expected, rtol=1e-12)


# --- values by hand ------------------------------------------------------------------------------


def test_ablation_correlation_by_hand():
    """Ranks 1 2 3 4 against 2 1 4 3: 1 - 6·(1+1+1+1)/(4·15) = 0.6."""
    found = ablation_correlation(maps([1.0, 2.0, 3.0, 4.0]), maps([-5.0, -6.0, 7.0, 0.0]))
    assert math.isclose(float(found), 0.6, rel_tol=1e-12)


@pytest.mark.parametrize(
    ("raw", "effects", "expected"),
    [
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 1),  # nothing to find, nothing claimed
        ([2.0, 2.0, 2.0], [5.0, 5.0, 5.0], 1),
        ([0.0, 0.0, 0.0], [1.0, 2.0, 3.0], 0),  # nothing claimed
        ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], 0),  # nothing to find
        ([1.0, 2.0, 3.0], [-3.0, -2.0, -1.0], 1),  # all negative is an order like any other
        ([3.0, 2.0, 1.0], [1.0, 2.0, 3.0], -1),
        ([7.0], [3.0], 1),  # one location
    ],
)
def test_constant_maps_are_scored(raw, effects, expected):
    assert ablation_correlation(maps(raw), maps(effects)).tolist() == [expected]


def test_ablation_error_by_hand():
    """Both maxima go over all cells of all images; each image's own error stays readable."""
    raw, effects = maps([1.0, 2.0], [0.0, 0.0]), maps([1.5, 2.0], [4.0, -8.0])
    found = ablation_error(raw, effects)
    assert found.tolist() == [[0.5, 2.0], [8.0, 8.0]]
    assert get("ablation_error").reduce(found) == 1.0
    assert (found[:, 0] / found[:, 1]).tolist() == [0.25, 1.0]


def test_completeness_error_by_hand():
    """Worth 6 and -2 in all; the maps sum to 5 and -2.5."""
    worth = maps([1.0, 2.0, 3.0], [-1.0, 0.0, -1.0])
    found = completeness_error(maps([5.0, 0.0, 0.0], [-2.5, 0.0, 0.0]), linear(worth, bias=100.0))
    np.testing.assert_allclose(found, [[1.0, 6.0], [0.5, 2.0]], atol=1e-12)
    assert math.isclose(get("completeness_error").reduce(found), 1.5 / 8, rel_tol=1e-12)


def test_wrong_signs_by_hand():
    """Five cells count (0.04 is below 5 % of 1), two are wrong; no effect and rounding are not."""
    raw = maps([1.0, -0.5, 0.3, 0.2, -0.1, 0.04])
    assert wrong_sign_rate(raw, maps([1.0, 0.5, -0.3, 0.0, 1e-9, -1.0])).tolist() == [0.4]


# --- oracles -------------------------------------------------------------------------------------


def oracle_sensitivity(raw: np.ndarray, worth: np.ndarray, n: int) -> float:
    """Every subset of n cells, each in turn: what sampling converges to."""
    subsets = list(combinations(range(len(raw)), n))
    promised = [sum(raw[s] for s in subset) for subset in subsets]
    lost = [sum(worth[s] for s in subset) for subset in subsets]
    return float(np.corrcoef(promised, lost)[0, 1])


@pytest.mark.parametrize("size", [1, 3, 6])
def test_sensitivity_n_converges_to_all_subsets(size):
    raw, worth = random_maps(3, batch=2, cells=8), random_maps(4, batch=2, cells=8)
    found = sensitivity_n(raw, linear(worth), shares=(size / 8,), subsets=20_000)
    expected = [oracle_sensitivity(a, b, size) for a, b in zip(raw.numpy(), worth.numpy(), strict=True)]
    np.testing.assert_allclose(found[:, 0], expected, atol=0.03)


def test_sensitivity_n_of_a_linear_model_is_its_plain_correlation():
    """Without replacement, cov(Σ raw, Σ worth) is a multiple of cov(raw, worth), whatever n."""
    raw, worth = random_maps(5, batch=1, cells=30), random_maps(6, batch=1, cells=30)
    found = sensitivity_n(raw, linear(worth), shares=(0.1, 0.5, 0.8), subsets=20_000)
    expected = np.corrcoef(raw[0], worth[0])[0, 1]
    np.testing.assert_allclose(found, [[expected] * 3], atol=0.03)


def test_subsets_have_n_cells_and_differ_between_images():
    seen = []

    def score_kept(keep: Tensor) -> Tensor:
        seen.append(keep)
        return keep.flatten(2).sum(-1)

    sensitivity_n(random_maps(0, batch=2, cells=20), score_kept, shares=(0.25,), subsets=50)
    removed = 1 - seen[-1]
    assert removed.shape == (50, 2, 20)
    assert (removed.sum(-1) == 5).all()
    assert not torch.equal(removed[:, 0], removed[:, 1])
    assert len({tuple(row.tolist()) for row in removed[:, 0]}) > 40
    assert 0.1 < removed.mean((0, 1)).min() < removed.mean((0, 1)).max() < 0.4


def test_sensitivity_n_repeats_and_leaves_the_global_generator_alone():
    raw, worth = random_maps(7), random_maps(8)
    before = torch.get_rng_state()
    first = sensitivity_n(raw, linear(worth))
    assert torch.equal(first, sensitivity_n(raw, linear(worth)))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, sensitivity_n(raw, linear(worth), seed=1))
    torch.testing.assert_close(first[:2], sensitivity_n(raw[:2], linear(worth[:2])))


@pytest.mark.parametrize(
    ("raw", "worth", "expected"),
    [
        ([1.0, 2.0, 3.0, 4.0], [0.0] * 4, 0),  # the score does not vary
        ([0.0] * 4, [1.0, 2.0, 3.0, 4.0], 0),  # the map does not
        ([0.0] * 4, [0.0] * 4, 1),  # neither does
        ([-1.0, -2.0, -3.0, -4.0], [-1.0, -2.0, -3.0, -4.0], 1),
    ],
)
def test_sensitivity_n_of_constants(raw, worth, expected):
    found = sensitivity_n(maps(raw), linear(maps(worth), bias=0.3), shares=(0.5,))
    assert math.isclose(float(found), expected, abs_tol=1e-12)


def test_removing_everything_leaves_nothing_to_correlate():
    assert sensitivity_n(random_maps(1), linear(random_maps(2)), shares=(1.0,)).tolist() == [[1.0]] * 4


# --- laws ----------------------------------------------------------------------------------------


@EXACT
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_hirescam_is_perfect_on_exact_heads(network, ndim, dtype):
    exact = Case(scene(network(ndim), ndim, dtype=dtype))
    tolerance = 1e-10 if dtype is torch.float64 else 1e-4
    assert (exact.measure("ablation_correlation") > 1 - tolerance).all()
    assert get("ablation_error").reduce(exact.measure("ablation_error")) < tolerance
    assert get("completeness_error").reduce(exact.measure("completeness_error")) < tolerance
    every_n = get("sensitivity_n").configure({"shares": (0.02, 0.2, 0.5, 0.8, 0.98), "subsets": 20})
    assert (exact.measure(every_n) > 1 - tolerance).all()
    assert exact.measure("wrong_sign_rate").tolist() == [0.0] * 3


def test_gradcam_is_not_on_a_flatten_head():
    other = Case(scene(FlattenNet()), "gradcam")
    assert float(other.measure("ablation_correlation").max()) < 0.8
    assert get("ablation_error").reduce(other.measure("ablation_error")) > 0.3
    assert float(other.measure("sensitivity_n").max()) < 0.8
    assert float(other.measure("wrong_sign_rate").min()) > 0.05


def test_hirescam_is_not_on_a_head_of_two_layers():
    local = Case(scene(TwoLayerNet()))
    assert get("ablation_error").reduce(local.measure("ablation_error")) > 1e-3
    assert get("completeness_error").reduce(local.measure("completeness_error")) > 1e-3


def test_a_complete_map_can_be_wrong_everywhere():
    """XGrad-CAM on a head without bias adds up, and its ranks are still not the model's."""
    shown = Case(scene(FlattenNet(bias=False)), "xgradcam")
    assert get("completeness_error").reduce(shown.measure("completeness_error")) < 1e-10
    assert float(shown.measure("ablation_correlation").max()) < 0.8


@given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_correlations_ignore_scale_and_direction_flips_them(seed, scale):
    raw, effects = random_maps(seed), random_maps(seed + 1)
    torch.testing.assert_close(ablation_correlation(raw * scale, effects), ablation_correlation(raw, effects))
    torch.testing.assert_close(ablation_correlation(-raw, effects), -ablation_correlation(raw, effects))
    few = {"shares": (0.5,), "subsets": 10}
    first = sensitivity_n(raw, linear(effects), **few)
    torch.testing.assert_close(sensitivity_n(raw * scale, linear(effects), **few), first)
    torch.testing.assert_close(sensitivity_n(-raw, linear(effects), **few), -first)


@given(st.integers(0, 10**6))
def test_errors_are_zero_for_the_truth_alone(seed):
    worth = random_maps(seed)
    assert get("ablation_error").reduce(ablation_error(worth, worth)) == 0
    assert get("completeness_error").reduce(completeness_error(worth, linear(worth))) < 1e-12
    assert get("ablation_error").reduce(ablation_error(worth + 0.01, worth)) > 0
    assert get("completeness_error").reduce(completeness_error(worth + 0.01, linear(worth))) > 1e-4


# --- edges and bad input -------------------------------------------------------------------------


def test_ratios_of_nothing():
    assert reductions.ratio_of_maxima(maps([0.0, 0.0])) == 0
    assert reductions.ratio_of_maxima(maps([1.0, 0.0])) == math.inf
    assert reductions.ratio_of_sums(maps([1.0, 2.0], [math.nan, math.nan])) == 0.5
    for reduction in (reductions.ratio_of_maxima, reductions.ratio_of_sums):
        assert math.isnan(reduction(torch.zeros(0)))
        assert math.isnan(reduction(torch.zeros(0, 2)))
        assert math.isnan(reduction(maps([math.nan, math.nan])))


def test_rows_of_two_have_intervals():
    raw, worth = random_maps(1, batch=20), random_maps(2, batch=20)
    found = estimate("completeness_error", completeness_error(raw, linear(worth)))
    assert 0 < found.low < found.value < found.high
    largest = estimate("ablation_error", ablation_error(raw, worth))
    assert (largest.count, largest.undefined) == (20, 0)


def test_no_samples_give_no_values():
    none = torch.zeros(0, 4)
    assert ablation_correlation(none, none).shape == wrong_sign_rate(none, none).shape == (0,)
    assert ablation_error(none, none).shape == completeness_error(none, linear(none)).shape == (0, 2)
    assert sensitivity_n(none, linear(none)).shape == (0, 4)


@pytest.mark.parametrize("metric", [ablation_correlation, ablation_error, wrong_sign_rate])
def test_bad_maps_are_refused(metric):
    good, bad = maps([1.0, 2.0], [3.0, 4.0]), maps([1.0, 2.0], [3.0, math.nan])
    with pytest.raises(InputError, match=r"raw\[1\] has NaN"):
        metric(bad, good)
    with pytest.raises(InputError, match=r"effects\[1\] has NaN"):
        metric(good, bad)
    with pytest.raises(InputError, match=r"effects has shape \(2, 1\), but raw has \(2, 2\)"):
        metric(good, good[:, :1])
    with pytest.raises(InputError, match=r"expected \(n, \*space\)"):
        metric(good[0], good[0])


@pytest.mark.parametrize("metric", [completeness_error, sensitivity_n])
def test_bad_maps_are_refused_by_those_that_run_the_head(metric):
    with pytest.raises(InputError, match=r"raw\[0\] has NaN"):
        metric(maps([math.inf, 0.0]), linear(maps([1.0, 2.0])))


def test_bad_options_are_refused():
    raw = random_maps(0)
    for shares in ((), (0.0,), (1.2,)):
        with pytest.raises(InputError, match="shares="):
            sensitivity_n(raw, linear(raw), shares=shares)
    with pytest.raises(InputError, match="subsets=2 is too few"):
        sensitivity_n(raw, linear(raw), subsets=2)
