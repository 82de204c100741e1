"""Which axes of a tensor are the batch, channels and locations, and where on the image each location lies.

Labels of axes are carried through the operations of one forward pass: a convolution has channels second, a
linear layer, an attention and a recurrent layer have them last; reshaping splits axes into parts and joins
them again, and the parts move with `permute`; strides and padding say where a location lies. Shapes are never
compared. Where an operation does not say what an axis is, the axis is unknown.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from hirescam.errors import LayerError
from hirescam.passes.layout import Layout
from hirescam.passes.provenance import ONLY_SHAPE, tensors_in


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
        dim: which space axis of the image its places lie along, from 0.
        step: how far neighbours lie apart there, in cells of the image; negative where it runs backwards.
        first: where the first of them lies, the centre of the first cell being 0.
        inner: where some entries have no place, such as a class token: the parts of those that have.
        before: how many without a place come first.
        turn: by how many entries the axis that it is a part of was rolled; its places then start elsewhere.
    """

    role: Role
    size: int
    dim: int = 0
    step: float = 1.0
    first: float = 0.0
    inner: "Axis" = ()
    before: int = 0
    turn: int = 0


Axis = tuple[Part, ...]
"""The factors of an axis, outermost first: their sizes multiply to its size. Empty where that is one."""
Axes = tuple[Axis, ...]


def size_of(axis: Axis) -> int:
    """How many entries an axis has."""
    return prod(part.size for part in axis)


def unknown(size: int) -> Axis:
    """An axis that nothing is known about."""
    return (Part(Role.UNKNOWN, size),)


def channels(size: int) -> Axis:
    """An axis of channels."""
    return (Part(Role.CHANNEL, size),)


class Geometry:
    """The axes of every tensor of one pass that depends on the image.

    Args:
        depends: whether a tensor depends on the image at all.
    """

    def __init__(self, depends: Callable[[Tensor], bool]) -> None:
        self._depends = depends
        self._known: dict[object, Axes] = {}
        self._alive: dict[int, StorageWeakRef] = {}  # keeps numbers of storages from reuse

    def start(self, image: Tensor) -> None:
        """The image: batch, channels, and places one apart."""
        places = [(Part(Role.PLACE, size, dim),) for dim, size in enumerate(image.shape[2:])]
        self.note(image, ((Part(Role.BATCH, len(image)),), channels(image.shape[1]), *places))

    def note(self, tensor: Tensor, axes: Axes) -> None:
        """Say what the axes of a tensor are."""
        assert [size_of(axis) for axis in axes] == list(tensor.shape), (axes, tensor.shape)
        self._known[self._key(tensor)] = axes

    def of(self, tensor: Tensor) -> Axes | None:
        """The axes of a tensor; None for a constant, and unknown ones where nobody saw what they are."""
        found = self._known.get(self._key(tensor))
        if found is None and self._depends(tensor):
            return tuple(map(unknown, tensor.shape))
        return found

    def operation(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Note what an operation returned."""
        outputs = [tensor for tensor in tensors_in(result) if tensor.layout is torch.strided]
        if not outputs:
            return
        name = op._schema.name.split("::")[1].rstrip("_")
        if name in ONLY_SHAPE:
            return
        rule = _RULES.get(name, _pointwise if torch.Tag.pointwise in op.tags else None)
        named = {argument.name: value for argument, value in zip(op._schema.arguments, args, strict=False)}
        named |= kwargs
        for argument in op._schema.arguments:
            if argument.name not in named and argument.has_default_value():
                named[argument.name] = argument.default_value
        ask = _Ask(self, named, outputs)
        if not any(map(self._known_or_depends, tensors_in((args, kwargs)))):
            return
        try:
            found = rule(ask) if rule is not None else None
        except _UNLIKE_OURS:
            found = None
        for number, tensor in enumerate(outputs):
            axes = found[number] if found is not None and number < len(found) else None
            if axes is None or [size_of(axis) for axis in axes] != list(tensor.shape):
                axes = tuple(map(unknown, tensor.shape))
            self._known[self._key(tensor)] = axes

    def function(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        """Note what a torch function returned that takes steps one by one, which operations do not show."""
        outputs = tensors_in(result)
        if name in _RECURRENT and outputs and isinstance(args[0], Tensor):
            axes = self.of(args[0])
            if axes is not None and len(axes) == outputs[0].ndim == 3:
                self.note(outputs[0], (*axes[:2], channels(outputs[0].shape[2])))

    def _known_or_depends(self, tensor: Tensor) -> bool:
        return self._key(tensor) in self._known or self._depends(tensor)

    def _key(self, tensor: Tensor) -> object:
        if tensor.layout is not torch.strided:
            return id(tensor)
        storage = tensor.untyped_storage()
        self._alive.setdefault(storage._cdata, StorageWeakRef(storage))
        return storage._cdata, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


@dataclass(frozen=True)
class _Ask:
    """One call of an operation: its arguments by name, and what it returned."""

    geometry: Geometry
    named: dict[str, Any]
    outputs: list[Tensor]

    def __getitem__(self, name: str) -> Any:
        return self.named[name]

    def axes(self, name: str) -> Axes:
        """The axes of a tensor argument that depends on the image."""
        found = self.geometry.of(self.named[name])
        return tuple(map(unknown, self.named[name].shape)) if found is None else found

    def constant(self, name: str) -> bool:
        """Whether a tensor argument does not depend on the image."""
        return self.geometry.of(self.named[name]) is None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first output."""
        return tuple(self.outputs[0].shape)


_UNLIKE_OURS = (
    AssertionError,
    AttributeError,
    LookupError,
    StopIteration,
    TypeError,
    ValueError,
    ZeroDivisionError,
)
"""A call that is not like those that a rule was written for, such as one without a batch: not known."""
Found = list[Axes | None] | None
Rule = Callable[[_Ask], Found]
_RULES: dict[str, Rule] = {}


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def note(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, rule))
        return rule

    return note


