"""Where the objects are: boxes as masks, which (image, class) pairs count, and maps that fit the masks.

A pixel belongs to a box when its centre lies in it, so that a box with whole-numbered corners covers exactly
``stop − start`` pixels along each axis.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from hirescam.errors import InputError
from hirescam.metrics.checks import flat


def matched(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return maps in double precision with their masks, both ``(n, *size)``.

    Raises:
        InputError: the shapes differ, a map has NaN or infinite values, or the masks are not bool.
    """
    if masks.dtype != torch.bool:
        raise InputError(f"masks has dtype {masks.dtype}: expected bool, True on the target's objects")
    if maps.shape != masks.shape:
        raise InputError(
            f"maps has shape {tuple(maps.shape)} and masks {tuple(masks.shape)}: "
            "expected (n, *size) for both; resample the maps to the size of the masks"
        )
    return finite(maps), masks.to(maps.device)


def finite(maps: Tensor) -> Tensor:
    """Return maps ``(n, *size)`` in double precision.

    Raises:
        InputError: there is no space axis, no pixel, or a value that is NaN or infinite.
    """
    return flat("maps", maps.detach()).reshape(maps.shape)


def boxes_to_masks(boxes: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Draw each sample's boxes into one mask: the union, difficult ones and overlaps included.

    Args:
        boxes: ``n`` tensors ``(k, 2, d)``: corners in pixels, start inclusive, stop exclusive, in the order
            of the space axes (rows before columns).
        size: of the image, ``d`` numbers.

    Returns:
        ``(n, *size)`` bool; all False for a sample without boxes. What sticks out of the image is cut off.

    Raises:
        InputError: a tensor has another shape, or a box stops before it starts.

    Example:
        >>> import torch
        >>> from hirescam.metrics import boxes_to_masks
        >>> boxes_to_masks([torch.tensor([[[0, 1], [2, 3]]])], (2, 4)).int()
        tensor([[[0, 1, 1, 0],
                 [0, 1, 1, 0]]], dtype=torch.int32)
    """
    return torch.stack([_drawn(one, size) for one in checked(boxes, len(size))])


def checked(boxes: Sequence[Tensor], axes: int) -> list[Tensor]:
    """Return boxes in double precision.

    Args:
        boxes: ``n`` tensors ``(k, 2, d)``.
        axes: what ``d`` must be.

    Raises:
        InputError: a tensor has another shape, or a box stops before it starts.
    """
    for index, one in enumerate(boxes):
        if one.ndim != 3 or one.shape[1:] != (2, axes):
            raise InputError(
                f"boxes[{index}] has shape {tuple(one.shape)}: expected (k, 2, {axes}), start and stop of "
                "each object in pixels"
            )
        if bool((one[:, 1] < one[:, 0]).any()):
            raise InputError(
                f"boxes[{index}] has a box that stops before it starts: the order is start, stop"
            )
    return [one.double() for one in boxes]


def counts(difficult: Iterable[bool]) -> bool:
    """Tell whether an (image, class) pair takes part in the pointing game.

    A pair is left out only if *all* boxes of the class in this image are marked as difficult; otherwise the
    mask holds all of them, difficult ones too (TorchRay 1.0, ``benchmark/pointing_game.py``).

    Args:
        difficult: the mark of each box of the class in the image.

    Returns:
        False if all are difficult or there is no box.
    """
    return not all(difficult)


def hard(masks: Tensor, distractors: Tensor, *, share: float = 0.25) -> Tensor:
    """Tell which samples belong to the pointing game's "difficult" subset.

    |mask| < share · pixels, and at least one other class is in the image (Zhang et al. 2018, arXiv
    1608.00507). The published lists were made from boxes on PASCAL VOC and from segments on COCO; this has
    nothing to do with PASCAL's own mark of a difficult box.

    Args:
        masks: ``(n, *size)`` bool.
        distractors: ``(n,)``, how many other classes each image shows.
        share: of the image that the object must stay below.

    Returns:
        ``(n,)`` bool.
    """
    area = masks.double().flatten(1).mean(1)
    return (area < share) & (distractors.to(area.device) > 0)


def _drawn(boxes: Tensor, size: Sequence[int]) -> Tensor:
    inside = torch.ones((len(boxes), *size), dtype=torch.bool, device=boxes.device)
    for axis, length in enumerate(size):
        center = torch.arange(length, device=boxes.device) + 0.5
        between = (boxes[:, 0, axis, None] <= center) & (center < boxes[:, 1, axis, None])
        shape = [len(boxes), *(length if other == axis else 1 for other in range(len(size)))]
        inside &= between.reshape(shape)
    return inside.any(0)
