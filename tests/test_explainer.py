"""The public verbs: shapes, targets, layers, state, threads, gradients through maps, several inputs."""

import copy
import pickle
from collections import UserDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hirescam
from hirescam import AllClasses, Classes, Contrast, Explainer, OutputError, Region, TargetError, TopK
from hirescam.closed_form import ClosedForm, Doubt
from hirescam.fullgrad import fullgrad
from hirescam.passes.borrow import Call
from hirescam.steps import average_over_flips
from toys import (
    CLASSES,
    SIDE,
    Bypass,
    FlattenNet,
    FunctionalNet,
    NormNet,
    PooledNet,
    Returns,
    SegNet,
    TwoLayerNet,
    images,
    ready,
)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_shapes_are_always_the_same(batch: int, ndim: int) -> None:
    model = ready(FlattenNet(ndim, side=4))
    result = hirescam.explain(model, images(batch, ndim, side=4))
    assert result.raw.shape == (batch, 1, *[4] * ndim)
    assert result.score.shape == result.offset.shape == result.target.shape == (batch, 1)
    assert result.target.dtype == torch.int64
    assert result.logits.shape == (batch, CLASSES)
    assert (result.layer, result.rule) == ("features", "hirescam")


def test_offset_is_what_no_location_accounts_for() -> None:
    model, x = ready(FlattenNet()), images()
    result = hirescam.explain(model, x, target=AllClasses())
    torch.testing.assert_close(result.offset, model.head.bias.detach().expand(2, -1))
    torch.testing.assert_close(result.raw.sum((2, 3)) + result.offset, result.logits)


TARGETS = [
    (None, lambda z: z.argmax(1, keepdim=True)),
    (3, lambda z: torch.full((2, 1), 3)),
    (torch.tensor(3), lambda z: torch.full((2, 1), 3)),
    ([[1, 4], [0, 0]], lambda z: torch.tensor([[1, 4], [0, 0]])),
    ([1, 4], lambda z: torch.tensor([[1], [4]])),
    (torch.tensor([1, 4]), lambda z: torch.tensor([[1], [4]])),
    (torch.tensor([[1, 4], [0, 0]]), lambda z: torch.tensor([[1, 4], [0, 0]])),
    (TopK(3), lambda z: z.topk(3).indices),
    (Classes(4, 1), lambda z: torch.tensor([[4, 1], [4, 1]])),
    (AllClasses(), lambda z: torch.arange(CLASSES).expand(2, -1)),
]


@pytest.mark.parametrize(("target", "index"), TARGETS, ids=[str(t[0]) for t in TARGETS])
def test_targets_name_classes(target: object, index: Callable[[Tensor], Tensor]) -> None:
    model, x = ready(FlattenNet()), images()
    result = hirescam.explain(model, x, target=target)
    expected = index(result.logits)
    assert torch.equal(result.target, expected)
    torch.testing.assert_close(result.score, result.logits.gather(1, expected))
    one = hirescam.explain(model, x, target=expected[:, -1])
    torch.testing.assert_close(result.raw[:, -1], one.raw[:, 0])


def test_contrasts() -> None:
    model, x = ready(FlattenNet()), images()
    every = hirescam.explain(model, x, target=AllClasses())
    pair = hirescam.explain(model, x, target=Contrast(3, 1))
    torch.testing.assert_close(pair.raw[:, 0], every.raw[:, 3] - every.raw[:, 1])
    rest = hirescam.explain(model, x, target=Contrast(3))
    others = every.raw[:, [0, 1, 2, 4]].mean(1)
    torch.testing.assert_close(rest.raw[:, 0], every.raw[:, 3] - others)
    assert rest.target.tolist() == [[3], [3]]


def test_a_function_of_the_output_can_be_the_target() -> None:
    model, x = ready(FlattenNet()), images()
    both = hirescam.explain(model, x, target=lambda out: out[:, :2] * 2)
    every = hirescam.explain(model, x, target=Classes(0, 1))
    torch.testing.assert_close(both.raw, every.raw * 2)
    assert both.target.tolist() == [[-1, -1], [-1, -1]]
    assert both.certificate.guarantee == "exact"
    probability = hirescam.explain(model, x, target=lambda out: out.softmax(1)[:, 0])
    assert probability.certificate.guarantee == "none"


def test_functions_made_at_every_call_do_not_pile_up() -> None:
    explainer = Explainer(ready(FlattenNet()))
    for index in range(40):
        explainer(images(1), target=lambda out, index=index: out[:, index % CLASSES])
    assert len(explainer._planner.plans) <= 16


