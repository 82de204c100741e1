"""From the values of all samples to one number: pure functions of (values, groups)."""

from collections.abc import Callable

import torch
from torch import Tensor

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
