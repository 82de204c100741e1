"""Does the map point at the object? Its peak, its mass and its highest ranks.

This is plausibility: agreement with where people see the object. A faithful map of a model that looks
elsewhere scores low, and rightly. A map without a positive value points nowhere and scores 0; it is never
left out, so that no method gains from an empty map.
"""

import math
from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from hirescam.errors import InputError
from hirescam.metrics import reductions
from hirescam.metrics.ground_truth import matched
from hirescam.metrics.registry import HIGHER, LOCALISATION, NEITHER, metric

ROUNDING = 1e-6
"""Values closer than this share of a map's largest magnitude are tied: resampling rounds."""


@metric(
    kind=LOCALISATION,
    better=HIGHER,
    bounds=(0, 1),
    units="share of hits",
    cite="zhang2018",
    reduction=reductions.mean_over_classes,
)
def pointing_game(maps: Tensor, masks: Tensor, *, tolerance: float = 15) -> Tensor:
    """Find whether the highest point of the map lies on the object or close to it.

    1[|p − q|² < tolerance² for some pixel q of the mask],   p = argmax M

    The largest signed value points (Zhang et al. 2018, arXiv 1608.00507). Strictly less, as in the reference
    code, TorchRay 1.0's ``benchmark/pointing_game.py``: 697 pixels around a point at 15, not 709. The
    tolerance is in pixels of the given size: use the original image size for numbers to be compared with
    published ones. Those are the mean over classes of each class' hit rate: give the classes as groups; the
    reference's own mean is `hirescam.metrics.reductions.mean_over_all_classes`.

    Edge cases: pixels that share the largest value (to a millionth of the largest magnitude) count with the
    share of them that hits, which is what a random choice among them would score on average. A constant map
    and a map without a positive value point nowhere: a miss. (Quantus 0.6 scores a hit for an empty mask, for
    a map of zeros, and if any of the tied pixels hits.)

    Args:
        maps: ``(n, *size)``.
        masks: ``(n, *size)`` bool.
        tolerance: how near is near, in pixels; 1 asks for a point on the object itself.

    Returns:
        ``(n,)``: 1 hit, 0 miss, between them for ties; NaN for an empty mask.

    Raises:
        InputError: a map has NaN or infinite values, the shapes differ, or the tolerance is not positive.
    """
    if not tolerance > 0:
        raise InputError(f"tolerance={tolerance} must be positive: 1 asks for a point on the object itself")
    maps, masks = matched(maps, masks)
    values = _rounded(maps)
    peak = values == values.amax(1, keepdim=True)
    points = (values.amax(1) > 0) & ~peak.all(1)
    hits = (peak & near(masks, tolerance).flatten(1)).sum(1) / peak.sum(1).double()
    return _defined(hits.where(points, 0), masks)


def near(masks: Tensor, distance: float) -> Tensor:
    """Find the pixels with a squared distance to the mask strictly below ``distance``².

    Exact, one axis after the other: min over k of (squared distance at offset k) + k².

    Args:
        masks: ``(n, *size)`` bool.
        distance: in pixels.

    Returns:
        ``(n, *size)`` bool.
    """
    squared = torch.where(masks, 0.0, torch.inf)
    for axis in range(1, masks.ndim):
        length = masks.shape[axis]
        reach = min(math.ceil(distance), length) - 1
        wide = F.pad(squared.movedim(axis, -1), (reach, reach), value=torch.inf)
        offsets = range(-reach, reach + 1)
        shifted = (wide.narrow(-1, reach + offset, length) + offset**2 for offset in offsets)
        squared = reduce(torch.minimum, shifted).movedim(-1, axis)
    return squared < distance**2


@metric(kind=LOCALISATION, better=HIGHER, bounds=(0, 1), units="share of the mass", cite="arras2022")
def relevance_mass(maps: Tensor, masks: Tensor) -> Tensor:
    """Find how much of the map's positive mass lies on the object (the energy-based pointing game).

    Σ_{p ∈ mask} max(0, M[p]) / Σ_p max(0, M[p])

    Relevance mass accuracy (Arras et al. 2022, arXiv 2003.07258) and, with boxes for masks, the energy-based
    pointing game (Wang et al. 2020, arXiv 1910.01279). Nothing is left out for the size or the number of its
    boxes. Read it beside `object_area`, which is what a constant
    positive map scores. A map without a positive value has no mass anywhere: 0.

    Args:
        maps: ``(n, *size)``.
        masks: ``(n, *size)`` bool.

    Returns:
        ``(n,)`` in [0, 1]; NaN for an empty mask.

    Raises:
        InputError: a map has NaN or infinite values, or the shapes differ.
    """
    maps, masks = matched(maps, masks)
    mass = maps.clamp(min=0)
    total = mass.flatten(1).sum(1)
    on_object = (mass * masks).flatten(1).sum(1)
    return _defined((on_object / total).where(total > 0, 0), masks)


