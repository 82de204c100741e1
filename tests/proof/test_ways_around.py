"""Values of the image that no tensor carries around the layer: only the probes can find them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import hirescam
from toys import FlattenNet, images, ready


class Gated(FlattenNet):
    """Its head is scaled by numbers that NumPy read from the images before the layer."""

    def __init__(
        self, gates: Callable[[Tensor], list[float]], head: Callable[["Gated", Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.gates, self.read, self.token = gates, head, nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        gates = self.gates(x)
        features = self.features(x)
        return torch.stack([a * gate for a, gate in zip(self.read(self, features), gates, strict=True)])


def own_mean(x: Tensor) -> list[float]:
    return [1 + abs(float(image.mean())) for image in x.detach().numpy()]


def first_value(x: Tensor) -> list[float]:
    return [1 + abs(float(x.detach().numpy().ravel()[0]))] * len(x)


def one_location(net: Gated, features: Tensor) -> Tensor:
    return net.token(features.flatten(2)[..., 0])


def everything(net: Gated, features: Tensor) -> Tensor:
    return net.head(features.flatten(1))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("head", [one_location, everything])
@pytest.mark.parametrize("gates", [own_mean, first_value])
def test_a_number_from_before_the_layer_is_found(
    gates: Callable[[Tensor], list[float]], head: Callable[[Gated, Tensor], Tensor], count: int
) -> None:
    torch.manual_seed(0)
    certificate = hirescam.certify(ready(Gated(gates, head)), images(count), "features")
    assert certificate.guarantee == "none"
    assert certificate.bypass


def test_layers_that_all_cannot_be_explained_are_an_error() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            self.kept = nn.functional.conv2d(x, self.conv.weight, padding=1)
            return self.kept

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.head = Keeps(), nn.Linear(256, 5)

        def forward(self, x: Tensor) -> Tensor:
            self.features(x)
            return self.head(self.features.kept.flatten(1))

    model, x = Model().eval(), torch.rand(2, 2, 8, 8)
    for ask in (hirescam.certify, hirescam.layers):
        with pytest.raises(hirescam.LayerError):
            ask(model, x)
