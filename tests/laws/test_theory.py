"""The theorems as property tests: which methods coincide on which heads, and which never do."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn

import hirescam
from hirescam import relations
from hirescam.theory import integrated_gradients
from toys import FlattenNet, NormNet, PooledNet, TwoLayerNet, images, ready

SAME_ON_AFFINE = ("ablation", "gradient × input", "integrated gradients", "shapley values")
TIGHT = 1e-9

seeds = st.integers(0, 2**31)
ndims = st.integers(1, 3)


def table(model: nn.Module, ndim: int = 2, side: int = 4) -> hirescam.Relations:
    rules = ("hirescam", "gradcam", "cam", "xgradcam")
    return relations(ready(model), images(2, ndim, side=side), rules=rules, layer="features", target=1)


@settings(max_examples=10)
@given(seed=seeds, ndim=ndims)
def test_pooled_heads_make_cam_gradcam_hirescam_and_xgradcam_one_map(seed: int, ndim: int) -> None:
    torch.manual_seed(seed)
    found = table(PooledNet(ndim), ndim)
    for method, factor in (("gradcam", 1), ("xgradcam", 1), ("cam", 4**ndim)):
        assert found[method].same
        assert found[method].difference < TIGHT
        assert abs(found[method].factor / factor - 1) < TIGHT
        assert found[method].theorem.startswith("P")
    assert found["gradcam"].laws.hold
    assert not found["cam"].laws.complete


@settings(max_examples=10)
@given(seed=seeds, ndim=ndims)
def test_a_layer_before_its_relu_changes_gradcam_and_not_hirescam(seed: int, ndim: int) -> None:
    """In a pooled network, where both are one map after the ReLU: before it the gradient varies."""
    torch.manual_seed(seed)
    model, x = ready(PooledNet(ndim)), images(2, ndim, side=4)
    before, after = (
        {
            rule: hirescam.explain(model, x, target=1, layer=layer, rule=rule).raw
            for rule in ("hirescam", "gradcam")
        }
        for layer in ("features.1", "features")
    )
    torch.testing.assert_close(before["hirescam"], after["hirescam"])
    torch.testing.assert_close(after["gradcam"], after["hirescam"])
    assert (before["gradcam"] - after["gradcam"]).abs().max() > 1e-3 * after["gradcam"].abs().max()


@settings(max_examples=10)
@given(seed=seeds, ndim=ndims)
def test_affine_heads_make_hirescam_what_every_faithful_method_gives(seed: int, ndim: int) -> None:
    torch.manual_seed(seed)
    found = table(FlattenNet(ndim, side=4), ndim)
    for method in SAME_ON_AFFINE:
        assert found[method].same
        assert found[method].difference < TIGHT
        assert abs(found[method].factor - 1) < TIGHT
        assert found[method].laws.hold
        assert found[method].theorem.startswith("A")


@settings(max_examples=10)
@given(seed=seeds)
def test_gradcam_is_none_of_these_on_a_flatten_head(seed: int) -> None:
    torch.manual_seed(seed)
    found = table(FlattenNet(side=4))
    assert not found["gradcam"].same
    assert not found["gradcam"].laws.complete
    assert not found["gradcam"].laws.local
    assert found["gradcam"].theorem == ""


@settings(max_examples=10)
@given(seed=seeds)
def test_xgradcam_is_complete_on_affine_heads_and_fails_the_location_law(seed: int) -> None:
    torch.manual_seed(seed)
    found = table(FlattenNet(side=4))
    assert found["xgradcam"].laws.complete
    assert not found["xgradcam"].laws.local


@settings(max_examples=10)
@given(seed=seeds)
def test_on_a_piecewise_linear_head_only_the_directional_derivative_remains(seed: int) -> None:
    torch.manual_seed(seed)
    model, x = ready(TwoLayerNet()), images(1)
    explainer = hirescam.Explainer(model, layer="features")
    trace = explainer.trace(x, target=1)
    raw = explainer(x, target=1).raw
    # The derivative of score(A + h · A at s) at h = 0, by finite differences that stay on the linear piece.
    step = 1e-7
    flat = trace.activations.flatten(2)
    for s in range(0, flat.shape[2], 7):
        moved = flat.clone()
        moved[:, :, s] *= 1 + step
        change = trace.rescore(moved.reshape(1, *trace.activations.shape))[0] - trace.score
        torch.testing.assert_close(change / step, raw.flatten(2)[:, :, s], rtol=1e-4, atol=1e-6)


def test_on_a_piecewise_linear_head_shapley_and_integrated_gradients_stay_complete() -> None:
    torch.manual_seed(0)
    found = table(TwoLayerNet(), side=8)
    assert found["shapley values"].laws.complete
    assert not found["hirescam"].laws.complete
    assert not found["shapley values"].same


def test_with_the_divisor_held_a_conditional_head_is_affine() -> None:
    found = relations(ready(NormNet()), images(), rules=("hirescam", "gradcam"), target=1)
    for method in (*SAME_ON_AFFINE, "hirescam"):
        assert found[method].same
        assert found[method].laws.hold


def test_references_agree_with_direct_computation() -> None:
    model, x = ready(FlattenNet(side=4)), images(2, side=4)
    trace = hirescam.Explainer(model).trace(x, target=1)
    weight = model.head.weight[1].detach().reshape(6, 4, 4)
    expected = (weight * model.features(x).detach()).sum(1)
    for reference in (integrated_gradients, *(hirescam.rules()[n].function for n in ("removal", "shapley"))):
        torch.testing.assert_close(reference(trace)[:, 0], expected)


def test_deep_lift_and_lrp_are_hirescam_on_affine_heads() -> None:
    """DeepLIFT's rescale rule and LRP-0 pass relevance through a linear layer as gradient × input does."""
    attr = pytest.importorskip("captum.attr")
    model, x = ready(FlattenNet(side=4)), images(2, side=4)
    expected = hirescam.explain(model, x, target=1).raw[:, 0]
    head = nn.Sequential(nn.Flatten(), model.head)
    features = model.features(x).detach().requires_grad_()
    with pytest.warns(UserWarning, match="hooks"):
        deep_lift = attr.DeepLift(head).attribute(features, torch.zeros_like(features), target=1)
    torch.testing.assert_close(deep_lift.sum(1).detach(), expected)
    weight = model.head.weight[1].detach().reshape(6, 4, 4)
    score = model(x)[:, 1].detach()
    total = (weight * features.detach()).flatten(1).sum(1) + model.head.bias[1].detach()
    lrp = (weight * features.detach()) / total.reshape(-1, 1, 1, 1) * score.reshape(-1, 1, 1, 1)
    torch.testing.assert_close(lrp.sum(1), expected)


def test_the_table_reads_as_markdown() -> None:
    text = str(table(PooledNet()))
    assert text.startswith("Head of layer 'features': exact.")
    assert "| gradcam | yes | 1 |" in text
    assert text.count("\n| ") == 9


def test_a_head_that_looks_at_values_leaves_the_references_out() -> None:
    from toys import Branching

    found = relations(ready(Branching()), images(), rules=("hirescam", "gradcam"), layer="features")
    assert [row.method for row in found.rows] == ["hirescam", "gradcam"]
