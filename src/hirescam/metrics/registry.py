"""The registry of metrics: it feeds the Python interface, the command line, the docs and the tests.

A metric is a pure function. Its positional parameters come from one vocabulary, `INPUTS`, so that whoever
holds those things can call it and `hirescam.metrics.case.Case` can call all of them; its keyword-only
parameters are its options. It returns one value (or one row of counts) for each of ``n`` samples.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

from hirescam.errors import MetricError
from hirescam.metrics import reductions
from hirescam.metrics.reductions import Reduction

F = TypeVar("F", bound=Callable[..., Tensor])


class Kind(StrEnum):
    """What a metric asks about an explanation."""

    FAITHFULNESS = "faithfulness"
    PERTURBATION = "perturbation"
    LOCALISATION = "localisation"
    SANITY = "sanity"
    SHAPE = "shape"


class Better(StrEnum):
    """Which direction is better, where there is one."""

    HIGHER = "higher"
    LOWER = "lower"
    NEITHER = "neither"


FAITHFULNESS, PERTURBATION, LOCALISATION, SANITY, SHAPE = Kind
HIGHER, LOWER, NEITHER = Better

INPUTS: dict[str, str] = {
    "raw": "(n, *space): signed maps at the layer's resolution, in units of the score",
    "effects": "(n, *space): what the score loses when one location of the layer is removed",
    "reference": "(n, *space): HiResCAM's raw maps at the same layer",
    "unused": "(n, *space) bool: locations that the score cannot come from",
    "score_kept": "function from (m, n, *space) to (m, n): scores with the layer multiplied by these factors",
    "maps": "(n, *size): signed maps resampled to the images",
    "images": "(n, c, *size): preprocessed images",
    "target": "(n,) int64: the explained class of each image",
    "predict": "function from images (m, c, *size) to class probabilities (m, classes)",
    "logits": "function from images (m, c, *size) to logits (m, classes)",
    "explain": "function from images (n, c, *size) to maps (n, *size), for the same targets",
    "explain_target": "function from other targets (n,) to maps (n, *size), for the same images",
    "masks": "(n, *size) bool: where the target's objects are",
    "boxes": "n tensors (k, 2, d): corners of the target's k objects, start inclusive, stop exclusive",
    "model": "the network",
    "explain_with": "function from a network like the model to maps (n, *size), all else the same",
}
"""The things a metric may ask for, by the name of a positional parameter."""


@dataclass(frozen=True)
class Metric:
    """A metric and what is known about it.

    Attributes:
        name: key in the registry, choice on the command line, heading in the docs.
        function: the metric itself; it gives ``(n, ...)``, NaN where it is undefined for a sample.
        kind: what it asks.
        better: which direction is better.
        bounds: the least and the largest value that it can take.
        units: of a value.
        cite: key in the bibliography.
        reduction: from the values of all samples to one number.
    """

    name: str
    function: Callable[..., Tensor]
    kind: Kind
    better: Better
    bounds: tuple[float, float]
    units: str
    cite: str
    reduction: Reduction

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the things that it asks for, from `INPUTS`, in order."""
        return tuple(name for name, item in self._parameters.items() if item.kind is not item.KEYWORD_ONLY)

    @property
    def options(self) -> dict[str, Any]:
        """Its options and their defaults."""
        found = self._parameters.items()
        return {name: item.default for name, item in found if item.kind is item.KEYWORD_ONLY}

    def configure(self, options: Mapping[str, Any]) -> "Metric":
        """Return the same metric with other options.

        Raises:
            MetricError: it has no option of that name.
        """
        unknown = [name for name in options if name not in self.options]
        if unknown:
            there = ", ".join(self.options) or "none"
            raise MetricError(f"metric={self.name!r} has no option {unknown[0]!r}: its options are {there}")
        return replace(self, function=partial(self.function, **options))

    def reduce(self, values: Tensor, groups: Tensor | None = None) -> float:
        """Reduce the values of all samples to one number.

        Args:
            values: ``(n, ...)``, as the function gives them, of as many batches as there are.
            groups: ``(n,)`` int64, the class of each sample, for metrics that average over classes.
        """
        return self.reduction(values, groups)

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return self._doc.split("\n")[0]

    @property
    def description(self) -> str:
        """The docstring after its first line: formula, edge cases, source, options."""
        return self._doc.partition("\n\n")[2]

    @property
    def _plain(self) -> Callable[..., Tensor]:
        return self.function.func if isinstance(self.function, partial) else self.function

    @property
    def _parameters(self) -> dict[str, inspect.Parameter]:
        return dict(inspect.signature(self.function).parameters)

    @property
    def _doc(self) -> str:
        return inspect.getdoc(self._plain) or ""


_METRICS: dict[str, Metric] = {}


def metric(
    *,
    kind: Kind,
    better: Better,
    bounds: tuple[float, float],
    units: str,
    cite: str,
    reduction: Reduction = reductions.mean,
) -> Callable[[F], F]:
    """Register a function under its own name."""

    def register(function: F) -> F:
        name = function.__name__
        if name in _METRICS:
            raise MetricError(f"metric {name!r} is registered already: give the new one another name")
        made = Metric(name, function, kind, better, bounds, units, cite, reduction)
        strange = [need for need in made.needs if need not in INPUTS]
        if strange:
            raise MetricError(f"metric {name!r} asks for {strange[0]!r}: it may ask for {', '.join(INPUTS)}")
        _METRICS[name] = made
        return function

    return register


def metrics() -> dict[str, Metric]:
    """Return all metrics by name."""
    return dict(_METRICS)


def get(name: str | Metric) -> Metric:
    """Return one metric by name; a metric (perhaps with other options) is returned as it is.

    Raises:
        MetricError: there is none of this name.
    """
    if isinstance(name, Metric):
        return name
    if name not in _METRICS:
        close = get_close_matches(str(name), _METRICS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(_METRICS))}"
        raise MetricError(f"metric={name!r} is unknown: {hint}")
    return _METRICS[name]
