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
