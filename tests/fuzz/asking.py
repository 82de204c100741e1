"""What is explained: targets by name, and the same scores worked out independently."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import hirescam

Scores = Callable[[Tensor], Tensor]


class Ask(NamedTuple):
    """A target, and how its scores follow from logits.

    Attributes:
        target: what is handed to the library, for so many images.
        index: from logits to class indices ``(b, t)``; None where the target is not classes.
        bind: from the logits of the images to a function from logits to scores ``(b, t)``.
    """

    target: Callable[[int], object]
    index: Callable[[Tensor], Tensor] | None
    bind: Callable[[Tensor], Scores]


def classes(target: Callable[[int], object], index: Callable[[Tensor], Tensor]) -> Ask:
    """A target that is classes, settled by the first logits."""

    def bind(base: Tensor) -> Scores:
        chosen = index(base)
        return lambda logits: logits.gather(1, chosen)

    return Ask(target, index, bind)


def function(scores: Scores) -> Ask:
    """A function of the output as it is."""
    return Ask(lambda batch: scores, None, lambda base: lambda logits: column(scores(logits)))


def column(scores: Tensor) -> Tensor:
    return scores[:, None] if scores.ndim == 1 else scores


def each(logits: Tensor) -> Tensor:
    return torch.arange(len(logits))[:, None] % 3


def every(logits: Tensor) -> Tensor:
    return torch.arange(logits.shape[1]).expand(len(logits), -1)


def constant(*chosen: int) -> Callable[[Tensor], Tensor]:
    return lambda logits: torch.tensor(chosen).expand(len(logits), -1)


def contrast(base: Tensor) -> Scores:
    return lambda logits: logits[:, 0:1] - logits[:, 1:2]


def contrast_with_rest(base: Tensor) -> Scores:
    return lambda logits: logits[:, 0:1] - logits[:, 1:].mean(1, keepdim=True)


def finer(base: Tensor) -> Scores:
    distance = (base - base[:, :1]).abs()
    distance[:, 0] = float("inf")
    near = distance.topk(2, 1, largest=False).indices
    return lambda logits: logits[:, :1] - logits.gather(1, near).mean(1, keepdim=True)


def weighted(logits: Tensor) -> Tensor:
    return logits[:, 0] - 2 * logits[:, 1]


def largest(logits: Tensor) -> Tensor:
    return logits.gather(1, logits.argmax(1, keepdim=True))[:, 0]


def rescaled(logits: Tensor) -> Tensor:
    return logits[:, 0] * logits.detach()[:, 1]


def above(logits: Tensor) -> Tensor:
    return logits[:, 0] if float(logits.mean()) > 0.1 else logits[:, 1]


def squared(logits: Tensor) -> Tensor:
    return logits[:, :2] ** 2


TARGETS: dict[str, Ask] = {
    "one": classes(lambda batch: 1, constant(1)),
    "predicted": classes(lambda batch: None, lambda logits: logits.argmax(1, keepdim=True)),
    "each": classes(lambda batch: torch.arange(batch) % 3, each),
    "top": classes(lambda batch: hirescam.TopK(2), lambda logits: logits.topk(2, 1).indices),
    "some": classes(lambda batch: hirescam.Classes(2, 0), constant(2, 0)),
    "all": classes(lambda batch: hirescam.AllClasses(), every),
    "contrast": Ask(lambda batch: hirescam.Contrast(0, 1), None, contrast),
    "contrast with the rest": Ask(lambda batch: hirescam.Contrast(0), None, contrast_with_rest),
    "finer": Ask(lambda batch: hirescam.Finer(0, k=2), None, finer),
    "weighted": function(weighted),
    "largest": function(largest),
    "rescaled": function(rescaled),
    "above": function(above),
    "squared": function(squared),
}
AFFINE_TARGETS = list(TARGETS)[:10]
