"""Everything that a metric may ask for about one batch: what all rules share, and one rule's maps.

A `Scene` is a batch of images with one target each; a `Case` is one rule's explanation of it. Both compute
a thing when it is first asked for and keep it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from hirescam.errors import MetricError
from hirescam.explainer import Explainer, check_finite
from hirescam.explanation import Explanation
from hirescam.metrics.registry import INPUTS, Metric, get
from hirescam.passes.borrow import eager
from hirescam.passes.outputs import OutputSelector, logits_of
from hirescam.passes.trace import Trace
from hirescam.rulebook import Rule
from hirescam.rulebook import get as get_rule

_IMAGES_TOGETHER = 16
_BLOCK_BYTES = 128 * 2**20
_CELLS_TOGETHER = 4096

Predict = Callable[[Tensor], Tensor]
"""From images ``(m, c, *size)`` to class probabilities ``(m, classes)``."""


@dataclass(frozen=True)
class Scene:
    """A batch of images with one target each, and what is known about them.

    Attributes:
        explainer: explains the model.
        images: ``(n, c, *size)``, preprocessed.
        target: ``(n,)`` int64 class of each image; None is the predicted one.
        masks: ``(n, *size)`` bool, where the target's objects are.
        boxes: one tensor ``(k, 2, d)`` per image: corners of its ``k`` objects in pixels, start inclusive
            and stop exclusive, in the order of the space axes.
        unused: ``(*space)`` or ``(n, *space)`` bool, locations that the score cannot come from.
        predict: class probabilities of images; None takes a softmax of the model's logits.
        output: how to find the logits in what the model returns, as for the explainer.
    """

    explainer: Explainer
    images: Tensor
    target: Tensor | None = None
    masks: Tensor | None = None
    boxes: Sequence[Tensor] | None = None
    unused: Tensor | None = None
    predict: Predict | None = None
    output: OutputSelector = None

    @cached_property
    def trace(self) -> Trace:
        """The pass that all rules and all removals share, with gradients of the explained score."""
        return self.explainer.trace(self.images, target=self.target)

    @cached_property
    def classes(self) -> Tensor:
        """``(n,)``: the explained class of each image."""
        return self.trace.index[:, 0]

    @cached_property
    def reference(self) -> Explanation:
        """HiResCAM's explanation."""
        return self.explainer(self.images, target=self.target)

    @cached_property
    def effects(self) -> Tensor:
        """``(n, *space)``: Δ[s] = score − score(A with all channels at s set to zero)."""
        space = self.trace.activations.shape[2:]
        cells = torch.arange(space.numel(), device=self.images.device)
        whole = torch.ones((1, len(self.images), *space), device=self.images.device)
        kept = [
            self.score_kept((cells != block[:, None]).reshape(-1, 1, *space).expand(-1, *whole.shape[1:]))
            for block in cells.split(_CELLS_TOGETHER)
        ]
        lost = self.score_kept(whole) - torch.cat(kept)
        return lost.T.reshape(-1, *space)

    def score_kept(self, keep: Tensor) -> Tensor:
        """Scores ``(m, n)`` of the head when its input is multiplied by factors ``(m, n, *space)``."""
        activations = self.trace.activations
        size = max(1, _BLOCK_BYTES // max(1, activations.nbytes))
        parts = [
            self.trace.rescore(activations * block.unsqueeze(2).to(activations))[..., 0]
            for block in keep.split(size)
        ]
        return torch.cat(parts)

    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities ``(m, classes)`` of images."""
        if self.predict is not None:
            return self.predict(images)
        return self.logits(images).softmax(1)

    def logits(self, images: Tensor) -> Tensor:
        """Logits ``(m, classes)`` of images, a few at a time, as the model is."""
        model = self.explainer.model
        with torch.inference_mode(), eager(model):
            parts = images.split(_IMAGES_TOGETHER)
            found = [logits_of(model(part), self.output, len(part)) for part in parts]
        return torch.cat(found)


@dataclass(frozen=True)
class Case:
    """One rule's explanation of a scene.

    Example:
        >>> import torch, hirescam
        >>> from torch import nn
        >>> from hirescam.metrics import Case, Scene
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)).eval()
        >>> scene = Scene(hirescam.Explainer(model), torch.rand(2, 3, 8, 8))
        >>> Case(scene, "hirescam").measure("wrong_sign_rate")
        tensor([0., 0.], dtype=torch.float64)
    """

    scene: Scene
    rule: str | Rule = "hirescam"

    def measure(self, metric: str | Metric) -> Tensor:
        """Call a metric on this case.

        Returns:
            ``(n, ...)``, NaN where the metric is undefined for a sample.

        Raises:
            MetricError: the metric is unknown, or asks for something that the scene was not given.
        """
        chosen = get(metric)
        return chosen.function(*(self.given(name, chosen) for name in chosen.needs))

    def given(self, name: str, metric: Metric) -> object:
        """Give one of `INPUTS`; the metric is named where there is none."""
        value: object = getattr(self, name)
        if value is None:
            raise MetricError(
                f"metric={metric.name!r} needs {name} ({INPUTS[name]}), which this scene was not given: "
                f"pass Scene(..., {name}=...) or leave the metric out"
            )
        return value

    @cached_property
    def explanation(self) -> Explanation:
        """The rule's explanation of the scene's images, from the pass that all rules share.

        Only a rule that does not hold the divisors of normalisers where that pass does has a pass of its own.
        """
        scene, chosen = self.scene, get_rule(self.rule)
        if chosen.is_hirescam:
            return scene.reference
        if scene.trace.held and not chosen.holds:
            return scene.explainer(scene.images, target=scene.target, rule=chosen)
        raw = chosen.function(scene.trace)
        check_finite(raw)
        return replace(scene.reference, raw=raw, rule=chosen.name)

    @property
    def raw(self) -> Tensor:
        """Signed maps at the layer's resolution."""
        return self.explanation.raw[:, 0]

    @property
    def reference(self) -> Tensor:
        """HiResCAM's raw maps."""
        return self.scene.reference.raw[:, 0]

    @property
    def effects(self) -> Tensor:
        """What the score loses with each location."""
        return self.scene.effects

    @property
    def unused(self) -> Tensor | None:
        """Locations that the score cannot come from, for each map."""
        return None if self.scene.unused is None else self.scene.unused.expand_as(self.raw)

    @property
    def score_kept(self) -> Callable[[Tensor], Tensor]:
        """Scores of the head on parts of its input."""
        return self.scene.score_kept

    @cached_property
    def maps(self) -> Tensor:
        """Signed maps resampled to the images, in units of the score."""
        return _on_image(self.explanation)

    @property
    def images(self) -> Tensor:
        """The images."""
        return self.scene.images

    @property
    def target(self) -> Tensor:
        """The explained classes."""
        return self.scene.classes

    @property
    def predict(self) -> Predict:
        """Class probabilities of other images."""
        return self.scene.probabilities

    @property
    def logits(self) -> Predict:
        """Logits of other images."""
        return self.scene.logits

    @property
    def masks(self) -> Tensor | None:
        """Where the target's objects are."""
        return self.scene.masks

    @property
    def boxes(self) -> Sequence[Tensor] | None:
        """Corners of the target's objects."""
        return self.scene.boxes

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self.scene.explainer.model

    def explain(self, images: Tensor) -> Tensor:
        """Maps of other images for the same targets."""
        return _on_image(self.scene.explainer(images, target=self.target, rule=self.rule))

    def explain_target(self, target: Tensor) -> Tensor:
        """Maps of the same images for other targets."""
        return _on_image(self.scene.explainer(self.images, target=target, rule=self.rule))

    def explain_with(self, model: nn.Module) -> Tensor:
        """Maps of the same images and targets by a network of the same architecture, at the same layer."""
        explainer = self.scene.explainer.of(model, layer=self.explanation.layer)
        return _on_image(explainer(self.images, target=self.target, rule=self.rule))


def _on_image(explanation: Explanation) -> Tensor:
    return explanation.view(scale=None).values[:, 0]
