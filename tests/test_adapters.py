"""Adapters to captum, zennit and Quantus: values, laws, errors, and that nothing is left behind."""

import contextlib
import importlib
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hirescam
from hirescam.adapters import explain_input, input_methods, quantus_explain
from toys import FlattenNet, FunctionalNet, PooledNet, Returns, SegNet, TwoLayerNet, images, ready

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    attr = pytest.importorskip("captum.attr", reason="needs captum")

try:
    importlib.import_module("zennit")
    ZENNIT = True
except ImportError:
    ZENNIT = False

needs_zennit = pytest.mark.skipif(not ZENNIT, reason="needs zennit")
METHODS = [pytest.param(name, marks=needs_zennit if name == "lrp" else ()) for name in input_methods()]
COMPLETE = ["integrated_gradients", "deeplift"]


class InPlace(nn.Module):
    """ReLU in place, batch norm, weights that need gradients: what other libraries trip over."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.head = nn.Linear(6 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


def state(model: nn.Module) -> dict[str, object]:
    """Everything about a model that a library might change."""
    found: dict[str, object] = {"rng": torch.get_rng_state().tolist()}
    for name, module in model.named_modules():
        own = {key: value for key, value in vars(module).items() if not key.startswith("_")}
        hooks = [len(value) for key, value in vars(module).items() if "hooks" in key]
        found[name] = (id(module), type(module), sorted(own), own.get("inplace"), module.training, hooks)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found[f"{name}:"] = (
            id(tensor),
            tensor.data_ptr(),
            tensor._version,
            tensor.grad,
            tensor.requires_grad,
        )
    return found


@pytest.mark.parametrize("name", METHODS)
def test_every_method_explains_and_leaves_nothing(name):
    model, x = ready(InPlace()), images(2)
    before, pixels = state(model), x.clone()
    result = explain_input(model, x, name, target=hirescam.Classes(1, 4))
    assert state(model) == before
    assert torch.equal(x, pixels)
    assert not x.requires_grad
    assert result.values.shape == (2, 2, 8, 8)
    assert result.values.isfinite().all()
    assert result.target.tolist() == [[1, 4], [1, 4]]
    torch.testing.assert_close(result.score, model(x)[:, [1, 4]].detach())
    torch.testing.assert_close(result.offset, result.score - result.values.sum((2, 3)))
    assert explain_input(model, x, name, target=1, summed=False).values.shape == (2, 1, 2, 8, 8)


@pytest.mark.parametrize("name", METHODS)
def test_one_target_does_not_depend_on_the_others(name):
    model, x = ready(FlattenNet()), images(3)
    several = explain_input(model, x, name, target=hirescam.AllClasses())
    one = explain_input(model, x, name, target=2)
    torch.testing.assert_close(several.values[:, 2], one.values[:, 0])
    each = explain_input(model, x, name, target=[2, 2, 2])
    torch.testing.assert_close(each.values, one.values)


@pytest.mark.parametrize("name", METHODS)
def test_a_failure_half_way_leaves_nothing(name):
    class Breaks(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            if x.requires_grad:
                raise RuntimeError("not with a graph")
            return super().forward(x)

    model = ready(Breaks())
    before = state(model)
    with contextlib.suppress(hirescam.ModelError):  # occlusion takes no gradient
        explain_input(model, images(2), name)
        assert name == "occlusion"
    assert state(model) == before


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("name", METHODS)
def test_signals_and_volumes(name, ndim):
    result = explain_input(ready(FlattenNet(ndim, side=4)), images(2, ndim, 4), name)
    assert result.values.shape == (2, 1, *[4] * ndim)


@pytest.mark.parametrize("build", [FlattenNet, PooledNet, TwoLayerNet])
@pytest.mark.parametrize("name", COMPLETE)
def test_complete_methods_add_up_to_the_score(name, build):
    model, x = ready(build()), images(2)
    options = {"steps": 400} if name == "integrated_gradients" else {}
    result = explain_input(model, x, name, target=1, **options)
    assert result.completeness_error < 1e-2
    torch.testing.assert_close(result.baseline_score, model(0 * x)[:, [1]].detach())
    assert name in repr(result)


def without_biases() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 5, bias=False)
    )
    return ready(model)


@pytest.mark.parametrize(
    "name", ["integrated_gradients", "deeplift", pytest.param("lrp", marks=needs_zennit)]
)
def test_without_biases_they_are_gradient_times_input(name):
    model, x = without_biases(), images(2)
    expected = explain_input(model, x, "gradient_x_input", target=3)
    assert expected.completeness_error < 1e-9
    options = {"composite": "epsilon", "epsilon": 1e-12} if name == "lrp" else {}
    found = explain_input(model, x, name, target=3, **options)
    torch.testing.assert_close(found.values, expected.values, rtol=1e-6, atol=1e-9)


def test_gradient_times_input_is_hirescam_at_the_input():
    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input = nn.Identity()
            self.net = FlattenNet()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(self.input(x))

    model, x = ready(Inside()), images(2)
    found = explain_input(model, x, "gradient_x_input", target=2).values
    torch.testing.assert_close(found, hirescam.explain(model, x, target=2, layer="input").raw)


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def test_values_are_those_of_captum():
    model, x = ready(TwoLayerNet()), images(2)
    leaf = x.clone().requires_grad_()
    window = {"sliding_window_shapes": (2, 3, 3), "strides": (2, 1, 1)}
    expected = {
        "saliency": attr.Saliency(model).attribute(leaf, target=1, abs=False),
        "guided_backprop": attr.GuidedBackprop(model).attribute(leaf, target=1),
        "occlusion": attr.Occlusion(model).attribute(x, **window, target=1),
    }
    options = {"occlusion": {"window": 3, "stride": 1}}
    for name, values in expected.items():
        found = explain_input(model, x, name, target=1, **options.get(name, {}))
        torch.testing.assert_close(found.values[:, 0], values.detach().sum(1))


def test_smoothgrad_is_the_mean_gradient_and_the_same_every_time():
    model, x = ready(TwoLayerNet()), images(2)
    first, again = (explain_input(model, x, "smoothgrad", target=1, samples=4).values for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, explain_input(model, x, "smoothgrad", target=1, samples=4, seed=1).values)
    plain = explain_input(model, x, "saliency", target=1).values
    torch.testing.assert_close(explain_input(model, x, "smoothgrad", target=1, noise=1e-9).values, plain)


def test_guided_gradcam_is_the_product_at_the_chosen_layer():
    model, x = ready(TwoLayerNet()), images(2)
    guided = explain_input(model, x, "guided_backprop", target=1, summed=False).values
    coarse = hirescam.explain(model, x, target=1, layer="features", rule="gradcam").raw.relu()
    found = explain_input(model, x, "guided_gradcam", target=1, layer="features", summed=False)
    torch.testing.assert_close(found.values, guided * coarse[:, :, None])


@pytest.mark.parametrize("name", [*METHODS])
def test_targets_that_are_not_classes(name):
    model, x = ready(FlattenNet()), images(3)
    targets = {"class": 1, "first": lambda out: out[:, 1], "all": lambda out: out[:, [1, 1]]}
    found = {key: explain_input(model, x, name, target=target) for key, target in targets.items()}
    torch.testing.assert_close(found["first"].values, found["class"].values)
    torch.testing.assert_close(found["all"].values[:, [1]], found["class"].values)
    assert found["first"].target.tolist() == [[-1]] * 3


def test_targets_settled_for_each_image():
    model, x = ready(FlattenNet()), images(3)
    classes = explain_input(model, x, "integrated_gradients", target=hirescam.AllClasses()).values
    contrast = explain_input(model, x, "integrated_gradients", target=hirescam.Contrast(1, 2))
    torch.testing.assert_close(contrast.values[:, 0], classes[:, 1] - classes[:, 2])
    finer = explain_input(model, x, "integrated_gradients", target=hirescam.Finer(k=1))
    logits = model(x).detach()
    best, next_best = logits.topk(2).indices.T
    rows = torch.arange(3)
    torch.testing.assert_close(finer.values[:, 0], classes[rows, best] - classes[rows, next_best])

    masks = torch.randn(3, 8, 8).gt(0).double()
    dense = ready(SegNet())
    together = explain_input(dense, x, "integrated_gradients", target=hirescam.Region(1, masks))
    for row in range(3):
        region = hirescam.Region(1, masks[row])
        alone = explain_input(dense, x[[row]], "integrated_gradients", target=region)
        torch.testing.assert_close(together.values[[row]], alone.values)


def test_outputs_that_are_not_one_tensor():
    model = ready(Returns(lambda out: (0, out)))
    assert explain_input(model, images(3), "deeplift", target=1, output=1).values.shape == (3, 1, 8, 8)


def test_views_and_overlays():
    x = images(2)
    result = explain_input(ready(FlattenNet()), x, "gradient_x_input", target=[1, 2], summed=False)
    assert result.view(size=(16, 16)).values.shape == (2, 1, 16, 16)
    assert [len(row) for row in result.overlay(x)] == [1, 1]


def test_works_on_frozen_models_and_without_grad():
    model, x = ready(FlattenNet()), images(2)
    expected = explain_input(model, x, "deeplift").values
    model.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(explain_input(model, x, "deeplift").values, expected)
    with torch.inference_mode():
        assert torch.equal(explain_input(model, x, "deeplift").values, expected)


@pytest.mark.parametrize(
    ("arguments", "error", "complaint"),
    [
        ({"method": "salience"}, hirescam.InputError, "is unknown: use one of saliency"),
        ({"method": "saliency", "steps": 3}, hirescam.InputError, "has no option 'steps'"),
        ({"target": 99}, hirescam.TargetError, "has 5 classes"),
        ({"method": "guided_gradcam", "layer": "nowhere"}, hirescam.LayerError, "is not a module"),
        pytest.param(
            {"method": "lrp", "composite": "mine"},
            hirescam.InputError,
            "use one of epsilon",
            marks=needs_zennit,
        ),
    ],
)
def test_what_cannot_be_used_says_so(arguments, error, complaint):
    with pytest.raises(error, match=complaint):
        explain_input(ready(FlattenNet()), images(2), **arguments)


def test_models_that_cannot_be_used_say_so():
    with pytest.raises(hirescam.ModelError, match=r"model\.eval\(\)"):
        explain_input(FlattenNet().train(), images(1, dtype=torch.float32), "saliency")
    with pytest.raises(hirescam.ModelError, match="has none"):
        explain_input(ready(FunctionalNet()), images(1), "guided_backprop")

    class Stubborn(FlattenNet):
        def __deepcopy__(self, memo):
            raise TypeError("no copies")

    with pytest.raises(hirescam.ModelError, match="cannot be copied"):
        explain_input(ready(Stubborn()), images(1), "saliency")


@pytest.mark.parametrize("name", list(input_methods()))
def test_a_missing_package_is_one_clear_error(name, monkeypatch):
    real = importlib.import_module

    def missing(package, *rest):
        if package.startswith(("captum", "zennit")):
            raise ModuleNotFoundError(package)
        return real(package, *rest)

    monkeypatch.setattr("hirescam.adapters.network.import_module", missing)
    with pytest.raises(hirescam.InputError, match=r"pip install 'hirescam\[adapters\]'"):
        explain_input(ready(FlattenNet()), images(1), name)


def test_importing_the_adapters_imports_no_package():
    code = "import sys, hirescam.adapters; print({'captum', 'zennit', 'quantus'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


# --- Quantus -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["hirescam", "gradcam", "layercam", "eigencam"])
@pytest.mark.parametrize("resample", ["bilinear", "nearest"])
def test_quantus_gets_the_raw_map_resampled(rule, resample):
    model = nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    model, x = ready(model, torch.float32), images(3, dtype=torch.float32)
    y = np.array([0, 4, 2])
    found = quantus_explain(
        model=model, inputs=x.numpy(), targets=y, rule=rule, resample=resample, device="cpu"
    )
    raw = hirescam.explain(model, x, target=y, rule=rule).raw
    cells, pixels = np.arange(4) * 2.0, np.arange(8.0)  # a kernel of 3, a stride of 2 and a padding of 1
    at = pixels if resample == "bilinear" else cells[np.minimum((pixels + 1) // 2, 3).astype(int)]

    def along(rows, axis):
        return np.apply_along_axis(lambda values: np.interp(at, cells, values), axis, rows)

    assert found.shape == (3, 1, 8, 8)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, along(along(raw.numpy(), 2), 3), atol=1e-6)
    if rule == "hirescam":
        assert found.min() < 0 < found.max()


def test_quantus_may_pass_rules_with_options_and_other_dtypes():
    model, x = ready(FlattenNet()), images(2, dtype=torch.float32).numpy()
    rule = hirescam.rules()["eigencam"].configure({"centred": True})
    assert quantus_explain(model, x, np.array([1.0, 2.0]), rule=rule, layer="features").shape == (2, 1, 8, 8)
    with pytest.raises(hirescam.TargetError):
        quantus_explain(model, x, np.array([1]))
