"""From a raw map to something to look at: explicit steps, each recorded, none of them undoable.

A view is for the eye. Its values no longer obey the laws that a certificate speaks of.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hirescam.errors import InputError

Sign = Literal["both", "positive", "negative"]
Resample = Literal["bilinear", "nearest"]
Scale = Literal["each", "shared"] | None

Places = tuple[tuple[float, float] | None, ...]
"""For each axis where the first cell lies and how far the next one is, in pixels; None: evenly."""

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True, eq=False)
class View:
    """A raw map after display steps.

    Attributes:
        values: ``(b, t, *size)``; within [-1, 1] where scaled, else in units of the score.
        steps: what was done, in order.
        limit: ``(b, t)``, the magnitude in units of the score that is shown as 1; ones where unscaled.
    """

    values: Tensor
    steps: tuple[str, ...]
    limit: Tensor


def render(  # noqa: PLR0913 - the steps, and where the cells lie
    raw: Tensor,
    *,
    size: tuple[int, ...] | None,
    sign: Sign,
    resample: Resample,
    scale: Scale,
    image_size: tuple[int, ...] = (),
    places: Places = (),
) -> View:
    """Apply sign, resampling and scale, in this order.

    Args:
        raw: ``(b, t, *grid)``.
        size: wanted space axes; None keeps the grid.
        sign: which values to keep; ``"negative"`` keeps them negative.
        resample: ``"nearest"`` shows the cells as they are; ``"bilinear"`` (linear, trilinear) is smoother
            and lets values leak across cell borders.
        scale: divide by the largest magnitude of each map, or of all maps; None keeps the units.
        image_size: space axes of the images, where ``places`` are given.
        places: where the cells lie on the image, see `resize`.
    """
    _check("sign", sign, ("both", "positive", "negative"))
    _check("resample", resample, ("bilinear", "nearest"))
    _check("scale", scale, ("each", "shared", None))
    steps = [f"sign={sign}", f"size={size}, resample={resample}", f"scale={scale}"]
    values = _keep(raw.detach(), sign)
    limit = _limit(values, scale)
    if size is not None:
        values = resize(values, tuple(size), resample, image_size=image_size, places=places)
    return View(values / limit.reshape(*limit.shape, *[1] * (values.ndim - 2)), tuple(steps), limit)


def _check(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name}={value!r} is unknown: use one of {', '.join(map(repr, allowed))}")


def _keep(values: Tensor, sign: Sign) -> Tensor:
    if sign == "both":
        return values
    return values.clamp(min=0) if sign == "positive" else values.clamp(max=0)


def _limit(values: Tensor, scale: Scale) -> Tensor:
    if scale is None:
        return torch.ones_like(values.flatten(2)[..., 0])
    largest = values.flatten(2).abs().amax(-1)
    if scale == "shared":
        largest = largest.amax().expand_as(largest)
    return torch.where(largest > 0, largest, torch.ones_like(largest))


def resize(
    values: Tensor,
    size: tuple[int, ...],
    resample: Resample,
    *,
    image_size: tuple[int, ...] = (),
    places: Places = (),
) -> Tensor:
    """Resample maps ``(b, t, *grid)`` to ``(b, t, *size)``.

    Args:
        values: the maps.
        size: wanted space axes.
        resample: ``"nearest"`` gives every pixel the value of the cell whose centre is nearest,
            ``"bilinear"`` what lies between the centres of its neighbours.
        image_size: space axes of the images, where ``places`` are given.
        places: where the cells lie on the image. Without them they tile it evenly; bilinear then keeps the
            mean for whole factors.
    """
    if len(size) != values.ndim - 2:
        raise InputError(
            f"size={size} has {len(size)} axes, the map has {values.ndim - 2}: give one number for each"
        )
    grid = tuple(values.shape[2:])
    spots = places or (None,) * len(grid)
    if len(grid) > len(_LINEAR) or not all(map(_is_even, grid, image_size or size, spots)):
        for axis, (pixels, image, spot) in enumerate(zip(size, image_size or size, spots, strict=True)):
            values = _along(values, axis + 2, pixels, image, spot, resample)
        return values
    if resample == "nearest":
        return F.interpolate(values, size=size, mode="nearest")
    return F.interpolate(values, size=size, mode=_LINEAR[len(size)], align_corners=False)


def _is_even(cells: int, image: int, spot: tuple[float, float] | None) -> bool:
    """Whether cells tile an axis of the image evenly."""
    step = image / cells
    return spot is None or (abs(spot[1] - step) < 1e-6 and abs(spot[0] - (step - 1) / 2) < 1e-6)


def _along(
    values: Tensor, axis: int, pixels: int, image: int, spot: tuple[float, float] | None, resample: Resample
) -> Tensor:
    """Resample one axis; beyond the outermost centres the outermost values go on."""
    cells = values.shape[axis]
    first, step = spot or ((image / cells - 1) / 2, image / cells)
    centres = (torch.arange(pixels, dtype=torch.float64) + 0.5) * image / pixels - 0.5
    at = ((centres - first) / step).clamp(0, cells - 1)
    if resample == "nearest":
        return values.index_select(axis, (at + 0.5).floor().long().clamp(max=cells - 1).to(values.device))
    below = at.floor().long().clamp(max=max(cells - 2, 0))
    share = (at - below).to(values).reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    low = values.index_select(axis, below.to(values.device))
    high = values.index_select(axis, (below + 1).clamp(max=cells - 1).to(values.device))
    return low * (1 - share) + high * share
