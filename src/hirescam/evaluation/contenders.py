"""What is compared: rules; and, for localisation, maps that know nothing of picture or network."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hirescam.evaluation.choices import ChosenRule
from hirescam.metrics import Better, Case, Kind, Metric, Scene, center_map
from hirescam.metrics.reductions import mean

_DRAWN = frozenset({"maps", "masks", "boxes", "target", "images"})

Measure = Callable[[Metric], Tensor]
"""From a metric to its values ``(n, ...)`` on one batch."""


class Contender(Protocol):
    """Something that has a map for every image."""

    @property
    def label(self) -> str:
        """Its name in tables."""

    def measures(self, metric: Metric) -> bool:
        """Whether it is of use with this metric."""

    def on(self, scene: Scene) -> Measure:
        """Prepare one batch."""


@dataclass(frozen=True)
class RuleContender:
    """A rule."""

    chosen: ChosenRule

    @property
    def label(self) -> str:
        """Name and options of the rule."""
        return self.chosen.label

    def measures(self, metric: Metric) -> bool:
        """All."""
        return True

    def on(self, scene: Scene) -> Measure:
        """Explain a batch when the first metric asks for it."""
        return Case(scene, self.chosen.rule).measure


@dataclass(frozen=True)
class Baseline:
    """A map that is the same for every image: what a localisation figure is worth has to be seen against it.

    Attributes:
        label: its name in tables.
        draw: from the size of the images to the map.
    """

    label: str
    draw: Callable[[tuple[int, ...]], Tensor]

    def measures(self, metric: Metric) -> bool:
        """Localisation alone."""
        return metric.kind is Kind.LOCALISATION and _DRAWN.issuperset(metric.needs)

    def on(self, scene: Scene) -> Measure:
        """Give the same map to every image."""
        size = tuple(scene.images.shape[2:])
        maps = self.draw(size).to(scene.images).expand(len(scene.images), *size)

        def measure(metric: Metric) -> Tensor:
            given = [
                maps if need == "maps" else getattr(scene, _FIELDS.get(need, need)) for need in metric.needs
            ]
            return metric.function(*given)

        return measure


_FIELDS = {"target": "classes"}


def flat(size: tuple[int, ...]) -> Tensor:
    """Give every pixel the same: the figure is then that of the area."""
    return torch.ones(size)


BASELINES = (Baseline("baseline: area", flat), Baseline("baseline: centre", center_map))


def map_difference(raw: Tensor, reference: Tensor) -> Tensor:
    """Compare a map with HiResCAM's: as they are, and after the factor that brings them closest.

    max |raw − reference| / max |reference|, and the same for a · raw with a = Σ raw · reference / Σ raw².

    Returns:
        ``(n, 2)``; NaN where HiResCAM's map is all zero.
    """
    raw, reference = raw.double().flatten(1), reference.double().flatten(1)
    top = reference.abs().amax(1)
    factor = (raw * reference).sum(1) / (raw * raw).sum(1).clamp_min(1e-300)
    gaps = [(one - reference).abs().amax(1) for one in (raw, factor[:, None] * raw)]
    return torch.stack(gaps, 1) / top.where(top > 0, torch.nan)[:, None]


DIFFERENCE = Metric(
    "map_difference",
    map_difference,
    kind=Kind.FAITHFULNESS,
    better=Better.NEITHER,
    bounds=(0, float("inf")),
    units="share of the largest value",
    cite="draelos2020",
    reduction=mean,
)
"""Measured for every rule, to say which of them give one and the same map; not shown as a metric."""
