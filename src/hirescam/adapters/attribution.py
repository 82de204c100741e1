"""The frozen result of a method that explains the input."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from hirescam import overlays, views
from hirescam.views import Resample, Scale, Sign, View

_TINY = 1e-30


@dataclass(frozen=True, eq=False)
class InputAttribution:
    """Maps of the input for a batch of images and some scores of each.

    Attributes:
        values: ``(b, t, *image space)``, signed; before the sum over the input's channels ``(b, t, c, *image
            space)``. In units of the score for methods that multiply by the input, else of its gradient.
        score: ``(b, t)``, the explained scores.
        baseline_score: ``(b, t)``, the same scores of an input of zeros.
        target: ``(b, t)`` int64 class indices, -1 where a score is not a class's.
        logits: ``(b, c)``, the model's output.
        method: name of the method.
        summed: whether the input's channels are summed.
        model: class name of the model.
    """

    values: Tensor
    score: Tensor
    baseline_score: Tensor
    target: Tensor
    logits: Tensor
    method: str
    summed: bool
    model: str

    @property
    def offset(self) -> Tensor:
        """``(b, t)``: score less the sum of the map, what no pixel accounts for."""
        return self.score - self.values.flatten(2).sum(-1)

    @property
    def completeness_error(self) -> float:
        """|score − score(zeros) − Σ values| / |score − score(zeros)|, measured, the largest of the batch."""
        gained = self.score - self.baseline_score
        error = (self.offset - self.baseline_score).abs() / gained.abs().clamp(min=_TINY)
        return float(error.max())

    def __repr__(self) -> str:
        return (
            f"InputAttribution(values={tuple(self.values.shape)}, method={self.method!r}, "
            f"completeness_error={self.completeness_error:.1e})"
        )

    def view(
        self,
        *,
        size: Sequence[int] | None = None,
        sign: Sign = "both",
        resample: Resample = "bilinear",
        scale: Scale = "each",
    ) -> View:
        """Make a map to look at; arguments as for `hirescam.Explanation.view`."""
        values = self.values if self.summed else self.values.sum(2)
        wanted = None if size is None else tuple(size)
        return views.render(values, size=wanted, sign=sign, resample=resample, scale=scale)

    def overlay(
        self,
        images: Tensor | Sequence[Image.Image],
        *,
        sign: Sign = "both",
        scale: Scale = "each",
        opacity: float = 0.75,
    ) -> list[list[Image.Image]]:
        """Draw every map over its image; arguments as for `hirescam.Explanation.overlay`."""
        view = self.view(sign=sign, resample="nearest", scale=scale)
        return overlays.draw(view.values, images, resample="bilinear", opacity=opacity)
