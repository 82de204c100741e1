"""Does the map rank pixels of objects above the others, over a whole data set?"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from hirescam.errors import InputError
from hirescam.metrics.ground_truth import matched
from hirescam.metrics.registry import HIGHER, LOCALISATION, metric
from hirescam.metrics.scales import share_of_max, stretched

Scale = Literal["max", "range"]
_SCALES: dict[str, Callable[[Tensor], Tensor]] = {"max": share_of_max, "range": stretched}


def pooled_average_precision(values: Tensor, groups: Tensor | None = None) -> float:
    """Add up the counts of all samples, then take the average precision of the pooled pixels.

    Σ_l Prec(τ_l) · (Rec(τ_l) − Rec(τ_{l+1})) from the highest threshold down, without interpolation.

    Args:
        values: ``(n, 2, bins)``, from `pixel_ap` or `count_pixels`.
        groups: not used.

    Returns:
        In [0, 1]; NaN if no pixel lies on an object.
    """
    hits, others = values.sum(0).flip(-1).cumsum(-1) if len(values) else torch.zeros(2, 1)
    if not hits[-1] > 0:
        return float("nan")
    precision = hits / (hits + others).clamp(min=1)
    return float((precision * hits.diff(prepend=hits.new_zeros(1))).sum() / hits[-1])


@metric(
    kind=LOCALISATION,
    better=HIGHER,
    bounds=(0, 1),
    units="average precision",
    cite="choe2020",
    reduction=pooled_average_precision,
)
def pixel_ap(maps: Tensor, masks: Tensor, *, steps: int = 100, scale: Scale = "max") -> Tensor:
    """Find how well one threshold for all maps separates pixels of objects from the others.

    Σ_l Prec(τ_l) · (Rec(τ_l) − Rec(τ_{l+1})),   τ = 0, 1/steps, …, 1;   marked = {map ≥ τ}

    PxAP (Choe et al. 2020, arXiv 2001.07437), and VxAP in 3-D. Pixels are pooled over the data set before
    precision and recall are taken, so it is not the mean of each image's average precision: large objects
    weigh more, and maps must be comparable between images. Chance is the share of pixels on objects.

    A map without a positive value puts all its pixels into the lowest bin, where they are marked last; alone
    it scores chance. An empty mask adds pixels that should not be marked. `count_pixels` leaves pixels out,
    such as the border that PASCAL VOC marks as undecided.

    Args:
        maps: ``(n, *size)``.
        masks: ``(n, *size)`` bool.
        steps: how many steps from 0 to 1; the authors' code has 100 or 1000.
        scale: ``"max"`` takes the positive part as a share of the maximum; ``"range"`` stretches the signed
            map from its minimum to its maximum, as the authors' code does, so that a map of negative values
            is scored by its order.

    Returns:
        ``(n, 2, steps + 1)``: pixels on and off the object in each bin, from low to high; never NaN, but the
        reduced number is where no pixel of any sample lies on an object.

    Raises:
        InputError: a map has NaN or infinite values, the shapes differ, there is no step, or the scale is
            unknown.
    """
    return count_pixels(maps, masks, torch.ones_like(masks), steps=steps, scale=scale)


def count_pixels(
    maps: Tensor, masks: Tensor, counted: Tensor, *, steps: int = 100, scale: Scale = "max"
) -> Tensor:
    """Count the pixels on and off the object in each bin of the map, as `pixel_ap` does, leaving some out.

    Args:
        maps: ``(n, *size)``.
        masks: ``(n, *size)`` bool.
        counted: ``(n, *size)`` bool, False where a pixel is to be ignored.
        steps: how many steps from 0 to 1.
        scale: ``"max"`` or ``"range"``.

    Returns:
        ``(n, 2, steps + 1)``, for `pooled_average_precision`. Bin l holds ``l/steps ≤ map < (l + 1)/steps``.
    """
    if steps < 1:
        raise InputError(f"steps={steps} must be at least 1")
    if scale not in _SCALES:
        raise InputError(f"scale={scale!r} is unknown: give 'max' or 'range'")
    maps, masks = matched(maps, masks)
    edges = torch.arange(1, steps + 1, dtype=torch.float64, device=maps.device) / steps
    bins = torch.bucketize(_SCALES[scale](maps).flatten(1), edges, right=True)
    side = torch.stack([masks & counted, ~masks & counted], 1).flatten(2)
    cell = bins.unsqueeze(1) + (steps + 1) * torch.arange(2 * len(maps), device=maps.device).reshape(-1, 2, 1)
    found = cell[side].bincount(minlength=2 * len(maps) * (steps + 1))
    return found.reshape(-1, 2, steps + 1).double()
