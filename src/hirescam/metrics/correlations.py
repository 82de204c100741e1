"""Correlation coefficients row by row, with a value for rows that do not vary."""

import torch
from torch import Tensor

ROUNDING = 1e-5
"""Differences below this share of a row's largest magnitude are taken for rounding."""


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Correlate rows: ``(..., m)`` and ``(..., m)`` to ``(...)``.

    A row is constant when it varies by no more than `ROUNDING` of its largest magnitude. Two constant rows
    agree (there is no difference, and none is claimed): 1. One constant row tells nothing about the other: 0.
    """
    flat_x, flat_y = is_constant(x), is_constant(y)
    x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
    x, y = to_unit(x), to_unit(y)
    found = (x * y).sum(-1) / (x.square().sum(-1) * y.square().sum(-1)).sqrt()
    return found.clamp(-1, 1).where(~flat_x & ~flat_y, (flat_x & flat_y).to(found))


def spearman(x: Tensor, y: Tensor) -> Tensor:
    """Correlate the ranks of rows; values that differ by rounding are tied and share their average rank."""
    return pearson(ranks(x), ranks(y))


def ranks(values: Tensor) -> Tensor:
    """Rank rows from 1 up; ties, at a resolution of `ROUNDING`, get the average of their ranks.

    Example:
        >>> import torch
        >>> from hirescam.metrics.correlations import ranks
        >>> ranks(torch.tensor([[10.0, 0.0, 10.0, 5.0]]))
        tensor([[3.5000, 1.0000, 3.5000, 2.0000]], dtype=torch.float64)
    """
    values = values.double()
    steps = (to_unit(values) / ROUNDING).round().where(~is_constant(values).unsqueeze(-1), 0)
    ordered = steps.sort(-1).values.contiguous()
    below = torch.searchsorted(ordered, steps.contiguous())
    up_to = torch.searchsorted(ordered, steps.contiguous(), right=True)
    return (below + up_to + 1).double() / 2


def is_constant(values: Tensor) -> Tensor:
    """Say which rows vary by no more than `ROUNDING` of their largest magnitude."""
    span = values.amax(-1) - values.amin(-1)
    return span <= ROUNDING * values.abs().amax(-1)


def to_unit(values: Tensor) -> Tensor:
    """Divide rows by their largest magnitude, so that squares neither overflow nor vanish."""
    largest = values.abs().amax(-1, keepdim=True)
    return values / largest.where(largest > 0, 1)