def test_a_region_of_a_segmentation_is_a_score() -> None:
    model, x = ready(SegNet()), images()
    mask = torch.zeros(SIDE, SIDE)
    mask[:4] = 1
    result = hirescam.explain(model, x, target=Region(2, mask))
    assert result.certificate.guarantee == "exact"
    assert result.layer == "features"
    expected = (model(x)["out"][:, 2] * mask).sum((1, 2))
    torch.testing.assert_close(result.score[:, 0], expected.detach())
    assert result.certificate.location_error < 1e-10
    upper, lower = result.raw[:, 0, :2].abs().sum(), result.raw[:, 0, 3:].abs().sum()
    assert lower < 0.2 * upper


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (5, "target names class 5, but the model has 5 classes: use 0 to 4"),
        (True, "target=True is a bool"),
        (1.5, "target must hold integer class indices"),
        ("cat", "target='cat' cannot be read"),
        ([1, 2, 3], r"target has shape \(3,\) for 2 image\(s\)"),
        (TopK(0), "k must be from 1 to 5"),
        (TopK(6), "k must be from 1 to 5"),
        (Classes(), "name at least one class"),
        (Contrast(1, 9), "target names class 9"),
        (Region(1, torch.ones(4, 4)), "this model gives one score per class"),
        (lambda out: out.sum(), r"the target function returned a Tensor of shape \(\)"),
        (lambda out: [1.0, 2.0], "the target function returned a list of 2 entries, expected a tensor"),
        (torch.zeros(2, 0, dtype=torch.int64), r"target has shape \(2, 0\)"),
    ],
)
def test_targets_that_cannot_be_are_refused(target: object, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        hirescam.explain(ready(FlattenNet()), images(), target=target)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[1.0]], "list.* no float tensor|has no float tensor"),
        ("cat.jpg", "images must be a float tensor .* got str"),
        (torch.zeros(2, 2), "with one to three space axes, got"),
        (torch.zeros(1, 2, 3, 4, 5, 6), "with one to three space axes, got"),
        (torch.zeros(2, 2, 8, 8, dtype=torch.int64), "got torch.int64"),
        ({"a": torch.zeros(3)}, "has no float tensor"),
    ],
)
def test_images_that_cannot_be_are_refused(given: object, message: str) -> None:
    with pytest.raises(hirescam.InputError, match=message):
        hirescam.explain(ready(FlattenNet()), given)


def test_a_layer_can_be_named_or_passed() -> None:
    model, x = ready(FlattenNet()), images()
    by_name = hirescam.explain(model, x, layer="features.0").raw
    by_module = hirescam.explain(model, x, layer=model.features[0])
    torch.testing.assert_close(by_name, by_module.raw)
    assert by_module.layer == "features.0"


def test_an_unknown_layer_gets_a_suggestion() -> None:
    with pytest.raises(hirescam.LayerError, match="did you mean 'features'"):
        hirescam.explain(ready(FlattenNet()), images(), layer="feature")
    with pytest.raises(hirescam.LayerError, match="not a part of this FlattenNet"):
        hirescam.explain(ready(FlattenNet()), images(), layer=nn.ReLU())
    with pytest.raises(hirescam.LayerError, match="not in this FlattenNet"):
        hirescam.explain(ready(FlattenNet()), images(), layer="")


def test_a_model_that_is_no_module_is_refused() -> None:
    with pytest.raises(hirescam.InputError, match=r"model must be a torch.nn.Module, got function"):
        hirescam.explain(lambda x: x, images())


PUBLIC: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "explain": hirescam.explain,
    "explain all classes": lambda m, x: hirescam.explain(m, x, target=AllClasses()),
    "explain, differentiable": lambda m, x: hirescam.explain(m, x, differentiable=True),
    "certify": hirescam.certify,
    "layers": hirescam.layers,
    "compare": lambda m, x: Explainer(m).compare(x, rules=["hirescam", "gradcam", "cam"][: 2 + _pooled(m)]),
    "receptive field": lambda m, x: hirescam.explain(m, x).receptive_field(),
    "overlay": lambda m, x: hirescam.explain(m, x).overlay(x),
    "trace": lambda m, x: Explainer(m).trace(x),
    "relations": lambda m, x: hirescam.relations(m, x, rules=["hirescam", "removal"]),
    "fullgrad": fullgrad,
    "average over flips": lambda m, x: average_over_flips(Explainer(m), x),
    "save": lambda m, x: hirescam.explain(m, x).manifest(),
    "view": lambda m, x: hirescam.explain(m, x).view(),
}


def _pooled(model: nn.Module) -> bool:
    return isinstance(model, (PooledNet, FunctionalNet))


def state(model: nn.Module) -> dict[str, object]:
    return {
        "modes": [m.training for m in model.modules()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), sorted(vars(m)))
            for m in model.modules()
        ],
        "flags": [p.requires_grad for p in model.parameters()],
        "leaves": [p.is_leaf for p in model.parameters()],
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "modes of torch functions": torch._C._len_torch_function_stack(),
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
    }


@pytest.mark.parametrize("net", [FlattenNet, PooledNet, TwoLayerNet, NormNet, FunctionalNet, Bypass])
@pytest.mark.parametrize("name", PUBLIC)
def test_nothing_is_left_behind(name: str, net: type) -> None:
    model, x = ready(net()), images()
    before, picture = state(model), x.clone()
    weights = copy.deepcopy(model.state_dict())
    gradients = [torch.randn_like(p) for p in model.parameters()]
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    random = torch.get_rng_state()

    PUBLIC[name](model, x)

    assert state(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, picture)
    assert x.grad is None
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key])
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_the_check_for_leftovers_can_fail() -> None:
    model = ready(FlattenNet())
    before = state(model)
    model.features.register_forward_hook(lambda *args: None)
    assert state(model) != before


