"""A sample in the frame that the network sees: picture, mask and boxes go through the same crop."""

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hirescam import io
from hirescam.errors import ImageFileError, InputError
from hirescam.evaluation.samples import Box, Sample
from hirescam.models import Model, crop_picture

OUTSIDE = "the object lies outside what the network sees, or is smaller than one of its pixels there"


class NotSeenError(InputError):
    """The object of a sample is not in the frame."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """What the network is given, and where the objects are in it.

    Attributes:
        image: ``(c, h, w)``, preprocessed.
        mask: ``(h, w)`` bool, the pixels of the objects; None where that is not known.
        boxes: ``(k, 2, 2)`` int64, first row and column, and those after the last, of each object.
        scale: how many pixels of the picture one pixel of the frame is wide.
        traced: whether the mask is drawn by people, not made of the boxes.
    """

    image: Tensor
    mask: Tensor | None
    boxes: Tensor | None
    scale: float
    traced: bool


def framed(model: Model, sample: Sample) -> Frame:
    """Read a sample and bring it into the frame of a network.

    Raises:
        ImageFileError: picture or mask cannot be read, or do not fit each other or the annotation.
        NotSeenError: it is known where the objects are, and that is not in the frame.
    """
    picture = io.read_image(sample.path)
    _check_size(picture, sample)
    image = model.preprocess(picture)
    if not sample.located:
        return Frame(image, None, None, _scale(model, picture), traced=False)
    mask = sample.read_mask()
    if mask is not None and mask.shape != (picture.height, picture.width):
        raise ImageFileError(
            f"{sample.name!r}: its mask is {mask.shape[1]}x{mask.shape[0]}, its picture "
            f"{picture.width}x{picture.height}"
        )
    regions = [seen(model, _filled(box, picture.size)) for box in sample.boxes]
    boxes = [_around(region) for region in regions if region.any()]
    shape = tuple(image.shape[1:])
    inside = seen(model, mask) if mask is not None else np.logical_or.reduce(regions)
    if (sample.boxes and not boxes) or (not sample.boxes and not inside.any()):
        raise NotSeenError(f"{sample.name!r}: {OUTSIDE}")
    if inside.shape != shape:
        raise InputError(f"crop gives {inside.shape} and normalise {shape}: the first must set the size")
    found = torch.tensor(boxes, dtype=torch.int64) if sample.boxes else None
    return Frame(image, torch.from_numpy(inside), found, _scale(model, picture), traced=mask is not None)


def seen(model: Model, region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Put a region of a picture through the crop of the network.

    The region is painted white on black in one channel and black on white in the others, so that the crop's
    own resampling applies, and a border that the crop adds (black, grey or white) is never inside. A pixel
    is inside if most of it is.

    Args:
        model: its crop is used.
        region: ``(height, width)`` of the picture.

    Returns:
        ``(h, w)`` of the frame.
    """
    inside = region.astype(np.uint8) * 255
    painted = Image.fromarray(np.stack([inside, 255 - inside, 255 - inside], axis=-1))
    found = np.asarray(model.crop(painted).convert("RGB"))
    return np.asarray((found[..., 0] > 127) & (found[..., 1] < 128))


def whole(model: Model) -> Model:
    """Let the network see the whole picture, squeezed into its input, instead of its own crop."""
    height, width = model.input_shape[1:]
    if model.preset is not None:
        preset = model.preset._replace(resize=(height, width), squash=True)
        return replace(model, crop=partial(crop_picture, preset=preset), preset=preset)

    def squeeze(picture: Image.Image) -> Image.Image:
        return picture.resize((width, height), Image.Resampling.BICUBIC)

    return replace(model, crop=squeeze)


def _filled(box: Box, size: tuple[int, int]) -> NDArray[np.bool_]:
    left, top, right, bottom = box
    region = np.zeros((size[1], size[0]), dtype=bool)
    region[top:bottom, left:right] = True
    return region


def _around(region: NDArray[np.bool_]) -> list[list[int]]:
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    return [[int(rows[0]), int(columns[0])], [int(rows[-1]) + 1, int(columns[-1]) + 1]]


def _scale(model: Model, picture: Image.Image) -> float:
    """Compare a square in the middle of the picture with what becomes of it; NaN if nothing does."""
    half = max(1, min(picture.size) // 4)
    across, down = picture.width // 2, picture.height // 2
    square = _filled((across - half, down - half, across + half, down + half), picture.size)
    left = int(seen(model, square).sum())
    return math.sqrt(square.sum() / left) if left else float("nan")


def _check_size(picture: Image.Image, sample: Sample) -> None:
    if sample.size is not None and sample.size != picture.size:
        raise ImageFileError(
            f"{sample.name!r}: the annotation is for a picture of {sample.size[0]}x{sample.size[1]}, "
            f"{str(sample.path)!r} has {picture.width}x{picture.height} (turned by EXIF, or resized?)"
        )
