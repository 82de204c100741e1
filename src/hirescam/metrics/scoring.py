"""Ask a model about many variants of a batch of images, a bounded number at a time."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from hirescam.errors import InputError
from hirescam.metrics.checks import flat

_TOGETHER = 64
_BLOCK_BYTES = 128 * 2**20
_ROUNDING = 1e-6

Outputs = Callable[[Tensor], Tensor]
"""From images ``(m, c, *size)`` to one number per class ``(m, classes)``."""

Explain = Callable[[Tensor], Tensor]
"""From images ``(n, c, *size)`` to maps ``(n, *size)`` for the same targets."""


def target_probabilities(predict: Outputs, variants: Iterable[Tensor], target: Tensor) -> Tensor:
    """Return each image's probability of its target, for each variant of the batch.

    Softmax and sigmoid outputs are taken alike, so rows need not add up to 1; a value outside [0, 1] is an
    error, because logits in place of probabilities give numbers without meaning. Logits that happen to lie
    within [0, 1] cannot be told from probabilities.

    Args:
        predict: class probabilities ``(m, classes)`` of images ``(m, c, *size)``.
        variants: tensors ``(n, c, *size)``, made one after another; never more than a block of them is kept.
        target: ``(n,)`` int64.

    Returns:
        ``(variants, n)`` in double precision.

    Raises:
        InputError: ``predict`` gives another shape, or values that are not probabilities.
    """
    return _gathered(partial(_probabilities, predict), variants, target, _of_target)


def target_is_top(predict: Outputs, variants: Iterable[Tensor], target: Tensor) -> Tensor:
    """Return 1 where no class is more probable than the target, else 0; as `target_probabilities`."""
    return _gathered(partial(_probabilities, predict), variants, target, _is_top)


def target_logits(logits: Outputs, variants: Iterable[Tensor], target: Tensor) -> Tensor:
    """Return each image's logit of its target; as `target_probabilities`, without bounds on the values."""
    return _gathered(partial(_outputs, "logits", logits), variants, target, _of_target)


def check(maps: Tensor, images: Tensor, target: Tensor | None = None) -> None:
    """Check that maps, images and targets belong together.

    Raises:
        InputError: the shapes do not fit, or a map has values that are not finite.
    """
    if images.ndim < 3 or not images.numel():
        raise InputError(
            f"images has shape {tuple(images.shape)}: expected (n, c, *size), at least one image"
        )
    expected = (len(images), *images.shape[2:])
    if maps.shape != expected:
        raise InputError(
            f"maps has shape {tuple(maps.shape)}: expected {expected}, one map per image and of its size, "
            "such as result.view(scale=None).values[:, 0]"
        )
    flat("maps", maps)
    if target is not None and (target.shape != (len(images),) or target.dtype != torch.int64):
        raise InputError(
            f"target has shape {tuple(target.shape)} and dtype {target.dtype}: "
            f"expected ({len(images)},) and torch.int64, the class of each image"
        )


def _gathered(
    ask: Outputs, variants: Iterable[Tensor], target: Tensor, read: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    found = []
    for block in _blocks(variants):
        count = len(block)
        classes = target.repeat(count).to(block.device)
        with torch.no_grad():
            outputs = ask(block.flatten(0, 1))
        if not 0 <= int(classes.min()) <= int(classes.max()) < outputs.shape[1]:
            worst = int(classes.min() if classes.min() < 0 else classes.max())
            raise InputError(f"target={worst} is not a class: the model gives {outputs.shape[1]}, from 0 up")
        found.append(read(outputs.double(), classes.to(outputs.device)).unflatten(0, (count, -1)))
    return torch.cat(found)


def _blocks(variants: Iterable[Tensor]) -> Iterator[Tensor]:
    """Stack as many variants ``(n, c, *size)`` as fit under the bounds, at least one."""
    rest = iter(variants)
    for first in rest:
        together = max(1, min(_TOGETHER // len(first), _BLOCK_BYTES // first.nbytes))
        yield torch.stack([first, *islice(rest, together - 1)])


def _outputs(name: str, function: Outputs, images: Tensor) -> Tensor:
    found: object = function(images)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
        came = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(f"{name} gave {came} for {len(images)} images: expected ({len(images)}, classes)")
    if not bool(found.isfinite().all()):
        raise InputError(f"{name} gave NaN or infinite values: check the model and the range of the images")
    return found


def _probabilities(predict: Outputs, images: Tensor) -> Tensor:
    found = _outputs("predict", predict, images)
    low, high = float(found.min()), float(found.max())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise InputError(
            f"predict gave values from {low:.3g} to {high:.3g}: this metric is defined on probabilities, "
            "within [0, 1]; return model(images).softmax(1), or .sigmoid() for a multi-label model"
        )
    return found.clamp(0, 1)


def _of_target(outputs: Tensor, classes: Tensor) -> Tensor:
    return outputs.gather(1, classes[:, None])[:, 0]


def _is_top(outputs: Tensor, classes: Tensor) -> Tensor:
    return (_of_target(outputs, classes) >= outputs.amax(1)).double()
