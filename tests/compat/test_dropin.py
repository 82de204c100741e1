"""The drop-in by itself, without the library that it stands in for."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hirescam
import hirescam.compat.pytorch_grad_cam as compat
from hirescam.compat.pytorch_grad_cam.utils.image import jet, scale_cam_image, show_cam_on_image
from hirescam.compat.pytorch_grad_cam.utils.model_targets import (
    ClassifierOutputTarget,
    RawScoresOutputTarget,
    SoftmaxOutputTarget,
)
from hirescam.compat.pytorch_grad_cam.utils.reshape_transforms import swinT_reshape_transform
from toys import FlattenNet, NormNet, Returns, images, ready

METHODS = sorted(set(compat.__all__) - {"AblationLayer", "AblationLayerVit", "FinerCAM", "RefineCAM"})


@pytest.fixture
def model() -> nn.Module:
    return ready(FlattenNet())


def state(model: nn.Module) -> list[object]:
    flags = [(m.training, len(m._forward_hooks), len(m._backward_hooks)) for m in model.modules()]
    return [*flags, *(p.grad for p in model.parameters()), torch.get_rng_state().tolist()]


@pytest.mark.parametrize("smooth", [{}, {"eigen_smooth": True}, {"aug_smooth": True}])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_maps_from_0_to_1_and_leaves_nothing(model, name, smooth):
    before = state(model)
    x = images(2)
    with getattr(compat, name)(model=model, target_layers=[model.features]) as cam:
        cam.batch_size = 4
        maps = cam(input_tensor=x, targets=[ClassifierOutputTarget(1), ClassifierOutputTarget(4)], **smooth)
    assert maps.shape == (2, 8, 8)
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert cam.outputs.shape == (2, 5)
    assert state(model) == before


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("ndim", [1, 3])
def test_signals_and_volumes(name, ndim):
    model = ready(FlattenNet(ndim, side=4))
    maps = getattr(compat, name)(model, [model.features])(images(2, ndim, side=4))
    assert maps.shape == (2, *[4] * ndim)


def test_layers_by_name_and_wrapped_outputs():
    model = ready(Returns(lambda logits: {"logits": logits}))
    maps = compat.HiResCAM(model, ["net.features"])(images(2))
    np.testing.assert_array_equal(maps, compat.HiResCAM(model, [model.net.features])(images(2)))


def test_eigen_smooth_is_the_component_of_the_terms_that_the_rule_sums(model):
    cam = compat.GradCAM(model, [model.features])
    result = hirescam.explain(model, images(2), target=2, layer="features", rule="eigen_gradcam")
    smooth = compat.HiResCAM(model, [model.features])(
        images(2), [ClassifierOutputTarget(2)] * 2, eigen_smooth=True
    )
    np.testing.assert_allclose(smooth, scale_cam_image(result.raw[:, 0].clamp(min=0).numpy()), atol=1e-5)
    assert not np.allclose(cam(images(2), eigen_smooth=True), cam(images(2)))


def test_the_model_is_certified_once_for_all_classes(model, monkeypatch):
    from hirescam.proof import judging

    calls = []
    certify = judging.certify_site
    monkeypatch.setattr(judging, "certify_site", lambda *args: calls.append(1) or certify(*args))
    cam = compat.HiResCAM(model, [model.features])
    for label in range(3):
        cam(images(1), [ClassifierOutputTarget(label)])
    assert len(calls) == 1


class Tokens(nn.Module):
    """Overlapping patches as tokens whose grid cannot be seen from their number."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, 6, 3)
        self.norm = nn.Identity()
        self.head = nn.Linear(6 * 42, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.patches(x).relu().flatten(2).transpose(1, 2)).flatten(1))


@pytest.mark.parametrize("name", METHODS)
def test_a_transform_tells_the_grid(name):
    model, x = ready(Tokens()), torch.randn(2, 2, 8, 9, dtype=torch.float64)

    def transform(tokens: Tensor) -> Tensor:
        return swinT_reshape_transform(tokens, 6, 7)

    maps = getattr(compat, name)(model, [model.norm], transform)(x)
    assert maps.shape == (2, 8, 9)
    plain = hirescam.Explainer(model, layer="norm", grid=(6, 7))
    if name == "AblationCAM":
        raw = plain(x, rule="ablationcam").raw[:, 0].clamp(min=0).numpy()
        np.testing.assert_allclose(maps, scale_cam_image(scale_cam_image(raw, (9, 8))), atol=1e-5)


def test_a_transform_that_computes_cannot_be_undone(model):
    cam = compat.AblationCAM(model, [model.features], reshape_transform=nn.functional.normalize)
    with pytest.raises(hirescam.InputError, match="choose and order"):
        cam(images(1))


@pytest.mark.parametrize(
    ("targets", "complaint"),
    [
        ([ClassifierOutputTarget(1)], "1 entries for 2"),
        ([ClassifierOutputTarget(1)] * 3, "3 entries for 2"),
        (281, "must be a list"),
        ([281, 282], "must be a list"),
        ([ClassifierOutputTarget(99)] * 2, "has 5 classes"),
        ([RawScoresOutputTarget()] * 2, "expected one number"),
        ([SoftmaxOutputTarget()] * 2, "expected one number"),
    ],
)
def test_targets_that_do_not_fit(model, targets, complaint):
    with pytest.raises(hirescam.TargetError, match=complaint):
        compat.GradCAM(model, [model.features])(images(2), targets)


def test_arguments_that_cannot_be_met(model):
    with pytest.raises(hirescam.InputError, match="target_layers is empty"):
        compat.GradCAM(model, [])
    with pytest.raises(hirescam.InputError, match="ratio_channels_to_ablate"):
        compat.AblationCAM(model, [model.features], ratio_channels_to_ablate=0.5)
    with pytest.raises(hirescam.InputError, match="ablation_layer"):
        compat.AblationCAM(model, [model.features], ablation_layer=object())
    compat.AblationCAM(model, [model.features], ablation_layer=compat.AblationLayerVit())


@pytest.mark.parametrize("name", ["FullGrad", "GuidedBackpropReLUModel", "DeepFeatureFactorization"])
def test_what_is_left_out_says_so(name):
    with pytest.raises(ImportError, match=f"no {name}: "):
        getattr(compat, name)
    assert not hasattr(compat, "SomethingElse")


def test_functions_as_targets_leave_nothing_in_the_explainer(model):
    cam = compat.HiResCAM(model, [model.features])
    for _ in range(2):
        cam(images(1), [lambda output: output[0] - output[1]])
    (kept,) = cam._explainers.values()
    assert kept._planner.plans == {}


def test_conditional_heads_are_held_with_a_transform_too():
    model = ready(NormNet())
    plain = compat.HiResCAM(model, [model.features])(images(1))
    same = compat.HiResCAM(model, [model.features], reshape_transform=lambda maps: maps)(images(1))
    np.testing.assert_allclose(plain, same, atol=1e-6)


def test_jet_runs_from_blue_over_green_to_red():
    colours = jet(np.array([[0, 128, 255]], np.uint8))[0]
    assert colours.tolist() == [[0, 0, 128], [130, 255, 126], [128, 0, 0]]


def test_overlay_refuses_what_is_not_a_picture():
    with pytest.raises(hirescam.InputError, match="from 0 to 1"):
        show_cam_on_image(np.full((2, 2, 3), 255.0), np.zeros((2, 2)))
    with pytest.raises(hirescam.InputError, match="image_weight"):
        show_cam_on_image(np.ones((2, 2, 3)), np.zeros((2, 2)), image_weight=2)
