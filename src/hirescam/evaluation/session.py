"""One evaluation from start to end."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import hirescam
from hirescam.errors import HirescamError, ImageFileError, InputError, TargetError
from hirescam.evaluation.choices import (
    ChosenMetric,
    ChosenMetrics,
    choose_metrics,
    choose_rules,
    with_std,
)
from hirescam.evaluation.contenders import BASELINES, DIFFERENCE, Contender, RuleContender
from hirescam.evaluation.frames import framed, whole
from hirescam.evaluation.meter import Meter, Progress
from hirescam.evaluation.naming import naming_of
from hirescam.evaluation.notes import notes_of
from hirescam.evaluation.result import About, Evaluation
from hirescam.evaluation.runner import Bench, Job, device_of, drawn, job_of, measure_all, unusable
from hirescam.evaluation.samples import Data, Sample, as_data
from hirescam.evaluation.store import Store
from hirescam.evaluation.summary import Resampling, rows_of
from hirescam.evaluation.writing import Measured, write_evaluation, write_values
from hirescam.explainer import Explainer
from hirescam.explanation import Explanation, hash_weights
from hirescam.metrics import INPUTS, Metric
from hirescam.models import Model
from hirescam.pages import Failure
from hirescam.reports import check_pictures, check_writable, printable
from hirescam.rulebook import Rule
from hirescam.wording import DEFAULT_METRICS, DEFAULT_RULES

STORE = "values.sqlite"
NO_CLASS = "no class of the network for"

_GROUND_TRUTH = {"masks", "boxes", "unused"}


@dataclass(frozen=True, slots=True)
class Settings:
    """How to evaluate.

    Attributes:
        layer: name of a layer; None for the best.
        batch: how many samples go through the network at once.
        limit: measure so many samples, drawn at random; None for all.
        seed: of that draw, and of the intervals.
        confidence: of the intervals.
        resamples: draws for each interval.
        whole: let the network see the whole picture, squeezed, instead of its own crop.
        multilabel: classes do not exclude each other: probabilities are sigmoids; None asks the model.
        classes: the network's classes for some class names of the data, as in `naming_of`.
    """

    layer: str | None = None
    batch: int = 16
    limit: int | None = None
    seed: int = 0
    confidence: float = 0.95
    resamples: int = 1000
    whole: bool = False
    multilabel: bool | None = None
    classes: Mapping[str, object] = field(default_factory=dict)


def evaluate(  # noqa: PLR0913 - what, on what, with what, how; and where to
    model: Model,
    samples: Data | Iterable[Sample],
    *,
    rules: Iterable[str | Rule] = DEFAULT_RULES,
    metrics: Iterable[str | Metric] = DEFAULT_METRICS,
    settings: Settings = Settings(),
    out: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Measure rules on samples.

    A sample whose picture cannot be read, or on which one metric fails, does not lose the others. At any
    moment one batch of pictures is held.

    Args:
        model: the network with its preprocessing, from `hirescam.models.resolve`.
        samples: from `folder_data` or `voc_data`, or of one's own.
        rules: names, perhaps with options as in ``shapley:samples=16``. The first is what the others are
            compared with.
        metrics: names, kinds or ``all``; of a kind, those that the data do not allow are left out.
        settings: how to evaluate.
        out: a folder that keeps values as they come, so that a run that was broken off goes on, and one with
            more samples, rules or metrics adds to them; None keeps them in memory.
        progress: called with how much is done and how much there is to do.

    Raises:
        HirescamError: the model does not take pictures, a name is unknown, a metric that was asked for by
            name cannot be measured, no sample can be used, or the folder cannot be written to.
    """
    check_pictures(model)
    _check(settings)
    if out is not None:
        check_writable(out)
    meter = Meter(progress)
    session = _Session(model, as_data(samples), settings, meter)
    compared = choose_rules(rules)
    chosen = choose_metrics(metrics, session.given)
    if session.model.preset is not None:
        chosen = with_std(chosen, session.model.preset.std)
    contenders: tuple[Contender, ...] = (*map(RuleContender, compared), *BASELINES)
    store = Store(out and out / STORE, session.config)
    try:
        bench = session.bench(contenders, chosen.metrics, store)
        measure_all(bench, session.jobs, batch=settings.batch)
        found, measured = session.result(bench, chosen)
        if out is not None:
            write_values(measured, out)
            write_evaluation(found, out)
        return found
    finally:
        store.close()


