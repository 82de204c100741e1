"""Draw views over pictures: red adds to the score, blue takes from it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from hirescam.errors import InputError
from hirescam.views import Places, Resample, resize

Array = np.ndarray[Any, np.dtype[Any]]

POSITIVE = (178, 24, 43)
NEGATIVE = (33, 102, 172)
_CONTRAST = 0.8
_MOST_SLICES = 8
_STRIP = (640, 160)


def draw(
    values: Tensor,
    images: Tensor | Sequence[Image.Image],
    *,
    resample: Resample = "bilinear",
    opacity: float = 0.75,
    image_size: tuple[int, ...] = (),
    places: Places = (),
) -> list[list[Image.Image]]:
    """Draw maps ``(b, t, *grid)`` within [-1, 1] over ``b`` images, resampled to each one's size.

    Args:
        values: the maps.
        images: pictures, or a tensor ``(b, c, *space)``.
        resample: see `hirescam.views.resize`.
        opacity: of the strongest contribution, from 0 to 1.
        image_size: space axes of the images that were explained, where ``places`` are given.
        places: where the cells lie on them.

    Raises:
        InputError: not one image for each map.
    """
    if not 0 <= opacity <= 1:
        raise InputError(f"opacity={opacity} must be from 0 to 1")
    if len(images) != len(values):
        raise InputError(f"overlay got {len(images)} images for {len(values)} maps: give one for each")
    drawn = []
    for maps, image in zip(values.detach().float().cpu(), images, strict=True):
        by_itself = maps.ndim - 1 == 2 > len(_size(image))  # a wave, and its map in frequency and time
        canvas = Image.new("RGB", _STRIP, (255, 255, 255)) if by_itself else image
        fitted = resize(maps[None], _size(canvas), resample, image_size=image_size, places=places)[0]
        rows = fitted.flip(1) if by_itself else fitted  # low frequencies at the bottom
        drawn.append([_one(row, canvas, opacity) for row in rows.numpy()])
    return drawn


def _size(image: Tensor | Image.Image) -> tuple[int, ...]:
    return (image.height, image.width) if isinstance(image, Image.Image) else tuple(image.shape[1:])


def _one(values: Array, image: Any, opacity: float) -> Image.Image:
    if values.ndim == 1:
        return _strip(values, _signal(image), opacity)
    if values.ndim == 3:
        return _slices(values, image, opacity)
    if values.ndim > 3:
        raise InputError(
            f"overlay draws maps of up to three axes, and these have {values.ndim}: draw a part of "
            "result.view().values"
        )
    return blend(_picture(image), values, opacity)


def blend(picture: Image.Image, values: Array, opacity: float = 0.75) -> Image.Image:
    """Colour a picture by one map within [-1, 1]; strength is opacity, sign is colour.

    The picture becomes grey first, so that every colour comes from the map.

    Args:
        picture: the picture.
        values: ``(h, w)``, as many as the picture has pixels.
        opacity: of a magnitude of 1.
    """
    grey = np.asarray(picture.convert("L"), dtype=np.float32)[..., None]
    base = np.repeat(grey * _CONTRAST + (1 - _CONTRAST) * 255, 3, axis=2)
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
    background = values[np.arange(width) * len(values) // width]
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
