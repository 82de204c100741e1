"""Pictures in and out, and the scaling of maps, as pytorch-grad-cam does them; without OpenCV."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hirescam.errors import InputError
from hirescam.views import resize

Array = np.ndarray[Any, np.dtype[Any]]

COLORMAP_JET = 2
"""OpenCV's number for it."""

_TINY = 1e-7


def preprocess_image(
    img: Array, mean: Sequence[float] = (0.5, 0.5, 0.5), std: Sequence[float] = (0.5, 0.5, 0.5)
) -> Tensor:
    """From a picture ``(h, w, c)`` to a normalised batch ``(1, c, h, w)``.

    Args:
        img: bytes, which are divided by 255, or floats from 0 to 1.
        mean: of each channel.
        std: of each channel.
    """
    image = torch.from_numpy(np.array(img)).movedim(-1, 0)
    if image.dtype == torch.uint8:
        image = image.to(torch.get_default_dtype()) / 255
    ones = [1] * (image.ndim - 1)
    centre, spread = (torch.as_tensor(values, dtype=image.dtype).reshape(-1, *ones) for values in (mean, std))
    return ((image - centre) / spread).unsqueeze(0)


def deprocess_image(img: Array) -> Array:
    """Grey levels of anything: mean to the middle, one standard deviation to a tenth of the range."""
    centred = np.asarray(img) - np.mean(img)
    levels = centred / (np.std(img) + 1e-5) * 0.1 + 0.5
    grey: Array = (np.clip(levels, 0, 1) * 255).astype(np.uint8)
    return grey


def scale_cam_image(cam: Array, target_size: Sequence[int] | None = None) -> Array:
    """Stretch each map ``(b, *space)`` from 0 to 1 and resize it.

    A map whose largest value is not far above 1e-7 stays below 1.

    Args:
        cam: the maps.
        target_size: (width, height), the order of OpenCV, or (width, height, depth); None keeps the size.
    """
    values: Array = np.asarray(cam)
    axes = tuple(range(1, values.ndim))
    values = values - values.min(axes, keepdims=True)
    scaled: Array = (values / (_TINY + values.max(axes, keepdims=True))).astype(np.float32)
    if target_size is None:
        return scaled
    size = tuple(int(side) for side in reversed(target_size))
    resized: Array = resize(torch.from_numpy(scaled)[:, None], size, "bilinear")[:, 0].numpy()
    return resized


def jet(levels: Array) -> Array:
    """Colour bytes ``(h, w)`` from blue over green to red: ``(h, w, 3)`` bytes, red first."""
    level = levels.astype(np.int64)[..., None]
    rising = 4 * level + np.array([-382, -128, 128])
    falling = np.array([1148, 892, 638]) - 4 * level
    colours: Array = np.minimum(rising, falling).clip(0, 255).astype(np.uint8)
    return colours


def show_cam_on_image(
    img: Array,
    mask: Array,
    use_rgb: bool = False,
    colormap: int = COLORMAP_JET,
    image_weight: float = 0.5,
) -> Array:
    """Draw a map over a picture: ``(h, w, 3)`` bytes.

    Args:
        img: the picture ``(h, w, 3)``, floats from 0 to 1.
        mask: the map ``(h, w)``, from 0 to 1.
        use_rgb: the picture is in the order red, green, blue; otherwise blue comes first.
        colormap: a number of OpenCV's; others than JET need OpenCV.
        image_weight: share of the picture, from 0 to 1.

    Raises:
        InputError: the picture goes beyond 1, or the share is not one.
    """
    if np.max(img) > 1:
        raise InputError(f"img goes up to {np.max(img)}: pass floats from 0 to 1, for example img / 255")
    if not 0 <= image_weight <= 1:
        raise InputError(f"image_weight={image_weight} must be from 0 to 1")
    colours = _coloured((255 * np.asarray(mask)).astype(np.uint8), colormap)
    heat = np.float32(colours if use_rgb else colours[..., ::-1]) / 255
    mixed = (1 - image_weight) * heat + image_weight * img
    overlay: Array = (255 * (mixed / np.max(mixed))).astype(np.uint8)
    return overlay


def _coloured(levels: Array, colormap: int) -> Array:
    """``(h, w, 3)`` bytes, red first."""
    if colormap == COLORMAP_JET:
        return jet(levels)
    try:
        cv2 = import_module("cv2")
    except ImportError:
        raise InputError(
            f"colormap={colormap} is one of OpenCV's, which is not installed: leave the default, or run "
            "pip install opencv-python-headless"
        ) from None
    colours: Array = cv2.applyColorMap(levels, colormap)[..., ::-1]
    return colours
