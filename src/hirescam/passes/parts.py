"""What an axis of a tensor is made of: parts that are the batch, channels, or places on the image."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from math import prod


class Role(StrEnum):
    """What an axis, or a part of one, is made of."""

    BATCH = "batch"
    CHANNEL = "channel"
    PLACE = "place"
    COPY = "copy"  # the same value again and again: what it is added to says what it is
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Part:
    """A factor of an axis.

    Attributes:
        role: what it is.
        size: how many entries it has.
        dim: which space axis of the image its places lie along, from 0; numbers beyond those are axes that
            the network made.
        step: how far neighbours lie apart there, in cells of the image; negative where it runs backwards.
        first: where the first of them lies, the centre of the first cell being 0.
        inner: where entries are in an order of their own, or some have no place, such as a class token: the
            axis that they were taken from.
        order: which entry of that axis each one is; -1 has no place.
        made: whether the network made the axis itself, such as the frequencies of a wave. Channels that are
            sums over such an axis, and nothing else, are marked too: what slides over them takes them for
            places.
        asked: whether they are places that an attention asks about: what it answers comes from everywhere,
            until it is added to what is there.
        turn: by how many entries the axis that it is a part of was rolled; its places then start elsewhere.
        ring: how many entries that axis had.
        half: how far a location sees from its centre, along that axis and in cells of the image; parts that
            differ in it are equal.
    """

    role: Role
    size: int
    dim: int = -1
    step: float = 1.0
    first: float = 0.0
    inner: "Axis" = ()
    order: tuple[int, ...] = ()
    made: bool = False
    asked: bool = False
    turn: int = 0
    ring: int = 0
    half: float = field(default=0.0, compare=False)


Axis = tuple[Part, ...]
"""The factors of an axis, outermost first: their sizes multiply to its size. Empty where that is one."""
Axes = tuple[Axis, ...]


def turned(part: Part, turn: int) -> Part:
    """A whole axis that is rolled by so many entries in all."""
    turn %= part.size
    return replace(part, turn=turn, ring=part.size if turn else 0)


def size_of(axis: Axis) -> int:
    """How many entries an axis has."""
    return prod(part.size for part in axis)


def unknown(size: int) -> Axis:
    """An axis that nothing is known about."""
    return (Part(Role.UNKNOWN, size),)


def channels(size: int) -> Axis:
    """An axis of channels."""
    return (Part(Role.CHANNEL, size),)


def ordered(axis: Axis, order: Sequence[int]) -> Axis:
    """Some entries of an axis, in an order of their own; -1 stands for one without a place."""
    if len(axis) == 1 and axis[0].inner:
        earlier = axis[0].order
        return ordered(axis[0].inner, [earlier[i] if i >= 0 else -1 for i in order])
    if list(order) == list(range(size_of(axis))):
        return axis
    part = axis[0] if len(axis) == 1 else None
    if part is not None and part.role in (Role.CHANNEL, Role.COPY):
        return (replace(part, size=len(order)),) if -1 not in order else unknown(len(order))
    steps = {later - earlier for earlier, later in pairwise(order)}
    if part is not None and part.role is Role.PLACE and not part.turn and -1 not in order and len(steps) <= 1:
        step = steps.pop() if steps else 1
        first = part.first + part.step * order[0] if order else part.first
        return (
            (replace(part, size=len(order), step=part.step * step, first=first),)
            if step
            else unknown(len(order))
        )
    if is_places(axis):
        return (Part(Role.PLACE, len(order), inner=axis, order=tuple(order)),)
    return unknown(len(order))


def asked(axis: Axis) -> Axis:
    """The places of an axis that an attention asks about."""
    return tuple(replace(part, asked=True) if part.role is Role.PLACE else part for part in axis)


def is_places(axis: Axis) -> bool:
    """Whether all parts of an axis are places in their own order."""
    return bool(axis) and all(part.role is Role.PLACE and not part.inner for part in axis)


def places_of(axes: Iterable[Axis]) -> Iterator[Part]:
    """All parts that are places, those behind tokens without one included."""
    for axis in axes:
        for part in axis:
            yield from places_of([part.inner]) if part.inner else [part] if part.role is Role.PLACE else []
