"""Read axes that are known as a map of locations."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from hirescam.errors import LayerError
from hirescam.passes.layout import Layout
from hirescam.passes.parts import Axes, Part, Role, size_of

_NEAR = 1e-6


def laid(axes: Axes, ndim: int) -> Layout | None:
    """How to read a layer's output whose axes are known.

    Args:
        axes: of the output.
        ndim: how many space axes the image has.

    Returns:
        The layout; None where an axis is not known.

    Raises:
        LayerError: the axes are known, and there is no map of locations in them.
    """
    parts = [part for axis in axes for part in axis]
    if not axes or any(part.role in (Role.UNKNOWN, Role.COPY) for part in parts):
        return None
    batch, own, places = (
        [number for number, part in enumerate(parts) if part.role is role]
        for role in (Role.BATCH, Role.CHANNEL, Role.PLACE)
    )
    if len(batch) != 1:
        raise LayerError("no axis of it is the images of the batch, or not those alone")
    factors = tuple(tuple(-1 if p.role is Role.BATCH else p.size for p in axis) for axis in axes)
    questions = any(part.asked for part in parts)
    tokens = parts[places[0]] if len(places) == 1 and parts[places[0]].inner else None
    reading = _reading(tokens.inner if tokens else [parts[number] for number in places], ndim)
    if tokens is None:
        order = (*batch, *own, *(places[number] for number in reading.order))
        return Layout(
            factors, order, len(own), reading.grid, reading.grid, index=_unless_usual(reading.index),
            beyond=reading.beyond, places=reading.places, asked=questions,
        )  # fmt: skip
    prefix, index = _in_order(tokens.order, reading)
    space = (len(index),) if prefix else reading.grid
    return Layout(
        factors, (*batch, *own, *places), len(own), space, reading.grid, prefix, _unless_usual(index),
        reading.beyond, reading.places, questions,
    )  # fmt: skip


@dataclass(frozen=True)
class _Reading:
    """How parts that are places become a grid in the order of the image.

    Attributes:
        order: numbers of the parts, by axis of the image, outermost first.
        grid: the sizes along the axes that the network made, where there are such, and along the image's.
        index: where each location of the grid is, counted through the parts in ``order``.
        beyond: sizes of the axes that the network made.
        own: where each location is, counted through the parts as they come.
        places: for each axis of the grid where the first location lies and how far the next one is.
    """

    order: tuple[int, ...]
    grid: tuple[int, ...]
    index: tuple[int, ...]
    beyond: tuple[int, ...]
    own: tuple[int, ...]
    places: tuple[tuple[float, float] | None, ...]


def _reading(parts: Sequence[Part], ndim: int) -> _Reading:
    """Put places in order.

    Raises:
        LayerError: they are not the places of a grid, each once.
    """
    shuffled = {n: _entries(part) for n, part in enumerate(parts) if part.inner}
    parts = [part.inner[0] if part.inner else part for part in parts]
    made = sorted({part.dim for part in parts if part.made})
    dims = [*made, *range(ndim)]
    numbered = {dim: [n for n, part in enumerate(parts) if part.dim == dim] for dim in dims}
    for found in numbered.values():
        found.sort(key=lambda n: -abs(parts[n].step))
        _check([parts[n] for n in found])
    order = tuple(n for dim in dims for n in numbered[dim])
    grid = tuple(prod(parts[n].size for n in numbered[dim]) for dim in dims)
    own = torch.arange(prod(grid)).reshape([part.size for part in parts]).permute(order)
    index = torch.arange(prod(grid)).reshape(own.shape)
    for n, entries in shuffled.items():
        index, own = (numbers.index_select(order.index(n), entries) for numbers in (index, own))
    index, own = (numbers.reshape(grid) for numbers in (index, own))
    for axis, dim in enumerate(dims):
        for part in [parts[n] for n in numbered[dim][:1]]:
            index, own = (numbers.roll(-part.turn, axis) for numbers in (index, own))
            index, own = (numbers.flip(axis) if part.step < 0 else numbers for numbers in (index, own))
    sizes = {part.dim: abs(part.step) * part.size for part in parts if part.made}
    beyond = tuple(round(max(sizes[dim], grid[i])) for i, dim in enumerate(made))
    along = ([parts[n] for n in numbered[dim]] if dim not in made else [] for dim in dims)
    return _Reading(
        order, grid, tuple(index.flatten().tolist()), beyond, tuple(own.flatten().tolist()),
        tuple(map(_spots, along)),
    )  # fmt: skip


def _entries(part: Part) -> Tensor:
    """Which entry of an axis, whose entries are in an order of their own, lies at each of its places.

    Raises:
        LayerError: it is not all places of one axis, each once.
    """
    if len(part.inner) > 1 or sorted(part.order) != list(range(size_of(part.inner))):
        raise LayerError("some of its places are in an order of their own, along one axis of several")
    return torch.tensor(part.order).argsort()


def _spots(parts: Sequence[Part]) -> tuple[float, float] | None:
    """Where the places of one axis of the image lie, from the first; those in windows a little evened out."""
    if not parts:
        return None
    ends = [sorted((part.first, part.first + part.step * (part.size - 1))) for part in parts]
    low, high, count = sum(end[0] for end in ends), sum(end[1] for end in ends), prod(p.size for p in parts)
    return (low, (high - low) / (count - 1)) if count > 1 else (low, abs(parts[-1].step))


def _check(parts: Sequence[Part]) -> None:
    """Refuse parts of one axis of the image, outermost first, that are not its places, each once."""
    rolled = {(part.turn, part.ring) for part in parts}
    whole = rolled <= {(0, 0)} or {ring for _, ring in rolled} == {prod(part.size for part in parts)}
    if len(rolled) > 1 or len({part.step > 0 for part in parts}) > 1 or not whole:
        raise LayerError("its places are in another order than those of the image, in pieces")
    for outer, inner in pairwise(parts):
        reach = abs(inner.step) * (inner.size - 0.5)
        if abs(outer.step) < reach - _NEAR:
            raise LayerError("an axis of the image is there twice, or in windows that overlap")


def _in_order(order: Sequence[int], reading: _Reading) -> tuple[int, tuple[int, ...]]:
    """How many entries have no place, and all entries, those first and then the others as on the grid.

    Raises:
        LayerError: a place is there twice, or missing.
    """
    placeless = [number for number, place in enumerate(order) if place < 0]
    where = {place: number for number, place in enumerate(order) if place >= 0}
    if len(where) != len(order) - len(placeless) or len(where) != prod(reading.grid):
        raise LayerError("some places of the image are left out, or there twice")
    return len(placeless), (*placeless, *(where[place] for place in reading.own))


def _unless_usual(index: tuple[int, ...]) -> tuple[int, ...]:
    return () if index == tuple(range(len(index))) else index
