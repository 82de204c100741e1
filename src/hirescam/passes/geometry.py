"""Which axes of a tensor are the batch, channels and locations, and where on the image each location lies.

Labels of axes are carried through the operations of one forward pass: a convolution has channels second, a
linear layer, an attention and a recurrent layer have them last; reshaping splits axes into parts and joins
them again, and the parts move with `permute`; strides and padding say where a location lies. Shapes are never
compared. Where an operation does not say what an axis is, the axis is unknown.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from hirescam.passes.axis_rules import RULES, UNLIKE_OURS, Ask, Fixed, pointwise
from hirescam.passes.input_axes import InputAxes, with_channels_at, without_channels
from hirescam.passes.parts import Axes, Axis, Part, Role, asked, channels, places_of, size_of, unknown
from hirescam.passes.provenance import ONLY_SHAPE, tensors_in


class Geometry:
    """The axes of every tensor of one pass that depends on the image.

    Args:
        depends: whether a tensor depends on the image at all.
        read: whether values of it were read into Python by now, where they may decide how far something is
            moved.

    Attributes:
        contradicted: what the axes of the image are instead of what was said. The first weighted sums were
            taken over another axis, while what was said to be channels was an axis apart; or over none of the
            image's. None where they were taken over what was said, or not yet.
    """

    def __init__(self, depends: Callable[[Tensor], bool], read: Callable[[], bool] = lambda: False) -> None:
        self._depends, self._read = depends, read
        self._known: dict[object, Axes] = {}
        self._fixed: dict[object, Fixed] = {}
        self._blanks: dict[int, tuple[int, ...]] = {}  # shapes of constants, into which may be written
        self._alive: dict[int, StorageWeakRef] = {}  # keeps numbers of storages from reuse
        self._made = 0
        self._image: tuple[Part, ...] = ()
        self._summed = self._taken = False
        self.contradicted: InputAxes | None = None

    def start(self, image: Tensor, axes: InputAxes) -> None:
        """The image, as the model gets it: batch, channels, and places one apart."""
        space = axes.space_letters
        self._made = len(space)
        kinds = {"b": Role.BATCH, "c": Role.CHANNEL}
        self._image = tuple(
            Part(kinds.get(letter, Role.PLACE), size, space.find(letter))
            for letter, size in zip(axes.letters, image.shape, strict=True)
        )
        self._summed = self._taken = False
        self.note(image, tuple((part,) for part in self._image))

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
        name = op._schema.name.split("::")[1].rstrip("_")
        inputs = tensors_in((args, kwargs))
        if name in ONLY_SHAPE or not any(map(self._known_or_depends, inputs)):
            for tensor in outputs:  # the first to have a storage is all of it
                self._blanks.setdefault(self._storage(tensor), tuple(tensor.shape))
            return
        rule = RULES.get(name, pointwise if torch.Tag.pointwise in op.tags else None)
        ask = Ask(self.of, self._fixed_of, self._contracts, self._slides, _named(op, args, kwargs), outputs)
        try:
            found = rule(ask) if rule is not None else None
        except UNLIKE_OURS:
            found = None
        fixed = list(self._fixed_by(name, ask, inputs))
        for number, tensor in enumerate(outputs):
            axes = found[number] if found is not None and number < len(found) else None
            if axes is None or [size_of(axis) for axis in axes] != list(tensor.shape):
                axes = tuple(map(unknown, tensor.shape))
            if name in _BY_NUMBERS and self._read():
                before = ask.axes("self")
                axes = tuple(axis if axis in before else unknown(size_of(axis)) for axis in axes)
                fixed[number] = dict.fromkeys(fixed[number])
            key = self._key(tensor)
            self._known[key] = axes
            there = {part.dim for part in places_of(axes)}
            self._fixed[key] = {dim: at for dim, at in fixed[number].items() if dim not in there}
        if name == "copy":
            self._written(outputs[0])

    def function(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Note what a torch function returned that takes many steps, which do not show enough one by one."""
        if name not in _MANY_STEPS:
            return
        outputs = tensors_in(result)
        if not outputs or not args or not isinstance(args[0], Tensor):
            return
        axes = self.of(args[0])
        if axes is None:
            return
        if name in _RECURRENT and len(axes) == outputs[0].ndim == 3:
            self._contracts(axes[2], axes[:2])
            self.note(outputs[0], (*axes[:2], channels(outputs[0].shape[2])))
        if name == "stft":
            self._spectrum(axes, args, kwargs, outputs[0])
        if name == "scaled_dot_product_attention":
            value = self.of(kwargs["value"] if "value" in kwargs else args[2])
            own = channels(outputs[0].shape[-1]) if value is None else value[-1]
            answers = (*axes[:-2], asked(axes[-2]), own)
            if [size_of(axis) for axis in answers] == list(outputs[0].shape):  # questions are not broadcast
                self.note(outputs[0], answers)

    def _spectrum(self, axes: Axes, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        """Frequencies are an axis that the network makes; frames lie where their middle is."""
        names = ("input", "n_fft", "hop_length", "win_length", "window", "center")
        named = dict(zip(names, args, strict=False)) | kwargs
        hop = named.get("hop_length") or named["n_fft"] // 4
        wave = axes[-1]
        if len(wave) != 1 or wave[0].role is not Role.PLACE or wave[0].inner or wave[0].turn:
            return
        middle = 0 if named.get("center", True) else (named["n_fft"] - 1) / 2
        frequencies, frames = output.shape[len(axes) - 1], output.shape[len(axes)]
        time = Part(
            Role.PLACE, frames, wave[0].dim, wave[0].step * hop, wave[0].first + wave[0].step * middle
        )
        spectrum = Part(Role.PLACE, frequencies, self._made, made=True)
        self._made += 1
        complex_parts = [channels(2)] if output.ndim > len(axes) + 1 else []
        self.note(output, (*axes[:-1], (spectrum,), (time,), *complex_parts))

    def _contracts(self, axis: Axis, others: Axes) -> None:
        """Note which axis of the image itself the first weighted sums are taken over."""
        if self._summed:
            return
        own = [part for part in self._image if part.role is Role.CHANNEL and part.size > 1]
        apart = any(part in own for row in others for part in row)
        if apart and not any(part.role is Role.PLACE for part in axis):
            self._summed, self.contradicted = True, without_channels(len(self._image))
            return
        if not axis:
            return
        self._summed = True
        one = axis[0] if len(axis) == 1 and axis[0].role is Role.PLACE else None
        if one in self._image and (self._taken or apart):
            self.contradicted = with_channels_at(self._image.index(one), len(self._image))

    def _slides(self, axis: Axis) -> None:
        """Note which axis windows have for channels: those of the image are, whatever was summed before."""
        one = axis[0] if len(axis) == 1 and axis[0] in self._image else None
        if one is None:
            return
        if one.role is Role.CHANNEL:
            self._summed, self.contradicted = True, None
        elif not any(part.role is Role.CHANNEL for part in self._image):
            self.contradicted = with_channels_at(self._image.index(one), len(self._image))

    def _written(self, part: Tensor) -> None:
        """Note what a tensor is of which a part was written: its places go on beyond those of the part."""
        shape = self._blanks.pop(self._storage(part), None)
        axes = self._known[self._key(part)]
        whole = None if shape is None else _base(part, shape)
        if whole is None or shape is None or len(shape) != part.ndim:
            return
        left, grown = part.storage_offset(), []
        for axis, size, stride in zip(axes, shape, whole.stride(), strict=True):
            start, left = divmod(int(left), int(stride))
            if size_of(axis) == size:
                grown.append(axis)
                continue
            one = axis[0] if len(axis) == 1 else None
            if one is None or one.role is not Role.PLACE or one.inner or one.turn:
                return
            grown.append((replace(one, size=size, first=one.first - one.step * start),))
        self.note(whole, tuple(grown))

    def _fixed_of(self, tensor: Tensor) -> Fixed:
        return self._fixed.get(self._key(tensor), {})

    def _fixed_by(self, name: str, ask: Ask, inputs: list[Tensor]) -> list[Fixed]:
        """Where each output lies along axes that were taken out of it, as `select` and `unbind` do."""
        common = _together(map(self._fixed_of, inputs))
        if name not in ("select", "unbind"):
            return [common] * len(ask.outputs)
        axes = ask.axes("self")
        axis = axes[ask.named.get("dim", 0)]
        part = axis[0] if len(axis) == 1 else None
        if part in self._image and part is not None and part.role is Role.CHANNEL and part.size > 1:
            self._taken = True
        if part is None or part.role is not Role.PLACE or part.inner or part.turn:
            return [common] * len(ask.outputs)
        chosen = range(part.size) if name == "unbind" else [ask["index"] % part.size]
        return [common | {part.dim: part.first + part.step * index} for index in chosen]

    def _known_or_depends(self, tensor: Tensor) -> bool:
        return self._key(tensor) in self._known or self._depends(tensor)

    def _storage(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        self._alive.setdefault(storage._cdata, StorageWeakRef(storage))
        return int(storage._cdata)

    def _key(self, tensor: Tensor) -> object:
        if tensor.layout is not torch.strided:
            return id(tensor)
        return self._storage(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


_RECURRENT = frozenset({"gru", "lstm", "rnn_tanh", "rnn_relu"})
_MANY_STEPS = _RECURRENT | {"stft", "scaled_dot_product_attention"}


_BY_NUMBERS = frozenset(
    """roll slice select narrow index index_select constant_pad_nd reflection_pad1d reflection_pad2d
    reflection_pad3d replication_pad1d replication_pad2d replication_pad3d""".split()  # noqa: SIM905
)
"""Operations that move places by numbers, which may be those of one image where values of it were read."""


def _base(part: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """The contiguous tensor of a shape that a tensor is a part of, with its strides; None without one."""
    whole = part.as_strided(shape, torch.empty(shape, device="meta").stride(), 0)
    return whole if part.ndim == len(shape) and part.stride() == whole.stride() else None


def _named(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of an operation by name, those that were left out too."""
    arguments = op._schema.arguments
    named = {argument.name: value for argument, value in zip(arguments, args, strict=False)} | kwargs
    for argument in arguments:
        if argument.name not in named and argument.has_default_value():
            named[argument.name] = argument.default_value
    return named


def _together(fixed: Iterable[Fixed]) -> Fixed:
    """What was made of several: where they lie apart, the place is not known."""
    found: Fixed = {}
    for one in fixed:
        for dim, at in one.items():
            found[dim] = at if found.get(dim, at) == at else None
    return found
