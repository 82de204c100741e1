"""From the values of all samples to one number: pure functions of (values, groups)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from hirescam.errors import InputError

Reduction = Callable[[Tensor, Tensor | None], float]
"""From values ``(n, ...)`` and, where there are some, classes ``(n,)`` to one number; NaN for no sample."""


def mean(values: Tensor, groups: Tensor | None = None) -> float:
    """Average the samples for which the metric is defined.

    Args:
        values: ``(n,)``; NaN marks a sample for which the metric is undefined, which is left out.
        groups: not used.
    """
    return float(values.nanmean()) if values.numel() else float("nan")


def mean_over_classes(values: Tensor, groups: Tensor | None = None) -> float:
    """Average within each class first, then over the classes that have a defined sample.

    Args:
        values: ``(n,)``, NaN where undefined.
        groups: ``(n,)`` int64 classes; None takes all samples as one class.
    """
    if groups is None:
        return mean(values)
    defined = ~values.isnan()
    values, groups = values[defined], groups[defined]
    means = [float(values[groups == label].mean()) for label in torch.unique(groups)]
    return sum(means) / len(means) if means else float("nan")


def mean_over_all_classes(classes: int) -> Reduction:
    """Build the mean over a fixed number of classes, in which a class without a sample counts as 0.

    This is TorchRay's mean (hits / max(1, hits + misses), then over all classes). On a subset of a data set
    it is lower than `mean_over_classes` only because classes are absent; use it to compare with published
    numbers on the whole data set.

    Args:
        classes: how many there are; groups are then 0 … classes − 1.

    Example:
        >>> from dataclasses import replace
        >>> from hirescam.metrics import get, reductions
        >>> voc = replace(get("pointing_game"), reduction=reductions.mean_over_all_classes(20))
        >>> voc.reduce(torch.tensor([1.0, 0.0]), torch.tensor([3, 3]))
        0.025
    """
    return partial(_mean_over_all, classes=classes)


def _mean_over_all(values: Tensor, groups: Tensor | None, *, classes: int) -> float:
    if groups is None or (len(groups) and not 0 <= int(groups.min()) <= int(groups.max()) < classes):
        raise InputError(f"groups must hold one class in 0 … {classes - 1} per sample: got {groups}")
    defined = ~values.isnan()
    values, groups = values[defined].double(), groups[defined]
    if not len(values):
        return float("nan")
    totals = torch.zeros(classes, dtype=torch.float64, device=values.device).index_add(0, groups, values)
    return float((totals / groups.bincount(minlength=classes).clamp(min=1)).mean())


def ratio_of_sums(values: Tensor, groups: Tensor | None = None) -> float:
    """Divide the sum of the first column by that of the second, over the samples where both are defined.

    Args:
        values: ``(n, 2)``, NaN where undefined. A sample with a tiny second column then weighs little, where
            it would swamp a mean of ratios.
        groups: not used.
    """
    defined = _defined(values)
    return _ratio(defined.sum(0)) if len(defined) else float("nan")


def ratio_of_maxima(values: Tensor, groups: Tensor | None = None) -> float:
    """Divide the largest of the first column by the largest of the second.

    Args:
        values: ``(n, 2)``, NaN where undefined.
        groups: not used.
    """
    defined = _defined(values)
    return _ratio(defined.amax(0)) if len(defined) else float("nan")


def _defined(values: Tensor) -> Tensor:
    return values[~values.isnan().any(1)] if values.numel() else values.reshape(0, 2)


def _ratio(pair: Tensor) -> float:
    """Divide; nothing of nothing is 0, something of nothing is infinite."""
    part, whole = pair.tolist()
    if whole == 0:
        return float("inf") if part else 0.0
    return float(part / whole)
