"""Numeric agreement with MONAI's GradCAM, and what it does to the map and to the model on the way."""

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

import hirescam
from toys import FlattenNet, PooledNet, images, ready

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    monai = pytest.importorskip("monai.visualize", reason="needs monai")

CLASS = 2


def peer_map(model: nn.Module, x: Tensor) -> Tensor:
    """Theirs before they resample and normalise: the ReLU stays."""
    cam = monai.GradCAM(nn_module=copy.deepcopy(model), target_layers="features.0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cam.compute_map(x, class_idx=CLASS).detach()


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("net", [FlattenNet, PooledNet])
def test_gradcam_is_theirs_behind_their_relu(net: type, ndim: int) -> None:
    model = ready(net(ndim, side=4) if net is FlattenNet else net(ndim))
    x = images(1, ndim, side=4)
    ours = hirescam.explain(model, x, target=CLASS, layer="features.0", rule="gradcam").raw
    torch.testing.assert_close(ours.clamp(min=0), peer_map(model, x), rtol=1e-9, atol=1e-12)


def test_difference_the_returned_map_is_turned_upside_down() -> None:
    """Their default normaliser maps the largest value to 0 and the smallest to 1."""
    model, x = ready(PooledNet()), images(1)
    plain = peer_map(model, x)
    cam = monai.GradCAM(nn_module=copy.deepcopy(model), target_layers="features.0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shown = torch.as_tensor(cam(x, class_idx=CLASS))
    assert shown.flatten()[plain.argmax()] == 0
    assert shown.max() == 1
    assert hirescam.explain(model, x, target=CLASS, layer="features.0", rule="gradcam").raw.min() < 0


def test_difference_an_op_in_place_after_the_layer_stops_them() -> None:
    """Their backward hook forbids it; here the layer's output is safe from what follows."""
    model = ready(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 3)))
    assert hirescam.explain(model, images(1), layer="0").certificate.guarantee == "local"
    cam = monai.GradCAM(nn_module=copy.deepcopy(model), target_layers="0")
    with pytest.raises(RuntimeError, match="modified inplace"):
        cam.compute_map(images(1), class_idx=0)