# Operations that leave axes as they are -------------------------------------------------------


def _merged(rows: Sequence[Axis], size: int) -> Axis:
    """The axis of values that are combined one by one: what all agree on that say something."""
    told = [axis for axis in rows if axis and any(part.role is not Role.COPY for part in axis)]
    if not told:
        return () if size == 1 else (Part(Role.COPY, size),)
    same = all(len(axis) == len(told[0]) and all(map(_alike, axis, told[0])) for axis in told)
    return tuple(map(_between, *told)) if same else unknown(size)


def _alike(one: Part, other: Part) -> bool:
    """Whether two parts have the same places, perhaps a little aside: a pooling beside a convolution."""
    near = abs(one.first - other.first) < max(1.0, abs(one.step))
    inner = len(one.inner) == len(other.inner) and all(map(_alike, one.inner, other.inner))
    return near and inner and replace(one, first=0.0, inner=()) == replace(other, first=0.0, inner=())


def _between(*parts: Part) -> Part:
    inner = tuple(map(_between, *(part.inner for part in parts)))
    return replace(parts[0], first=sum(part.first for part in parts) / len(parts), inner=inner)


def _pointwise(ask: _Ask) -> Found:
    shape = ask.shape
    known = [ask.geometry.of(tensor) for tensor in tensors_in(tuple(ask.named.values()))]
    rows = [axes for axes in known if axes is not None]
    merged = []
    for back in range(len(shape), 0, -1):  # broadcasting counts from the last axis
        there = [axes[-back] for axes in rows if len(axes) >= back]
        merged.append(_merged([axis for axis in there if size_of(axis) == shape[-back]], shape[-back]))
    return [tuple(merged)]


@_rule(
    "clone", "_to_copy", "detach", "alias", "lift_fresh", "_softmax", "_log_softmax", "native_dropout",
    "native_layer_norm", "native_group_norm", "native_batch_norm", "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "miopen_batch_norm",
    "_batch_norm_with_update",
    "_batch_norm_no_update", "_fused_rms_norm", "cumsum", "_safe_softmax", "contiguous", "mkldnn_batch_norm",
    "resolve_conj", "resolve_neg", "hardswish", "hardsigmoid", "hardtanh", "relu6", "_prelu_kernel", "rrelu",
    "rrelu_with_noise", "celu", "selu", "log_sigmoid_forward", "softplus", "alpha_dropout", "mish",
)  # fmt: skip
def _same(ask: _Ask) -> Found:
    return [ask.axes(next(name for name, value in ask.named.items() if isinstance(value, Tensor)))]


