"""Numeric agreement with captum, whose LayerGradientXActivation is HiResCAM before the sum over channels."""

import warnings

import pytest
import torch
from torch import nn

import hirescam
from hirescam.metrics import Case, Scene
from toys import FlattenNet, NormNet, PooledNet, TwoLayerNet, images, ready

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    attr = pytest.importorskip("captum.attr", reason="needs captum")
torchvision = pytest.importorskip("torchvision")

NETS = {
    "flatten 1-D": (lambda: FlattenNet(1), lambda: images(2, 1), "features"),
    "flatten 2-D": (FlattenNet, images, "features"),
    "flatten 3-D": (lambda: FlattenNet(3, side=4), lambda: images(2, 3, side=4), "features"),
    "pooled": (PooledNet, images, "features"),
    "before batch norm": (PooledNet, images, "features.0"),
    "two layers": (TwoLayerNet, images, "features"),
}


@pytest.mark.parametrize("name", NETS)
def test_hirescam_is_gradient_times_activation_summed(name: str) -> None:
    build, batch, layer = NETS[name]
    model, x = ready(build()), batch()
    peer = attr.LayerGradientXActivation(model, model.get_submodule(layer))
    expected = peer.attribute(x, target=2).sum(1).detach()
    got = hirescam.explain(model, x, target=2, layer=layer).raw[:, 0]
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_gradcam_is_captums_without_its_relu(name: str) -> None:
    build, batch, layer = NETS[name]
    model, x = ready(build()), batch()
    peer = attr.LayerGradCam(model, model.get_submodule(layer))
    expected = peer.attribute(x, target=2).squeeze(1).detach()
    got = hirescam.explain(model, x, target=2, layer=layer, rule="gradcam").raw[:, 0]
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_difference_its_maps_have_the_size_of_the_layer() -> None:
    """Resampling is up to the caller there; a `Case` gives both."""
    model, x = (
        ready(torch.nn.Sequential(nn.Conv2d(2, 4, 3, stride=2), nn.Flatten(), nn.Linear(36, 5))),
        images(),
    )
    peer = attr.LayerGradCam(model, model[0]).attribute(x, target=2)
    case = Case(Scene(hirescam.Explainer(model, layer="0"), x), "gradcam")
    assert peer.shape[2:] == case.raw.shape[1:] == (3, 3)
    assert case.maps.shape[1:] == x.shape[2:] == (8, 8)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "vgg11", "mobilenet_v2"])
def test_on_real_architectures(name: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    x = torch.randn(2, 3, 64, 64)
    layer = {"resnet18": "layer4"}.get(name, "features")
    peer = attr.LayerGradientXActivation(model, model.get_submodule(layer))
    expected = peer.attribute(x, target=5).sum(1).detach()
    got = hirescam.explain(model, x, target=5, layer=layer).raw[:, 0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=float(1e-5 * expected.abs().max()))


def test_captum_says_nothing_through_a_layer_norm_and_hirescam_holds_its_divisor() -> None:
    """An asserted difference: plain gradient times activation through a layer norm adds up to nearly zero."""
    model, x = ready(NormNet()), images() * 30
    nn.init.zeros_(model.norm.bias)
    expected = attr.LayerGradientXActivation(model, model.features).attribute(x, target=1).sum(1)
    score = model(x)[:, 1].detach()
    ours = hirescam.explain(model, x, target=1)
    assert expected.sum((1, 2)).abs().max() < 1e-4 * score.abs().max()
    torch.testing.assert_close(ours.raw.sum((2, 3))[:, 0] + ours.offset[:, 0], score)
    assert ours.raw.sum((2, 3)).abs().min() > 1e-2 * score.abs().min()
