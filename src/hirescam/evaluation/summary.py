"""From stored values to one figure with its interval for every rule and metric."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hirescam.evaluation.choices import ChosenMetric
from hirescam.evaluation.contenders import Contender
from hirescam.evaluation.store import Store
from hirescam.metrics import Estimate, Kind, Metric
from hirescam.metrics.intervals import interval, resampled

QUESTIONS = {
    Kind.FAITHFULNESS: "Faithfulness: does the map say what the model does?",
    Kind.PERTURBATION: "Perturbation: does the output change with the pixels that the map names?",
    Kind.SANITY: "Sanity: does the map depend on the model and on the class?",
    Kind.SHAPE: "Shape: how concentrated and how steady is the map? By itself neither good nor bad.",
    Kind.LOCALISATION: "Localisation: plausibility, not faithfulness.",
}
"""What each kind of metric asks."""

PLAUSIBILITY = (
    "Localisation is plausibility, not faithfulness: it says whether a map lies where people see the object, "
    "not whether it shows what the network used. A faithful map of a network that looks elsewhere scores low."
)
"""Stands with every localisation figure, wherever one is shown."""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one rule over all samples.

    Attributes:
        kind: what the metric asks.
        metric: its name and options.
        about: its first line.
        better: ``higher``, ``lower`` or ``neither``.
        bounds: least and largest possible value.
        units: of the value.
        rule: name and options of the rule, or of a baseline.
        estimate: the figure, its interval, and how many samples there are and are undefined.
        failed: for how many samples the metric could not be computed; they are not in the estimate.
        error: why, for the first of them; ``""`` if there is none.
        difference: from the first rule, on the samples that both have, with a paired interval.
    """

    kind: Kind
    metric: str
    about: str
    better: str
    bounds: tuple[float, float]
    units: str
    rule: str
    estimate: Estimate
    failed: int
    error: str
    difference: Estimate | None

    @property
    def says(self) -> str:
        """What the figure is about, in a word or two, to stand beside it in a file."""
        return "plausibility, not faithfulness" if self.kind is Kind.LOCALISATION else self.kind.value


@dataclass(frozen=True, slots=True)
class Resampling:
    """How intervals are made: confidence, number of draws, seed."""

    confidence: float = 0.95
    resamples: int = 1000
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The values of one rule and metric, and their bootstrap draws.

    Attributes:
        keys: of the samples that have a value, in order.
        values: ``(n, ...)``.
        groups: ``(n,)`` classes.
        draws: ``(resamples,)``.
    """

    keys: tuple[str, ...]
    values: Tensor
    groups: Tensor
    draws: NDArray[np.float64]

    @property
    def defined(self) -> Tensor:
        """``(n,)`` bool: samples for which the metric is defined."""
        missing = self.values.isnan()
        return ~(missing.flatten(1).any(1) if missing.ndim > 1 else missing)


def rows_of(
    store: Store,
    contenders: Sequence[Contender],
    metrics: Sequence[ChosenMetric],
    groups: Mapping[str, int],
    resampling: Resampling,
) -> tuple[Row, ...]:
    """Reduce what is stored, one metric at a time.

    Args:
        store: holds the values.
        contenders: rules first, baselines after them.
        metrics: what was measured.
        groups: by key, in order, the class of each sample to be counted.
        resampling: how intervals are made.
    """
    rows: list[Row] = []
    for chosen in metrics:
        first: Found | None = None
        for one in contenders:
            if not one.measures(chosen.metric):
                continue
            keys, values = store.values(one.label, chosen.label, list(groups))
            errors = store.errors(one.label, chosen.label, list(groups))
            found = drawn(chosen.metric, keys, values, groups, resampling)
            gap = None if first is None else difference(chosen.metric, found, first, resampling)
            rows.append(_row(chosen, one.label, _estimate(chosen.metric, found, resampling), errors, gap))
            first = first or found
    return tuple(rows)


def drawn(
    metric: Metric, keys: Sequence[str], values: Tensor, groups: Mapping[str, int], resampling: Resampling
) -> Found:
    """Draw samples again and again and reduce each draw."""
    own = torch.tensor([groups[key] for key in keys], dtype=torch.int64)
    draws = resampled(metric, values, own, resamples=resampling.resamples, seed=resampling.seed)
    return Found(tuple(keys), values, own, draws)


def difference(metric: Metric, found: Found, first: Found, resampling: Resampling) -> Estimate:
    """Estimate by how much a metric differs between two rules, on the samples for which both have a value.

    reduce(values) − reduce(values of the first); whole samples are drawn, the same for both (Efron &
    Tibshirani 1993, section 13.3).

    Returns:
        NaN where no sample has both.
    """
    both = _both(found, first)
    if len(both) < len(found.keys) or len(both) < len(first.keys):
        groups = dict(zip(found.keys, found.groups.tolist(), strict=True))
        found, first = (drawn(metric, both, _picked(one, both), groups, resampling) for one in (found, first))
    if not both:
        nothing = float("nan")
        return Estimate(nothing, nothing, nothing, 0, 0, resampling.confidence)
    value = metric.reduce(found.values, found.groups) - metric.reduce(first.values, first.groups)
    low, high = interval(found.draws - first.draws, resampling.confidence)
    return Estimate(value, low, high, len(both), 0, resampling.confidence)


def _both(found: Found, first: Found) -> list[str]:
    other = {key for key, defined in zip(first.keys, first.defined.tolist(), strict=True) if defined}
    own = zip(found.keys, found.defined.tolist(), strict=True)
    return [key for key, defined in own if defined and key in other]


def _picked(found: Found, keys: Sequence[str]) -> Tensor:
    places = {key: place for place, key in enumerate(found.keys)}
    return found.values[[places[key] for key in keys]]


def _estimate(metric: Metric, found: Found, resampling: Resampling) -> Estimate:
    low, high = interval(found.draws, resampling.confidence)
    value = metric.reduce(found.values, found.groups)
    count = len(found.keys)
    return Estimate(value, low, high, count, count - int(found.defined.sum()), resampling.confidence)


def _row(
    chosen: ChosenMetric, rule: str, found: Estimate, errors: Mapping[str, str], gap: Estimate | None
) -> Row:
    about = chosen.metric
    return Row(
        kind=about.kind,
        metric=chosen.label,
        about=about.summary,
        better=about.better.value,
        bounds=about.bounds,
        units=about.units,
        rule=rule,
        estimate=found,
        failed=len(errors),
        error=next(iter(errors.values()), ""),
        difference=gap,
    )
