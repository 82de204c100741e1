"""Which input pixels can influence one cell of a layer, found by sending NaN through the network."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from hirescam.errors import InputError, ModelError


@dataclass(frozen=True)
class ReceptiveField:
    """The box of input pixels that can influence one cell.

    Attributes:
        cell: index of the cell in the layer's grid.
        box: for each space axis the first pixel and the one after the last, as in a slice.
        image: space axes of the image.
        sees_everything: whether cells at opposite corners of the map each see the whole image (global
            pooling inside the network, attention, or simply many layers).
    """

    cell: tuple[int, ...]
    box: tuple[tuple[int, int], ...]
    image: tuple[int, ...]
    sees_everything: bool

    @property
    def size(self) -> tuple[int, ...]:
        """Side lengths of the box in pixels."""
        return tuple(end - start for start, end in self.box)

    def __str__(self) -> str:
        box = " × ".join(f"{start}:{end}" for start, end in self.box)
        share = prod(self.size) / prod(self.image)
        text = f"Cell {self.cell} can see the pixels {box}, {share:.0%} of the image."
        if self.sees_everything:
            text += " Every cell of this layer can see the whole image, so a cell is not a place."
        return text


Reached = Callable[[Tensor], Tensor]
"""From images ``(n, c, *space)`` to ``(n, *grid)``: which cells are NaN."""


def receptive_field(
    reached: Reached, image: tuple[int, ...], grid: tuple[int, ...], cell: tuple[int, ...] | None
) -> ReceptiveField:
    """Find the receptive field of a cell by bisection along every axis.

    Args:
        reached: runs the backbone on images that are 0 or NaN.
        image: space axes of the image.
        grid: location axes of the layer.
        cell: which cell; None takes the middle one.
    """
    cell = tuple(size // 2 for size in grid) if cell is None else tuple(cell)
    if len(cell) != len(grid) or any(not 0 <= i < n for i, n in zip(cell, grid, strict=True)):
        raise InputError(f"cell={cell} is not in the layer's grid {grid}: count from 0")
    everything = torch.full((1, *image), float("nan"))
    if not bool(reached(everything).all()):
        raise ModelError(
            "the receptive field cannot be found: the network replaces NaN on the way to this layer"
        )
    starts = _bisect(reached, image, cell, from_start=True)
    ends = _bisect(reached, image, cell, from_start=False)
    box = tuple((start, size - end) for start, end, size in zip(starts, ends, image, strict=True))
    return ReceptiveField(cell, box, tuple(image), _sees_everything(reached, image, grid))


def _bisect(
    reached: Reached, image: tuple[int, ...], cell: tuple[int, ...], *, from_start: bool
) -> list[int]:
    """For each axis: how many pixels from this side can be NaN before the cell notices."""
    low, high = [0] * len(image), list(image)
    while any(h - k > 1 for k, h in zip(low, high, strict=True)):
        middle = [(k + h) // 2 for k, h in zip(low, high, strict=True)]
        images = torch.stack([_slab(image, axis, count, from_start) for axis, count in enumerate(middle)])
        noticed = [bool(found[cell]) for found in reached(images)]
        for axis, hit in enumerate(noticed):
            if hit:
                high[axis] = middle[axis]
            else:
                low[axis] = middle[axis]
    return low


def _slab(image: tuple[int, ...], axis: int, count: int, from_start: bool) -> Tensor:
    slab = torch.zeros(image)
    start = 0 if from_start else image[axis] - count
    slab.narrow(axis, start, count).fill_(float("nan"))
    return slab


def _sees_everything(reached: Reached, image: tuple[int, ...], grid: tuple[int, ...]) -> bool:
    """Whether one cell's share of pixels in a corner reaches the cell at the opposite corner."""
    share = [-(-side // cells) for side, cells in zip(image, grid, strict=True)]
    first, last = torch.zeros(image), torch.zeros(image)
    first[tuple(slice(None, size) for size in share)] = float("nan")
    last[tuple(slice(-size, None) for size in share)] = float("nan")
    from_first, from_last = reached(torch.stack([first, last])).flatten(1)
    return bool(from_first[-1] and from_last[0])
