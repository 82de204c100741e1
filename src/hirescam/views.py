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


def render(
    raw: Tensor,
    *,
    size: tuple[int, ...] | None,
    sign: Sign,
    resample: Resample,
    scale: Scale,
) -> View:
    """Apply sign, resampling and scale, in this order.

    Args:
        raw: ``(b, t, *grid)``.
        size: wanted space axes; None keeps the grid.
        sign: which values to keep; ``"negative"`` keeps them negative.
        resample: ``"nearest"`` shows the cells as they are; ``"bilinear"`` (linear, trilinear) is smoother
            and lets values leak across cell borders.
        scale: divide by the largest magnitude of each map, or of all maps; None keeps the units.
    """
    _check("sign", sign, ("both", "positive", "negative"))
    _check("resample", resample, ("bilinear", "nearest"))
    _check("scale", scale, ("each", "shared", None))
    steps = [f"sign={sign}", f"size={size}, resample={resample}", f"scale={scale}"]
    values = _keep(raw.detach(), sign)
    limit = _limit(values, scale)
    if size is not None:
        values = resize(values, tuple(size), resample)
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


def resize(values: Tensor, size: tuple[int, ...], resample: Resample) -> Tensor:
    """Resample maps ``(b, t, *grid)`` to ``(b, t, *size)``; bilinear keeps the mean for whole factors."""
    if len(size) != values.ndim - 2:
        raise InputError(
            f"size={size} has {len(size)} axes, the map has {values.ndim - 2}: give one number for each"
        )
    if resample == "nearest":
        return F.interpolate(values, size=size, mode="nearest")
    return F.interpolate(values, size=size, mode=_LINEAR[len(size)], align_corners=False)
