"""What a model consists of now: to see whether it is still what was judged."""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _functorch
from torch.multiprocessing.reductions import StorageWeakRef

from hirescam.passes.borrow import parts
from hirescam.passes.restore import Place, Slot, Written

_DEEPEST = 3  # containers of containers of tensors, such as a list of pairs
_LONGEST = 1000
_CONSULTED = (
    "_modules", "_parameters", "_buffers",
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip
"""What a module's call looks at, among the dicts that it has."""
_GLOBAL_HOOKS = (
    "_global_forward_hooks", "_global_forward_pre_hooks",
    "_global_backward_hooks", "_global_backward_pre_hooks",
)  # fmt: skip


class State:
    """A model's modules, attributes and hooks, and the tensors that it holds with their versions.

    Compared are objects and how often tensors were written to, not values: a change through ``.data`` is not
    seen here (see `Ends`).

    Args:
        model: the model.
        places: what its own passes write to, which is not a change.
    """

    def __init__(self, model: nn.Module, places: Sequence[Place] = ()) -> None:
        self.model = model
        self.modules = parts(model)
        self._live = [module.__dict__ for module in self.modules]
        self._kept = [dict(attributes) for attributes in self._live]
        watched = [kept[name] for kept in self._kept for name in _CONSULTED if name in kept]
        self._filled = [value for value in watched if value]
        self._filled_kept = [dict(value) for value in self._filled]
        self._empty = [value for value in watched if not value]
        self._globals = [getattr(nn.modules.module, name) for name in _GLOBAL_HOOKS]
        self._globals_kept = [dict(hooks) for hooks in self._globals]
        classes = {cls for module in self.modules for cls in type(module).__mro__}
        self._classes = [(cls, vars(cls).get("forward")) for cls in classes]
        self._types = [type(module) for module in self.modules]
        self.tensors = [
            tensor
            for module in self.modules
            for values in (module._parameters, module._buffers)
            for tensor in values.values()
            if tensor is not None
        ]
        written = {id(place.tensor) for place in places if isinstance(place, Written)}
        self._counted = [t for t in self.held if not t.is_inference() and id(t) not in written]
        self._versions = [tensor._version for tensor in self._counted]
        self._stored: tuple[list[int], dict[int, StorageWeakRef]] | None = None
        copies = {id(live): kept for live, kept in zip(self._live, self._kept, strict=True)}
        copies |= {id(live): kept for live, kept in zip(self._filled, self._filled_kept, strict=True)}
        slots = [place for place in places if isinstance(place, Slot)]
        self._free = [(slot, copies[id(slot.owner)]) for slot in slots if id(slot.owner) in copies]

    @property
    def same(self) -> bool:
        """Whether the model is what it was."""
        for slot, kept in self._free:
            if slot.name in slot.owner:
                kept[slot.name] = slot.owner[slot.name]
            else:
                kept.pop(slot.name, None)
        try:
            return (
                [tensor._version for tensor in self._counted] == self._versions
                and self._live == self._kept
                and self._filled == self._filled_kept
                and not any(self._empty)
                and self._globals == self._globals_kept
                and all(vars(cls).get("forward") is forward for cls, forward in self._classes)
                and list(map(type, self.modules)) == self._types
            )
        except (RuntimeError, ValueError, TypeError):  # an attribute that is another array does not compare
            return False

    @property
    def only_values(self) -> bool:
        """Whether nothing but values of tensors changed, as in training."""
        versions = self._versions
        try:
            self._versions = [tensor._version for tensor in self._counted]
            return self.same
        finally:
            self._versions = versions

    @cached_property
    def paths(self) -> dict[int, str]:
        """Map ``id(module)`` to the module's first path."""
        return {id(module): name for name, module in self.model.named_modules()}

    def storages(self) -> dict[int, StorageWeakRef]:
        """The storages of all that the model holds now, kept from being mistaken for later ones."""
        places = [tensor.data_ptr() for tensor in self.tensors if tensor.layout is torch.strided]
        if self._stored is None or self._stored[0] != places:
            found = {number: alive for tensor in self.held for number, alive in storages_of(tensor)}
            self._stored = (places, found)
        return self._stored[1]

    @cached_property
    def held(self) -> list[Tensor]:
        """Every tensor that the model holds: parameters, buffers, attributes, what its functions refer to."""
        values = [
            value
            for kept in self._kept
            for name, value in kept.items()
            if name not in _INTERNAL and type(value) not in _PLAIN
        ]
        values += [hook for hooks in self._filled for hook in hooks.values() if callable(hook)]
        own = [cls for cls, _ in self._classes if not cls.__module__.startswith(("torch.", "builtins"))]
        values += [value for cls in own for name, value in vars(cls).items() if name not in _INTERNAL]
        found = [*self.tensors, *(tensor for value in values for tensor in tensors_inside(value))]
        return list({id(tensor): tensor for tensor in found}.values())


def storages_of(tensor: Tensor) -> list[tuple[int, StorageWeakRef]]:
    """Numbers of the storages that hold a tensor's values; none where it does not say."""
    try:
        found = [part.untyped_storage() for part in _parts(tensor)]
    except RuntimeError:
        return []
    return [(storage._cdata, StorageWeakRef(storage)) for storage in found]


def _parts(tensor: Tensor) -> list[Tensor]:
    """The dense tensors that a tensor consists of."""
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    if tensor.layout is torch.strided:
        return [tensor]
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return []


class Ends:
    """Where the values of some tensors lie, and a few of each: the first, the last, and some between.

    A change through ``.data`` is seen if it reaches one of them. Read for every tensor of a model, it costs
    more than `State.same`, and is asked where stale values would not show otherwise.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._dense = [tensor for tensor in tensors if tensor.layout is torch.strided]
        self._views: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for tensor in self._dense:
            if tensor.numel() and not tensor.is_quantized:
                views = self._views.setdefault((tensor.device, tensor.dtype), [])
                views += [_ends(tensor), _between(tensor)] if tensor.is_contiguous() else [_ends(tensor)]
        self._places, self._values = self._read()

    @property
    def same(self) -> bool:
        """Whether all of it is as it was."""
        places, values = self._read()
        return places == self._places and all(map(torch.equal, values, self._values))

    def _read(self) -> tuple[list[int], list[Tensor]]:
        places = [tensor.data_ptr() for tensor in self._dense]
        return places, [torch.cat(views).view(torch.uint8) for views in self._views.values()]


def _ends(tensor: Tensor) -> Tensor:
    """A view of a tensor's first and last value, whatever its strides."""
    last = sum(stride * (size - 1) for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.detach().as_strided((2,), (last,), tensor.storage_offset())


def _between(tensor: Tensor) -> Tensor:
    """A view of some values of a tensor, evenly spread."""
    return tensor.detach().reshape(-1)[:: max(1, tensor.numel() // _SAMPLED)]


_SAMPLED = 64


_INTERNAL = frozenset(nn.Module().__dict__)
_PLAIN = frozenset({bool, int, float, str, type(None)})


def tensors_inside(value: Any, depth: int = _DEEPEST) -> Iterator[Tensor]:
    """Tensors in containers, objects and modules, and those that a function refers to by whatever name."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):  # that no module has as a part, but a list or a closure
        yield from [*value.parameters(), *value.buffers()]
    elif depth and not isinstance(value, type | ModuleType):
        for item in _parts_of(value):
            yield from tensors_inside(item, depth - 1)


def _parts_of(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values()) if len(value) <= _LONGEST else []
    if isinstance(value, list | tuple):
        return list(value) if len(value) <= _LONGEST else []
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell != CellType()]
        named = [value.__globals__[name] for name in value.__code__.co_names if name in value.__globals__]
        return [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *named]
    if isinstance(value, staticmethod | classmethod):
        return [value.__func__]
    return list(vars(value).values()) if hasattr(value, "__dict__") else []
