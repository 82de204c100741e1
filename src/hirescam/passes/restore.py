"""Give a model back as it was, whatever its own forward pass writes to."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hirescam.passes import randomness
from hirescam.passes.borrow import parts, version_of

_DEEPEST = 3  # containers in containers, such as a dict of lists
_LONGEST = 1000  # entries: longer ones are data, and would cost time
_ABSENT = object()
_INTERNAL = frozenset(nn.Module().__dict__)

GiveBack = Callable[[], bool]
"""Puts back what was kept; tells whether there was something to do."""


@dataclass(frozen=True, eq=False)
class Slot:
    """What a name stands for: an attribute or a buffer of one module, or an entry of a dict that it has."""

    owner: dict[Any, Any]
    name: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slot) and self.owner is other.owner and self.name == other.name

    def __hash__(self) -> int:
        return hash((id(self.owner), self.name))

    def keep(self) -> GiveBack:
        """Keep what the name stands for now."""
        old = self.owner.get(self.name, _ABSENT)

        return lambda: self.put(old)

    def put(self, old: object) -> bool:
        """Let the name stand for something again, or for nothing."""
        if self.owner.get(self.name, _ABSENT) is old:
            return False
        if old is _ABSENT:
            self.owner.pop(self.name)
        else:
            self.owner[self.name] = old
        return True


@dataclass(frozen=True, eq=False)
class Contents:
    """What is in a list."""

    owner: list[Any]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Contents) and self.owner is other.owner

    def __hash__(self) -> int:
        return id(self.owner)

    def keep(self) -> GiveBack:
        """Keep what is in the list now."""
        old = list(self.owner)

        def give_back() -> bool:
            if len(old) == len(self.owner) and all(map(_is, old, self.owner)):
                return False
            self.owner[:] = old
            return True

        return give_back


@dataclass(frozen=True, eq=False)
class Written:
    """The values of a tensor, and that it is on no tape."""

    tensor: Tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Written) and self.tensor is other.tensor

    def __hash__(self) -> int:
        return id(self.tensor)

    def keep(self) -> GiveBack:
        """Keep the tensor's values."""
        tensor, version, tape = self.tensor, version_of(self.tensor), self.tensor.grad_fn
        values = tensor.detach().clone()

        def give_back() -> bool:
            taped = tensor.grad_fn is not tape
            # a write that ends in the same values counts, and so does one through .data, without a version
            if not taped and version_of(tensor) == version and _equal(tensor, values):
                return False
            if taped:
                _off_tape(tensor)
            with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                tensor.copy_(values)
            return True

        return give_back


@dataclass(frozen=True, eq=False)
class Drawn:
    """The state of a random number generator of the model's own."""

    generator: object
    read: Callable[[], Any]
    put: Callable[[Any], Any]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Drawn) and self.generator is other.generator

    def __hash__(self) -> int:
        return id(self.generator)

    def keep(self) -> GiveBack:
        """Keep the generator's state."""
        old = self.read()

        def give_back() -> bool:
            if randomness.same(old, self.read()):
                return False
            self.put(old)
            return True

        return give_back


Place = Slot | Contents | Written | Drawn
"""Something that a forward pass can write to."""


@contextmanager
def unchanged(model: nn.Module) -> Iterator[list[Place]]:
    """Put back every buffer and attribute that forward passes in this block assign or write to.

    Attributes in dicts and lists are attributes too; parameters are not. Gives a list which in the end holds
    the places that were put back, for `restored` to look after later.
    """
    # parts of TorchScript do not keep their buffers in a dict
    modules = [module for module in parts(model) if not isinstance(module, torch.jit.ScriptModule)]
    dicts: list[dict[Any, Any]] = [
        owner for module in modules for owner in (module.__dict__, module._buffers)
    ]
    rows: list[list[Any] | tuple[Any, ...]] = []
    for module in modules:
        _collect([value for name, value in module.__dict__.items() if name not in _INTERNAL], dicts, rows)
    before = [dict(owner) for owner in dicts]
    contents = [Contents(owner) for owner in rows if isinstance(owner, list)]
    held = {id(item): item for values in (*map(dict.values, before), *rows) for item in values}
    written = [Written(item) for item in held.values() if isinstance(item, Tensor) and _comparable(item)]
    drawn = [Drawn(item, *access) for item in held.values() if (access := randomness.access(item))]
    places: list[Place] = [*contents, *written, *drawn]
    kept = [(place, place.keep()) for place in places]
    found: list[Place] = []
    try:
        yield found
    finally:
        for owner, old in zip(dicts, before, strict=True):
            slots = [Slot(owner, name) for name in [*old, *(name for name in owner if name not in old)]]
            found += [slot for slot in slots if slot.put(old.get(slot.name, _ABSENT))]
        found += [place for place, give_back in kept if give_back()]


@contextmanager
def restored(places: Sequence[Place]) -> Iterator[None]:
    """Put back what is in some places, known to be written to by every pass."""
    kept = [place.keep() for place in places if not isinstance(place, Written) or _comparable(place.tensor)]
    try:
        yield
    finally:
        for give_back in kept:
            give_back()


def _collect(
    values: Iterable[object],
    dicts: list[dict[Any, Any]],
    rows: list[list[Any] | tuple[Any, ...]],
    depth: int = _DEEPEST,
) -> None:
    """Find the dicts, lists and tuples among some values, and in them."""
    for value in values:
        if not isinstance(value, dict | list | tuple) or len(value) > _LONGEST or not depth:
            continue
        if isinstance(value, dict):
            dicts.append(value)
        else:
            rows.append(value)
        _collect(value.values() if isinstance(value, dict) else value, dicts, rows, depth - 1)


def _is(one: object, other: object) -> bool:
    return one is other


def _comparable(tensor: Tensor) -> bool:
    """Whether a tensor's values can be copied and compared: not sparse ones, nor those that have none."""
    return tensor.layout is torch.strided and tensor.device.type != "meta"


def _equal(tensor: Tensor, values: Tensor) -> bool:
    return tensor.shape == values.shape and bool(torch.equal(tensor, values))


def _off_tape(tensor: Tensor) -> None:
    """Take a tensor off the tape that a write put it on."""
    base = tensor._base
    if base is None:
        tensor.detach_()
        return
    base.detach_()  # a view cannot be detached by itself: another one takes its place in the same object
    with suppress(RuntimeError):  # where something refers to it weakly, a tape stays that leads nowhere
        torch.utils.swap_tensors(
            tensor, base.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        )
