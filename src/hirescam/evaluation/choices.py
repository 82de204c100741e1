"""Which rules and metrics are meant by words such as ``gradcam``, ``faithfulness`` or ``name:option=1``."""

import ast
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hirescam.errors import HirescamError, MetricError, RuleError
from hirescam.metrics import INPUTS, Kind, Metric, get, metrics
from hirescam.rulebook import Rule
from hirescam.rulebook import get as get_rule

EVERYTHING = "all"
ORDER = (Kind.FAITHFULNESS, Kind.PERTURBATION, Kind.SANITY, Kind.SHAPE, Kind.LOCALISATION)
"""Kinds in the order in which they are shown: what the model does comes before what people see."""


@dataclass(frozen=True)
class ChosenRule:
    """A rule with the options that were asked for."""

    label: str
    rule: Rule


@dataclass(frozen=True)
class ChosenMetric:
    """A metric with the options that were asked for.

    Attributes:
        label: name and options, as in ``wrong_sign_rate (level=0.1)``.
        metric: to be called.
    """

    label: str
    metric: Metric


@dataclass(frozen=True)
class ChosenMetrics:
    """Metrics in the order in which they are shown, and what of `INPUTS` each one that was left out lacks."""

    metrics: tuple[ChosenMetric, ...]
    left_out: Mapping[str, str]


def choose_rules(words: Iterable[str | Rule]) -> tuple[ChosenRule, ...]:
    """Read names of rules, each perhaps with options as in ``shapley:samples=16``.

    Raises:
        RuleError: a name or option is unknown, or there is none.
    """
    found = [ChosenRule(word.name, word) if isinstance(word, Rule) else _rule(word) for word in words]
    if not found:
        raise RuleError("rules: got none, expected names such as hirescam and gradcam: see hirescam.rules()")
    return tuple({one.label: one for one in found}.values())


def choose_metrics(words: Iterable[str | Metric], given: Collection[str]) -> ChosenMetrics:
    """Read names of metrics, kinds of metrics, or ``all``.

    A metric that asks for something that the data do not have is left out if a kind or ``all`` brought it in.

    Args:
        words: names, perhaps with options as in ``wrong_sign_rate:level=0.1``; kinds; ``all``; or metrics.
        given: what there is, of `hirescam.metrics.INPUTS`.

    Raises:
        MetricError: a word is unknown, a metric that was asked for by name cannot be measured on these data,
            or nothing is left.
    """
    named: dict[str, ChosenMetric] = {}
    grouped: dict[str, ChosenMetric] = {}
    for word in words:
        into, found = _metrics(word)
        (named if into else grouped).update((one.label, one) for one in found)
    for one in named.values():
        _check(one.metric, given)
    lacking = {label: _lacks(one.metric, given) for label, one in grouped.items() if label not in named}
    left_out = {label: lack for label, lack in lacking.items() if lack}
    kept = {label: one for label, one in (grouped | named).items() if label not in left_out}
    if not kept:
        raise MetricError(_nothing(left_out))
    return ChosenMetrics(tuple(sorted(kept.values(), key=lambda one: ORDER.index(one.metric.kind))), left_out)


def with_std(chosen: ChosenMetrics, std: Sequence[float]) -> ChosenMetrics:
    """Tell metrics that add noise to pixels what these were divided by, unless that was said.

    Args:
        chosen: some of them may have an option ``std``.
        std: of each channel.
    """

    def told(one: ChosenMetric) -> ChosenMetric:
        known = metrics().get(one.metric.name)
        unsaid = known is not None and one.metric.options["std"] == known.options["std"]
        return replace(one, metric=one.metric.configure({"std": tuple(std)})) if unsaid else one

    found = (told(one) if "std" in one.metric.options else one for one in chosen.metrics)
    return replace(chosen, metrics=tuple(found))


def _rule(word: str) -> ChosenRule:
    name, options = _parsed(word, RuleError)
    chosen = get_rule(name)
    return ChosenRule(_label(name, options), chosen.configure(options) if options else chosen)


def _metrics(word: str | Metric) -> tuple[bool, list[ChosenMetric]]:
    """Say whether metrics were asked for by name, and which they are."""
    if isinstance(word, Metric):
        return True, [ChosenMetric(word.name, word)]
    if word == EVERYTHING or word in tuple(Kind):
        found = [one for one in metrics().values() if word in (EVERYTHING, one.kind)]
        return False, [ChosenMetric(one.name, one) for one in found]
    name, options = _parsed(word, MetricError)
    try:
        chosen = get(name)
    except MetricError as error:
        raise MetricError(f"{error}; kinds are {', '.join(Kind)}, and {EVERYTHING}") from None
    return True, [ChosenMetric(_label(name, options), chosen.configure(options) if options else chosen)]


def _parsed(word: str, kind: Callable[[str], HirescamError]) -> tuple[str, dict[str, Any]]:
    name, *pairs = word.split(":")
    options = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise kind(f"{word!r}: expected NAME:OPTION=VALUE, got {pair!r} after the colon")
        options[key] = _value(value)
    return name, options


def _value(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _label(name: str, options: Mapping[str, object]) -> str:
    said = ", ".join(f"{key}={value}" for key, value in sorted(options.items()))
    return f"{name} ({said})" if said else name


def _check(metric: Metric, given: Collection[str]) -> None:
    lack = _lacks(metric, given)
    if lack:
        raise MetricError(
            f"metric={metric.name!r} needs {_told(lack)}, which these data do not have: leave it out"
        )


def _lacks(metric: Metric, given: Collection[str]) -> str:
    return next((need for need in metric.needs if need not in given), "")


def _told(need: str) -> str:
    return f"{need} ({INPUTS[need]})"


def _nothing(left_out: Mapping[str, str]) -> str:
    if not left_out:
        return f"metrics: got none, expected names, kinds ({', '.join(Kind)}) or {EVERYTHING}"
    label, lack = next(iter(left_out.items()))
    return f"metrics: none can be measured on these data; {label} needs {_told(lack)}, which they do not have"
