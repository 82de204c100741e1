"""What takes the place of pixels that are removed: zeros, a mean colour, or the image out of focus."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hirescam.errors import InputError

Fill = Literal["zeros", "mean", "blur"]
"""``"zeros"``: in normalised images the data set's mean colour. ``"mean"``: the image's own mean colour.
``"blur"``: the image out of focus, as `blur` makes it."""

_WIDTH, _SIGMA = 11, 5.0
_REACH = 20  # four sigma


def substitute(images: Tensor, fill: Fill) -> Tensor:
    """Return images of the same shape with nothing, or little, left of the content.

    Args:
        images: ``(n, c, *size)``.
        fill: see `Fill`.

    Raises:
        InputError: ``fill`` is unknown.
    """
    if fill == "zeros":
        return torch.zeros_like(images)
    if fill == "mean":
        return images.mean(tuple(range(2, images.ndim)), keepdim=True).expand_as(images)
    if fill == "blur":
        return blur(images)
    raise InputError(f"fill={fill!r} is unknown: use 'zeros', 'mean' or 'blur'")


def blur(images: Tensor) -> Tensor:
    """Blur along every space axis, as the start of RISE's insertion game does.

    The kernel is the response of a Gaussian filter (σ = 5) to one bright pixel in an 11-pixel window with
    reflecting borders, and the image is padded with zeros (eclique/RISE, evaluation.py). In two dimensions it
    is the 11 × 11 kernel of that code.

    Args:
        images: ``(n, c, *size)``.
    """
    kernel = _kernel().to(images)[None, None]
    for axis in range(2, images.ndim):
        moved = images.movedim(axis, -1)
        rows = F.conv1d(moved.reshape(-1, 1, moved.shape[-1]), kernel, padding=_WIDTH // 2)
        images = rows.reshape(moved.shape).movedim(-1, axis)
    return images


def _kernel() -> Tensor:
    """An 11-tap Gaussian whose tails are folded back at the window's borders, so that it adds up to 1."""
    offsets = torch.arange(-_REACH, _REACH + 1)
    weights = (-(offsets.double() ** 2) / (2 * _SIGMA**2)).exp()
    places = (_WIDTH // 2 + offsets) % (2 * _WIDTH)
    folded = places.where(places < _WIDTH, 2 * _WIDTH - 1 - places)
    return torch.zeros(_WIDTH, dtype=torch.float64).index_add(0, folded, weights / weights.sum())
