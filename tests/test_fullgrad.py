"""FullGrad splits the score without remainder, and its shares are what perturbing image and biases says."""

import pytest
import torch

import hirescam
from hirescam.fullgrad import fullgrad
from toys import FlattenNet, FunctionalNet, PooledNet, Shared, TwoLayerNet, images, ready


@pytest.mark.parametrize("net", [FlattenNet, PooledNet, TwoLayerNet, FunctionalNet])
def test_the_shares_add_up_to_the_score(net: type) -> None:
    found = fullgrad(ready(net()), images(), target=hirescam.Classes(0, 3))
    assert found.values.shape == (2, 2, 8, 8)
    assert found.completeness_error < 1e-10
    total = found.image.flatten(2).sum(2) + sum(b.flatten(2).sum(2) for b in found.biases.values())
    torch.testing.assert_close(total, found.score)


@pytest.mark.parametrize("ndim", [1, 3])
def test_signals_and_volumes(ndim: int) -> None:
    found = fullgrad(ready(FlattenNet(ndim, side=4)), images(1, ndim, side=4))
    assert found.values.shape == (1, 1, *[4] * ndim)
    assert found.completeness_error < 1e-10


def test_a_bias_share_is_the_derivative_along_that_bias() -> None:
    """The oracle changes one bias of the network a little and runs it."""
    model, x = ready(TwoLayerNet()), images(1)
    found = fullgrad(model, x, target=2)
    step = 1e-7
    for name, module in (("features.0", model.features[0]), ("head.1", model.head[1])):
        share = found.biases[name].flatten(3).sum(-1) if name == "features.0" else found.biases[name]
        for k in range(3):
            with torch.no_grad():
                bias = module.bias[k].clone()
                before = model(x)[0, 2]
                module.bias[k] = bias * (1 + step)
                change = (model(x)[0, 2] - before) / step
                module.bias[k] = bias
            torch.testing.assert_close(share[0, 0, k], change, rtol=1e-5, atol=1e-7)


def test_signed_maps_keep_the_total_of_layers_with_locations() -> None:
    model, x = ready(FlattenNet()), images()
    found = fullgrad(model, x, target=1, magnitudes=False)
    expected = found.image.flatten(2).sum(2) + found.biases["features.0"].flatten(2).sum(2)
    torch.testing.assert_close(found.values.flatten(2).sum(2), expected)


def test_nothing_is_left_behind() -> None:
    model, x = ready(PooledNet()), images()
    fullgrad(model, x)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert x.grad is None


def test_ops_in_place_after_a_layer_do_no_harm() -> None:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.resnet18(weights=None).double().eval()
    found = fullgrad(model, torch.randn(1, 3, 64, 64, dtype=torch.float64))
    assert found.completeness_error < 1e-9


def test_layers_called_twice_are_refused() -> None:
    with pytest.raises(hirescam.ModelError, match="'again' is called again"):
        fullgrad(ready(Shared()), images())
