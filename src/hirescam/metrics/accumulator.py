"""Collect per-sample values over many batches and processes, in the manner of torchmetrics."""

import torch
from torch import Tensor

from hirescam.errors import InputError
from hirescam.metrics.intervals import Estimate, estimate
from hirescam.metrics.registry import Metric, get

try:
    import torchmetrics
except ImportError as error:
    raise InputError(
        'MetricAccumulator needs the package "torchmetrics", which is not installed: '
        'pip install "hirescam[metrics]"'
    ) from error


class MetricAccumulator(torchmetrics.Metric):
    """Collects one metric's values and reduces them at the end.

    ``compute`` gives the number itself, so that Lightning can log it; ``estimate`` also gives the interval.
    Across processes the values of all are gathered first.

    Args:
        metric: name or metric.

    Example:
        >>> import torch
        >>> from hirescam.metrics.accumulator import MetricAccumulator
        >>> wrong = MetricAccumulator("wrong_sign_rate")
        >>> wrong.update(torch.tensor([0.0, 0.5]))
        >>> wrong.update(torch.tensor([0.25]))
        >>> wrong.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    is_differentiable = False
    full_state_update = False
    values: list[Tensor]
    groups: list[Tensor]

    def __init__(self, metric: str | Metric) -> None:
        super().__init__()
        self.metric = get(metric)
        self.add_state("values", default=[], dist_reduce_fx="cat")
        self.add_state("groups", default=[], dist_reduce_fx="cat")

    def update(self, values: Tensor, groups: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            values: ``(n, ...)``, as the metric gives them.
            groups: ``(n,)`` int64 classes, for metrics that average over classes.
        """
        self.values.append(values.detach())
        none = torch.full((len(values),), -1, dtype=torch.int64, device=values.device)
        self.groups.append(none if groups is None else groups.to(none))

    def compute(self) -> Tensor:
        """Reduce all values to one number, a scalar tensor."""
        values, groups = self._gathered()
        return torch.tensor(self.metric.reduce(values, groups), dtype=torch.float64)

    def estimate(self, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0) -> Estimate:
        """Reduce all values to one number with its confidence interval."""
        with self.sync_context(should_sync=self._to_sync, should_unsync=self._should_unsync):
            values, groups = self._gathered()
        return estimate(self.metric, values, groups, confidence=confidence, resamples=resamples, seed=seed)

    def _gathered(self) -> tuple[Tensor, Tensor]:
        return _joined(self.values), _joined(self.groups).to(torch.int64)


def _joined(parts: list[Tensor] | Tensor) -> Tensor:
    if isinstance(parts, Tensor):  # gathered from other processes
        return parts
    return torch.cat(parts) if parts else torch.zeros(0)
