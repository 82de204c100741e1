"""How good are maps as seeds for weakly supervised segmentation?

A seed gives every pixel to the image's class with the highest map, or to the background. It takes maps of all
classes of an image at once, so it is not in the registry, where a sample is one (image, class) pair; apart
from that it works like every other metric: counts per image, a reduction, an interval, an accumulator.
"""

import torch
from torch import Tensor

from hirescam.errors import InputError
from hirescam.metrics.ground_truth import finite
from hirescam.metrics.registry import HIGHER, LOCALISATION, Metric
from hirescam.metrics.scales import share_of_max

IGNORED = 255
"""The label of pixels that count neither way, as in PASCAL VOC."""


def count_seeds(maps: Tensor, labels: Tensor, present: Tensor, *, background: float = 0.15) -> Tensor:
    """Count, for each image, the pixels of every true class that the seed gives to every class.

    seed[p] = argmax(background, M_c[p] / max M_c for every class c in the image)

    Ahn et al. 2019 (arXiv 1904.05044): negative values count as 0, every class' map is divided by its own
    maximum (the minimum is not subtracted), the background has a fixed score, and only classes that the image
    is labelled with take part. Of equal scores the background wins, then the class with the lower index. A
    map without a positive value never wins over the background.

    Args:
        maps: ``(n, classes, *size)``, one signed map per image and class.
        labels: ``(n, *size)`` int64: 0 background, c + 1 for class c, `IGNORED` for pixels left out.
        present: ``(n, classes)`` bool, the labels of each image.
        background: its score, a share of each map's maximum.

    Returns:
        ``(n, classes + 1, classes + 1)``: rows are true classes, columns the seed's, background first; never
        NaN. Counts of several images add up.

    Raises:
        InputError: a map has NaN or infinite values, the shapes differ, or a label or the background's score
            is out of range.

    Example:
        >>> maps = torch.tensor([[[[0.1, 1.0, 2.0]]]])
        >>> counts = count_seeds(maps, torch.tensor([[[0, 1, 1]]]), torch.tensor([[True]]))
        >>> counts.tolist(), SEED_MIOU.reduce(counts)
        ([[[1.0, 0.0], [0.0, 2.0]]], 1.0)
    """
    maps = finite(maps)
    n, classes = maps.shape[:2]
    _check(maps, labels, present)
    if not 0 <= background < 1:
        raise InputError(f"background={background} must be at least 0 and below 1: a share of each maximum")
    shares = share_of_max(maps.flatten(0, 1)).reshape(maps.shape)
    shares = shares.where(present.to(maps.device).reshape(n, classes, *[1] * (maps.ndim - 2)), 0)
    floor = torch.full_like(shares[:, :1], background)
    seed = torch.cat([floor, shares], 1).argmax(1)
    size = classes + 1
    labels = labels.to(maps.device)
    image = torch.arange(n, device=maps.device).reshape(-1, *[1] * (labels.ndim - 1))
    cells = ((image * size + labels) * size + seed)[labels != IGNORED]
    return cells.bincount(minlength=n * size**2).reshape(n, size, size).double()


def mean_iou(values: Tensor, groups: Tensor | None = None) -> float:
    """Add up the counts of all images, then average the IoU of the classes, background included.

    mean_c  counts[c, c] / (Σ_j counts[c, j] + Σ_i counts[i, c] − counts[c, c])

    Args:
        values: ``(n, classes + 1, classes + 1)``, from `count_seeds`.
        groups: not used.

    Returns:
        In [0, 1], without the classes that are neither in the labels nor in a seed; NaN if there is none.
    """
    counts = values.sum(0)
    both = counts.diagonal()
    either = counts.sum(0) + counts.sum(1) - both
    return float((both / either.where(either > 0, torch.nan)).nanmean())


SEED_MIOU = Metric("seed_miou", count_seeds, LOCALISATION, HIGHER, (0, 1), "mean IoU", "ahn2019", mean_iou)
"""For `hirescam.metrics.estimate` and the accumulator, which take its counts."""


def _check(maps: Tensor, labels: Tensor, present: Tensor) -> None:
    n, classes, *size = maps.shape
    if labels.shape != (n, *size):
        raise InputError(
            f"labels has shape {tuple(labels.shape)}: expected {(n, *size)}, one label per pixel"
        )
    if present.shape != (n, classes) or present.dtype != torch.bool:
        raise InputError(
            f"present is {present.dtype} with shape {tuple(present.shape)}: expected bool with {(n, classes)}"
        )
    strange = labels[(labels != IGNORED) & ((labels < 0) | (labels > classes))]
    if len(strange):
        raise InputError(
            f"labels has {int(strange[0])}: expected 0 for background, 1 … {classes} for the classes and "
            f"{IGNORED} for pixels to leave out"
        )