@_rule("copy")
def _copied(ask: _Ask) -> Found:
    source = ask.geometry.of(ask["src"])
    shape = ask.shape
    if source is None or len(source) != len(shape):
        return [ask.axes("self")] if source is None else None
    return [source]


# Convolution and pooling ----------------------------------------------------------------------


def _each(value: Any, count: int) -> list[float]:
    numbers = list(value) if isinstance(value, list | tuple) else [value]
    return numbers * count if len(numbers) == 1 else numbers or [1] * count


def _strided(axis: Axis, size: int, step: float, shift: float) -> Axis:
    """An axis after a window moved over it, ``step`` entries at a time, its centre ``shift`` beyond."""
    if size == 1 and size_of(axis) >= 1 and (not axis or axis[0].role is not Role.BATCH):
        return ()
    if len(axis) != 1 or axis[0].inner:
        return unknown(size)
    part = axis[0]
    if part.role is Role.PLACE:
        first = part.first + part.step * shift
        return (replace(part, size=size, step=part.step * step, first=first),)
    return (replace(part, size=size),) if part.role in (Role.CHANNEL, Role.COPY) else unknown(size)


@_rule("convolution", "cudnn_convolution", "mkldnn_convolution", "convolution_overrideable")
def _convolution(ask: _Ask) -> Found:
    if not ask.constant("weight"):
        return None
    weight, axes = ask["weight"], ask.axes("input")
    count = weight.ndim - 2
    stride, padding, dilation = (_each(ask[name], count) for name in ("stride", "padding", "dilation"))
    batched = len(axes) == count + 2
    space = []
    for i, axis in enumerate(axes[-count:]):
        size = ask.shape[len(ask.shape) - count + i]
        reach = dilation[i] * (weight.shape[2 + i] - 1) / 2
        if ask.named.get("transposed"):
            space.append(_strided(axis, size, 1 / stride[i], (padding[i] - reach) / stride[i]))
        else:
            space.append(_strided(axis, size, stride[i], reach - padding[i]))
    made = ask.shape[1] if batched else ask.shape[0]
    return [(*axes[: len(axes) - count - 1], channels(made), *space)]


@_rule(
    "max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d", "avg_pool1d", "avg_pool2d",
    "avg_pool3d",    "max_pool2d", "max_pool3d", "mkldnn_max_pool2d",
)  # fmt: skip
def _pooling(ask: _Ask) -> Found:
    axes = ask.axes("self")
    count = {"1": 1, "2": 2, "3": 3}[
        next(c for c in "123" if len(axes) - int(c) in (1, 2) and _fits(ask, int(c)))
    ]
    kernel = _each(ask["kernel_size"], count)
    stride = _each(ask["stride"] or ask["kernel_size"], count)
    padding, dilation = _each(ask["padding"], count), _each(ask.named.get("dilation", 1), count)
    space = [
        _strided(axis, size, stride[i], dilation[i] * (kernel[i] - 1) / 2 - padding[i])
        for i, (axis, size) in enumerate(zip(axes[-count:], ask.shape[-count:], strict=True))
    ]
    return [(*axes[:-count], *space)]


def _fits(ask: _Ask, count: int) -> bool:
    kernel = ask["kernel_size"]
    return len(kernel) == count if isinstance(kernel, list | tuple) and len(kernel) > 1 else True


@_rule(
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "adaptive_avg_pool1d", "mkldnn_adaptive_avg_pool2d", "upsample_nearest1d", "upsample_nearest2d",
    "upsample_nearest3d", "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d",
    "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d",
)  # fmt: skip
def _resized(ask: _Ask) -> Found:
    axes = ask.axes("self" if "self" in ask.named else "input")
    count = len(ask["output_size"])
    space = []
    for axis, size in zip(axes[-count:], ask.shape[-count:], strict=True):
        factor = size_of(axis) / size
        space.append(_strided(axis, size, factor, (factor - 1) / 2))
    return [(*axes[:-count], *space)]


