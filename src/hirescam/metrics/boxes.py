"""Does a box around the highest part of the map fit a box around the object?

A map is cut at a threshold, the marked pixels fall into connected components, and each has a bounding box.
Components are connected also across corners and edges (8 neighbours in 2-D, 26 in 3-D), as OpenCV's contours
are. Boxes are half-open: ``stop − start`` pixels along each axis.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hirescam.errors import InputError
from hirescam.metrics import thresholds
from hirescam.metrics.ground_truth import checked, finite
from hirescam.metrics.registry import HIGHER, LOCALISATION, metric
from hirescam.metrics.scales import share_of_max, stretched

Convention = Literal["plain", "reference"]
Array = NDArray[Any]
Boxes = Callable[[Array], Array]
"""From what a map leaves after a cut, ``(*size)``, zero where nothing is marked, to boxes ``(k, 2, d)``."""


@metric(kind=LOCALISATION, better=HIGHER, bounds=(0, 1), units="IoU of boxes", cite="selvaraju2017")
def box_iou(maps: Tensor, boxes: Sequence[Tensor], *, level: float = 0.15) -> Tensor:
    """Find how well the box around the map's largest region fits a box around an object.

    max_j IoU(box of the largest component of {M > level · max M}, box_j)

    The rule of the Grad-CAM paper for ILSVRC localisation (Selvaraju et al. 2017: 15 % of the maximum, the
    single largest segment). The largest component has the most pixels; of equal ones, the most mass. A map
    without a positive value has no region: 0. A constant positive map is one region, the whole image.

    Args:
        maps: ``(n, *size)``.
        boxes: ``n`` tensors ``(k, 2, d)``; the one that fits best counts.
        level: share of the map's largest value, in [0, 1).

    Returns:
        ``(n,)`` in [0, 1]; NaN for a sample without boxes.

    Raises:
        InputError: a map has NaN or infinite values, the boxes do not fit the maps, the level is outside
            [0, 1), or scipy is not installed.
    """
    if not 0 <= level < 1:
        raise InputError(f"level={level} must be at least 0 and below 1: a share of the map's largest value")
    maps, given = _given(maps, boxes)
    shares = share_of_max(maps)
    cut = shares.where(shares > level, 0).cpu().numpy()
    best = [_best(_largest(one), truth) for one, truth in zip(cut, given, strict=True)]
    return torch.tensor(best, dtype=torch.float64, device=maps.device)


@metric(
    kind=LOCALISATION,
    better=HIGHER,
    bounds=(0, 1),
    units="share of samples",
    cite="choe2020",
    reduction=thresholds.best_mean,
)
def max_box_acc(maps: Tensor, boxes: Sequence[Tensor], *, fit: float = 0.5, steps: int = 100) -> Tensor:
    """Find how often the box of the largest region fits an object, at the best threshold.

    max_τ mean_samples 1[max_j IoU(box of the largest component at τ, box_j) ≥ fit]

    MaxBoxAcc (Choe et al. 2020, arXiv 2001.07437), in any number of dimensions; the threshold is one for the
    whole data set and chosen on it. The map's positive part, as a share of its maximum, is cut down to 8 bits
    as in the authors' code, ⌊255 M⌋ > ⌊255 τ⌋, τ = 0, 1/steps, …, so more than 255 steps change nothing. The
    largest component has the most pixels (the authors' code: the contour with the largest area, holes
    included). A map without a positive value has no box and never fits.

    Args:
        maps: ``(n, *size)``.
        boxes: ``n`` tensors ``(k, 2, d)``; one that fits is enough.
        fit: the IoU from which on a box fits.
        steps: how many thresholds.

    Returns:
        ``(n, steps)`` of 0 and 1; NaN for a sample without boxes.

    Raises:
        InputError: a map has NaN or infinite values, the boxes do not fit the maps, there is no threshold, or
            scipy is not installed.
    """
    return _fits(_best_ious(share_of_max, maps, boxes, steps, _largest), (fit,))[:, 0]


@metric(
    kind=LOCALISATION,
    better=HIGHER,
    bounds=(0, 1),
    units="share of samples",
    cite="choe2022",
    reduction=thresholds.best_mean,
)
def max_box_acc_v2(
    maps: Tensor,
    boxes: Sequence[Tensor],
    *,
    fits: Sequence[float] = (0.3, 0.5, 0.7),
    steps: int = 100,
    convention: Convention = "plain",
) -> Tensor:
    """Find how often the box of some region fits an object, at the best thresholds, for loose to tight fits.

    mean_fit max_τ mean_samples 1[max_{i, j} IoU(box of component i at τ, box_j) ≥ fit]

    MaxBoxAccV2 (Choe et al. 2022, arXiv 2007.04178): the boxes of *all* components, and every fit has its own
    best threshold. The map is cut down to 8 bits as for `max_box_acc`.

    ``convention="plain"``: the map's positive part, as a share of its maximum; a map without a positive value
    has no box and never fits. ``"reference"`` does what the authors' code does (clovaai/wsolevaluation): the
    signed map is stretched from its minimum to its maximum, so that a map of negative values can score, and
    a constant one becomes zeros; holes in a region give boxes too, one pixel larger than the hole on every
    side; every predicted box is one pixel too long where the image has room, since its exclusive end is then
    read as inclusive; and where nothing is marked the pixel at the origin is the box.

    Args:
        maps: ``(n, *size)``.
        boxes: ``n`` tensors ``(k, 2, d)``; one that fits is enough.
        fits: the IoU from which on a box fits; the result is averaged over them.
        steps: how many thresholds.
        convention: ``"plain"`` or ``"reference"``.

    Returns:
        ``(n, fits, steps)`` of 0 and 1; NaN for a sample without boxes.

    Raises:
        InputError: a map has NaN or infinite values, the boxes do not fit the maps, there is no threshold,
            the convention is unknown, or scipy is not installed.
    """
    if convention not in ("plain", "reference"):
        raise InputError(f"convention={convention!r} is unknown: give 'plain' or 'reference'")
    scale, found = (share_of_max, _all) if convention == "plain" else (stretched, _as_reference)
    return _fits(_best_ious(scale, maps, boxes, steps, found), fits)


def overlap(first: Array, second: Array) -> Array:
    """Return the IoU of every pair of boxes: ``(a, 2, d)`` and ``(b, 2, d)`` to ``(a, b)``.

    A box without volume overlaps nothing: 0.
    """
    start = np.maximum(first[:, None, 0], second[None, :, 0])
    stop = np.minimum(first[:, None, 1], second[None, :, 1])
    both = np.clip(stop - start, 0, None).prod(-1)
    sizes = np.prod(first[:, 1] - first[:, 0], -1)[:, None] + np.prod(second[:, 1] - second[:, 0], -1)
    either = sizes - both
    ious: Array = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
    return ious


def _given(maps: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, list[Array]]:
    maps = finite(maps)
    if len(boxes) != len(maps):
        raise InputError(f"boxes has {len(boxes)} entries for {len(maps)} maps: give one tensor for each")
    return maps, [one.cpu().numpy() for one in checked(boxes, maps.ndim - 1)]


def _fits(ious: Tensor, fits: Sequence[float]) -> Tensor:
    """Compare ``(n, steps)`` with every fit: ``(n, fits, steps)``."""
    fit = torch.tensor(list(fits), dtype=torch.float64, device=ious.device).unsqueeze(1)
    ious = ious.unsqueeze(1)
    return (ious >= fit).double().where(~ious.isnan(), torch.nan)


def _best_ious(
    scale: Callable[[Tensor], Tensor], maps: Tensor, boxes: Sequence[Tensor], steps: int, found: Boxes
) -> Tensor:
    """Return, for every threshold, the best IoU of a found box with a true one: ``(n, steps)``."""
    if steps < 1:
        raise InputError(f"steps={steps} must be at least 1")
    maps, given = _given(maps, boxes)
    images = (scale(maps) * 255).to(torch.uint8).cpu().numpy()
    curves = [_curve(image, truth, steps, found) for image, truth in zip(images, given, strict=True)]
    return torch.tensor(np.array(curves).reshape(-1, steps), dtype=torch.float64, device=maps.device)


def _curve(image: Array, truth: Array, steps: int, found: Boxes) -> list[float]:
    """Walk up the thresholds; where the next one leaves the same pixels, the answer is the same."""
    curve: list[float] = []
    pixels, best = -1, float("nan")
    for step in range(steps):
        cut = np.where(image > step * int(image.max()) // steps, image, 0)
        if int(np.count_nonzero(cut)) != pixels:
            pixels, best = int(np.count_nonzero(cut)), _best(found(cut), truth)
        curve.append(best)
    return curve


def _best(found: Array, truth: Array) -> float:
    if not len(truth):
        return float("nan")
    return float(overlap(found, truth).max(initial=0))


def _all(cut: Array) -> Array:
    """Boxes of all components."""
    ndimage = _ndimage()
    labels, _ = ndimage.label(cut, structure=np.ones([3] * cut.ndim))
    return _boxes(ndimage.find_objects(labels), cut.ndim)


def _largest(cut: Array) -> Array:
    """Box of the component with the most pixels; of equal ones, the most mass."""
    ndimage = _ndimage()
    labels, count = ndimage.label(cut, structure=np.ones([3] * cut.ndim))
    if not count:
        return _boxes([], cut.ndim)
    pixels = np.bincount(labels.ravel())[1:]
    mass = np.bincount(labels.ravel(), weights=cut.ravel())[1:]
    return _boxes(ndimage.find_objects(labels), cut.ndim)[np.lexsort((mass, pixels))[-1:]]


def _as_reference(cut: Array) -> Array:
    """Boxes of all outer and inner contours, with the authors' reading of their ends."""
    ndimage = _ndimage()
    regions = _all(cut)
    background, _ = ndimage.label(np.pad(cut == 0, 1, constant_values=True))
    around = background.flat[0]  # what reaches the border is no hole
    holes = [one for index, one in enumerate(ndimage.find_objects(background), 1) if index != around]
    inner = _boxes(holes, cut.ndim) - 1 + np.array([-1, 1])[:, None]  # without the padding, one pixel larger
    found = np.concatenate([regions, inner])
    if not len(found):
        found = np.zeros((1, 2, cut.ndim))
    found[:, 1] = np.minimum(found[:, 1], np.array(cut.shape) - 1) + 1
    return found


def _boxes(slices: list[tuple[slice, ...]], axes: int) -> Array:
    corners = [[[one.start for one in place], [one.stop for one in place]] for place in slices]
    return np.array(corners, dtype=np.float64).reshape(-1, 2, axes)


def _ndimage() -> ModuleType:
    try:
        return import_module("scipy.ndimage")
    except ImportError as error:
        raise InputError(
            'metrics of boxes need the package "scipy", which is not installed: '
            'pip install "hirescam[metrics]"'
        ) from error
