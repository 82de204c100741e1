"""The networks that the benchmarks share."""

import warnings

import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torchvision

LAYERS = {
    "resnet18": "layer4",
    "resnet50": "layer4",
    "densenet121": "relu()",
    "efficientnet_b0": "features",
    "vgg16": "features",
    "r3d_18": "layer4",
    "flatten": "features",
}


class Flatten(nn.Module):
    """The trunk of ResNet-50, 2048 × 7 × 7 flattened, one linear layer to 1000 classes."""

    def __init__(self) -> None:
        super().__init__()
        trunk = torchvision.models.resnet50(weights=None)
        self.features = nn.Sequential(*list(trunk.children())[:-2])
        self.head = nn.Linear(2048 * 49, 1000)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).flatten(1))


def build(name: str) -> nn.Module:
    """A network with random weights, the same every time."""
    torch.manual_seed(0)
    model = Flatten() if name == "flatten" else torchvision.models.get_model(name, weights=None)
    return model.eval()


def images(name: str, batch: int) -> Tensor:
    """Random images of the network's usual size."""
    shape = (3, 16, 112, 112) if name == "r3d_18" else (3, 224, 224)
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))
