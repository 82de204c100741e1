"""How sure is a number? Bootstrap confidence intervals over samples."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hirescam.errors import InputError
from hirescam.metrics.registry import Metric, get


@dataclass(frozen=True)
class Estimate:
    """A metric over many samples.

    Attributes:
        value: the metric; NaN where it is undefined for every sample.
        low: lower end of the confidence interval.
        high: upper end.
        count: how many samples there are.
        undefined: for how many of them the metric is undefined (they are left out of the value).
        confidence: of the interval.
    """

    value: float
    low: float
    high: float
    count: int
    undefined: int
    confidence: float


def estimate(
    metric: str | Metric,
    values: Tensor,
    groups: Tensor | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Reduce per-sample values to one number with a percentile bootstrap interval.

    Samples are drawn with replacement, whole samples at a time, and the metric's own reduction is applied to
    every draw (Efron & Tibshirani 1993, section 13.3).

    Args:
        metric: name or metric; it says how values are reduced.
        values: ``(n, ...)``, as the metric gives them.
        groups: ``(n,)`` classes, for metrics that average over classes.
        confidence: of the interval, between 0 and 1.
        resamples: how many draws.
        seed: of the draws.

    Raises:
        InputError: ``confidence`` is not between 0 and 1, or ``groups`` does not fit the values.

    Example:
        >>> import torch
        >>> from hirescam.metrics import estimate
        >>> found = estimate("wrong_sign_rate", torch.tensor([0.1, 0.2, 0.3]))
        >>> round(found.value, 3), found.low <= found.value <= found.high
        (0.2, True)
    """
    chosen = get(metric)
    if not 0 < confidence < 1:
        raise InputError(f"confidence={confidence} must be between 0 and 1, such as 0.95")
    if groups is not None and len(groups) != len(values):
        raise InputError(f"groups has {len(groups)} entries for {len(values)} samples: give one for each")
    count = len(values)
    undefined = int(values.flatten(1).isnan().any(1).sum()) if values.ndim > 1 else int(values.isnan().sum())
    value = chosen.reduce(values, groups)
    draws = resampled(chosen, values, groups, resamples=resamples, seed=seed)
    low, high = interval(draws, confidence)
    return Estimate(value, low, high, count, undefined, confidence)


def resampled(
    metric: str | Metric,
    values: Tensor,
    groups: Tensor | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Reduce bootstrap draws of the samples; with one seed, the same samples are drawn for every metric.

    Args:
        metric: name or metric; it says how values are reduced.
        values: ``(n, ...)``, as the metric gives them.
        groups: ``(n,)`` classes, for metrics that average over classes.
        resamples: how many draws.
        seed: of the draws.

    Returns:
        ``(resamples,)``, NaN where the metric is undefined for all samples of a draw; empty for no samples.
    """
    chosen = get(metric)
    if not len(values):
        return np.zeros(0)
    generator = torch.Generator().manual_seed(seed)
    found = np.empty(resamples)
    for place in range(resamples):
        rows = torch.randint(len(values), (len(values),), generator=generator).to(values.device)
        found[place] = chosen.reduce(values[rows], None if groups is None else groups[rows])
    return found


def interval(draws: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Give the ends of a percentile interval; NaN where no draw is defined.

    Example:
        >>> import numpy as np
        >>> from hirescam.metrics.intervals import interval
        >>> interval(np.arange(101.0), 0.5)
        (25.0, 75.0)
    """
    defined = draws[~np.isnan(draws)]
    if not len(defined):
        return float("nan"), float("nan")
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)