def test_a_result_does_not_pin_the_graph() -> None:
    result = hirescam.explain(ready(FlattenNet()), images())
    tensors = (result.raw, result.score, result.offset, result.logits)
    assert not any(tensor.requires_grad for tensor in tensors)


def test_maps_can_stand_in_a_loss() -> None:
    model, x = ready(FlattenNet()), images()
    result = hirescam.explain(model, x, target=2, differentiable=True)
    plain = hirescam.explain(model, x, target=2)
    torch.testing.assert_close(result.raw.detach(), plain.raw)
    loss = result.raw[:, :, :4].square().sum()
    got = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)

    def loss_of(weight: Tensor) -> Tensor:
        activations = torch.relu(F.conv2d(x, weight, model.features[0].bias, padding=1))
        raw = (model.head.weight[2].reshape(activations.shape[1:]) * activations).sum(1)
        return raw[:, :4].square().sum()

    weight = model.features[0].weight
    expected = torch.autograd.grad(loss_of(weight), weight)[0]
    torch.testing.assert_close(dict(zip(_names(model), got, strict=True))["features.0.weight"], expected)
    assert torch.autograd.gradcheck(loss_of, weight.detach().clone().requires_grad_())


def _names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def test_training_on_a_map_works() -> None:
    model, x = ready(FlattenNet()), images()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    outside = []
    for _ in range(20):
        result = hirescam.explain(model, x, target=2, differentiable=True, layer="features")
        loss = result.raw[:, :, :4].square().sum()
        outside.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert outside[-1] < 0.5 * outside[0]


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = FlattenNet()
        self.table = nn.Linear(3, CLASSES)

    def forward(self, picture: Tensor, row: Tensor) -> Tensor:
        return self.net(picture) + self.table(row)


def test_several_inputs_as_tuple_or_dict() -> None:
    model, x = ready(TwoInputs()), images()
    row = torch.randn(2, 3, dtype=torch.float64)
    by_position = hirescam.explain(model, (x, row), target=1)
    by_name = hirescam.explain(model, {"picture": x, "row": row}, target=1)
    alone = hirescam.explain(model.net, x, target=1)
    assert by_position.certificate.guarantee == "exact"
    torch.testing.assert_close(by_position.raw, alone.raw)
    torch.testing.assert_close(by_name.raw, alone.raw)
    assert by_name.receptive_field().size == (3, 3)


def test_the_output_can_be_selected() -> None:
    model = ready(Returns(lambda s: {"a": s, "b": [s, s * 2]}))
    x = images()
    expected = hirescam.explain(model.net, x).raw
    torch.testing.assert_close(hirescam.explain(model, x, output="a").raw, expected)
    chosen = hirescam.explain(model, x, output=lambda out: out["b"][1])
    torch.testing.assert_close(chosen.raw, expected * 2)


def test_compare_measures_the_laws_of_each_rule() -> None:
    results = Explainer(ready(FlattenNet())).compare(images(), rules=("hirescam", "gradcam"))
    assert list(results) == ["hirescam", "gradcam"]
    assert results["hirescam"].laws.hold
    assert results["hirescam"].laws.location_error < 1e-10
    assert not results["gradcam"].laws.complete
    assert not results["gradcam"].laws.local
    pooled = Explainer(ready(PooledNet())).compare(images(), rules=("hirescam", "gradcam", "cam"))
    assert pooled["gradcam"].laws.hold
    assert not pooled["cam"].laws.complete


def test_compare_on_a_conditional_head_holds_for_hirescam_alone() -> None:
    results = Explainer(ready(NormNet())).compare(images(), rules=("hirescam", "gradcam"))
    assert results["hirescam"].laws.hold
    assert results["gradcam"].certificate.guarantee == "conditional"


def test_one_explainer_serves_other_sizes() -> None:
    explainer = Explainer(ready(PooledNet()))
    assert explainer(images(2)).raw.shape == (2, 1, 8, 8)
    assert explainer(images(1, side=12)).raw.shape == (1, 1, 12, 12)


def test_a_layer_outside_the_forward_pass_is_named() -> None:
    class Spare(FlattenNet):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.Conv2d(2, 2, 1)

    with pytest.raises(hirescam.LayerError, match="layer='spare' is not on the way"):
        hirescam.explain(ready(Spare()), images(), layer="spare")


def test_a_model_without_a_map_is_told_so() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2 * SIDE**2, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.mean((2, 3), keepdim=True).expand_as(x).flatten(1))

    class Vector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 4, SIDE)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).flatten(1)

    with pytest.raises(hirescam.LayerError, match=r"Which axes of 'expand_as\(\)#1', .* are locations"):
        hirescam.explain(ready(Flat()), images())
    with pytest.raises(
        hirescam.LayerError, match="no layer of this Vector is a map of at least two locations"
    ):
        hirescam.explain(ready(Vector()), images())


