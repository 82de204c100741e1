"""What tells one call from another: the kind of image, what is explained, and the other inputs."""

from functools import partial
from types import CellType, FunctionType, MethodType

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from hirescam.passes.borrow import Call
from hirescam.passes.precision import precision_of
from hirescam.passes.targets import Region, Target, is_class_target


def key_of(call: Call, target: Target) -> tuple[object, ...]:
    """What a certificate depends on: the kind of image, of score and of arithmetic."""
    images = call.own
    kind = "class" if is_class_target(target) and not isinstance(target, Region) else _identity(target)
    half = torch.is_autocast_enabled(images.device.type)
    arithmetic = (images.dtype, half, precision_of(images))
    shape = tuple(images.shape) if call.axes.letters[0] != "b" else tuple(images.shape[1:])
    return (shape, call.key, images.device, arithmetic, kind)


def _identity(target: object) -> object:
    """What tells a target from others: itself, however it compares.

    Functions that the same code made again, around the same values, are one. A plan keeps the target that it
    was made with, and so every object whose number is part of its key.
    """
    if isinstance(target, MethodType):
        return id(target.__self__), _identity(target.__func__)
    if isinstance(target, partial):
        given = (*target.args, *target.keywords, *target.keywords.values())
        return _identity(target.func), len(target.args), tuple(map(_value, given))
    if isinstance(target, FunctionType):
        cells = [cell for cell in target.__closure__ or () if cell != CellType()]
        named = target.__kwdefaults__ or {}
        given = (*(cell.cell_contents for cell in cells), *(target.__defaults__ or ()), *named.values())
        return target.__code__, id(target.__globals__), len(cells), tuple(map(_value, given))
    return id(target)


def _value(item: object) -> object:
    """A plain value as a key, by its type too; anything else by being itself."""
    return (type(item), repr(item)) if isinstance(item, bool | int | float | str | None) else id(item)


def others_of(call: Call) -> tuple[object, ...]:
    """The inputs beside the images, as they are now."""
    if call.key is None:
        return ()
    items = call.inputs.items() if isinstance(call.inputs, dict) else enumerate(call.inputs)
    leaves = [(key, leaf) for key, item in items if key != call.key for leaf in pytree.tree_leaves(item)]
    return tuple((key, _kept(leaf)) for key, leaf in leaves)


def _kept(leaf: object) -> object:
    """A value that does not change with the caller's: arrays are compared by their bytes."""
    if isinstance(leaf, Tensor):
        return leaf.detach().clone()
    if hasattr(leaf, "tobytes") and hasattr(leaf, "dtype") and hasattr(leaf, "shape"):
        return leaf.shape, str(leaf.dtype), leaf.tobytes()
    return leaf


def equal(kept: tuple[object, ...], now: tuple[object, ...]) -> bool:
    """Whether other inputs are what they were, by value."""
    return len(kept) == len(now) and all(map(_alike, pytree.tree_leaves(kept), pytree.tree_leaves(now)))


def _alike(kept: object, now: object) -> bool:
    if isinstance(kept, Tensor) and isinstance(now, Tensor):
        same = (kept.shape, kept.dtype, kept.device) == (now.shape, now.dtype, now.device)
        return same and bool(torch.equal(kept, now))
    try:
        return type(kept) is type(now) and (kept is now or bool(kept == now))
    except (
        TypeError,
        ValueError,
        RuntimeError,
    ):  # what does not compare with itself is not known to be the same
        return False
