"""Pictures are brought to the size and the range that a network was trained on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIDE = 224
"""Side in pixels where nothing says another."""


class Preset(NamedTuple):
    """How pictures are brought to the size and the range of a network's training.

    Attributes:
        size: Sides of the crop, ``(height, width)`` in pixels.
        resize: Sides that the picture must cover before the crop is cut from its centre.
        mean: What is subtracted from each channel of a picture in [0, 1].
        std: What the difference is divided by.
        resample: ``bilinear``, ``bicubic``, ``lanczos`` or ``nearest``.
        squash: Let the picture change its proportions to fit ``resize``.
    """

    size: tuple[int, int] = (SIDE, SIDE)
    resize: tuple[int, int] = (256, 256)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resample: str = "bilinear"
    squash: bool = False


def crop_picture(image: Image.Image, *, preset: Preset) -> Image.Image:
    """Resize a picture until it covers ``preset.resize`` and cut ``preset.size`` from its centre.

    Both happen in one step, so a very long picture needs no more memory than its crop.

    Args:
        image: Any picture that Pillow can resize.
        preset: Sizes and resampling.
    """
    height, width = preset.size
    whole = _covering(image.size, preset)
    left, top = round((whole[0] - width) / 2), round((whole[1] - height) / 2)
    across, down = image.width / whole[0], image.height / whole[1]
    box = (left * across, top * down, (left + width) * across, (top + height) * down)
    resample = Image.Resampling[preset.resample.upper()]
    return image.resize((width, height), resample, box=_inside(box, image.size))


def normalise_picture(image: Image.Image, *, preset: Preset) -> Tensor:
    """Turn a picture into a ``(c, h, w)`` float32 tensor: (value / 255 - mean) / std.

    Args:
        image: A picture; it is converted to grey where ``preset.mean`` has one entry, else to RGB.
        preset: Mean and standard deviation of each channel.
    """
    values = np.array(image.convert("RGB" if len(preset.mean) == 3 else "L"), dtype=np.float32)
    pixels = torch.from_numpy(np.atleast_3d(values)).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(value).reshape(-1, 1, 1) for value in (preset.mean, preset.std))
    return ((pixels - mean) / std).contiguous()


def sized(preset: Preset, size: tuple[int, int]) -> Preset:
    """Change the size of the crop, and the resizing in proportion."""
    down, across = (
        max(new, round(new * old_resize / old))
        for new, old_resize, old in zip(size, preset.resize, preset.size, strict=True)
    )
    return preset._replace(size=size, resize=(down, across))


def _covering(size: tuple[int, int], preset: Preset) -> tuple[int, int]:
    width, height = size
    down, across = preset.resize
    if preset.squash:
        return across, down
    if down * width >= across * height:
        return max(across, int(down * width / height)), down
    return across, max(down, int(across * height / width))


def _inside(
    box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    return max(left, 0.0), max(top, 0.0), min(right, size[0]), min(bottom, size[1])
