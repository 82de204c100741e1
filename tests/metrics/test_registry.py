"""The registry, the reductions, the case and the accumulator: what every metric relies on."""

import math
import re
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import hirescam
import toys
from hirescam import metrics
from hirescam.errors import InputError, MetricError, ModelError, RuleError
from hirescam.metrics import INPUTS, Case, Scene, estimate, reductions, registry
from hirescam.metrics.accumulator import MetricAccumulator

EVERY = list(metrics.metrics().values())


def network() -> nn.Module:
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    return nn.Sequential(*layers).double().eval()


def scene(**given) -> Scene:
    return Scene(hirescam.Explainer(network()), torch.rand(2, 3, 8, 8).double(), **given)


@pytest.mark.parametrize("one", EVERY, ids=lambda one: one.name)
def test_every_metric_says_what_it_is(one):
    low, high = one.bounds
    assert low < high
    assert one.units
    assert one.summary.endswith(".")
    for word in ("Args:", "Returns:", "NaN"):
        assert word in one.description, f"{one.name}: its docstring must have {word!r}"
    for need in one.needs:
        assert f"{need}:" in one.description, f"{one.name}: its docstring must describe {need!r}"
    for option in one.options:
        assert f"{option}:" in one.description, f"{one.name}: its docstring must describe {option!r}"


def test_the_page_of_metrics_is_up_to_date():
    script = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "_metrics.py"))
    assert script["PAGE"].read_text("utf-8") == script["page"](), "run: python docs/_metrics.py"


def test_unknown_names_are_answered_with_a_hint():
    with pytest.raises(MetricError, match="did you mean 'wrong_sign_rate'"):
        metrics.get("wrong_sign_rat")
    with pytest.raises(MetricError, match="its options are level"):
        metrics.get("wrong_sign_rate").configure({"leval": 1})


def test_a_metric_may_ask_only_for_known_things():
    def strange(raw, pixels):
        return raw

    about = {"kind": metrics.Kind.SHAPE, "better": metrics.Better.LOWER, "bounds": (0, 1)}
    with pytest.raises(MetricError, match="asks for 'pixels'"):
        registry.metric(**about, units="", cite="")(strange)
    with pytest.raises(MetricError, match="registered already"):
        registry.metric(**about, units="", cite="")(metrics.get("wrong_sign_rate").function)


def test_options_change_the_metric():
    raw, effects = torch.tensor([[1.0, 0.2]]), torch.tensor([[1.0, -1.0]])
    plain = metrics.get("wrong_sign_rate")
    assert plain.function(raw, effects).tolist() == [0.5]
    assert plain.configure({"level": 0.3}).function(raw, effects).tolist() == [0.0]


def test_a_case_gives_everything_that_can_be_asked_for():
    size = (2, 8, 8)
    given = {"masks": torch.ones(size, dtype=torch.bool), "boxes": [torch.zeros(1, 2, 2)] * 2}
    whole = Case(scene(**given, unused=torch.zeros(6, 6, dtype=torch.bool)), "gradcam")
    for name in INPUTS:
        assert whole.given(name, EVERY[0]) is not None
    assert whole.maps.shape == size
    assert whole.effects.shape == whole.raw.shape == whole.reference.shape == whole.unused.shape
    torch.testing.assert_close(whole.effects, whole.reference)
    torch.testing.assert_close(whole.explain(whole.images), whole.maps)
    torch.testing.assert_close(whole.explain_with(whole.model), whole.maps)
    torch.testing.assert_close(whole.predict(whole.images), whole.model(whole.images).softmax(1))
    torch.testing.assert_close(whole.logits(whole.images), whole.model(whole.images))


@pytest.mark.parametrize("make", [toys.FlattenNet, toys.PooledNet, toys.NormNet])
def test_a_case_shares_the_pass_and_explains_as_the_explainer_does(make):
    explainer = hirescam.Explainer(make().eval())
    whole = Scene(explainer, torch.rand(2, 2, 8, 8), target=torch.tensor([3, 1]))
    for name in hirescam.rules():
        try:
            expected = explainer(whole.images, target=whole.target, rule=name)
        except RuleError as error:
            with pytest.raises(RuleError, match=re.escape(str(error))):
                assert Case(whole, name).explanation
            continue
        found = Case(whole, name).explanation
        torch.testing.assert_close(found.raw, expected.raw)
        torch.testing.assert_close(found.offset, expected.offset)
        assert (found.rule, found.layer, found.target.tolist()) == (name, expected.layer, [[3], [1]])
        torch.testing.assert_close(Case(whole, name).maps, expected.view(scale=None).values[:, 0])


def test_a_map_with_nan_is_refused():
    broken = replace(
        hirescam.rules()["gradcam"], function=lambda trace: trace.score[..., None, None] * math.nan
    )
    with pytest.raises(ModelError, match=r"the map of images\[0\] has NaN"):
        assert Case(scene(), broken).explanation


def test_what_a_scene_was_not_given_is_named():
    bare = Case(scene())
    with pytest.raises(MetricError, match=r"needs masks .* pass Scene\(\.\.\., masks=\.\.\.\)"):
        bare.given("masks", EVERY[0])


def test_mean_over_classes_weighs_classes_alike():
    values, groups = torch.tensor([1.0, 1.0, 1.0, 0.0, math.nan]), torch.tensor([3, 3, 3, 7, 9])
    assert reductions.mean(values) == 0.75
    assert reductions.mean_over_classes(values, groups) == 0.5
    assert math.isnan(reductions.mean_over_classes(values[4:], groups[4:]))


def test_an_interval_covers_the_true_mean_about_as_often_as_it_says():
    hits = 0
    for seed in range(60):
        draws = torch.randn(40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        found = estimate("wrong_sign_rate", draws, resamples=200, seed=1000 + seed, confidence=0.9)
        hits += found.low <= 0 <= found.high
    assert 0.8 <= hits / 60 <= 0.97


def test_an_interval_counts_what_is_undefined():
    found = estimate("wrong_sign_rate", torch.tensor([0.0, 1.0, math.nan]))
    assert (found.value, found.count, found.undefined) == (0.5, 3, 1)
    nothing = estimate("wrong_sign_rate", torch.tensor([math.nan]))
    assert math.isnan(nothing.value)
    assert math.isnan(nothing.low)
    with pytest.raises(InputError, match="confidence=2"):
        estimate("wrong_sign_rate", torch.zeros(2), confidence=2)
    with pytest.raises(InputError, match="groups has 1 entries"):
        estimate("wrong_sign_rate", torch.zeros(2), torch.zeros(1))


def test_batches_add_up_to_the_whole():
    values = torch.rand(10).double()
    whole = MetricAccumulator("wrong_sign_rate")
    for part in values.split(3):
        whole.update(part)
    torch.testing.assert_close(whole.compute(), values.mean())
    assert whole.estimate() == estimate("wrong_sign_rate", values, torch.full((10,), -1))
    whole.reset()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert math.isnan(float(whole.compute()))