# Products -------------------------------------------------------------------------------------


def _contracted(axis: Axis, size: int) -> Axis:
    """The axis of sums with constant weights over another axis: channels, unless places only were summed."""
    mixes = axis and all(part.role is not Role.CHANNEL for part in axis)
    return unknown(size) if mixes else channels(size)


def _product(ask: _Ask, left: str, right: str) -> Axes:
    a, b = ask.geometry.of(ask[left]), ask.geometry.of(ask[right])
    rows, columns = ask.shape[-2:]
    if a is not None and b is not None:
        return a[-2], b[-1]
    if a is not None:
        return a[-2], _contracted(a[-1], columns)
    assert b is not None
    return _contracted(b[-2], rows), b[-1]


@_rule("mm", "_int_mm")
def _mm(ask: _Ask) -> Found:
    return [_product(ask, "self", "mat2")]


@_rule("addmm")
def _addmm(ask: _Ask) -> Found:
    return [_product(ask, "mat1", "mat2")] if ask.constant("self") else None


@_rule("bmm")
def _bmm(ask: _Ask) -> Found:
    rows = [axes[0] for axes in map(ask.geometry.of, (ask["self"], ask["mat2"])) if axes is not None]
    return [(_merged(rows, ask.shape[0]), *_product(ask, "self", "mat2"))]


@_rule("baddbmm")
def _baddbmm(ask: _Ask) -> Found:
    rows = [axes[0] for axes in map(ask.geometry.of, (ask["batch1"], ask["batch2"])) if axes is not None]
    return [(_merged(rows, ask.shape[0]), *_product(ask, "batch1", "batch2"))]


@_rule("linear", "mkldnn_linear", "_mkldnn_linear")
def _linear(ask: _Ask) -> Found:
    axes = ask.axes("input" if "input" in ask.named else "self")
    return [(*axes[:-1], _contracted(axes[-1], ask.shape[-1]))] if ask.constant("weight") else None


@_rule(
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_attention_math", "scaled_dot_product_attention",
)  # fmt: skip
def _attention(ask: _Ask) -> Found:
    return [(*ask.axes("query")[:-1], ask.axes("value")[-1])]


@_rule("_native_multi_head_attention", "_transformer_encoder_layer_fwd")
def _encoder(ask: _Ask) -> Found:
    axes = ask.axes("query" if "query" in ask.named else "src")
    return [(*axes[:-1], channels(ask.shape[-1])), None]


# Shapes ---------------------------------------------------------------------------------------


def _reshaped(axes: Axes, shape: Sequence[int]) -> Axes:
    """Split axes into parts and join them to others; what does not fit is unknown."""
    waiting = [part for axis in axes for part in axis]
    found: list[Axis] = []
    for size in shape:
        parts: list[Part] = []
        missing = size
        while waiting and (missing > 1 or (waiting[0].size == 1 and size == 1 and not parts)):
            part = waiting.pop(0)
            if missing % part.size == 0:
                parts.append(part)
                missing //= part.size
                continue
            if part.size % missing or part.inner:
                return tuple(map(unknown, shape))
            outer, inner = _split(part, missing)
            parts.append(outer)
            waiting.insert(0, inner)
            missing = 1
        if missing != 1:
            return tuple(map(unknown, shape))
        found.append(tuple(part for part in parts if part.size > 1 or part.role is Role.BATCH))
    return tuple(found) if all(part.size == 1 for part in waiting) else tuple(map(unknown, shape))


def _split(part: Part, outer: int) -> tuple[Part, Part]:
    inner = part.size // outer
    return replace(part, size=outer, step=part.step * inner), replace(part, size=inner, first=0.0)


