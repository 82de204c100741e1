"""One threshold for many samples: choose the best, or read the curves at one that was chosen elsewhere.

A curve has one value per threshold. Whoever chooses a threshold on the samples that are scored flatters the
number; `best_steps` on one set and `at_steps` on another do not.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from hirescam.metrics.reductions import mean


def best_mean(values: Tensor, groups: Tensor | None = None) -> float:
    """Average the samples at every threshold, take the best threshold, one for the whole data set.

    Args:
        values: ``(n, thresholds)`` or ``(n, criteria, thresholds)``; every criterion gets its own best
            threshold, and the criteria are averaged after that. A sample with NaN is left out.
        groups: not used.
    """
    values = values[~values.flatten(1).isnan().any(1)] if values.numel() else values
    return float(values.mean(0).amax(-1).mean()) if values.numel() else float("nan")


def best_mean_of_each_class(values: Tensor, groups: Tensor | None = None) -> float:
    """Score every class at its own best threshold, then average all samples alike.

    Args:
        values: ``(n, thresholds)``; a sample with NaN is left out.
        groups: ``(n,)`` int64 classes; None takes all samples as one class.
    """
    return mean(at_steps(values, best_steps(values, groups), groups)) if values.numel() else float("nan")


def best_steps(values: Tensor, groups: Tensor | None = None) -> dict[int, int]:
    """Find the index of the threshold with the best mean, for each class; of equal ones the lowest.

    Args:
        values: ``(n, thresholds)``; a sample with NaN is left out.
        groups: ``(n,)`` int64 classes; None takes all samples as one class, −1.

    Returns:
        From class to index, without classes that have no defined sample.
    """
    defined = ~values.isnan().any(1)
    values, groups = values[defined], _classes(values, groups)[defined]
    labels = [int(label) for label in groups.unique()]
    return {label: int(values[groups == label].mean(0).argmax()) for label in labels}


def at_steps(values: Tensor, steps: Mapping[int, int], groups: Tensor | None = None) -> Tensor:
    """Read every sample's value at its class' threshold.

    Args:
        values: ``(n, thresholds)``.
        steps: from class to index, from `best_steps`, perhaps of another set of samples.
        groups: ``(n,)`` int64 classes; None is −1 for all samples.

    Returns:
        ``(n,)``; NaN for a class without a threshold.
    """
    chosen = [steps.get(int(label), -1) for label in _classes(values, groups)]
    index = torch.tensor(chosen, dtype=torch.int64, device=values.device)
    found = values.gather(1, index.clamp(min=0).unsqueeze(1))[:, 0]
    return found.where(index >= 0, torch.nan)


def _classes(values: Tensor, groups: Tensor | None) -> Tensor:
    if groups is None:
        return torch.full((len(values),), -1, dtype=torch.int64, device=values.device)
    return groups.to(values.device)
