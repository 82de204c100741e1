"""What operations do to the axes of tensors, one rule for each kind of operation.

Shapes are never compared. What a rule does not know is an unknown axis.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hirescam.passes.parts import (
    Axes,
    Axis,
    Part,
    Role,
    asked,
    channels,
    is_places,
    ordered,
    places_of,
    size_of,
    turned,
    unknown,
)
from hirescam.passes.provenance import tensors_in

Fixed = dict[int, float | None]
"""Places along axes of the image; None where they were mixed."""


@dataclass(frozen=True)
class Ask:
    """One call of an operation.

    Attributes:
        of: gives the axes of a tensor; None for a constant.
        fixed: gives the place of a tensor along axes that were taken out of it.
        contracts: told of an axis over which weighted sums are taken, and of the other axes there.
        slides: told of the axis that windows which slide over others have for channels.
        named: the arguments, by name.
        outputs: what it returned.
    """

    of: Callable[[Tensor], Axes | None]
    fixed: Callable[[Tensor], Fixed]
    contracts: Callable[[Axis, Axes], None]
    slides: Callable[[Axis], None]
    named: dict[str, Any]
    outputs: list[Tensor]

    def __getitem__(self, name: str) -> Any:
        return self.named[name]

    def axes(self, name: str) -> Axes:
        """The axes of a tensor argument that depends on the image."""
        found = self.of(self.named[name])
        return tuple(map(unknown, self.named[name].shape)) if found is None else found

    def constant(self, name: str) -> bool:
        """Whether a tensor argument does not depend on the image."""
        return self.of(self.named[name]) is None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first output."""
        return tuple(self.outputs[0].shape)


