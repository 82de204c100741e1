"""The public verbs: shapes, targets, layers, state, threads, gradients through maps, several inputs."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hirescam
from hirescam import AllClasses, Classes, Contrast, Explainer, Region, TargetError, TopK
from hirescam.fullgrad import fullgrad
from hirescam.passes.borrow import as_call, first_not_finite
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

    assert hirescam.explain(ready(Flat()), images()).layer == "expand_as()"
    with pytest.raises(hirescam.LayerError, match="no layer of this Vector has a grid"):
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


def test_many_classes_come_in_chunks_that_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    from hirescam.passes import trace

    model, x = ready(FlattenNet()), images()
    whole = hirescam.explain(model, x, target=AllClasses()).raw
    monkeypatch.setattr(trace.Pass.chunks, "__defaults__", (1,))
    torch.testing.assert_close(hirescam.explain(model, x, target=AllClasses()).raw, whole)


@pytest.mark.parametrize("rule", ["hirescam", "gradcam", "removal"])
def test_a_target_from_inference_mode(rule):
    """The usual way to get predictions gives a tensor that autograd refuses to save."""
    model, x = ready(FlattenNet()), images()
    with torch.inference_mode():
        predicted = model(x).argmax(1)
    result = hirescam.explain(model, x, target=predicted, rule=rule)
    torch.testing.assert_close(result.raw, hirescam.explain(model, x, rule=rule).raw)


def test_large_finite_images_are_no_infinite_ones() -> None:
    huge = torch.full((2, 1, 2, 2), 3e38)
    assert first_not_finite(huge) is None
    assert as_call(huge).images is huge
    huge[1, 0, 0, 0] = -torch.inf
    assert first_not_finite(huge) == 1
    assert first_not_finite(torch.tensor([[1.0], [torch.nan]])) == 1


def runs(model: nn.Module, work: Callable[[], object]) -> int:
    """How often the whole model ran."""
    count: list[int] = []
    handle = model.register_forward_pre_hook(lambda module, inputs: count.append(1))
    work()
    handle.remove()
    return len(count)


@pytest.mark.parametrize("net", [FlattenNet, PooledNet, NormNet, TwoLayerNet])
@pytest.mark.parametrize("target", [None, 1, [2, 0], TopK(2), Contrast(0, 1)], ids=str)
def test_the_first_call_is_answered_by_the_pass_that_certified(net: type, target: object) -> None:
    model, x = ready(net()), images(2)
    explainer = Explainer(model)
    results: list[hirescam.Explanation] = []
    assert runs(model, lambda: results.append(explainer(x, target=target))) == 3  # graph, pass, bypass
    assert runs(model, lambda: results.append(explainer(x, target=target))) == 1
    torch.testing.assert_close(results[0].raw, results[1].raw)
    torch.testing.assert_close(results[0].score, results[1].score)
    assert torch.equal(results[0].target, results[1].target)


def test_a_comparison_runs_the_network_once() -> None:
    model, x = ready(FlattenNet()), images(2)
    explainer = Explainer(model)
    explainer.certify(x)
    assert runs(model, lambda: explainer.compare(x, rules=("hirescam", "gradcam", "layercam"))) == 1


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
