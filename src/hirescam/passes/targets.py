"""What scalar is explained: from a model's output to scores ``(b, t)``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hirescam.errors import HirescamError, TargetError
from hirescam.passes.outputs import describe, words_of


@dataclass(frozen=True)
class TopK:
    """The ``k`` highest-scoring classes of each image."""

    k: int


@dataclass(frozen=True, init=False)
class Classes:
    """The same classes for every image: ``Classes(3, 7)``."""

    classes: tuple[int, ...]

    def __init__(self, *classes: int) -> None:
        object.__setattr__(self, "classes", classes)


@dataclass(frozen=True)
class AllClasses:
    """Every class of the model."""


@dataclass(frozen=True)
class Contrast:
    """Score of class ``a`` less score of class ``b``; without ``b``, less the mean of the others."""

    a: int
    b: int | None = None


@dataclass(frozen=True)
class Finer:
    """What sets a class apart from those most like it: its score less their weighted mean.

    ``y[a] − strength · mean(y[b₁ … b_k])``, where b are the ``k`` classes of each image whose scores are
    nearest to that of ``a`` (FinerCAM, arXiv 2501.11309). A map of this target is the class's map less
    ``strength`` times the mean of theirs, with any rule that is linear in the gradient.

    Attributes:
        a: the class; None is the predicted class of each image.
        k: how many similar classes, at least 1.
        strength: how much of them is taken off, usually from 0 to 1.
    """

    a: int | None = None
    k: int = 3
    strength: float = 1.0


@dataclass(frozen=True, eq=False)
class Region:
    """Sum of one class's logit over a region of a segmentation output.

    ``mask`` is broadcast against the space axes of the output ``(b, c, *space)``.
    """

    label: int
    mask: Tensor


@dataclass(frozen=True, eq=False)
class Labels:
    """The positive classes of each image, out of multi-hot labels.

    There are as many maps as the image with the most positives has; where an image has fewer, the class index
    of the rest is -1, and score and map are zero.

    Attributes:
        matrix: ``(b, c)``, True or 1 where the image has the class.
    """

    matrix: Tensor


@dataclass(frozen=True, eq=False)
class Binary:
    """Evidence for a label of a model with one logit: the logit for label 1, its negative for label 0.

    Attributes:
        label: 0 or 1 for every image, or one for each, ``(b,)``.
    """

    label: int | Tensor | Sequence[int] = 1


Scorer = Callable[[Tensor], Tensor]
Named = TopK | Classes | AllClasses | Contrast | Finer | Region | Labels | Binary
Target = int | Sequence[int] | Tensor | Named | Scorer | None
"""Everything that can be asked for; see the user guide."""


@dataclass(frozen=True, eq=False)
class Bound:
    """A target settled for one batch.

    ``index`` holds class indices ``(b, t)``, -1 where the score is not a class's. ``score`` maps an
    output of the same batch to scores ``(b, t)``; classes that were picked by rank stay picked.
    """

    index: Tensor
    score: Scorer


def is_indexed(target: Target) -> bool:
    """Tell whether the target names classes, so that `Bound.index` says it all."""
    return not callable(target) and not isinstance(target, Contrast | Finer | Region | Labels | Binary)


def classes_in(target: Target, index: Tensor) -> list[int] | None:
    """The classes whose gradients make up a map each; None for a target that mixes classes.

    Args:
        target: what is explained.
        index: its class indices ``(b, t)``.
    """
    if isinstance(target, Binary):
        return [0]
    named = is_indexed(target) or isinstance(target, Labels)
    return sorted(set(index.unique().tolist()) - {-1}) if named else None


def first_class(target: Target, batch: int, count: int) -> Target:
    """One class of each of the first ``count`` images, out of a target that names classes; else None.

    The certificate of a network holds for every class; it is measured on one, which may as well be asked for.
    """
    if isinstance(target, Classes):
        return target.classes[0] if target.classes else None
    if isinstance(target, int) or (isinstance(target, Tensor) and target.ndim == 0):
        return target
    if not isinstance(target, Tensor | Sequence) or len(target) != batch:
        return None
    if isinstance(target, Tensor):
        return target.reshape(batch, -1)[:count, :1] if target.ndim in (1, 2) else None
    return target[:count] if all(isinstance(label, int) for label in target) else None


def is_class_target(target: Target) -> bool:
    """Tell whether the score is affine in the logits, so that one certificate serves them all."""
    return not callable(target)


def bind(target: Target, logits: Tensor) -> Bound:
    """Settle a target for one batch.

    Raises:
        TargetError: wrong length, a class out of range, or a kind that does not fit the output.
    """
    batch, classes = logits.shape[:2]
    if isinstance(target, Region):
        return _bind_region(target, logits)
    if callable(target):
        return _bind_function(target, logits)
    if logits.ndim != 2:
        raise TargetError(
            f"the model's output has shape {tuple(logits.shape)}, one score per position: use "
            "target=Region(class, mask) or a function that gives one score per image"
        )
    if isinstance(target, Contrast):
        return _bind_contrast(target, logits)
    if isinstance(target, Finer):
        return _bind_finer(target, logits)
    if isinstance(target, Labels):
        return _bind_labels(target, logits)
    if isinstance(target, Binary):
        return _bind_binary(target, logits)
    index = _class_index(target, logits.detach())
    _check_range(index, classes)
    index = index.expand(batch, -1).contiguous()
    return Bound(index, lambda output: output.gather(1, index))


def _class_index(target: Target, logits: Tensor) -> Tensor:
    batch, classes = logits.shape
    device = logits.device
    if target is None:
        return logits.argmax(dim=1, keepdim=True)
    if isinstance(target, AllClasses):
        return torch.arange(classes, device=device)[None]
    if isinstance(target, TopK):
        _check_whole(target, target.k)
        if not 1 <= target.k <= classes:
            raise TargetError(f"TopK({target.k}): k must be from 1 to {classes}, the classes there are")
        return logits.topk(target.k, dim=1).indices
    if isinstance(target, Classes):
        if not target.classes:
            raise TargetError("Classes() is empty: name at least one class")
        _check_whole(target, *target.classes)
        _check_label(target.classes, classes)
        return _as_index(target.classes, device)[None]
    if isinstance(target, bool):
        raise TargetError(f"target={target} is a bool: pass a class index")
    if isinstance(target, int):
        _check_label([target], classes)
        return torch.tensor([[target]], device=device)
    index = _per_image(_as_index(target, device), batch)
    if _is_multi_hot(index, classes):
        raise TargetError(_multi_hot(index))
    return index


_INDICES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def _is_multi_hot(index: Tensor, classes: int) -> bool:
    """Whether a matrix of class indices is one of labels: as many as classes, all of them 0 or 1."""
    return classes > 1 and index.shape[1] == classes and bool(((index == 0) | (index == 1)).all())


def _multi_hot(labels: Tensor) -> str:
    return (
        f"target of shape {tuple(labels.shape)} looks like multi-hot labels, not class indices: use "
        "target=hirescam.Labels(labels) for the positive classes of each image, or AllClasses() for all"
    )


def _check_whole(target: Target, *numbers: object) -> None:
    wrong = [number for number in numbers if not isinstance(number, int) or isinstance(number, bool)]
    if wrong:
        raise TargetError(f"{target}: {wrong[0]!r} is a {type(wrong[0]).__name__}, expected an int")


def _check_label(labels: Sequence[int], classes: int) -> None:
    """The same as `_check_range`, for numbers that may be too large for a tensor."""
    for label in labels:
        if abs(label) >= 2**62:
            raise TargetError(
                f"target names class {label}, but the model has {classes} classes: use 0 to {classes - 1}"
            )


def _per_image(index: Tensor, batch: int) -> Tensor:
    if index.ndim == 0:
        return index.reshape(1, 1)
    if index.ndim > 2 or index.shape[0] != batch or 0 in index.shape:
        raise TargetError(
            f"target has shape {tuple(index.shape)} for {batch} image(s): give one class for each "
            "image, (b,) or (b, t); for the same classes on every image use Classes(...)"
        )
    return index.unsqueeze(1) if index.ndim == 1 else index


def _as_index(values: Any, device: torch.device) -> Tensor:
    try:
        index = torch.as_tensor(values, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise TargetError(
            f"target={values!r} cannot be read: pass an int, a sequence of ints, TopK, Classes, "
            "AllClasses, Contrast, Region or a function"
        ) from None
    if index.ndim == 2 and index.dtype not in _INDICES and bool(((index == 0) | (index == 1)).all()):
        raise TargetError(_multi_hot(index))
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise TargetError(f"target must hold integer class indices, got {index.dtype}: {values!r}")
    index = index.to(torch.int64)
    return index.clone() if index.is_inference() else index  # autograd cannot save the result of argmax there


def _check_range(index: Tensor, classes: int) -> None:
    low, high = index.aminmax()
    if low < 0 or high >= classes:
        wrong = index[(index < 0) | (index >= classes)]
        if classes == 1:
            raise TargetError(
                f"target names class {int(wrong[0])}, but the model has one logit: explain the evidence for "
                "label 0 or 1 with target=hirescam.Binary(labels)"
            )
        raise TargetError(
            f"target names class {int(wrong[0])}, but the model has {classes} classes: use 0 to {classes - 1}"
        )


def _bind_contrast(target: Contrast, logits: Tensor) -> Bound:
    batch, classes = logits.shape
    named = [target.a] if target.b is None else [target.a, target.b]
    _check_whole(target, *named)
    _check_label(named, classes)
    _check_range(_as_index(named, logits.device), classes)
    if classes < 2:
        raise TargetError("Contrast needs at least two classes, the model has one score")
    weight = torch.zeros(classes, dtype=logits.dtype, device=logits.device)
    if target.b is None:
        weight -= 1 / (classes - 1)
    else:
        weight[target.b] -= 1
    weight[target.a] = 1 if target.a != target.b else 0
    index = torch.full((batch, 1), target.a, device=logits.device)
    return Bound(index, lambda output: (output * weight).sum(dim=1, keepdim=True))


def _bind_labels(target: Labels, logits: Tensor) -> Bound:
    matrix = torch.as_tensor(target.matrix, device=logits.device)
    if tuple(matrix.shape) != tuple(logits.shape) or not bool(((matrix == 0) | (matrix == 1)).all()):
        raise TargetError(
            f"Labels needs a matrix of zeros and ones of shape {tuple(logits.shape)}, one row for each image "
            f"and one column for each class, got {tuple(matrix.shape)} with values from "
            f"{float(matrix.min()) if matrix.numel() else 'nothing'} to "
            f"{float(matrix.max()) if matrix.numel() else 'nothing'}"
        )
    positive = matrix != 0
    width = int(positive.sum(1).max())
    if not width:
        raise TargetError("Labels has no positive class for any image: there is nothing to explain")
    order = positive.int().argsort(dim=1, descending=True, stable=True)[:, :width]
    there = positive.gather(1, order)
    index = order.where(there, torch.full_like(order, -1))
    return Bound(index, lambda output: output.gather(1, order) * there)


def _bind_binary(target: Binary, logits: Tensor) -> Bound:
    batch, classes = logits.shape
    if classes != 1:
        raise TargetError(
            f"Binary needs a model with one logit, this one has {classes} classes: name the class"
        )
    labels = _as_index(target.label, logits.device).reshape(-1)
    if len(labels) not in (1, batch) or not bool(((labels == 0) | (labels == 1)).all()):
        raise TargetError(
            f"Binary needs labels 0 or 1, one or one for each of the {batch} image(s), got {target.label!r}"
        )
    sign = (2 * labels - 1).to(logits).expand(batch)[:, None]
    index = torch.full((batch, 1), -1, device=logits.device)
    return Bound(index, lambda output: output * sign)


def _bind_finer(target: Finer, logits: Tensor) -> Bound:
    classes = logits.shape[1]
    _check_whole(target, target.k, *([] if target.a is None else [target.a]))
    _check_label([] if target.a is None else [target.a], classes)
    if not 1 <= target.k < classes:
        raise TargetError(f"Finer(k={target.k}): k must be from 1 to {classes - 1}, the other classes")
    if target.a is not None:
        _check_range(_as_index([target.a], logits.device), classes)
    plain = logits.detach()
    index = _class_index(target.a, plain).expand(len(plain), 1)
    distance = (plain - plain.gather(1, index)).abs().scatter(1, index, float("inf"))
    similar = distance.topk(target.k, dim=1, largest=False).indices

    def score(output: Tensor) -> Tensor:
        others = output.gather(1, similar).mean(1, keepdim=True)
        return output.gather(1, index) - target.strength * others

    return Bound(index, score)


def _bind_region(target: Region, logits: Tensor) -> Bound:
    _check_range(_as_index([target.label], logits.device), logits.shape[1])
    space = logits.shape[2:]
    if not space:
        raise TargetError(
            "Region needs an output (b, c, *space), this model gives one score per class: name the class"
        )
    mask = target.mask.to(logits)
    try:
        mask = mask.expand(logits.shape[0], *space)
    except RuntimeError:
        raise TargetError(
            f"Region mask has shape {tuple(target.mask.shape)}, expected {tuple(space)} or "
            f"{(logits.shape[0], *space)}: resize it to the output"
        ) from None
    index = torch.full((logits.shape[0], 1), target.label, device=logits.device)
    return Bound(index, lambda output: (output[:, target.label] * mask).flatten(1).sum(1, keepdim=True))


def called(target: Scorer, logits: Tensor) -> Any:
    """Call a target that is a function for the first time.

    Raises:
        TargetError: the function failed.
    """
    try:
        return target(logits)
    except HirescamError:
        raise
    except Exception as error:
        raise TargetError(
            f"the target function failed on the model's output of shape {tuple(logits.shape)}: "
            f"{words_of(error)}"
        ) from error


def two_axes(scores: Any) -> Tensor:
    """From what a function returned, one score ``(b,)`` or several ``(b, t)``, to ``(b, t)``."""
    if not isinstance(scores, Tensor):
        raise TargetError(
            f"the target function returned {describe(scores)}, expected a tensor (b,) or (b, t)"
        )
    return scores.unsqueeze(1) if scores.ndim == 1 else scores


def _bind_function(target: Scorer, logits: Tensor) -> Bound:
    def score(output: Tensor) -> Tensor:
        value = target(output)
        shape = tuple(getattr(value, "shape", ()))
        if len(shape) not in (1, 2) or shape[0] != logits.shape[0]:
            raise TargetError(
                f"the target function returned {describe(value)} of shape {shape} for "
                f"{logits.shape[0]} image(s), expected a tensor (b,) or (b, t)"
            )
        return two_axes(value)

    width = score(logits.detach()).shape[1]
    return Bound(torch.full((logits.shape[0], width), -1, device=logits.device), score)