class _Session:
    """What is known before anything is measured."""

    def __init__(self, model: Model, data: Data, settings: Settings, meter: Meter) -> None:
        self.meter = meter
        self.model = whole(model) if settings.whole else model
        self.data, self.settings = data, settings
        self.multilabel = model.multilabel if settings.multilabel is None else settings.multilabel
        self.explainer = Explainer(model.module, layer=settings.layer, progress=meter.within)
        self.left_out = Counter(data.left_out)
        self.candidates = _jobs(self.model, data, settings, self.left_out)
        self.jobs = drawn(self.candidates, limit=settings.limit, seed=settings.seed)
        first = self._first()
        self.certificate = first.certificate
        _check_classes(self.model, self.jobs, first.logits.shape[1])

    @property
    def given(self) -> set[str]:
        """What metrics may ask for."""
        masks = {"masks"} if all(job.sample.located for job in self.jobs) else set()
        boxes = {"boxes"} if all(job.sample.boxes for job in self.jobs) else set()
        return set(INPUTS) - _GROUND_TRUTH | masks | boxes

    @property
    def config(self) -> dict[str, Any]:
        """Everything that a value depends on, besides sample, rule and metric."""
        return {
            "hirescam": hirescam.__version__,
            "torch": str(torch.__version__),
            "model": self.model.name,
            "weights": hash_weights(self.model.module),
            "layer": self.certificate.layer,
            "size": list(self.model.input_shape),
            "preset": None if self.model.preset is None else repr(self.model.preset),
            "whole": self.settings.whole,
            "multilabel": self.multilabel,
        }

    def bench(
        self, contenders: tuple[Contender, ...], metrics: tuple[ChosenMetric, ...], store: Store
    ) -> Bench:
        """Put together what stays the same from batch to batch."""
        difference = ChosenMetric(DIFFERENCE.name, DIFFERENCE)
        return Bench(
            self.model, self.explainer, contenders, (*metrics, difference), store, self.meter, self.multilabel
        )

    def result(self, bench: Bench, chosen: ChosenMetrics) -> tuple[Evaluation, Measured]:
        """Reduce what was measured."""
        drawn_keys = {job.key for job in self.jobs}
        jobs = {job.key: job for job in self.candidates if job.key in drawn_keys}
        known = bench.store.facts(list(jobs))
        used = {key: job for key, job in jobs.items() if not unusable(known[key])}
        facts = {key: known[key] for key in used}
        measured = Measured(bench.store, bench.contenders, chosen.metrics, used, facts)
        skipped = Counter(fact["left_out"] for fact in known.values() if fact.get("left_out"))
        settings = self.settings
        resampling = Resampling(settings.confidence, settings.resamples, settings.seed)
        found = Evaluation(
            about=self._about(used),
            rows=rows_of(bench.store, bench.contenders, chosen.metrics, _groups(used, facts), resampling),
            left_out=dict(self.left_out + skipped),
            failures=tuple(_failures(jobs, known)),
            notes=notes_of(measured, chosen, self.certificate),
        )
        return found, measured

    def _about(self, used: Mapping[str, Job]) -> About:
        settings = self.settings
        return About(
            model=self.model.name,
            origin=self.model.origin,
            certificate=self.certificate,
            data=self.data.name,
            samples=len(used),
            pictures=len({job.sample.path for job in used.values()}),
            size=tuple(self.model.input_shape[1:]),
            options={
                "limit": settings.limit,
                "seed": settings.seed,
                "confidence": settings.confidence,
                "whole": settings.whole,
                "multilabel": self.multilabel,
            },
        )

    def _first(self) -> Explanation:
        """Explain the first sample that can be read, which chooses and certifies the layer."""
        first: HirescamError | None = None
        for job in self.jobs:
            try:
                image = framed(self.model, job.sample).image
            except HirescamError as error:
                first = first or error
                continue
            return self.explainer(image[None].to(device_of(self.model)))
        raise ImageFileError(f"data={self.data.name!r}: none of the samples can be used; the first: {first}")


def _jobs(model: Model, data: Data, settings: Settings, left_out: Counter[str]) -> list[Job]:
    """List the samples that the network has a class for, in the order of the data."""
    wanted = dict.fromkeys(sample.wanted for sample in data if sample.wanted is not None)
    naming = naming_of(model, wanted, settings.classes)
    jobs = []
    for sample in data:
        members = naming[sample.wanted] if sample.wanted is not None else ()
        if sample.wanted is not None and not members:
            left_out[f"{NO_CLASS} {sample.wanted!r}"] += 1
        else:
            jobs.append(job_of(sample, members))
    if not jobs:
        raise InputError(_nothing(model, data, list(wanted)))
    return jobs


def _check_classes(model: Model, jobs: Iterable[Job], count: int) -> None:
    for job in jobs:
        wrong = [index for index in job.members if not 0 <= index < count]
        if wrong:
            name = job.sample.wanted
            raise TargetError(
                f"classes: for {name!r}, {wrong[0]} is no class of {model.name}, which has {count}"
            )


def _check(settings: Settings) -> None:
    for name in ("batch", "limit", "resamples"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise InputError(f"{name}={value} must be at least 1")
    if not 0 < settings.confidence < 1:
        raise InputError(f"confidence={settings.confidence} must be between 0 and 1, such as 0.95")


def _nothing(model: Model, data: Data, wanted: list[str]) -> str:
    if not wanted:
        return f"data={data.name!r} holds no samples"
    some = ", ".join(repr(name) for name in wanted[:5])
    more = " ..." if len(wanted) > 5 else ""
    return (
        f"data={data.name!r}: {model.name} has no class for any of {some}{more}: "
        'give the names of its classes with labels, or a table such as {"cat": [281, 282]} with classes'
    )


def _groups(used: Mapping[str, Job], facts: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    names = {key: job.sample.wanted or str(facts[key]["target"]) for key, job in used.items()}
    numbers = {name: place for place, name in enumerate(sorted(set(names.values())))}
    return {key: numbers[name] for key, name in names.items()}


def _failures(jobs: Mapping[str, Job], facts: Mapping[str, Mapping[str, Any]]) -> Iterable[Failure]:
    for key, job in jobs.items():
        if facts[key].get("failure"):
            yield Failure(printable(job.sample.name), printable(facts[key]["failure"]))
