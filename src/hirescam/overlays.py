"""Draw views over pictures: red adds to the score, blue takes from it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from hirescam.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]

POSITIVE = (178, 24, 43)
NEGATIVE = (33, 102, 172)
_MOST_SLICES = 8
_STRIP = (640, 160)


def draw(
    values: Tensor, images: Tensor | Sequence[Image.Image], *, opacity: float = 0.75
) -> list[list[Image.Image]]:
    """Draw maps ``(b, t, *size)`` over ``b`` images.

    Raises:
        InputError: not one image for each map.
    """
    if not 0 <= opacity <= 1:
        raise InputError(f"opacity={opacity} must be from 0 to 1")
    if len(images) != len(values):
        raise InputError(f"overlay got {len(images)} images for {len(values)} maps: give one for each")
    maps = values.detach().float().cpu().numpy()
    if maps.ndim == 3:
        return [
            [_strip(row, _signal(image), opacity) for row in rows]
            for rows, image in zip(maps, images, strict=True)
        ]
    if maps.ndim == 5:
        return [
            [_slices(row, image, opacity) for row in rows] for rows, image in zip(maps, images, strict=True)
        ]
    pictures = [_picture(image) for image in images]
    return [
        [blend(picture, row, opacity) for row in rows] for rows, picture in zip(maps, pictures, strict=True)
    ]


def blend(picture: Image.Image, values: Array, opacity: float = 0.75) -> Image.Image:
    """Colour a picture by one map ``(h, w)`` within [-1, 1]; strength is opacity, sign is colour."""
    if values.shape != (picture.height, picture.width):
        scaled = Image.fromarray(values.astype(np.float32))
        values = np.asarray(scaled.resize(picture.size, Image.Resampling.BILINEAR))
    base = np.asarray(picture.convert("RGB"), dtype=np.float32)
    base = base.mean(axis=2, keepdims=True) * 0.55 + base * 0.25 + 51
    strength = np.clip(np.abs(values), 0, 1)[..., None] * opacity
    colour = np.where(values[..., None] >= 0, np.array(POSITIVE), np.array(NEGATIVE))
    mixed = base * (1 - strength) + colour * strength
    return Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8))


def _picture(image: Tensor | Image.Image) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    return Image.fromarray(_grey_levels(image.detach().float().cpu().numpy()))


def _grey_levels(image: Array) -> Array:
    """``(c, h, w)`` of any range to ``(h, w, 3)`` bytes."""
    low, high = float(image.min()), float(image.max())
    scaled = (image - low) / (high - low if high > low else 1) * 255
    channels = scaled if len(scaled) == 3 else np.repeat(scaled[:1], 3, axis=0)
    return np.moveaxis(channels, 0, -1).astype(np.uint8)


def _slices(values: Array, image: Any, opacity: float) -> Image.Image:
    """A row of slices along the first axis of a volume ``(d, h, w)``."""
    volume = np.asarray(image.detach().float().cpu())
    chosen = np.unique(np.linspace(0, len(values) - 1, _MOST_SLICES).round().astype(int))
    levels = [_grey_levels(volume[:, index]) for index in chosen]
    tiles = [
        blend(Image.fromarray(level), values[index], opacity)
        for level, index in zip(levels, chosen, strict=True)
    ]
    row = Image.new("RGB", (sum(tile.width for tile in tiles), tiles[0].height))
    for index, tile in enumerate(tiles):
        row.paste(tile, (index * tile.width, 0))
    return row


def _signal(image: Any) -> Array:
    samples: Array = image.detach().float().cpu().numpy()[0]
    return samples


def _strip(values: Array, signal: Array, opacity: float) -> Image.Image:
    """A signal ``(l,)`` as a wave over coloured background."""
    width, height = _STRIP
    background = np.interp(np.linspace(0, len(values) - 1, width), np.arange(len(values)), values)
    strip = blend(
        Image.new("RGB", _STRIP, (255, 255, 255)),
        np.repeat(background[None], height, axis=0).astype(np.float32),
        opacity,
    )
    pixels = np.asarray(strip).copy()
    largest = max(float(np.abs(signal).max()), 1e-12)
    columns = (np.arange(len(signal)) * width // len(signal)).astype(int)
    rows = (height / 2 - signal / largest * (height / 2 - 4)).astype(int)
    for column in range(width):
        inside = rows[columns == column]
        if len(inside):
            pixels[inside.min() : inside.max() + 1, column] = (30, 30, 30)
    return Image.fromarray(pixels)
