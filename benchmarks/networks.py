"""The networks that the benchmarks share."""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hirescam.networks import lite0

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torchvision


CLASSES = 1000
"""Every network here has as many."""


@dataclass(frozen=True)
class Network:
    """One network and the place where it is explained.

    Attributes:
        layer: the layer as `hirescam` names it.
        module: the module that other libraries hook; another place only where the layer is a call.
        exact: whether its head is affine.
        averages: whether torchcam's Grad-CAM shows the same numbers, with the negative ones set to zero.
        image: shape of one image.
        batch: how many images make a large batch.
    """

    layer: str
    module: str
    exact: bool = True
    averages: bool = True
    image: tuple[int, ...] = (3, 224, 224)
    batch: int = 16


NETWORKS = {
    "resnet18": Network("layer4", "layer4"),
    "resnet50": Network("layer4", "layer4"),
    # The last ReLU is a call, in place, on what `features` returns. A ReLU gives gradient × activation the
    # same map before and after it, so the others can be compared; an average of the gradients cannot.
    "densenet121": Network("relu()", "features", averages=False),
    "efficientnet_b0": Network("features", "features"),
    "vgg16": Network("features", "features", exact=False, averages=False),
    "flatten": Network("features", "features", averages=False),
    "r3d_18": Network("layer4", "layer4", image=(3, 16, 112, 112), batch=4),
    "lite0": Network("head_relu", "head_relu"),
    "toy": Network("features", "features", image=(3, 16, 16), batch=3),
}


class Flatten(nn.Module):
    """The trunk of ResNet-50, 2048 × 7 × 7 flattened, one linear layer to 1000 classes."""

    def __init__(self) -> None:
        super().__init__()
        trunk = torchvision.models.resnet50(weights=None)
        self.features = nn.Sequential(*list(trunk.children())[:-2])
        self.head = nn.Linear(2048 * 49, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).flatten(1))


class Toy(nn.Module):
    """Two convolutions, pooling, one linear layer: what the tests of the benchmarks run on."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean((2, 3)))


def build(name: str) -> nn.Module:
    """A network with random weights, the same every time; ``lite0`` has its trained ones."""
    torch.manual_seed(0)
    own = {"flatten": Flatten, "toy": Toy, "lite0": lite0.load}
    if name in own:
        return own[name]().eval()
    return torchvision.models.get_model(name, weights=None, num_classes=CLASSES).eval()


def images(name: str, batch: int, side: int | None = None) -> Tensor:
    """Random images of the network's usual size, or of another side."""
    shape = NETWORKS[name].image
    shape = shape if side is None else (shape[0], *[side] * (len(shape) - 1))
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))
