"""Measure rules on samples, batch by batch, into a store."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from hirescam.errors import HirescamError, MetricError, RuleError
from hirescam.evaluation.choices import ChosenMetric
from hirescam.evaluation.contenders import Contender, Measure
from hirescam.evaluation.frames import OUTSIDE, Frame, NotSeenError, framed
from hirescam.evaluation.meter import Meter
from hirescam.evaluation.samples import Sample
from hirescam.evaluation.store import Entry, Store
from hirescam.explainer import Explainer
from hirescam.metrics import Scene
from hirescam.models import Model
from hirescam.passes.borrow import eager
from hirescam.passes.outputs import logits_of

Facts = dict[str, Any]
"""What is known about a sample, as plain data."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A sample to be measured.

    Attributes:
        sample: picture and class.
        members: the classes of the network of which the highest is explained; none for the predicted one.
        key: changes with the sample, its files and the members.
    """

    sample: Sample
    members: tuple[int, ...]
    key: str


def job_of(sample: Sample, members: tuple[int, ...]) -> Job:
    """Look at the files of a sample, once."""
    return Job(sample, members, hashlib.sha256(f"{sample.key} {members}".encode()).hexdigest()[:32])


@dataclass(frozen=True, slots=True)
class Bench:
    """What stays the same from batch to batch.

    Attributes:
        model: the network with its preprocessing.
        explainer: explains it.
        contenders: what is compared.
        metrics: what is measured.
        store: takes the values.
        meter: is told how much is done.
        multilabel: whether probabilities are sigmoids instead of a softmax.
    """

    model: Model
    explainer: Explainer
    contenders: tuple[Contender, ...]
    metrics: tuple[ChosenMetric, ...]
    store: Store
    meter: Meter
    multilabel: bool


def device_of(model: Model) -> torch.device:
    """Give the device that a network is on."""
    return next(iter(model.module.parameters()), torch.zeros(0)).device


def drawn(jobs: Sequence[Job], *, limit: int | None, seed: int) -> list[Job]:
    """Put jobs into random order and take the first; a higher limit later adds to the same."""
    order = list(jobs)
    Random(seed).shuffle(order)
    return order[:limit]


def measure_all(bench: Bench, jobs: Sequence[Job], *, batch: int) -> None:
    """Fill the store with what it does not have yet.

    A batch is always made of the same jobs, whatever the store has already, so that a run that goes on gives
    the values of one that was never broken off.
    """
    bench.meter.begin(len(jobs) * len(bench.contenders))
    for start in range(0, len(jobs), batch):
        part = jobs[start : start + batch]
        measure_batch(bench, part)
        bench.meter.reach((start + len(part)) * len(bench.contenders))


def measure_batch(bench: Bench, jobs: Sequence[Job]) -> None:
    """Measure one batch, contender by contender, each written as soon as it is there."""
    keys = {job.key: job for job in jobs}
    known = bench.store.facts(list(keys))
    live = {key: job for key, job in keys.items() if not unusable(known.get(key, {}))}
    wanted = {one: _missing(bench, one, list(live)) for one in bench.contenders}
    if not live or not any(wanted.values()):
        return
    facts, frames = _framed(bench.model, live)
    bench.store.write(facts, ())
    for group in _alike(frames):
        scene, facts = _scene(bench, {key: live[key] for key in group}, group)
        bench.store.write(facts, ())
        for contender, metrics in wanted.items():
            bench.meter.expect(len(group))
            if metrics:
                bench.store.write({}, _measured(contender, scene, tuple(group), metrics))
            bench.meter.step()


def unusable(facts: Mapping[str, Any]) -> bool:
    """Tell whether a sample was left out or could not be read."""
    return bool(facts.get("left_out") or facts.get("failure"))


def _missing(bench: Bench, contender: Contender, keys: Sequence[str]) -> list[ChosenMetric]:
    fitting = [one for one in bench.metrics if contender.measures(one.metric)]
    return [one for one in fitting if bench.store.missing(contender.label, one.label, keys)]


def _framed(model: Model, jobs: Mapping[str, Job]) -> tuple[dict[str, Facts], dict[str, Frame]]:
    facts: dict[str, Facts] = {}
    frames: dict[str, Frame] = {}
    for key, job in jobs.items():
        try:
            frames[key] = framed(model, job.sample)
        except NotSeenError:
            facts[key] = {"left_out": OUTSIDE}
        except HirescamError as error:
            facts[key] = {"failure": str(error)}
    return facts, frames


def _alike(frames: Mapping[str, Frame]) -> Iterator[dict[str, Frame]]:
    """Put frames that fit into one tensor together."""
    shapes = dict.fromkeys(
        (frame.image.shape, frame.mask is None, frame.boxes is None) for frame in frames.values()
    )
    for shape in shapes:
        yield {
            key: frame
            for key, frame in frames.items()
            if (frame.image.shape, frame.mask is None, frame.boxes is None) == shape
        }


def _scene(
    bench: Bench, jobs: Mapping[str, Job], frames: Mapping[str, Frame]
) -> tuple[Scene, dict[str, Facts]]:
    device = device_of(bench.model)
    images = torch.stack([frame.image for frame in frames.values()]).to(device)
    logits = bench.explainer(images).logits
    target = torch.tensor(
        [_highest(row, jobs[key].members) for row, key in zip(logits, frames, strict=True)], device=device
    )
    masks = [frame.mask for frame in frames.values() if frame.mask is not None]
    boxes = [frame.boxes for frame in frames.values() if frame.boxes is not None]
    scene = Scene(
        bench.explainer,
        images,
        target=target,
        masks=torch.stack(masks).to(device) if masks else None,
        boxes=[one.to(device) for one in boxes] or None,
        predict=_sigmoids(bench.explainer) if bench.multilabel else None,
    )
    odds = logits.sigmoid() if bench.multilabel else logits.softmax(1)
    facts = {}
    for place, (key, frame) in enumerate(frames.items()):
        index = int(target[place])
        facts[key] = {
            "target": index,
            "label": bench.model.label(index),
            "predicted": int(logits[place].argmax()),
            "score": float(logits[place, index]),
            "probability": float(odds[place, index]),
            "scale": frame.scale,
            "traced": frame.traced,
        }
    return scene, facts


def _highest(logits: Tensor, members: tuple[int, ...]) -> int:
    if not members:
        return int(logits.argmax())
    return members[int(logits[list(members)].argmax())]


def _sigmoids(explainer: Explainer) -> Callable[[Tensor], Tensor]:
    def predict(images: Tensor) -> Tensor:
        with torch.inference_mode(), eager(explainer.model):
            parts = images.split(16)
            return torch.cat([logits_of(explainer.model(part), None, len(part)).sigmoid() for part in parts])

    return predict


def _measured(
    contender: Contender, scene: Scene, keys: Sequence[str], metrics: Sequence[ChosenMetric]
) -> Iterator[Entry]:
    together, alone = contender.on(scene), _Alone(contender, scene)
    for chosen in metrics:
        try:
            values = _values(together, chosen, len(keys))
            yield from (
                Entry(key, contender.label, chosen.label, one) for key, one in zip(keys, values, strict=True)
            )
        except (RuleError, MetricError) as error:  # does not depend on the image
            yield from (_failed(key, contender, chosen, error) for key in keys)
        except Exception as error:
            for place, key in enumerate(keys):
                yield (
                    alone.entry(place, key, chosen)
                    if len(keys) > 1
                    else _failed(key, contender, chosen, error)
                )


class _Alone:
    """The same batch, one sample at a time, so that a bad one does not lose the others."""

    def __init__(self, contender: Contender, scene: Scene) -> None:
        self.contender, self.scene = contender, scene
        self.measures: dict[int, Measure] = {}

    def entry(self, place: int, key: str, chosen: ChosenMetric) -> Entry:
        try:
            if place not in self.measures:
                self.measures[place] = self.contender.on(_single(self.scene, place))
            value = _values(self.measures[place], chosen, 1)[0]
            return Entry(key, self.contender.label, chosen.label, value)
        except Exception as error:
            return _failed(key, self.contender, chosen, error)


def _single(scene: Scene, place: int) -> Scene:
    rows = slice(place, place + 1)
    return Scene(
        scene.explainer,
        scene.images[rows],
        target=None if scene.target is None else scene.target[rows],
        masks=None if scene.masks is None else scene.masks[rows],
        boxes=None if scene.boxes is None else scene.boxes[rows],
        predict=scene.predict,
    )


def _values(measure: Measure, chosen: ChosenMetric, count: int) -> Tensor:
    values = measure(chosen.metric)
    if len(values) != count:
        raise MetricError(f"metric={chosen.label!r} gave {len(values)} values for {count} samples")
    return values.detach()


def _failed(key: str, contender: Contender, chosen: ChosenMetric, error: Exception) -> Entry:
    said = str(error) if isinstance(error, HirescamError) else f"unexpected {type(error).__name__}: {error}"
    return Entry(key, contender.label, chosen.label, None, said or type(error).__name__)