@metric(kind=LOCALISATION, better=HIGHER, bounds=(0, 1), units="share of the object", cite="arras2022")
def relevance_rank(maps: Tensor, masks: Tensor) -> Tensor:
    """Find how many of the map's K highest pixels lie on the object, where K is the size of the object.

    |{K highest} ∩ mask| / K,   K = |mask|

    Relevance rank accuracy (Arras et al. 2022, arXiv 2003.07258), on signed values. Pixels that are tied for
    the last places (to a millionth of the largest magnitude) share them, which is what a random order among
    them would score on average: a constant positive map gets `object_area`. A map without a positive value
    claims nothing: 0.

    Args:
        maps: ``(n, *size)``.
        masks: ``(n, *size)`` bool.

    Returns:
        ``(n,)`` in [0, 1]; NaN for an empty mask.

    Raises:
        InputError: a map has NaN or infinite values, or the shapes differ.
    """
    maps, masks = matched(maps, masks)
    values, inside = _rounded(maps), masks.flatten(1)
    size = inside.sum(1, keepdim=True)
    lowest = values.sort(1, descending=True).values.gather(1, (size - 1).clamp(min=0))
    above, tied = values > lowest, values == lowest
    places = (size - above.sum(1, keepdim=True)).double() / tied.sum(1, keepdim=True)
    found = (above & inside).sum(1) + places[:, 0] * (tied & inside).sum(1)
    return _defined((found / size[:, 0]).where(values.amax(1) > 0, 0), masks)


@metric(kind=LOCALISATION, better=NEITHER, bounds=(0, 1), units="share of the image", cite="wang2020")
def object_area(masks: Tensor) -> Tensor:
    """Find how much of the image the object fills: what `relevance_mass` gives a map that says nothing.

    |mask| / pixels

    Args:
        masks: ``(n, *size)`` bool.

    Returns:
        ``(n,)`` in (0, 1]; NaN for an empty mask, as for the metrics that this is the baseline of.
    """
    return _defined(masks.double().flatten(1).mean(1), masks)


def center_map(size: Sequence[int]) -> Tensor:
    """Make the baseline that looks at the middle of every image: a Gaussian, highest at the centre.

    exp(−½ Σ_axis ((p − centre) / (size/4))²), with the centre at (size − 1)/2, between pixels where the
    size is even. It needs no model, so it tells whether a scorer is right: with TorchRay's annotations of
    PASCAL VOC 2007 test it must score 69.6 % in the pointing game, 42.4 % on the difficult subset (Fong et
    al. 2019, arXiv 1910.08485; there the point is half a pixel further along each axis). Choe et al. 2020
    (arXiv 2001.07437) use a Gaussian in the middle as the baseline of box and pixel metrics.

    Args:
        size: of the image.

    Returns:
        ``(*size)`` in (0, 1], double precision; expand it to a batch with ``.expand(n, *size)``.

    Example:
        >>> from hirescam.metrics import center_map
        >>> int(center_map((5, 7)).argmax())  # row 2, column 3
        17
    """
    exponent = torch.zeros(tuple(size), dtype=torch.float64)
    for axis, length in enumerate(size):
        away = (torch.arange(length, dtype=torch.float64) - (length - 1) / 2) / (length / 4)
        exponent = exponent + away.square().reshape(
            [-1 if other == axis else 1 for other in range(len(size))]
        )
    return (-exponent / 2).exp()


def _rounded(maps: Tensor) -> Tensor:
    """Return ``(n, pixels)`` in whole multiples of `ROUNDING` of each map's largest magnitude."""
    flat = maps.flatten(1)
    largest = flat.abs().amax(1, keepdim=True)
    return (flat / largest.where(largest > 0, 1) / ROUNDING).round()


def _defined(values: Tensor, masks: Tensor) -> Tensor:
    return values.where(masks.flatten(1).any(1), torch.nan)
