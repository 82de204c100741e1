"""How concentrated is a map, and how steady? Descriptions of its shape that do not ask whether it is right.

All but ``continuity`` look at raw maps: resampling to the image adds pixels, not information, and moves
every one of these numbers by an amount that depends on the method and the size. They depend on the number
of locations, so compare rules at one layer.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from hirescam.errors import InputError
from hirescam.metrics.checks import flat
from hirescam.metrics.faithfulness import ScoreKept
from hirescam.metrics.registry import HIGHER, LOWER, NEITHER, SHAPE, metric
from hirescam.metrics.scoring import check

_TOGETHER = 1024


@metric(kind=SHAPE, better=HIGHER, bounds=(0, 1), units="Gini index", cite="chalasani2020")
def sparseness(raw: Tensor) -> Tensor:
    """Find how unevenly the map's magnitude is spread over the locations.

    The Gini index of a = |raw|, with a_(1) ≤ … ≤ a_(n):

        Σ_i (2i − n − 1) · a_(i) / (n · Σ_i a_(i))

    0 for a map of one magnitude, 1 − 1/n for a single location. The sign does not count, nor does a factor.
    Sparse is easy to read and need not be right.

    Source: Chalasani et al. 2020, arXiv 1810.06583.

    Args:
        raw: ``(n, *space)``.

    Returns:
        ``(n,)`` in [0, 1); NaN for a map of zeros, which has no magnitude to spread.

    Raises:
        InputError: a map is not finite.
    """
    shares = _shares(raw).sort(1).values
    count = shares.shape[1]
    place = torch.arange(1, count + 1, device=raw.device)
    weights: Tensor = (2 * place - count - 1) / count
    return (shares * weights).sum(1).clamp(min=0)


@metric(kind=SHAPE, better=LOWER, bounds=(0, torch.inf), units="nats", cite="bhatt2020")
def complexity(raw: Tensor) -> Tensor:
    """Find how many locations the map is spread over, as an entropy.

    −Σ_s p[s] · ln p[s],   p = |raw| / Σ |raw|

    0 for a single location, ln n for a map of one magnitude; e to this power is a number of locations. The
    sign does not count, nor does a factor. It is another quantity than ADCC's complexity (``l1_complexity``).

    Source: Bhatt et al. 2020, arXiv 2005.00631.

    Args:
        raw: ``(n, *space)``.

    Returns:
        ``(n,)`` from 0 to ln n; NaN for a map of zeros, which has no magnitude to spread.

    Raises:
        InputError: a map is not finite.
    """
    nats: Tensor = torch.special.entr(_shares(raw)).sum(1)
    return nats


@metric(kind=SHAPE, better=LOWER, bounds=(0, 1), units="share of locations", cite="nguyen2020")
def effective_complexity(raw: Tensor, score_kept: ScoreKept, *, tolerance: float = 0.1) -> Tensor:
    """Find how many locations, the strongest first, it takes to keep what the layer adds to the score.

    The least k / n such that, for every k' ≥ k, with f(A_k) the score when only the k locations with the
    largest |raw| are kept:

        |f(A) − f(A_k')| ≤ tolerance · |f(A) − f(0)|

    Low: a few locations tell all, and the map names them. "For every" because contributions have signs, and a
    sum may pass through the score on its way. Ties keep the order of the locations. If the layer adds
    nothing to the score, whatever is kept must change nothing either.

    Source: after Nguyen & Rodríguez Martínez 2020, arXiv 2007.07584, who fix the features that count and
    average the loss over values of the others; here the others are removed, in the layer's own space.

    Args:
        raw: ``(n, *space)``.
        score_kept: from factors ``(m, n, *space)`` to scores ``(m, n)``.
        tolerance: share of the score's change, at least 0.

    Returns:
        ``(n,)`` in [0, 1]; never NaN.

    Raises:
        InputError: a map is not finite, or ``tolerance`` is negative.
    """
    if not tolerance >= 0:
        raise InputError(f"tolerance={tolerance} must be at least 0, such as 0.1")
    cells = flat("raw", raw)
    count = cells.shape[1]
    rank = cells.abs().argsort(stable=True, dim=1, descending=True).argsort(1)
    kept = torch.arange(count + 1, device=raw.device)
    scores = [
        score_kept((rank < block[:, None, None]).to(raw.dtype).reshape(-1, *raw.shape))
        for block in kept.split(_TOGETHER)
    ]
    found = torch.cat(scores).double()
    far = (found - found[-1]).abs() > tolerance * (found[0] - found[-1]).abs()
    return ((kept + 1)[:, None] * far).amax(0) / count


@metric(kind=SHAPE, better=NEITHER, bounds=(0, 1), units="share of locations", cite="selvaraju2017")
def hot_area(raw: Tensor, *, level: float = 0.5) -> Tensor:
    """Find how much of the field the map highlights.

    The share of locations with raw > level · max raw; 0 for a map without a positive location.

    Grad-CAM's authors draw boxes at a level of 0.15 (Selvaraju et al. 2017, arXiv 1610.02391); half of the
    largest value is where common colour scales turn hot. ``area_expansion`` compares it with HiResCAM's.

    Args:
        raw: ``(n, *space)``.
        level: share of the map's largest value, from 0 up to but not including 1.

    Returns:
        ``(n,)`` in [0, 1); never NaN.

    Raises:
        InputError: a map is not finite, or ``level`` is not in [0, 1).
    """
    if not 0 <= level < 1:
        raise InputError(f"level={level} must be at least 0 and below 1, such as 0.5")
    cells = flat("raw", raw)
    peak = cells.amax(1, keepdim=True)
    return ((cells > level * peak) & (peak > 0)).double().mean(1)


@metric(
    kind=SHAPE, better=LOWER, bounds=(0, torch.inf), units="share of the map per share of the image",
    cite="montavon2018",
)  # fmt: skip
def continuity(
    maps: Tensor, images: Tensor, explain: Callable[[Tensor], Tensor], *, shift: int = 1
) -> Tensor:
    """Move the image by a pixel and find how much the map changes for how much the image changed.

        max_{x'} (‖M(x) − M(x')‖₁ / ‖M(x)‖₁) / (‖x − x'‖₂ / ‖x‖₂)

    over the images x' that are moved by ``shift`` pixels in either direction along each axis, the border
    repeated. Low is steady, and a map that ignores the image scores a perfect 0: never read it alone. The map
    is not moved back, so an ideal map changes too; one on a coarse grid hardly changes, or jumps.

    Source: explanation continuity of Montavon et al. 2018, arXiv 1706.07979, which is
    max ‖M(x) − M(x')‖₁ / ‖x − x'‖₂ over x'. Ours relates both changes to what changes, so that neither units
    nor the number of pixels matter (the mean that normalised images are taken off still does), and takes the
    smallest shifts for x'. It is measured at the image's resolution, as the source does it.

    Args:
        maps: ``(n, *size)``.
        images: ``(n, c, *size)``.
        explain: from images to maps, for the same targets.
        shift: pixels, at least 1 and less than the shortest side.

    Returns:
        ``(n,)``, at least 0; NaN for a map of zeros and for an image that no shift changes.

    Raises:
        InputError: shapes do not fit, a map is not finite, or ``shift`` is not what it must be.
    """
    check(maps, images)
    if not 1 <= shift < min(images.shape[2:]):
        raise InputError(f"shift={shift} must be at least 1 and less than {min(images.shape[2:])} pixels")
    rows = flat("maps", maps)
    slopes = []
    for moved in _moved(images, shift):
        others = explain(moved)
        check(others, moved)
        change = (flat("maps", others) - rows).abs().sum(1)
        distance = (moved - images).double().flatten(1).norm(dim=1)
        slopes.append((change / distance).where(distance > 0, -torch.inf))
    steepest, size = torch.stack(slopes).amax(0), rows.abs().sum(1)
    relative: Tensor = steepest * images.double().flatten(1).norm(dim=1) / size
    return relative.where((size > 0) & (steepest >= 0), torch.nan)


def _shares(raw: Tensor) -> Tensor:
    """Magnitudes ``(n, locations)`` that add up to 1; NaN for a map of zeros."""
    magnitudes = flat("raw", raw).abs()
    magnitudes = magnitudes / magnitudes.amax(1, keepdim=True)  # so that the sum cannot overflow
    return magnitudes / magnitudes.sum(1, keepdim=True)


def _moved(images: Tensor, shift: int) -> Iterator[Tensor]:
    for axis in range(2, images.ndim):
        places = torch.arange(images.shape[axis], device=images.device)
        for step in (-shift, shift):
            yield images.index_select(axis, (places + step).clamp(0, images.shape[axis] - 1))
