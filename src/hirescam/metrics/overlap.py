"""How well does the map, cut at a level, cover the object? IoU and Dice, at one level or at the best.

A level is a share of the map's largest positive value, and a pixel is marked when it is strictly above it.
A map without a positive value marks nothing and scores 0 at every level. At level 0 everything positive is
marked. The best level depends on the object's size more than on the method, and choosing it on the scored
samples flatters: say how a level was chosen whenever you print such a number.
"""

import torch
from torch import Tensor

from hirescam.errors import InputError
from hirescam.metrics import thresholds
from hirescam.metrics.ground_truth import matched
from hirescam.metrics.registry import HIGHER, LOCALISATION, metric
from hirescam.metrics.scales import share_of_max


@metric(kind=LOCALISATION, better=HIGHER, bounds=(0, 1), units="IoU", cite="everingham2010")
def iou(maps: Tensor, masks: Tensor, *, level: float = 0.5) -> Tensor:
    """Find how well the map above a fixed level overlaps the object.

    |marked ∩ mask| / |marked ∪ mask|,   marked = M > level · max M

    Intersection over union of pixels (Everingham et al. 2010). A map without a positive value
    marks nothing: 0. A constant positive map marks every pixel: `object_area`.

    Args:
        maps: ``(n, *size)``.
        masks: ``(n, *size)`` bool.
        level: share of the map's largest value, in [0, 1).

    Returns:
        ``(n,)`` in [0, 1]; NaN for an empty mask.

    Raises:
        InputError: a map has NaN or infinite values, the shapes differ, or the level is outside [0, 1).
    """
    both, either, _ = _overlaps(maps, masks, _one(level))
    return (both / either)[:, 0]


@metric(kind=LOCALISATION, better=HIGHER, bounds=(0, 1), units="Dice", cite="dice1945")
def dice(maps: Tensor, masks: Tensor, *, level: float = 0.5) -> Tensor:
    """Find how well the map above a fixed level matches the object, by the Dice coefficient.

    2 |marked ∩ mask| / (|marked| + |mask|),   marked = M > level · max M

    Dice 1945; the same as F1 over pixels, and 2 IoU / (1 + IoU) of the same sample. Edge cases as `iou`.

    Args:
        maps: ``(n, *size)``.
        masks: ``(n, *size)`` bool.
        level: share of the map's largest value, in [0, 1).

    Returns:
        ``(n,)`` in [0, 1]; NaN for an empty mask.

    Raises:
        InputError: a map has NaN or infinite values, the shapes differ, or the level is outside [0, 1).
    """
    both, _, sizes = _overlaps(maps, masks, _one(level))
    return (2 * both / sizes)[:, 0]


@metric(
    kind=LOCALISATION,
    better=HIGHER,
    bounds=(0, 1),
    units="IoU",
    cite="everingham2010",
    reduction=thresholds.best_mean,
)
def best_iou(maps: Tensor, masks: Tensor, *, steps: int = 100) -> Tensor:
    """Find the overlap with the object at the level that is best for the whole data set.

    max_level mean_samples IoU(level),   level = 0, 1/steps, …, (steps − 1)/steps

    One level for all samples, chosen on them. Per sample the metric gives the whole curve; edge cases as
    `iou` at every level.

    Args:
        maps: ``(n, *size)``.
        masks: ``(n, *size)`` bool.
        steps: how many levels.

    Returns:
        ``(n, steps)`` in [0, 1]; NaN for an empty mask.

    Raises:
        InputError: a map has NaN or infinite values, or the shapes differ.
    """
    both, either, _ = _overlaps(maps, masks, levels(steps))
    return both / either


@metric(
    kind=LOCALISATION,
    better=HIGHER,
    bounds=(0, 1),
    units="Dice",
    cite="dice1945",
    reduction=thresholds.best_mean,
)
def best_dice(maps: Tensor, masks: Tensor, *, steps: int = 100) -> Tensor:
    """Find the Dice coefficient at the level that is best for the whole data set.

    max_level mean_samples Dice(level),   level = 0, 1/steps, …, (steps − 1)/steps

    As `best_iou`, with `dice`; the best levels of the two may differ.

    Args:
        maps: ``(n, *size)``.
        masks: ``(n, *size)`` bool.
        steps: how many levels.

    Returns:
        ``(n, steps)`` in [0, 1]; NaN for an empty mask.

    Raises:
        InputError: a map has NaN or infinite values, or the shapes differ.
    """
    both, _, sizes = _overlaps(maps, masks, levels(steps))
    return 2 * both / sizes


