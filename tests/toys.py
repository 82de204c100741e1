"""Small networks with known answers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOL = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
SIDE = 8
CLASSES = 5


class FlattenNet(nn.Module):
    """Conv, ReLU, flatten, one linear layer: exact, and Grad-CAM differs."""

    def __init__(self, ndim: int = 2, width: int = 6, side: int = SIDE, bias: bool = True) -> None:
        super().__init__()
        self.features = nn.Sequential(CONV[ndim](2, width, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(width * side**ndim, CLASSES, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


class PooledNet(nn.Module):
    """Conv, batch norm, ReLU, global average pooling, one linear layer: exact, same as Grad-CAM."""

    def __init__(self, ndim: int = 2, width: int = 6) -> None:
        super().__init__()
        self.features = nn.Sequential(CONV[ndim](2, width, 3, padding=1), NORM[ndim](width), nn.ReLU())
        self.pool = POOL[ndim](1)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.features(x)).flatten(1))


class TwoLayerNet(nn.Module):
    """A head of two linear layers with ReLU between: local."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(6 * SIDE**2, 16), nn.ReLU(), nn.Linear(16, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class NormNet(nn.Module):
    """Pooling, a normaliser, one linear layer: conditional."""

    def __init__(self, norm: nn.Module | None = None, width: int = 6) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, width, 3, padding=1), nn.ReLU())
        self.norm = nn.LayerNorm(width) if norm is None else norm
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.features(x).mean((2, 3))))


class After(nn.Module):
    """Applies ``op`` to a convolution's output, then a flatten head."""

    def __init__(self, op: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.op = op
        self.head = nn.Linear(6 * SIDE**2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.op(self.conv(x)).flatten(1))


class Returns(nn.Module):
    """A flatten network whose output is wrapped."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net = FlattenNet()
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.net(x))


@dataclass
class Output:
    logits: Tensor


class Bypass(nn.Module):
    """A shortcut leads around the layer ``deep``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.deep = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6 * SIDE**2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        return self.head((first + self.deep(F.relu(first))).flatten(1))


class Shared(nn.Module):
    """One convolution and one ReLU, called again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.again = nn.Conv2d(6, 6, 3, padding=1)
        self.relu = nn.ReLU()
        self.head = nn.Linear(6 * SIDE**2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        x = self.relu(self.again(x))
        return self.head(self.relu(self.again(x)).flatten(1))


class Branching(nn.Module):
    """The head looks at a value and takes one of two ways."""

    def __init__(self, threshold: float = 0.0) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU())
        self.one = nn.Linear(6 * SIDE**2, CLASSES)
        self.two = nn.Linear(6 * SIDE**2, CLASSES)
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        flat = self.features(x).flatten(1)
        return self.one(flat) if flat.mean() > self.threshold else self.two(flat)


class Detached(nn.Module):
    """A gate that autograd does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(6 * SIDE**2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        return self.head((features * features.detach().mean()).flatten(1))


class FunctionalNet(nn.Module):
    """Ends in calls, as most hand-written networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x), inplace=True)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class SegNet(nn.Module):
    """Dense scores at half resolution, resampled to the image."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, 6, 3, stride=2, padding=1), nn.ReLU())
        self.classifier = nn.Conv2d(6, CLASSES, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        scores = self.classifier(self.features(x))
        return {"out": F.interpolate(scores, x.shape[2:], mode="bilinear", align_corners=False)}


def images(batch: int = 2, ndim: int = 2, side: int = SIDE, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random images that do not touch the global generator."""
    generator = torch.Generator().manual_seed(batch * 10 + ndim)
    return torch.randn((batch, 2, *[side] * ndim), generator=generator, dtype=dtype)


def ready(model: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A model in evaluation mode, with lively batch-norm statistics."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.to(dtype).eval()


class AllButLast(nn.Module):
    """An affine op in place right after the layer that is explained."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(6 * SIDE**2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        features *= 3
        return self.head(features.flatten(1))