def test_an_output_cut_off_from_the_image_is_told_so() -> None:
    class Constant(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    with pytest.raises(hirescam.ModelError, match=r"does not depend on images .* \(see detach\(\)\)"):
        hirescam.explain(ready(Constant()), images())


def test_overflow_in_half_precision_is_told_so() -> None:
    model = ready(FlattenNet(), torch.float16)
    with torch.no_grad():
        model.head.weight.mul_(1e5)
    with pytest.raises(hirescam.OutputError, match="NaN or infinite"):
        hirescam.explain(model, images(dtype=torch.float16) * 100)


@pytest.mark.parametrize("net", [FlattenNet, TwoLayerNet])
def test_many_classes_come_in_chunks_that_agree(net: type, monkeypatch: pytest.MonkeyPatch) -> None:
    from hirescam.passes import trace

    model, x = ready(net()), images()
    whole = hirescam.explain(model, x, target=AllClasses(), rule="gradcam")
    parts: list[slice] = []
    original = trace.Pass.trace
    monkeypatch.setattr(
        trace.Pass, "trace", lambda self, part=slice(None): parts.append(part) or original(self, part)
    )
    finished = Explainer(model).certified_pass(x)
    one = finished.leaf.nbytes
    monkeypatch.setattr(trace.Pass.chunks, "__defaults__", (2 * one,))
    explainer = Explainer(model)
    explainer.certify(x)
    parts.clear()
    cut = explainer(x, target=AllClasses(), rule="gradcam")
    assert [(part.start, part.stop) for part in parts] == [(0, 2), (2, 4), (4, 5)]
    torch.testing.assert_close(cut.raw, whole.raw)
    assert cut.raw.shape == (2, CLASSES, SIDE, SIDE)


@pytest.mark.parametrize("rule", ["hirescam", "gradcam", "removal"])
def test_a_target_from_inference_mode(rule):
    """The usual way to get predictions gives a tensor that autograd refuses to save."""
    model, x = ready(FlattenNet()), images()
    with torch.inference_mode():
        predicted = model(x).argmax(1)
    result = hirescam.explain(model, x, target=predicted, rule=rule)
    torch.testing.assert_close(result.raw, hirescam.explain(model, x, rule=rule).raw)


def runs(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> int:
    """How often the whole model ran; a hook on it would be a change of the model."""
    count: list[int] = []
    run = Call.run
    with monkeypatch.context() as patch:
        patch.setattr(Call, "run", lambda self, model: count.append(1) or run(self, model))
        work()
    return len(count)


@pytest.mark.parametrize("net", [FlattenNet, PooledNet, NormNet, TwoLayerNet])
@pytest.mark.parametrize("target", [None, 1, [2, 0], TopK(2), Contrast(0, 1)], ids=str)
def test_the_first_call_is_answered_by_the_pass_that_certified(
    net: type, target: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = ready(net()), images(2)
    explainer = Explainer(model)
    results: list[hirescam.Explanation] = []
    # With divisors held the questions go one by one; near kinks they are asked again.
    probes = {NormNet: (6,), TwoLayerNet: (3, 6, 7, 8)}.get(net, (3,))
    assert runs(monkeypatch, lambda: results.append(explainer(x, target=target))) - 2 in probes
    assert runs(monkeypatch, lambda: results.append(explainer(x, target=target))) == 1
    torch.testing.assert_close(results[0].raw, results[1].raw)
    torch.testing.assert_close(results[0].score, results[1].score)
    assert torch.equal(results[0].target, results[1].target)


def test_a_comparison_runs_the_network_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = ready(FlattenNet()), images(2)
    explainer = Explainer(model)
    explainer.certify(x)
    rules = ("hirescam", "gradcam", "layercam")
    assert runs(monkeypatch, lambda: explainer.compare(x, rules=rules)) == 1


def test_the_first_call_reports_progress_like_the_others() -> None:
    seen: list[tuple[int, int]] = []
    explainer = Explainer(ready(FlattenNet()), progress=lambda done, total: seen.append((done, total)))
    explainer(images(2), rule="ablationcam")
    first = list(seen)
    seen.clear()
    explainer(images(2), rule="ablationcam")
    assert first == seen != []


@pytest.mark.parametrize("target", [[0, 1], [0, 1, 2, 3], torch.zeros(3, 1, 1, dtype=torch.int64)])
def test_a_target_that_does_not_fit_is_refused_at_the_first_call(target: object) -> None:
    with pytest.raises(TargetError, match=r"for 3 image\(s\)"):
        Explainer(ready(FlattenNet()))(images(3), target=target)


# Which way a map is made ----------------------------------------------------------------------


def score(output: Tensor) -> Tensor:
    return output[:, 1]


@pytest.mark.parametrize(
    ("options", "closed"),
    [
        ({}, True),
        ({"target": AllClasses()}, True),
        ({"rule": "gradcam"}, False),
        ({"differentiable": True}, False),
        ({"target": score}, False),
        ({"target": Contrast(0, 1)}, False),
    ],
    ids=["as it is", "all classes", "another rule", "differentiable", "a function", "a contrast"],
)
def test_the_closed_form_answers_where_it_may(
    options: dict[str, object], closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    original = ClosedForm.maps
    monkeypatch.setattr(ClosedForm, "maps", lambda self, *args: asked.append(1) or original(self, *args))
    model, x = ready(FlattenNet()), images(2)
    explainer = Explainer(model)
    for _ in range(2):
        asked.clear()
        explainer(x, **options)
        assert bool(asked) is closed


def test_beside_other_inputs_gradients_are_taken() -> None:
    model, x = ready(TwoInputs()), images()
    row = torch.randn(2, 3, dtype=torch.float64)
    explainer = Explainer(model, layer="net.features")
    first = explainer((x, row), target=1)
    again = explainer((x * 2, row + 1), target=1)
    torch.testing.assert_close(again.raw, hirescam.explain(model.net, x * 2, target=1, layer="features").raw)
    assert first.certificate.offset == again.certificate.offset == "for these other inputs"


def other_rule(trace: object) -> Tensor:
    """Twice the activations."""
    return 2 * trace.activations.sum(1, keepdim=True)  # type: ignore[attr-defined]


def test_rules_are_told_apart_by_what_they_do() -> None:
    model, x = ready(FlattenNet()), images(2)
    known = hirescam.rules()["hirescam"]
    stranger = replace(known, function=other_rule)
    named = replace(known, name="mine")
    explainer = Explainer(model, layer="features")
    wanted = 2 * model.features(x).detach().sum(1, keepdim=True)
    torch.testing.assert_close(explainer(x, target=1, rule=stranger).raw, wanted)
    torch.testing.assert_close(explainer.compare(x, target=1, rules=[stranger])["hirescam"].raw, wanted)
    mine = explainer(x, target=1, rule=named)
    torch.testing.assert_close(mine.raw, explainer(x, target=1).raw)
    assert mine.rule == "mine"


def plain_gradient(model: NormNet, x: Tensor, label: int) -> tuple[Tensor, Tensor]:
    """Activations and the gradient through the normaliser as it is."""
    leaf = model.features(x).detach().requires_grad_()
    scores = model.head(model.norm(leaf.mean((2, 3))))[:, label].sum()
    return leaf.detach(), torch.autograd.grad(scores, leaf)[0]


def test_divisors_are_held_for_the_rules_that_say_so_and_for_no_other() -> None:
    model, x = ready(NormNet()), images(2)
    activations, gradient = plain_gradient(model, x, 1)
    wanted = (gradient.mean((2, 3), keepdim=True) * activations).sum(1, keepdim=True)
    explainer = Explainer(model)
    assert explainer.certify(x).guarantee == "conditional"
    ours = explainer(x, target=1)
    for _ in range(2):
        torch.testing.assert_close(explainer(x, target=1, rule="gradcam").raw, wanted)
        for rules in (("hirescam", "gradcam"), ("gradcam", "hirescam")):
            both = explainer.compare(x, target=1, rules=rules)
            torch.testing.assert_close(both["gradcam"].raw, wanted)
            torch.testing.assert_close(both["hirescam"].raw, ours.raw)
            assert both["hirescam"].laws.hold
    assert not torch.allclose(ours.raw, (gradient * activations).sum(1, keepdim=True))
    assert explainer.trace(x, target=1).held
    assert not Explainer(ready(TwoLayerNet())).trace(x, target=1).held


def test_without_a_guarantee_nothing_is_held() -> None:
    class More(NormNet):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.features(x).mean((2, 3))).sigmoid())

    model, x = ready(More()), images(2)
    result = hirescam.explain(model, x, target=1, layer="features")
    assert result.certificate.guarantee == "none"
    leaf = model.features(x).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.head(model.norm(leaf.mean((2, 3))).sigmoid())[:, 1].sum(), leaf)
    torch.testing.assert_close(result.raw[:, 0], (gradient * leaf.detach()).sum(1))


# A verdict is about this call -----------------------------------------------------------------

SAME = [FlattenNet, PooledNet, FunctionalNet, NormNet, TwoLayerNet, Bypass, SegNet]


@pytest.mark.parametrize("net", SAME)
def test_every_verb_gives_the_same_verdict_at_every_call(net: type) -> None:
    target = Region(1, torch.ones(SIDE, SIDE)) if net is SegNet else None
    model, x = ready(net()), images(3)
    explainer = Explainer(model)
    chosen = [layer for layer in explainer.layers(x, target=target) if layer.chosen]
    certificates = [
        explainer.certify(x, target=target),
        explainer(x, target=target).certificate,
        explainer(x, target=target, rule="gradcam").certificate,
        explainer(x, target=target, differentiable=True).certificate,
        explainer.compare(x, target=target)["hirescam"].certificate,
        explainer(x.flip(-1), target=target).certificate,
        hirescam.explain(model, x, target=target).certificate,
        hirescam.certify(model, x, target=target),
    ]
    assert {one.guarantee for one in certificates} == {chosen[0].guarantee}
    assert {one.layer for one in certificates} == {chosen[0].name}
    assert {one.reason for one in certificates} == {certificates[0].reason}


class Turns(FlattenNet):
    """Does something else when images are bright, or when there are many."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.when = when
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        if self.when == "bright" and self.bright(x):
            features = features.sigmoid()
        if self.when == "many" and len(x) in (3, 4):
            features = features - features.mean(0, keepdim=True)
        if self.when == "many, squared" and len(x) in (3, 4):
            features = features * features
        return self.head(features.flatten(1))

    bright = staticmethod(lambda x: False)


ASK: dict[str, Callable[[Explainer, Tensor], hirescam.Certificate]] = {
    "explain": lambda e, x: e(x, target=1).certificate,
    "certify": lambda e, x: e.certify(x, target=1),
    "another rule": lambda e, x: e(x, target=1, rule="gradcam").certificate,
    "differentiable": lambda e, x: e(x, target=1, differentiable=True).certificate,
    "a function": lambda e, x: e(x, target=score).certificate,
    "a contrast": lambda e, x: e(x, target=Contrast(1, 0)).certificate,
    "compare": lambda e, x: e.compare(x, target=1)["gradcam"].certificate,
}


@pytest.mark.parametrize("ask", ASK)
@pytest.mark.parametrize("when", ["bright", "many", "many, squared"])
def test_what_a_later_call_shows_is_judged_in_that_call(when: str, ask: str) -> None:
    model = ready(Turns(when))
    model.bright = lambda x: x.flatten().tolist()[0] > 50 if when == "bright" else False
    explainer = Explainer(model, layer="features")
    first = ASK[ask](explainer, images(2))
    assert first.guarantee == ("none" if when == "bright" else "exact")
    later = ASK[ask](explainer, images(2) + 100 if when == "bright" else images(4))
    assert later.guarantee == "none"


def test_a_head_that_changes_from_call_to_call_ends_without_a_guarantee() -> None:
    class Alternates(FlattenNet):
        differs = False

        def forward(self, x: Tensor) -> Tensor:
            features = self.features(x)
            factor = 1 + 1e-12 * features.detach() if Alternates.differs else 1.0
            return self.head((features * factor).flatten(1))

    original = Explainer._pass

    def late(self: Explainer, *args: object) -> object:
        Alternates.differs = True
        try:
            return original(self, *args)
        finally:
            Alternates.differs = False

    explainer, x = Explainer(ready(Alternates()), layer="features"), images(2)
    assert explainer(x, target=1, differentiable=True).certificate.guarantee == "exact"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Explainer, "_pass", late)
        result = explainer(x + 1, target=1, differentiable=True)
    assert result.certificate.guarantee == "none"
    assert "what comes after the layer changes from call to call" in result.certificate.reason


def test_a_batch_size_is_compared_with_an_image_alone_once(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = Explainer(ready(FlattenNet()), layer="features")
    explainer.certify(images(2))
    for size, expected in ((2, 1), (5, 2), (5, 1), (6, 2), (1, 1), (5, 1), (6, 1)):
        x = images(size)
        assert runs(monkeypatch, lambda x=x: explainer(x, rule="gradcam", target=1)) == expected


def test_a_class_whose_gradient_is_wrong_ends_without_a_guarantee() -> None:
    class Hooked(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x) * 1
            if out.requires_grad:
                out.register_hook(lambda g: g * torch.tensor([1.0, 1, 1, 2, 1]).to(g))
            return out

    for ask in (
        lambda e, x, t: e(x, target=t).certificate,
        lambda e, x, t: e.certify(x, target=t),
        lambda e, x, t: e(x, target=t, rule="gradcam").certificate,
    ):
        model, x = ready(Hooked()), images(2)
        explainer = Explainer(model, layer="features")
        assert ask(explainer, x, 1).guarantee == "exact"
        assert ask(explainer, x, 3).guarantee == "none"
        assert ask(explainer, x, AllClasses()).guarantee == "none"


def test_scores_that_the_jacobian_does_not_account_for_are_certified_again() -> None:
    """Only the images that failed say what is wrong with them."""

    class Scripted(FlattenNet):
        """A constant that changes unseen; nothing but the scores tells."""

        factor = 1.0

        def forward(self, x: Tensor) -> Tensor:
            factor = torch.tensor(Scripted.factor, dtype=x.dtype)
            return self.head((self.features(x) * factor).flatten(1))

    model, x = ready(Scripted()), images(3)
    explainer = Explainer(model, layer="features")
    before = explainer(x, target=1)
    Scripted.factor = 2.0
    after = explainer(x, target=1)
    torch.testing.assert_close(after.raw, 2 * before.raw)
    assert after.certificate.guarantee == "exact"
    Scripted.factor = 1.0


def test_images_that_are_never_accounted_for_take_the_guarantee_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClosedForm, "maps", lambda self, leaf, logits, target: Doubt((1,)))
    result = hirescam.explain(ready(FlattenNet()), images(3), target=1)
    assert result.certificate.guarantee == "none"
    assert "it does not account for the score of images[1]" in result.certificate.reason


# Small things ---------------------------------------------------------------------------------


def test_an_explainer_of_another_model_asks_the_same() -> None:
    seen: list[tuple[int, int]] = []
    explainer = Explainer(
        ready(Returns(lambda s: {"a": s, "b": s})), layer="net.features", output="a", grid=[8, 8],
        progress=lambda done, total: seen.append((done, total)), audit=0.5,
    )  # fmt: skip
    other = ready(Returns(lambda s: {"a": 2 * s, "b": s}))
    again = explainer.of(other)
    assert again.model is other
    result = again(images(2), target=1, rule="ablationcam")
    assert (result.layer, result.grid) == ("net.features", (8, 8))
    assert seen
    assert again._auditor.rate == 0.5
    assert explainer.of(other, layer="net.features.0")(images(1), target=1).layer == "net.features.0"
    plain = Explainer(ready(FlattenNet()), output=lambda out: out)
    assert plain.of(ready(FunctionalNet()))(images(1)).layer == "relu()#2"


def test_a_certified_pass_is_of_the_first_two_images() -> None:
    x = images(5)
    finished = Explainer(ready(FlattenNet())).certified_pass(x)
    assert torch.equal(finished.call.images, x[:2])
    assert finished.wish.target is None


def test_maps_that_are_not_finite_are_told() -> None:
    from hirescam.explainer import check_finite

    raw = torch.zeros(3, 1, 2, 2)
    check_finite(raw)
    raw[2, 0, 1, 1] = torch.inf
    with pytest.raises(hirescam.ModelError, match=r"the map of images\[2\] has NaN or infinite values"):
        check_finite(raw)

    class Root(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.features(x).sqrt().flatten(1))

    with pytest.raises(hirescam.ModelError, match=r"the map of images\[0\] has NaN or infinite values"):
        hirescam.explain(ready(Root()), images(2), layer="features")


def test_results_share_one_hash_until_the_weights_change() -> None:
    model, x = ready(FlattenNet()), images(2)
    explainer = Explainer(model)
    first, second = explainer(x), explainer(x * 2)
    assert first.origin.weights is second.origin.weights
    with torch.no_grad():
        model.head.bias.add_(1)
    third = explainer(x)
    assert third.origin.weights is not first.origin.weights
    assert first.manifest()["weights_sha256"] == ""
    assert len(third.manifest()["weights_sha256"]) == 64


def test_the_verbs_pass_everything_on() -> None:
    model, x = ready(Returns(lambda s: (s, 2 * s))), images(2)
    result = hirescam.explain(
        model, x, target=3, layer="net.features", rule="gradcam", output=1, grid=(8, 8), differentiable=True
    )
    assert (result.rule, result.layer, result.target.tolist()) == ("gradcam", "net.features", [[3], [3]])
    assert result.raw.requires_grad
    torch.testing.assert_close(result.logits, 2 * model.net(x))
    certificate = hirescam.certify(model, x, "net.features", target=score, output=1, grid=(8, 8))
    assert (certificate.layer, certificate.offset) == ("net.features", "of this image")
    assert [layer.chosen for layer in hirescam.layers(model, x, output=1, grid=(8, 8))] == [False, True]
    with pytest.raises(hirescam.LayerError, match="no layer of this Returns is a map of at least two"):
        hirescam.layers(model, x, output=1, grid=(3, 3))
    assert (
        Explainer(model, output=1).layers(x, target=lambda out: out.softmax(1)[:, 0])[-1].guarantee == "none"
    )


@pytest.mark.parametrize("rule", ["hirescam", "gradcam", "scorecam"])
def test_multi_hot_labels_explain_the_positive_classes_of_each_image(rule: str) -> None:
    explainer, x = Explainer(ready(FlattenNet())), images(3)
    labels = torch.tensor([[0, 1, 0, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]])
    result = explainer(x, target=hirescam.Labels(labels), rule=rule)
    assert result.target.tolist() == [[1, 3], [4, -1], [-1, -1]]
    for image, row in enumerate(result.target.tolist()):
        for place, label in enumerate(row):
            wanted = explainer(x, target=label, rule=rule).raw[image, 0] if label >= 0 else 0 * x[0, 0]
            torch.testing.assert_close(result.raw[image, place], wanted)
    assert result.certificate.guarantee == "exact"
    assert not result.score[1:, 1].any()


@pytest.mark.parametrize("rule", ["hirescam", "gradcam"])
def test_one_logit_has_evidence_for_two_labels(rule: str) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1)).double().eval()
    x = images(2)
    explainer = Explainer(model)
    plain = explainer(x, rule=rule)
    found = explainer(x, target=hirescam.Binary([0, 1]), rule=rule)
    torch.testing.assert_close(found.raw, plain.raw * torch.tensor([-1, 1])[:, None, None, None])
    assert found.certificate.guarantee == "exact"
    assert torch.equal(found.score, torch.stack([-plain.logits[0], plain.logits[1]]))


class Batch(UserDict[str, Tensor]):
    """A mapping that is no dict, like the BatchFeature of transformers."""


def test_mappings_are_inputs_by_name() -> None:
    class Named(FlattenNet):
        def forward(self, pixel_values: Tensor) -> Tensor:
            return super().forward(pixel_values)

    model, x = ready(Named()), images(2)
    found = hirescam.explain(model, Batch(pixel_values=x), target=1)
    assert torch.equal(found.raw, hirescam.explain(model, x, target=1).raw)


@pytest.mark.parametrize("grid", [4, (), (4, 0), (4.0, 4), "44", torch.Size([])])
def test_grids_that_cannot_be(grid: Any) -> None:
    with pytest.raises(hirescam.InputError, match=r"grid=.* must be a tuple of sizes, such as \(14, 14\)"):
        Explainer(ready(FlattenNet()), grid=grid)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_copy_of_an_explainer_starts_anew_with_a_copy_of_the_model(again: Callable[..., Explainer]) -> None:
    model, x = ready(FlattenNet()), images(2)
    explainer = Explainer(model, layer="features", audit=1)
    result = explainer(x, target=1)
    made = again(explainer)
    assert made.model is not model
    assert made.audits.pictures == 0
    assert torch.equal(made(x, target=1).raw, result.raw)
    assert made(x, target=1).layer == "features"
    assert made.audits.audited == 2 * len(x)
    with torch.no_grad():
        model.head.weight.neg_()
    assert torch.equal(made(x, target=1).raw, result.raw)
    assert again(explainer.compile())._planner.compiling
    hidden = Explainer(model, layer="features.0", audit=1)  # not the layer that would be chosen
    assert again(hidden)(x, target=1).layer == "features.0"
    assert again(Explainer(model))(x, target=1, rule="gradcam").audit is None
    assert hidden(x, target=1, rule="gradcam").audit is None


@pytest.mark.parametrize(
    "change", [lambda z: z.mul_(2), lambda z: z[:, :3].mul_(2), nn.ReLU(inplace=True), lambda z: z]
)
def test_backward_hooks_that_watch_change_nothing(change: Callable[[Tensor], Tensor]) -> None:
    """Not even where what such a module returns is written to, which autograd refuses by itself."""

    class Changed(FlattenNet):
        def __init__(self) -> None:
            super().__init__()
            self.middle = nn.Conv2d(6, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            z = self.middle(self.features(x))
            change(z)
            return self.head(z.flatten(1))

    model, x = ready(Changed()), images(2)
    plain = hirescam.explain(model, x, target=1, layer="features")
    model.middle.register_full_backward_hook(lambda *given: None)
    hooked = hirescam.explain(model, x, target=1, layer="features")
    torch.testing.assert_close(hooked.raw, plain.raw)
    assert hooked.certificate.guarantee is plain.certificate.guarantee
    guarantee = hirescam.Guarantee.LOCAL if isinstance(change, nn.ReLU) else hirescam.Guarantee.EXACT
    assert hooked.certificate.guarantee is guarantee


def test_errors_of_the_callers_functions_are_told_with_what_they_got() -> None:
    model, x = ready(FlattenNet()), images(2)
    with pytest.raises(TargetError, match=r"failed on the model's output of shape \(2, 5\): IndexError: "):
        hirescam.explain(model, x, target=lambda logits: logits[:, 99])
    with pytest.raises(OutputError, match=r"output= failed on what the model returned, a Tensor: KeyError: "):
        hirescam.explain(model, x, output=lambda out: {}["logits"])
    with pytest.raises(OutputError, match="mine"):
        hirescam.explain(model, x, output=lambda out: own(OutputError("mine")))
    with pytest.raises(TargetError, match="mine"):
        hirescam.explain(model, x, target=lambda logits: own(TargetError("mine")))


def own(error: Exception) -> Tensor:
    raise error


def test_hooks_on_the_layers_own_output_do_not_change_differentiable_maps() -> None:
    """They act on what is behind the layer; the map is about what comes after it."""
    model, x = ready(FlattenNet()), images(2)
    plain = hirescam.explain(model, x, target=1, layer="features")

    class Doubles(nn.ReLU):
        def forward(self, z: Tensor) -> Tensor:
            z = super().forward(z)
            if z.requires_grad:
                z.register_hook(lambda gradient: 2 * gradient)
            return z

    model.features[1] = Doubles().eval()
    made = hirescam.explain(model, x, target=1, layer="features", differentiable=True)
    torch.testing.assert_close(made.raw.detach(), plain.raw)
    assert made.certificate.guarantee is hirescam.Guarantee.EXACT
    assert made.raw.requires_grad


def test_the_choice_goes_on_where_autograd_cannot_follow() -> None:
    """A tape does not allow to write to what a sigmoid returned; a model without one does it."""

    class Writes(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            z = torch.sigmoid(self.features(x))
            z.mul_(2)
            z = torch.sigmoid(z + x.mean())
            z.mul_(2)
            return self.head((z + x.mean()).flatten(1)) + x.mean()

    model, x = ready(Writes()), images(2)
    listed = hirescam.layers(model, x)
    (chosen,) = [layer.name for layer in listed if layer.chosen]
    assert hirescam.explain(model, x, target=1).layer == chosen