UNLIKE_OURS = (
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
Rule = Callable[[Ask], Found]
RULES: dict[str, Rule] = {}


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def note(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
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
    """Whether two parts have the same places, or one sees the places of the other.

    A pooling beside a convolution is a little aside; what a causal convolution sees ends where the way around
    it has its place.
    """
    apart = abs(one.first - other.first)
    inner = len(one.inner) == len(other.inner) and all(map(_alike, one.inner, other.inner))
    alike = replace(one, first=0.0, inner=(), asked=False) == replace(other, first=0.0, inner=(), asked=False)
    return (_near(one, other) or apart <= max(one.half, other.half)) and inner and alike


def _near(one: Part, other: Part) -> bool:
    return abs(one.first - other.first) < max(1.0, abs(one.step))


def _between(*parts: Part) -> Part:
    """Places that are a little apart lie between; far apart, where the one lies that sees least."""
    inner = tuple(map(_between, *(part.inner for part in parts)))
    narrow = min(parts, key=lambda part: part.half)
    near = all(_near(narrow, part) for part in parts)
    first = sum(part.first for part in parts) / len(parts) if near else narrow.first
    half = max(abs(part.first - first) + part.half for part in parts)
    questions = all(part.asked for part in parts)
    return replace(narrow, first=first, inner=inner, asked=questions, half=half)


def pointwise(ask: Ask) -> Found:
    """Values that are combined one by one."""
    shape = ask.shape
    known = [ask.of(tensor) for tensor in tensors_in(tuple(ask.named.values()))]
    rows = [axes for axes in known if axes is not None]
    merged = []
    for back in range(len(shape), 0, -1):  # broadcasting counts from the last axis
        there = [axes[-back] for axes in rows if len(axes) >= back]
        merged.append(_merged([axis for axis in there if size_of(axis) == shape[-back]], shape[-back]))
    return [tuple(merged)]


@_rule(
    "channel_shuffle", "native_channel_shuffle",
    "clone", "_to_copy", "detach", "alias", "lift_fresh", "_softmax", "_log_softmax", "native_dropout",
    "native_layer_norm", "native_group_norm", "native_batch_norm", "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "miopen_batch_norm",
    "_batch_norm_with_update",
    "_batch_norm_no_update", "_fused_rms_norm", "cumsum", "_safe_softmax", "contiguous", "mkldnn_batch_norm",
    "resolve_conj", "resolve_neg", "hardswish", "hardsigmoid", "hardtanh", "relu6", "_prelu_kernel", "rrelu",
    "rrelu_with_noise", "celu", "selu", "log_sigmoid_forward", "softplus", "alpha_dropout", "mish",
)  # fmt: skip
def _same(ask: Ask) -> Found:
    return [ask.axes(next(name for name, value in ask.named.items() if isinstance(value, Tensor)))]


@_rule("glu")
def _halved(ask: Ask) -> Found:
    """One half of an axis, by the other half."""
    axes = list(ask.axes("self"))
    dim = _place(ask["dim"], len(axes))
    own = bool(axes[dim]) and {part.role for part in axes[dim]} == {Role.CHANNEL}
    axes[dim] = channels(ask.shape[dim]) if own else unknown(ask.shape[dim])
    return [tuple(axes)]


@_rule("copy")
def _copied(ask: Ask) -> Found:
    source = ask.of(ask["src"])
    shape = ask.shape
    if source is None or len(source) != len(shape):
        return [ask.axes("self")] if source is None else None
    return [source]


# Convolution and pooling ----------------------------------------------------------------------


def _each(value: Any, count: int) -> list[float]:
    numbers = list(value) if isinstance(value, list | tuple) else [value]
    return numbers * count if len(numbers) == 1 else numbers or [1] * count


def _strided(axis: Axis, size: int, step: float, shift: float, reach: float = 0.0) -> Axis:
    """An axis after a window moved over it, ``step`` entries at a time, its centre ``shift`` beyond.

    The window reaches ``reach`` entries to each side.
    """
    one = axis[0] if len(axis) == 1 and axis[0].role is Role.PLACE and not axis[0].inner else None
    if (size, step, shift) == (size_of(axis), 1, 0):
        return axis if one is None else (replace(one, half=one.half + abs(one.step) * reach),)
    if size == 1 and size_of(axis) >= 1 and (not axis or axis[0].role is not Role.BATCH):
        return ()
    if len(axis) != 1 or axis[0].inner:
        return unknown(size)
    part = axis[0]
    if one is not None:
        first, half = one.first + one.step * shift, one.half + abs(one.step) * reach
        made = replace(one, size=size, step=one.step * step, first=first, half=half, turn=0, ring=0)
        turn = one.turn / step
        around = one.ring == one.size == size * step and turn == int(turn)
        return (turned(made, int(turn)),) if around else unknown(size) if one.ring else (made,)
    return (replace(part, size=size),) if part.role in (Role.CHANNEL, Role.COPY) else unknown(size)


def _slides(ask: Ask, width: int, stride: float) -> bool:
    """Whether a window moves along an axis."""
    return not ask.named.get("transposed") and (width > 1 or stride > 1)


@_rule("convolution", "cudnn_convolution", "mkldnn_convolution", "convolution_overrideable")
def _convolution(ask: Ask) -> Found:
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
        if _slides(ask, weight.shape[2 + i], stride[i]) and len(axis) == 1 and axis[0].made:
            axis = (replace(axis[0], role=Role.PLACE),)
        if ask.named.get("transposed"):
            shift = (padding[i] - reach) / stride[i]
            space.append(_strided(axis, size, 1 / stride[i], shift, reach / stride[i]))
        else:
            space.append(_strided(axis, size, stride[i], reach - padding[i], reach))
    made = ask.shape[1] if batched else ask.shape[0]
    own, others = axes[-count - 1], (*axes[: -count - 1], *axes[-count:])
    if any(_slides(ask, weight.shape[2 + i], stride[i]) for i in range(count)):
        ask.slides(own)
    apart = ask.named.get("groups", 1) == size_of(own) == made > 1
    kernels = _among_channels(ask, own, made, others) if not apart else own
    return [(*axes[: -count - 1], kernels, *space)]


def _among_channels(ask: Ask, axis: Axis, size: int, others: Axes) -> Axis:
    """What a convolution makes of the axis that it takes for channels."""
    found = _contracted(ask, axis, size, others)
    plain = axis == () or all(part.role is Role.CHANNEL for part in axis)
    return channels(size) if plain else found


@_rule(
    "max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d", "avg_pool1d", "avg_pool2d",
    "avg_pool3d",    "max_pool2d", "max_pool3d", "mkldnn_max_pool2d",
)  # fmt: skip
def _pooling(ask: Ask) -> Found:
    axes = ask.axes("self")
    count = {"1": 1, "2": 2, "3": 3}[
        next(c for c in "123" if len(axes) - int(c) in (1, 2) and _fits(ask, int(c)))
    ]
    kernel = _each(ask["kernel_size"], count)
    stride = _each(ask["stride"] or ask["kernel_size"], count)
    padding, dilation = _each(ask["padding"], count), _each(ask.named.get("dilation", 1), count)
    reach = [dilation[i] * (kernel[i] - 1) / 2 for i in range(count)]
    space = [
        _strided(axis, size, stride[i], reach[i] - padding[i], reach[i])
        for i, (axis, size) in enumerate(zip(axes[-count:], ask.shape[-count:], strict=True))
    ]
    return [(*axes[:-count], *space)]


def _fits(ask: Ask, count: int) -> bool:
    kernel = ask["kernel_size"]
    return len(kernel) == count if isinstance(kernel, list | tuple) and len(kernel) > 1 else True


@_rule(
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "adaptive_avg_pool1d", "mkldnn_adaptive_avg_pool2d", "upsample_nearest1d", "upsample_nearest2d",
    "upsample_nearest3d", "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d",
    "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d",
)  # fmt: skip
def _resized(ask: Ask) -> Found:
    axes = ask.axes("self" if "self" in ask.named else "input")
    count = len(ask["output_size"])
    space = []
    for axis, size in zip(axes[-count:], ask.shape[-count:], strict=True):
        factor = size_of(axis) / size
        space.append(_strided(axis, size, factor, (factor - 1) / 2))
    return [(*axes[:-count], *space)]


# Products -------------------------------------------------------------------------------------


def _contracted(ask: Ask, axis: Axis, size: int, others: Axes = ()) -> Axis:
    """The axis of sums with constant weights over another axis.

    They are channels, unless places were summed that no other axis has any more: then each may be a place.
    """
    ask.contracts(axis, others)
    left = {part.dim for part in places_of(others)}
    gone = [part for part in axis if part.role is not Role.CHANNEL and part.dim not in left]
    if not gone or any(part.role is Role.CHANNEL for part in axis):
        return channels(size)
    own = {part.dim for part in gone}
    spectral = all(part.role is Role.PLACE and part.made for part in gone) and len(own) == 1
    return (Part(Role.CHANNEL, size, own.pop(), made=True),) if spectral else unknown(size)


def _product(ask: Ask, left: str, right: str) -> Axes:
    a, b = ask.of(ask[left]), ask.of(ask[right])
    rows, columns = ask.shape[-2:]
    if a is not None and b is not None:
        answers = any(True for _ in places_of([a[-1]]))  # sums over places, with weights made of the image
        return asked(a[-2]) if answers else a[-2], b[-1]
    if a is not None:
        return a[-2], _contracted(ask, a[-1], columns, a[:-1])
    assert b is not None
    return _contracted(ask, b[-2], rows, (*b[:-2], b[-1])), b[-1]


@_rule("mm", "_int_mm")
def _mm(ask: Ask) -> Found:
    return [_product(ask, "self", "mat2")]


@_rule("addmm")
def _addmm(ask: Ask) -> Found:
    return [_product(ask, "mat1", "mat2")] if ask.constant("self") else None


@_rule("bmm")
def _bmm(ask: Ask) -> Found:
    rows = [axes[0] for axes in map(ask.of, (ask["self"], ask["mat2"])) if axes is not None]
    return [(_merged(rows, ask.shape[0]), *_product(ask, "self", "mat2"))]


@_rule("baddbmm")
def _baddbmm(ask: Ask) -> Found:
    rows = [axes[0] for axes in map(ask.of, (ask["batch1"], ask["batch2"])) if axes is not None]
    return [(_merged(rows, ask.shape[0]), *_product(ask, "batch1", "batch2"))]


@_rule("linear", "mkldnn_linear", "_mkldnn_linear")
def _linear(ask: Ask) -> Found:
    axes = ask.axes("input" if "input" in ask.named else "self")
    return (
        [(*axes[:-1], _contracted(ask, axes[-1], ask.shape[-1], axes[:-1]))]
        if ask.constant("weight")
        else None
    )


@_rule(
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_attention_math", "scaled_dot_product_attention",
)  # fmt: skip
def _attention(ask: Ask) -> Found:
    value = ask.axes("value")
    if ask.constant("query"):  # learnt questions, each about everything
        questions = ask.shape[-2]
        return [(*value[:-2], () if questions == 1 else channels(questions), value[-1])]
    query = ask.axes("query")
    return [(*query[:-2], asked(query[-2]), value[-1])]


@_rule("_native_multi_head_attention", "_transformer_encoder_layer_fwd")
def _encoder(ask: Ask) -> Found:
    axes = ask.axes("query" if "query" in ask.named else "src")
    ask.contracts(axes[-1], axes[:-1])
    query = "query" in ask.named
    return [(*(map(asked, axes[:-1]) if query else axes[:-1]), channels(ask.shape[-1])), None]


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
        if len(found) + 1 == len(shape) or shape[len(found) + 1] != 1:
            while waiting and waiting[0].size == 1:  # a batch of one stays with what comes before it
                parts.append(waiting.pop(0))
        found.append(tuple(part for part in parts if part.size > 1 or part.role is Role.BATCH))
    return tuple(found) if all(part.size == 1 for part in waiting) else tuple(map(unknown, shape))


def _split(part: Part, outer: int) -> tuple[Part, Part]:
    inner = part.size // outer
    if part.role is not Role.PLACE:
        return replace(part, size=outer), replace(part, size=inner)
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
            and (last.dim, last.turn, last.ring, last.step)
            == (part.dim, part.turn, part.ring, part.step * part.size)
        ):
            first = last.first + part.first
            found[-1] = replace(part, size=last.size * part.size, first=first)
        else:
            found.append(part)
    return tuple(found)


@_rule(
    "view", "_unsafe_view", "_reshape_alias", "reshape", "_reshape_copy", "unflatten", "flatten", "view_copy"
)
def _view(ask: Ask) -> Found:
    return [tuple(map(_joined, _reshaped(ask.axes("self"), ask.shape)))]


def _place(dim: int, count: int) -> int:
    return dim % count if count else 0


@_rule("as_strided")
def _restrided(ask: Ask) -> Found:
    """Axes of one entry that come or go; the others stay as they are."""
    axes, whole = ask.axes("self"), ask["self"]
    before = [item for item in zip(whole.shape, whole.stride(), strict=True) if item[0] > 1]
    after = [item for item in zip(ask["size"], ask["stride"], strict=True) if item[0] > 1]
    same_start = ask["storage_offset"] in (None, whole.storage_offset())
    if before != after or not same_start:
        return None
    kept = iter(axis for axis in axes if size_of(axis) > 1)
    return [tuple(next(kept) if size > 1 else () for size in ask["size"])]


@_rule("permute")
def _permute(ask: Ask) -> Found:
    axes = ask.axes("self")
    return [tuple(axes[_place(dim, len(axes))] for dim in ask["dims"])]


@_rule("transpose")
def _transpose(ask: Ask) -> Found:
    axes = list(ask.axes("self"))
    one, other = _place(ask["dim0"], len(axes)), _place(ask["dim1"], len(axes))
    axes[one], axes[other] = axes[other], axes[one]
    return [tuple(axes)]


@_rule("t", "numpy_T")
def _t(ask: Ask) -> Found:
    return [ask.axes("self")[::-1]]


@_rule("view_as_real", "view_as_real_copy")
def _parts_of_complex(ask: Ask) -> Found:
    return [(*ask.axes("self"), channels(2))]


@_rule("view_as_complex", "view_as_complex_copy")
def _complex(ask: Ask) -> Found:
    return [ask.axes("self")[:-1]]


@_rule("unsqueeze")
def _unsqueeze(ask: Ask) -> Found:
    axes = ask.axes("self")
    dim = _place(ask["dim"], len(axes) + 1)
    return [(*axes[:dim], (), *axes[dim:])]


@_rule("squeeze")
def _squeeze(ask: Ask) -> Found:
    axes = ask.axes("self")
    dims = ask.named.get("dim", range(len(axes)))
    chosen = {_place(dim, len(axes)) for dim in (dims if not isinstance(dims, int) else [dims])}
    return [tuple(axis for i, axis in enumerate(axes) if i not in chosen or size_of(axis) != 1)]


@_rule("expand", "broadcast_to")
def _expand(ask: Ask) -> Found:
    axes = ask.axes("self")
    more = len(ask.shape) - len(axes)
    padded = ((),) * more + axes
    return [
        tuple(
            axis if size_of(axis) == size else (Part(Role.COPY, size),)
            for axis, size in zip(padded, ask.shape, strict=True)
        )
    ]


@_rule("repeat")
def _repeated(ask: Ask) -> Found:
    axes = ask.axes("self")
    padded = ((),) * (len(ask.shape) - len(axes)) + axes
    rows = zip(padded, ask["repeats"], ask.shape, strict=True)
    return [
        tuple(
            axis if count == 1 else (Part(Role.COPY, size),) if axis == () else unknown(size)
            for axis, count, size in rows
        )
    ]


@_rule("select")
def _select(ask: Ask) -> Found:
    axes = ask.axes("self")
    dim = _place(ask["dim"], len(axes))
    return [axes[:dim] + axes[dim + 1 :]]


@_rule("slice")
def _slice(ask: Ask) -> Found:
    axes = list(ask.axes("self"))
    dim = _place(ask["dim"], len(axes))
    size, step = size_of(axes[dim]), ask["step"]
    start, stop, step = slice(ask["start"], ask["end"], step).indices(size)
    axes[dim] = _sliced(axes[dim], start, len(range(start, stop, step)), step)
    return [tuple(axes)]


def _sliced(axis: Axis, start: int, count: int, step: int) -> Axis:
    if (start, count, step) == (0, size_of(axis), 1):
        return axis
    if step == 1 and len(axis) > 1 and axis[0].role is Role.PLACE and not axis[0].turn:
        rest = size_of(axis[1:])
        if start % rest == 0 and count == rest:  # one of the outermost
            return axis[1:]
    return ordered(axis, range(start, start + count * step, step))


@_rule(
    "split",
    "split_with_sizes",
    "chunk",
    "tensor_split",
    "unsafe_split",
    "unsafe_split_with_sizes",
    "unsafe_chunk",
)
def _splits(ask: Ask) -> Found:
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
def _unbind(ask: Ask) -> Found:
    axes = ask.axes("self")
    dim = _place(ask.named.get("dim", 0), len(axes))
    return [(*axes[:dim], *axes[dim + 1 :])] * len(ask.outputs)


@_rule("cat", "concatenate")
def _cat(ask: Ask) -> Found:
    tensors = [tensor for tensor in ask["tensors"] if tensor.numel() or tensor.ndim > 1]
    dim = _place(ask.named.get("dim", 0), len(ask.shape))
    known = [ask.of(tensor) for tensor in tensors]
    rows = [axes for axes in known if axes is not None]
    merged = [
        _merged([axes[i] for axes in rows if len(axes) == len(ask.shape)], size) if i != dim else ()
        for i, size in enumerate(ask.shape)
    ]
    lengths = [tensor.shape[dim] for tensor in tensors]
    along = [None if axes is None else axes[dim] for axes in known]
    single = all(axis == () for axis in along)
    merged[dim] = _lined_up(ask, tensors) if single and len(along) > 1 else _chained(along, lengths)
    return [tuple(merged)]


def _chained(along: Sequence[Axis | None], lengths: Sequence[int]) -> Axis:
    """Axes one after the other; None stands for constants, which have no place."""
    total = sum(lengths)
    told = [axis for axis in along if axis is not None]
    if all(axis and {part.role for part in axis} == {Role.CHANNEL} for axis in told):
        return channels(total)
    tokens = _tokens(along, lengths)
    if tokens is not None:
        return tokens
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


def _tokens(along: Sequence[Axis | None], lengths: Sequence[int]) -> Axis | None:
    """Entries of one axis of places, and others without a place; None where it is something else."""
    inner: Axis | None = None
    order: list[int] = []
    for axis, length in zip(along, lengths, strict=True):
        if axis is None or axis == ():  # a constant, or made of all
            order += [-1] * length
            continue
        taken = len(axis) == 1 and bool(axis[0].inner)
        if not taken and not is_places(axis):
            return None
        whole = axis[0].inner if taken else axis
        if inner not in (None, whole):
            return None
        inner = whole
        order += axis[0].order if taken else range(length)
    kept = [place for place in order if place >= 0]
    return None if inner is None or len(set(kept)) != len(kept) else ordered(inner, order)


@_rule("stack")
def _stack(ask: Ask) -> Found:
    dim = _place(ask.named.get("dim", 0), len(ask.shape))
    rows = [axes for axes in map(ask.of, ask["tensors"]) if axes is not None]
    rest = [size for i, size in enumerate(ask.shape) if i != dim]
    merged = [_merged([axes[i] for axes in rows], size) for i, size in enumerate(rest)]
    return [(*merged[:dim], _lined_up(ask, ask["tensors"]), *merged[dim:])]


def _lined_up(ask: Ask, tensors: Sequence[Tensor]) -> Axis:
    """The axis of tensors that lie one after the other along an axis that was taken out of each."""
    fixed = [ask.fixed(tensor) for tensor in tensors]
    apart = [dim for dim in fixed[0] if len({one.get(dim) for one in fixed}) > 1]
    if len(apart) != 1 or any(set(one) != set(fixed[0]) for one in fixed):
        return unknown(len(tensors))
    places = [one[apart[0]] for one in fixed]
    steps = {later - earlier for earlier, later in pairwise(places)}  # type: ignore[operator]
    if len(steps) != 1 or places[0] is None:
        return unknown(len(tensors))
    return (Part(Role.PLACE, len(tensors), apart[0], steps.pop(), places[0]),)


@_rule("unfold")
def _unfolded(ask: Ask) -> Found:
    """Windows along an axis; where in its window an entry lies comes last."""
    axes = list(ask.axes("self"))
    dim, step, width = _place(ask["dimension"], len(axes)), ask["step"], ask["size"]
    axis = axes[dim]
    count = ask.shape[dim]
    axes[dim] = _strided(axis, count, step, 0)
    part = axis[0] if len(axis) == 1 else None
    if part is None or part.inner or part.turn or part.role not in (Role.PLACE, Role.CHANNEL):
        return [(*axes, unknown(width))]
    return [(*axes, (replace(part, size=width, first=0.0),))]


@_rule("im2col")
def _columns(ask: Ask) -> Found:
    """Patches: channels and the places in a patch on one axis, the places of patches on the next."""
    axes = ask.axes("self")
    if len(axes) != 4 or any(len(axis) != 1 or axis[0].ring for axis in axes[2:]):
        return None
    sizes = [size_of(axis) for axis in axes[2:]]
    width, stride, padding, dilation = (
        _each(ask[n], 2) for n in ("kernel_size", "stride", "padding", "dilation")
    )
    windows: list[Part] = []
    inside: list[Part] = []
    for i, axis in enumerate(axes[2:]):
        reach = dilation[i] * (width[i] - 1)
        count = int((sizes[i] + 2 * padding[i] - reach - 1) // stride[i] + 1)
        windows += _strided(axis, count, stride[i], -padding[i])
        inside += [replace(axis[0], size=int(width[i]), step=axis[0].step * dilation[i], first=0.0)]
    return [(axes[0], (*axes[1], *inside), tuple(windows))]


@_rule("col2im")
def _folded(ask: Ask) -> Found:
    """Patches that do not overlap, put back."""
    axes = ask.axes("input" if "input" in ask.named else "self")
    if len(axes) != 3 or _each(ask["kernel_size"], 2) != _each(ask["stride"], 2):
        return None
    own, *inside = axes[1][:-2], *((part,) for part in axes[1][-2:])
    windows = [(part,) for part in axes[2]]
    if len(windows) != 2 or len(inside) != 2 or any(_each(ask["padding"], 2)):
        return None
    return [(axes[0], own, *(_joined((*w, *i)) for w, i in zip(windows, inside, strict=True)))]


@_rule("pixel_unshuffle")
def _into_channels(ask: Ask) -> Found:
    """Blocks of pixels become channels: their places lie on the axis of channels, behind the channels."""
    *rest, own, rows, columns = ask.axes("self")
    factor = ask["downscale_factor"]
    outer, inner = zip(*(_split(axis[0], size_of(axis) // factor) for axis in (rows, columns)), strict=True)
    whole = len(rows) == len(columns) == 1 and not (rows[0].inner or columns[0].inner)
    return [(*rest, (*own, *inner), *((part,) for part in outer))] if whole else None


@_rule("pixel_shuffle")
def _out_of_channels(ask: Ask) -> Found:
    """Channels become finer pixels, in the place of the ones that they belong to."""
    *rest, own, rows, columns = ask.axes("self")
    factor = ask["upscale_factor"]
    finer = [
        _strided(axis, size_of(axis) * factor, 1 / factor, (1 / factor - 1) / 2) for axis in (rows, columns)
    ]
    plain = all(part.role is Role.CHANNEL for part in own)
    return [(*rest, channels(size_of(own) // factor**2), *finer)] if plain else None


@_rule("index_select", "index")
def _indexed(ask: Ask) -> Found:
    """Entries of one axis by constant numbers."""
    axes = list(ask.axes("self"))
    numbers = ask.named.get("indices", [ask.named.get("index")])
    chosen = [dim for dim, index in enumerate(numbers) if index is not None]
    dim = chosen[0] if "indices" in ask.named else _place(ask["dim"], len(axes))
    index = numbers[chosen[0]]
    if len(chosen) != 1 or index.ndim != 1 or ask.of(index) is not None or index.numel() > _MOST_NUMBERS:
        return None
    index = index.nonzero()[:, 0] if index.dtype is torch.bool else index
    size = size_of(axes[dim])
    axes[dim] = ordered(axes[dim], [int(i) % size for i in index.tolist()])
    return [tuple(axes)]


_MOST_NUMBERS = 2**16


@_rule("roll")
def _roll(ask: Ask) -> Found:
    axes = list(ask.axes("self"))
    if not ask["dims"]:  # as one long row
        return None
    for shift, dim in zip(_each(ask["shifts"], 1), _each(ask["dims"], 1), strict=True):
        at = _place(int(dim), len(axes))
        axis = axes[at]
        if axis == () or {part.role for part in axis} == {Role.CHANNEL}:
            continue
        if len(axis) != 1 or axis[0].role is not Role.PLACE or axis[0].inner or not _whole(axis[0]):
            axes[at] = unknown(size_of(axis))
            continue
        axes[at] = (turned(axis[0], axis[0].turn + int(shift)),)
    return [tuple(axes)]


def _whole(part: Part) -> bool:
    """Whether it is all of an axis, where that was rolled."""
    return part.ring in (0, part.size)


@_rule("flip")
def _flip(ask: Ask) -> Found:
    axes = list(ask.axes("self"))
    for dim in ask["dims"]:
        axis = axes[_place(dim, len(axes))]
        if any(part.inner or not _whole(part) for part in axis):
            return None
        axes[_place(dim, len(axes))] = tuple(map(_backwards, axis))
    return [tuple(axes)]


def _backwards(part: Part) -> Part:
    if part.role is not Role.PLACE:
        return part
    first = part.first + part.step * (part.size - 1)
    return turned(replace(part, first=first, step=-part.step), -part.turn)


@_rule("constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
       "replication_pad2d", "replication_pad3d")  # fmt: skip
def _padded(ask: Ask) -> Found:
    axes = list(ask.axes("self"))
    widths = ask["pad" if "pad" in ask.named else "padding"]
    for i in range(len(widths) // 2):
        dim = len(axes) - 1 - i
        before, after = widths[2 * i], widths[2 * i + 1]
        if (before, after) == (0, 0):
            continue
        if len(axes[dim]) > 1 and is_places(axes[dim]) and min(before, after) >= 0 and "pad" in ask.named:
            order = [-1] * before + list(range(size_of(axes[dim]))) + [-1] * after  # tokens beside a grid
            axes[dim] = ordered(axes[dim], order)
        else:
            axes[dim] = _strided(axes[dim], ask.shape[dim], 1, -before)
    return [tuple(axes)]


# Reductions -----------------------------------------------------------------------------------


@_rule("mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "logsumexp", "norm",
       "linalg_vector_norm", "prod", "median", "all", "any")  # fmt: skip
def _reduced(ask: Ask) -> Found:
    axes = ask.axes("self")
    dims = ask.named.get("dim")
    chosen = range(len(axes)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    gone = {_place(dim, len(axes)) for dim in chosen}
    keep = ask.named.get("keepdim", False)
    left = tuple(() if i in gone else axis for i, axis in enumerate(axes) if keep or i not in gone)
    return [left] * len(ask.outputs)


# Recurrent layers -----------------------------------------------------------------------------


@_rule("mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn")
def _recurrent(ask: Ask) -> Found:
    axes = ask.axes("input")
    return [(*axes[:2], channels(ask.shape[2]))] if len(axes) == 3 else None
