"""Words for rules and metrics."""

import pytest

import hirescam
from hirescam import metrics
from hirescam.errors import MetricError, RuleError
from hirescam.evaluation.choices import ORDER, choose_metrics, choose_rules, with_std
from hirescam.metrics import INPUTS, Kind

EVERYTHING = set(INPUTS)
BARE = EVERYTHING - {"masks", "boxes", "unused"}


def labels(chosen):
    return [one.label for one in chosen.metrics]


def test_rules_by_name_with_options_and_as_they_are():
    own = hirescam.rules()["random"].configure({"seed": 3})
    found = choose_rules(["hirescam", "random:seed=5", "hirescam", own])
    assert [one.label for one in found] == ["hirescam", "random (seed=5)", "random"]
    assert found[1].rule.options["seed"] == 5
    assert found[2].rule is own


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "rules: got none"),
        (["gradcan"], "did you mean 'gradcam'"),
        (["random:seed"], "expected NAME:OPTION=VALUE, got 'seed'"),
        (["random:sed=1"], "has no option 'sed': its options are seed"),
    ],
)
def test_wrong_rules_are_errors(words, complaint):
    with pytest.raises(RuleError, match=complaint):
        choose_rules(words)


def test_kinds_and_all_stand_for_every_metric_that_can_be_measured():
    every = metrics.metrics()
    whole = choose_metrics(["all"], EVERYTHING)
    assert sorted(labels(whole)) == sorted(every)
    kinds = [ORDER.index(one.metric.kind) for one in whole.metrics]
    assert kinds == sorted(kinds)
    assert whole.metrics[0].metric.kind is Kind.FAITHFULNESS
    assert whole.metrics[-1].metric.kind is Kind.LOCALISATION
    assert not whole.left_out
    faithful = choose_metrics(["faithfulness"], BARE)
    assert set(labels(faithful)) == {
        one.name for one in every.values() if one.kind is Kind.FAITHFULNESS and BARE.issuperset(one.needs)
    }


def test_what_the_data_lack_is_left_out_of_kinds_and_an_error_by_name():
    found = choose_metrics(["all"], BARE)
    lacking = {one.name for one in metrics.metrics().values() if not BARE.issuperset(one.needs)}
    assert {"pointing_game", "unused_mass"} <= lacking
    assert set(found.left_out) == lacking
    assert found.left_out["pointing_game"] == "masks"
    with pytest.raises(MetricError, match=r"metric='pointing_game' needs masks .* leave it out"):
        choose_metrics(["faithfulness", "pointing_game"], BARE)
    with pytest.raises(MetricError, match=r"none can be measured on these data; .* needs (masks|boxes)"):
        choose_metrics(["localisation"], BARE)


def test_options_make_another_metric():
    own = metrics.get("wrong_sign_rate").configure({"level": 0.5})
    found = choose_metrics(["wrong_sign_rate:level=0.2", "wrong_sign_rate", own], BARE)
    assert labels(found) == ["wrong_sign_rate (level=0.2)", "wrong_sign_rate"]
    assert [one.metric.options["level"] for one in found.metrics] == [0.2, 0.5]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "metrics: got none, expected names, kinds"),
        (["wrong_sign_rat"], "did you mean 'wrong_sign_rate'.*kinds are faithfulness"),
        (["wrong_sign_rate:leval=1"], "no option 'leval': its options are level"),
        (["wrong_sign_rate:=1"], "expected NAME:OPTION=VALUE"),
    ],
)
def test_wrong_metrics_are_errors(words, complaint):
    with pytest.raises(MetricError, match=complaint):
        choose_metrics(words, BARE)


def test_noise_knows_what_pixels_were_divided_by_unless_it_was_said():
    every = choose_metrics(["road_morf", "road_morf:std=0.5", "road_lerf:seed=3", "wrong_sign_rate"], BARE)
    found = {one.label: one.metric.options for one in with_std(every, (0.2, 0.3)).metrics}
    assert found["road_morf"]["std"] == (0.2, 0.3)
    assert found["road_lerf (seed=3)"]["std"] == (0.2, 0.3)
    assert found["road_morf (std=0.5)"]["std"] == 0.5
    assert found["wrong_sign_rate"] == {"level": 0.05}


def test_values_are_numbers_lists_or_words():
    from hirescam.evaluation.choices import _value

    assert [_value(text) for text in ("0.5", "(1, 2)", "True", "nearest", "-3")] == [
        *(0.5, (1, 2), True, "nearest", -3),
    ]