def _joined(axis: Axis) -> Axis:
    """Put neighbouring parts together that are one: the inner runs through what the outer leaves."""
    found: list[Part] = []
    for part in axis:
        last = found[-1] if found else None
        alike = last is not None and last.role is part.role and not (last.inner or part.inner)
        if last is not None and alike and part.role in (Role.BATCH, Role.CHANNEL, Role.COPY, Role.UNKNOWN):
            found[-1] = replace(last, size=last.size * part.size)
        elif (
            last is not None
            and alike
            and (last.dim, last.turn, last.step) == (part.dim, part.turn, part.step * part.size)
        ):
            first = last.first + part.first
            found[-1] = replace(part, size=last.size * part.size, first=first)
        else:
            found.append(part)
    return tuple(found)


@_rule(
    "view", "_unsafe_view", "_reshape_alias", "reshape", "_reshape_copy", "unflatten", "flatten", "view_copy"
)
def _view(ask: _Ask) -> Found:
    return [tuple(map(_joined, _reshaped(ask.axes("self"), ask.shape)))]


def _place(dim: int, count: int) -> int:
    return dim % count if count else 0


@_rule("permute")
def _permute(ask: _Ask) -> Found:
    axes = ask.axes("self")
    return [tuple(axes[_place(dim, len(axes))] for dim in ask["dims"])]


@_rule("transpose")
def _transpose(ask: _Ask) -> Found:
    axes = list(ask.axes("self"))
    one, other = _place(ask["dim0"], len(axes)), _place(ask["dim1"], len(axes))
    axes[one], axes[other] = axes[other], axes[one]
    return [tuple(axes)]


@_rule("t", "numpy_T")
def _t(ask: _Ask) -> Found:
    return [ask.axes("self")[::-1]]


@_rule("unsqueeze")
def _unsqueeze(ask: _Ask) -> Found:
    axes = ask.axes("self")
    dim = _place(ask["dim"], len(axes) + 1)
    return [(*axes[:dim], (), *axes[dim:])]


@_rule("squeeze")
def _squeeze(ask: _Ask) -> Found:
    axes = ask.axes("self")
    dims = ask.named.get("dim", range(len(axes)))
    chosen = {_place(dim, len(axes)) for dim in (dims if not isinstance(dims, int) else [dims])}
    return [tuple(axis for i, axis in enumerate(axes) if i not in chosen or size_of(axis) != 1)]


@_rule("expand", "broadcast_to")
def _expand(ask: _Ask) -> Found:
    axes = ask.axes("self")
    more = len(ask.shape) - len(axes)
    padded = ((),) * more + axes
    return [
        tuple(
            axis if size_of(axis) == size else (Part(Role.COPY, size),)
            for axis, size in zip(padded, ask.shape, strict=True)
        )
    ]


@_rule("select")
def _select(ask: _Ask) -> Found:
    axes = ask.axes("self")
    dim = _place(ask["dim"], len(axes))
    return [axes[:dim] + axes[dim + 1 :]]


@_rule("slice")
def _slice(ask: _Ask) -> Found:
    axes = list(ask.axes("self"))
    dim = _place(ask["dim"], len(axes))
    size, step = size_of(axes[dim]), ask["step"]
    start, stop, step = slice(ask["start"], ask["end"], step).indices(size)
    axes[dim] = _sliced(axes[dim], start, len(range(start, stop, step)), step)
    return [tuple(axes)]


def _sliced(axis: Axis, start: int, count: int, step: int) -> Axis:
    if (start, count, step) == (0, size_of(axis), 1):
        return axis
    if len(axis) != 1:
        return unknown(count)
    part = axis[0]
    if part.inner:
        rest = size_of(part.inner)
        after = part.size - part.before - rest
        if step != 1 or start > part.before or part.size - start - count > after:
            return unknown(count)
        before = part.before - start
        return part.inner if count == rest and before == 0 else (replace(part, size=count, before=before),)
    if part.role is Role.PLACE:
        return (replace(part, size=count, step=part.step * step, first=part.first + part.step * start),)
    return (replace(part, size=count),) if part.role in (Role.CHANNEL, Role.COPY) else unknown(count)


