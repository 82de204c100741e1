"""A trained network, images, and what is known for certain about them: ready to be explained and measured."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from hirescam.errors import InputError
from hirescam.explainer import Explainer
from hirescam.metrics import Case, Estimate, Metric, Scene, estimate, get
from hirescam.metrics.case import Predict
from hirescam.rulebook import Rule

FAITHFULNESS = (
    "ablation_correlation",
    "ablation_error",
    "wrong_sign_rate",
    "dead_hotspot_rate",
    "contradicted_mass",
    "area_expansion",
)
"""What can be asked on every task."""


@dataclass(frozen=True, eq=False)
class Task:
    """A question with a known answer.

    Attributes:
        name: of the function that made it.
        model: in evaluation mode.
        layer: the layer to explain.
        images: ``(n, 1, side, side)``, none of which the network was trained on.
        labels: ``(n,)`` int64: what the images show.
        target: ``(n,)`` int64: the class to explain for each image.
        masks: ``(n, side, side)`` bool, where the evidence for the target is, or None.
        unused: ``(*space)`` bool, locations of the layer that the score cannot come from, or None.
        predict: class probabilities of images; None is a softmax of the model's logits.
        facts: what was measured about the network to see that the task is what it should be.
    """

    name: str
    model: nn.Module
    layer: str
    images: Tensor
    labels: Tensor
    target: Tensor
    masks: Tensor | None = None
    unused: Tensor | None = None
    predict: Predict | None = None
    facts: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def scene(self) -> Scene:
        """The task as metrics take it."""
        return Scene(
            Explainer(self.model, layer=self.layer), self.images, self.target,
            masks=self.masks, unused=self.unused, predict=self.predict,
        )  # fmt: skip

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that this task has an answer for."""
        return (
            *FAITHFULNESS,
            *(("unused_mass",) if self.unused is not None else ()),
            *(("relevance_mass",) if self.masks is not None else ()),
        )


def compare(
    tasks: Task | Sequence[Task],
    *,
    rules: Iterable[str | Rule] = ("hirescam", "gradcam"),
    metrics: Iterable[str | Metric] | None = None,
) -> dict[str, dict[str, Estimate]]:
    """Measure rules on a task, or on the same task made from several seeds.

    Args:
        tasks: one or more; the images of all are pooled. Intervals are over images, for these networks:
            how much networks differ is seen only from one estimate for each seed.
        rules: names of rules, or rules with options.
        metrics: names of metrics, or metrics with options; None takes what the first task has an answer for.

    Returns:
        For the name of each rule, and for that of each metric, an estimate with its interval.

    Raises:
        InputError: there is no task.
        HirescamError: a rule or metric is unknown, or the task lacks what it needs.
    """
    pooled = [tasks] if isinstance(tasks, Task) else list(tasks)
    if not pooled:
        raise InputError("tasks is empty: give a task, such as hirescam.tasks.digits_cut()")
    chosen = [get(metric) for metric in (pooled[0].metrics if metrics is None else metrics)]
    groups = torch.cat([task.target for task in pooled])
    found = {}
    for rule in rules:
        cases = [Case(task.scene, rule) for task in pooled]
        name = rule if isinstance(rule, str) else rule.name
        found[name] = {
            metric.name: estimate(metric, torch.cat([case.measure(metric) for case in cases]), groups)
            for metric in chosen
        }
    return found
