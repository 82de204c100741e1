"""How to read a layer's output, whatever the order of its axes, as ``(b, k, *space)``, and write it back."""

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from hirescam.errors import LayerError


@dataclass(frozen=True)
class Layout:
    """How to read one layer's output.

    Its axes are split into factors, the factors are put in order, and those that belong together are joined.

    Attributes:
        factors: the sizes that each axis of the output is made of, outermost first; -1 is the batch, which is
            there once.
        order: numbers of the factors, counted through all axes: the batch, then channels, then locations.
        channels: how many of them are channels.
        space: the location axes of the raw map.
        grid: how locations lie on the image. It differs from ``space`` only where ``prefix`` tokens (a class
            token, registers) come before the grid.
        prefix: how many such tokens there are.
        index: numbers of the locations, counted through the output, in the order of the raw map; empty where
            that is their own.
        places: for each axis of ``grid`` where its first location lies, the centre of the first pixel being
            0, and how far the next one is; None where that is not known.
        asked: whether its locations are those that an attention asks about, and not where answers come from.
        beyond: sizes of axes of ``grid`` that come before those of the image and are none of them, such as
            the frequencies of a spectrogram that the network makes of a wave.
    """

    factors: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]
    channels: int
    space: tuple[int, ...]
    grid: tuple[int, ...]
    prefix: int = 0
    index: tuple[int, ...] = ()
    beyond: tuple[int, ...] = ()
    places: tuple[tuple[float, float] | None, ...] = ()
    asked: bool = False

    @property
    def locations(self) -> int:
        """How many locations there are."""
        return prod(self.space)

    @property
    def channel_axes(self) -> int:
        """How many axes of the output have channels in them; the heads of an attention are one of several."""
        owner = [axis for axis, factors in enumerate(self.factors) for _ in factors]
        return len({owner[number] for number in self.order[1 : 1 + self.channels]})

    def fits(self, shape: tuple[int, ...], batch: int) -> bool:
        """Whether an output of this shape, for so many images, can be read."""
        sizes = [prod(batch if size == -1 else size for size in axis) for axis in self.factors]
        return sizes == list(shape)

    def read(self, tensor: Tensor, leading: int = 0) -> Tensor:
        """Turn a layer's output into ``(b, k, *space)``, behind ``leading`` axes that stay as they are."""
        lead = tensor.shape[:leading]
        split = tensor if self._whole else tensor.reshape(*lead, *self._flat)
        moved = split.permute(*range(leading), *(leading + number for number in self.order))
        if self._whole and not self.index:
            return moved
        channels = prod(self._sizes[1 : 1 + self.channels])
        read = moved.reshape(*lead, moved.shape[leading], channels, *self.space)
        return self._picked(read, self.index)

    def write(self, activations: Tensor, leading: int = 0) -> Tensor:
        """Turn ``(b, k, *space)`` back into the layer's own shape (the inverse of `read`)."""
        lead = activations.shape[:leading]
        activations = self._picked(activations, self._back)
        batch = activations.shape[leading]
        split = activations if self._whole else activations.reshape(*lead, batch, *self._sizes[1:])
        places = sorted(range(len(self.order)), key=self.order.__getitem__)
        moved = split.permute(*range(leading), *(leading + place for place in places))
        if self._whole:
            return moved
        own = (prod(batch if size == -1 else size for size in axis) for axis in self.factors)
        return moved.reshape(*lead, *own)

    def _picked(self, read: Tensor, index: tuple[int, ...]) -> Tensor:
        if not index:
            return read
        dim = read.ndim - len(self.space)
        numbers = torch.tensor(index, device=read.device)
        picked: Tensor = read.flatten(dim).index_select(dim, numbers).unflatten(dim, self.space)
        return picked

    @cached_property
    def _whole(self) -> bool:
        """Whether axes only have to be put in order, which works for outputs of other sizes too."""
        single = self.channels == 1 and all(len(axis) == 1 for axis in self.factors)
        return single and len(self.space) == len(self.order) - 2

    @cached_property
    def _flat(self) -> tuple[int, ...]:
        return tuple(size for axis in self.factors for size in axis)

    @cached_property
    def _sizes(self) -> tuple[int, ...]:
        """The sizes of the factors in order."""
        return tuple(self._flat[number] for number in self.order)

    @cached_property
    def _back(self) -> tuple[int, ...]:
        return tuple(sorted(range(len(self.index)), key=self.index.__getitem__))


def simple(
    shape: tuple[int, ...], channel_axis: int, grid: tuple[int, ...] | None = None, prefix: int = 0
) -> Layout:
    """A layout with the batch first, channels on one axis, and locations on the others, in order.

    Args:
        shape: of the output.
        channel_axis: which axis has the channels.
        grid: how locations lie on the image, where they are flattened.
        prefix: how many of them have no place; they come first.
    """
    rest = [axis for axis in range(1, len(shape)) if axis != channel_axis]
    sizes = tuple(shape[axis] for axis in rest)
    grid = grid or sizes
    return Layout(
        factors=((-1,), *((size,) for size in shape[1:])),
        order=(0, channel_axis, *rest),
        channels=1,
        space=grid if not prefix else sizes,
        grid=grid,
        prefix=prefix,
    )


def given(
    shape: tuple[int, ...], grid: tuple[int, ...], ndim: int, channel_axes: tuple[int, ...] = ()
) -> Layout:
    """The layout of an output whose locations lie on a grid that the caller says.

    Args:
        shape: of the output, batch first.
        grid: how locations are arranged, such as ``(14, 14)``.
        ndim: how many space axes the image has; the first ones of a grid that has more are the network's own.
        channel_axes: the axes that operations showed to be channels; others are taken only if none of them
            leaves such a grid.

    Raises:
        LayerError: no axis can be the channels so that the others have such a grid.
    """
    if len(grid) < ndim:
        raise LayerError(
            f"grid={grid} has {len(grid)} axes, and the images have {ndim}: give a size for each"
        )
    beyond = grid[: len(grid) - ndim]
    axes = [*channel_axes, *(axis for axis in range(1, len(shape)) if axis not in channel_axes)]
    for axis in axes:
        if shape[1:axis] + shape[axis + 1 :] == grid:
            return replace(simple(shape, axis), beyond=beyond)
    if len(shape) == 3:
        found = [simple(shape, axis, grid, shape[3 - axis] - prod(grid)) for axis in axes]
        found = [layout for layout in found if layout.prefix >= 0]
        known = [layout for layout in found if layout.order[1] in channel_axes]
        if found:
            return replace(min(known or found, key=lambda layout: layout.prefix), beyond=beyond)
    raise LayerError(
        f"grid={grid} does not fit this layer's output of shape (b, {', '.join(map(str, shape[1:]))}): "
        f"give a grid of {' or '.join(map(str, shape[1:]))} cells, or choose another layer"
    )