@_rule(
    "split",
    "split_with_sizes",
    "chunk",
    "tensor_split",
    "unsafe_split",
    "unsafe_split_with_sizes",
    "unsafe_chunk",
)
def _splits(ask: _Ask) -> Found:
    axes = ask.axes("self")
    dim = _place(ask.named.get("dim", 0), len(axes))
    found: list[Axes | None] = []
    start = 0
    for tensor in ask.outputs:
        part = _sliced(axes[dim], start, tensor.shape[dim], 1)
        found.append((*axes[:dim], part, *axes[dim + 1 :]))
        start += tensor.shape[dim]
    return found


@_rule("unbind")
def _unbind(ask: _Ask) -> Found:
    axes = ask.axes("self")
    dim = _place(ask.named.get("dim", 0), len(axes))
    return [(*axes[:dim], *axes[dim + 1 :])] * len(ask.outputs)


@_rule("cat", "concatenate")
def _cat(ask: _Ask) -> Found:
    tensors = [tensor for tensor in ask["tensors"] if tensor.numel() or tensor.ndim > 1]
    dim = _place(ask.named.get("dim", 0), len(ask.shape))
    known = [ask.geometry.of(tensor) for tensor in tensors]
    rows = [axes for axes in known if axes is not None]
    merged = [
        _merged([axes[i] for axes in rows if len(axes) == len(ask.shape)], size) if i != dim else ()
        for i, size in enumerate(ask.shape)
    ]
    lengths = [tensor.shape[dim] for tensor in tensors]
    along = [None if axes is None else axes[dim] for axes in known]
    merged[dim] = _chained(along, lengths)
    return [tuple(merged)]


def _chained(along: Sequence[Axis | None], lengths: Sequence[int]) -> Axis:
    """Axes one after the other; None stands for constants, which have no place."""
    total = sum(lengths)
    told = [axis for axis in along if axis is not None]
    if all(axis and {part.role for part in axis} == {Role.CHANNEL} for axis in told):
        return channels(total)
    placed = [i for i, axis in enumerate(along) if axis is not None and _is_places(axis)]
    if len(placed) == 1 and all(_is_single(axis) for i, axis in enumerate(along) if i != placed[0]):
        inner = along[placed[0]]
        assert inner is not None
        before = sum(lengths[: placed[0]])
        return (Part(Role.PLACE, total, inner=inner, before=before),)
    parts = [axis[0] if axis is not None and len(axis) == 1 else None for axis in along]
    first = parts[0]
    if first is not None and first.role is Role.PLACE and not first.inner:
        at = 0
        for part, length in zip(parts, lengths, strict=True):
            if part is None or replace(part, size=first.size, first=first.first) != first:
                return unknown(total)
            if part.first != first.first + first.step * at:
                return unknown(total)
            at += length
        return (replace(first, size=total),)
    return unknown(total)


def _is_places(axis: Axis) -> bool:
    return bool(axis) and all(part.role is Role.PLACE and not part.inner for part in axis)


def _is_single(axis: Axis | None) -> bool:
    """A token without a place: a constant, or one that was made of all."""
    return axis is None or axis == ()


@_rule("stack")
def _stack(ask: _Ask) -> Found:
    dim = _place(ask.named.get("dim", 0), len(ask.shape))
    rows = [axes for axes in map(ask.geometry.of, ask["tensors"]) if axes is not None]
    rest = [size for i, size in enumerate(ask.shape) if i != dim]
    merged = [_merged([axes[i] for axes in rows], size) for i, size in enumerate(rest)]
    return [(*merged[:dim], unknown(ask.shape[dim]), *merged[dim:])]


@_rule("roll")
def _roll(ask: _Ask) -> Found:
    axes = list(ask.axes("self"))
    for shift, dim in zip(_each(ask["shifts"], 1), _each(ask["dims"], 1), strict=True):
        at = _place(int(dim), len(axes))
        if len(axes[at]) != 1 or axes[at][0].role is not Role.PLACE or axes[at][0].inner:
            return None
        part = axes[at][0]
        axes[at] = (replace(part, turn=(part.turn + int(shift)) % part.size),)
    return [tuple(axes)]


@_rule("flip")
def _flip(ask: _Ask) -> Found:
    axes = list(ask.axes("self"))
    for dim in ask["dims"]:
        axis = axes[_place(dim, len(axes))]
        if any(part.inner for part in axis):
            return None
        axes[_place(dim, len(axes))] = tuple(
            replace(part, first=part.first + part.step * (part.size - 1), step=-part.step)
            if part.role is Role.PLACE
            else part
            for part in axis
        )
    return [tuple(axes)]


