"""Figures, intervals and differences; baselines; notes on equal maps."""

import math

import pytest
import torch

from hirescam.evaluation.choices import choose_metrics, choose_rules
from hirescam.evaluation.contenders import BASELINES, RuleContender, flat, map_difference
from hirescam.evaluation.plots import mark_of, scale_of
from hirescam.evaluation.store import Entry, Store
from hirescam.evaluation.summary import Resampling, rows_of
from hirescam.metrics import Case, Kind, Scene, estimate, get
from hirescam.metrics.intervals import interval, resampled

METRIC = "wrong_sign_rate"
GROUPS = {"a": 0, "b": 0, "c": 1, "d": 1}
HOW = Resampling(resamples=300, seed=4)


def rows(values, *, errors=()):
    """Rows of two rules; values by rule and sample."""
    store = Store(None, {})
    for rule, own in values.items():
        store.write({}, [Entry(key, rule, METRIC, torch.tensor(value)) for key, value in own.items()])
    store.write({}, [Entry(key, rule, METRIC, None, "it broke") for rule, key in errors])
    contenders = [RuleContender(one) for one in choose_rules(list(values))]
    return rows_of(store, contenders, choose_metrics([METRIC], {"raw", "effects"}).metrics, GROUPS, HOW)


def test_a_row_is_the_estimate_of_the_metrics_package():
    values = {"a": 0.1, "b": 0.4, "c": math.nan, "d": 0.6}
    (row,) = rows({"hirescam": values})
    expected = estimate(
        METRIC, torch.tensor(list(values.values())).double(), confidence=0.95, resamples=300, seed=4
    )
    assert row.estimate == pytest.approx(expected) or row.estimate == expected
    assert (row.estimate.count, row.estimate.undefined, row.failed, row.error) == (4, 1, 0, "")
    assert (row.metric, row.rule, row.kind, row.better) == (METRIC, "hirescam", Kind.FAITHFULNESS, "lower")
    assert row.says == "faithfulness"
    assert row.difference is None


def test_a_difference_is_paired():
    first = {"a": 0.1, "b": 0.4, "c": 0.5, "d": 0.6}
    second = {key: value + 0.25 for key, value in first.items()}
    row = rows({"hirescam": first, "gradcam": second})[1]
    assert row.difference.value == pytest.approx(0.25)
    assert (row.difference.low, row.difference.high) == pytest.approx(
        (0.25, 0.25)
    )  # though each varies widely
    assert row.estimate.high - row.estimate.low > 0.2


def test_a_difference_is_taken_on_what_both_have():
    first = {"a": 0.1, "b": math.nan, "c": 0.5}
    second = {"a": 0.2, "b": 0.3, "d": 0.9}
    row = rows({"hirescam": first, "gradcam": second}, errors=[("gradcam", "c")])[1]
    assert row.difference.value == pytest.approx(0.1)
    assert row.difference.count == 1
    assert (row.failed, row.error) == (1, "it broke")
    nothing = rows({"hirescam": {"a": 0.1}, "gradcam": {"b": 0.1}})[1]
    assert math.isnan(nothing.difference.value)
    assert nothing.difference.count == 0


def test_a_rule_without_values_has_a_row_that_says_why():
    row = rows({"hirescam": {"a": 0.5}, "gradcam": {}}, errors=[("gradcam", "a")])[1]
    assert math.isnan(row.estimate.value)
    assert (row.estimate.count, row.failed, row.error) == (0, 1, "it broke")


def test_draws_are_those_of_the_interval():
    values = torch.tensor([0.1, 0.5, 0.9, 0.2], dtype=torch.float64)
    draws = resampled(METRIC, values, resamples=50, seed=9)
    found = estimate(METRIC, values, resamples=50, seed=9, confidence=0.8)
    assert interval(draws, 0.8) == (found.low, found.high)
    assert (draws == resampled(METRIC, values, resamples=50, seed=9)).all()
    assert len(resampled(METRIC, torch.zeros(0))) == 0


def test_baselines_know_nothing_of_the_picture():
    assert flat((2, 3)).tolist() == [[1, 1, 1], [1, 1, 1]]
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, :2], masks[1, 1:3, 1:3] = True, True
    scene = Scene(None, torch.zeros(2, 3, 4, 4), masks=masks)
    area, centre = (one.on(scene) for one in BASELINES)
    assert area(get("relevance_mass")).tolist() == [0.5, 0.25]
    assert centre(get("pointing_game").configure({"tolerance": 1})).tolist() == [0.5, 1.0]
    assert not BASELINES[0].measures(get(METRIC))
    assert BASELINES[0].measures(get("iou"))


def test_maps_are_compared_with_and_without_their_units():
    reference = torch.tensor([[4.0, -2.0], [4.0, -2.0], [4.0, 0.0], [0.0, 0.0]])
    raw = torch.tensor([[4.0, -2.0], [8.0, -4.0], [0.0, 4.0], [1.0, 1.0]])
    found = map_difference(raw, reference)
    assert found[:3].tolist() == [[0, 0], [1, 0], [1, 1]]
    assert found[3].isnan().all()


def test_scales_hold_all_figures():
    found = rows({"hirescam": {"a": 0.1, "b": 0.2}, "gradcam": {"a": 0.6, "b": 0.7}})
    scale = scale_of(found)
    assert (scale.low, scale.high) == (0, 1)
    marks = [mark_of(row, scale) for row in found]
    assert marks[0].low <= marks[0].value <= marks[0].high < marks[1].low
    assert marks[0].zero == scale.at(0) == 7
    assert scale.at(5) == scale.at(1)
    nothing = rows({"hirescam": {"a": math.nan}})
    assert scale_of(nothing) is None
    same = rows({"hirescam": {"a": 1.0, "b": 1.0}})
    assert scale_of(same).low < 1 == scale_of(same).high


def test_a_case_and_a_rule_contender_measure_the_same():
    import hirescam
    import miniature

    scene = Scene(hirescam.Explainer(miniature.network()), torch.rand(2, 3, 32, 32))
    (chosen,) = choose_rules(["gradcam"])
    found = RuleContender(chosen).on(scene)(get(METRIC))
    torch.testing.assert_close(found, Case(scene, "gradcam").measure(METRIC))