@metric(
    kind=LOCALISATION,
    better=HIGHER,
    bounds=(0, 1),
    units="IoU",
    cite="everingham2010",
    reduction=thresholds.best_mean_of_each_class,
)
def class_best_iou(maps: Tensor, masks: Tensor, *, steps: int = 100) -> Tensor:
    """Find the overlap with the object when every class has its own best level.

    mean_samples IoU(level of the sample's class), each level chosen by the mean over the samples of its class

    Give the classes as groups. The more classes and the fewer samples in each, the more the choice flatters:
    with one sample in each class this is `oracle_iou`. To choose the levels on a validation set, as
    `organ_iou` was used in its paper, call `hirescam.metrics.thresholds.best_steps` on its curves and
    `at_steps` on the others'.

    Args:
        maps: ``(n, *size)``.
        masks: ``(n, *size)`` bool.
        steps: how many levels.

    Returns:
        ``(n, steps)`` in [0, 1]; NaN for an empty mask.

    Raises:
        InputError: a map has NaN or infinite values, or the shapes differ.
    """
    return best_iou(maps, masks, steps=steps)


@metric(kind=LOCALISATION, better=HIGHER, bounds=(0, 1), units="IoU", cite="everingham2010")
def oracle_iou(maps: Tensor, masks: Tensor, *, steps: int = 100) -> Tensor:
    """Find the overlap with the object at the level that is best for each image: an upper bound.

    mean_samples max_level IoU(level)

    The level is read off the answer, so this is no method's performance: it says how good the map's ordering
    of pixels could at most be made by a perfect choice. Never compare it with `iou` or `best_iou`.

    Args:
        maps: ``(n, *size)``.
        masks: ``(n, *size)`` bool.
        steps: how many levels.

    Returns:
        ``(n,)`` in [0, 1]; NaN for an empty mask.

    Raises:
        InputError: a map has NaN or infinite values, or the shapes differ.
    """
    return best_iou(maps, masks, steps=steps).amax(1)


def levels(steps: int) -> Tensor:
    """Return the levels 0, 1/steps, …, (steps − 1)/steps.

    Raises:
        InputError: there is none.
    """
    if steps < 1:
        raise InputError(f"steps={steps} must be at least 1")
    return torch.arange(steps, dtype=torch.float64) / steps


def marked(shares: Tensor, chosen: Tensor, where: Tensor) -> Tensor:
    """Count pixels above every level.

    Args:
        shares: ``(n, *size)`` in [0, 1].
        chosen: ``(levels,)``, rising.
        where: ``(n, *size)`` bool, the pixels to count.

    Returns:
        ``(n, levels)``: |{p : where[p] and shares[p] > level}|, as float64.
    """
    exceeded = torch.bucketize(shares.flatten(1), chosen.to(shares))  # how many levels are strictly below
    row = torch.arange(len(shares), device=shares.device).unsqueeze(1) * (len(chosen) + 1)
    cells = (exceeded + row)[where.flatten(1)]
    counts = cells.bincount(minlength=len(shares) * (len(chosen) + 1)).reshape(len(shares), len(chosen) + 1)
    return counts.flip(1).cumsum(1).flip(1)[:, 1:].double()


def _overlaps(maps: Tensor, masks: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return |marked ∩ mask|, |marked ∪ mask| and |marked| + |mask| for ``(n, levels)``; NaN without mask."""
    maps, masks = matched(maps, masks)
    shares = share_of_max(maps)
    both = marked(shares, chosen, masks)
    area = masks.flatten(1).sum(1, keepdim=True).double()
    sizes = marked(shares, chosen, torch.ones_like(masks)) + area
    return both.where(area > 0, torch.nan), sizes - both, sizes


def _one(level: float) -> Tensor:
    if not 0 <= level < 1:
        raise InputError(f"level={level} must be at least 0 and below 1: a share of the map's largest value")
    return torch.tensor([level], dtype=torch.float64)