@_rule("constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
       "replication_pad2d", "replication_pad3d")  # fmt: skip
def _padded(ask: _Ask) -> Found:
    axes = list(ask.axes("self"))
    widths = ask["pad" if "pad" in ask.named else "padding"]
    for i in range(len(widths) // 2):
        dim = len(axes) - 1 - i
        if (widths[2 * i], widths[2 * i + 1]) != (0, 0):
            axes[dim] = _strided(axes[dim], ask.shape[dim], 1, -widths[2 * i])
    return [tuple(axes)]


# Reductions -----------------------------------------------------------------------------------


@_rule("mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "logsumexp", "norm",
       "linalg_vector_norm", "prod", "median", "all", "any")  # fmt: skip
def _reduced(ask: _Ask) -> Found:
    axes = ask.axes("self")
    dims = ask.named.get("dim")
    chosen = range(len(axes)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    gone = {_place(dim, len(axes)) for dim in chosen}
    keep = ask.named.get("keepdim", False)
    left = tuple(() if i in gone else axis for i, axis in enumerate(axes) if keep or i not in gone)
    return [left] * len(ask.outputs)


# Recurrent layers -----------------------------------------------------------------------------


@_rule("mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn")
def _recurrent(ask: _Ask) -> Found:
    axes = ask.axes("input")
    return [(*axes[:2], channels(ask.shape[2]))] if len(axes) == 3 else None


_RECURRENT = frozenset({"gru", "lstm", "rnn_tanh", "rnn_relu"})


def places_of(axes: Iterable[Axis]) -> Iterator[Part]:
    """All parts that are places, those behind tokens without one included."""
    for axis in axes:
        for part in axis:
            yield from places_of([part.inner]) if part.inner else [part] if part.role is Role.PLACE else []


# What a map can be made of --------------------------------------------------------------------


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
    roles = [{part.role for part in axis} for axis in axes]
    if any(found & {Role.UNKNOWN, Role.COPY} for found in roles[1:]) or not axes:
        return None
    if roles[0] != {Role.BATCH} or any(Role.BATCH in found for found in roles[1:]):
        raise LayerError("its first axis is not the images of the batch, or not those alone")
    own = [i for i, found in enumerate(roles) if found == {Role.CHANNEL}]
    own = own or [i for i, axis in enumerate(axes) if i and not axis][:1]
    if len(own) != 1:
        raise LayerError(f"it has {len(own)} axes of channels")
    rest = [axis for i, axis in enumerate(axes) if i not in (0, *own)]
    if len(rest) == 1 and len(rest[0]) == 1 and rest[0][0].inner:
        return _behind_others(own[0], rest[0][0], ndim)
    grid = _grid(rest, ndim)
    return Layout(own[0], grid, grid)


def _behind_others(channel_axis: int, tokens: Part, ndim: int) -> Layout:
    """Tokens of which the first have no place."""
    grid = _grid([tokens.inner], ndim)
    if tokens.size != tokens.before + prod(grid):
        raise LayerError("tokens without a place come after those that have one")
    return Layout(channel_axis, (tokens.size,), grid, tokens.before)


def _grid(axes: Sequence[Axis], ndim: int) -> tuple[int, ...]:
    """The sizes of axes of places along the image's own, in their order.

    Raises:
        LayerError: there are others, or they are in another order.
    """
    parts = [part for axis in axes for part in axis]
    if any(part.role is not Role.PLACE or part.inner for part in parts):
        raise LayerError("channels and places are in one axis")
    dims = [part.dim for part in parts]
    if len(set(dims)) != len(dims):
        raise LayerError("an axis of the image is there twice, or in pieces")
    if dims != sorted(dims) or any(part.turn or part.step < 0 for part in parts):
        raise LayerError("its places are in another order than those of the image")
    sizes = {part.dim: part.size for part in parts}
    return tuple(sizes.get(dim, 1) for dim in range(ndim))
