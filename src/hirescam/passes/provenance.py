"""Where the values of one forward pass come from: from the layer, from the model, or from nobody knows where.

A tensor is a *constant* only if the model held it before the pass, or if it was made, by operations that were
seen, from constants alone. Everything else depends on the source (the image, or the layer that is explained):
either visibly, *on the tape*, where the autograd graph says how, or *hidden*: detached, computed in inference
mode, made by code that cannot be observed. Where something hidden meets the tape, the graph does not tell the
whole truth, and there is an event.

Storages are marked, not tensor objects: whatever shares memory (``nn.Parameter(t)``, ``w.data = t``, views,
DLPack) is of one origin. Operations are seen below autograd, so that it does not matter which Python called
them, or whether it was Python at all; only other threads and foreign libraries are out of sight, and what
comes back from there is unknown, hence hidden.
"""

import copy
from collections import UserDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary

from hirescam.passes.state import storages_of

UNSEEN = "a tensor from code that cannot be observed"
"""What is said of a value that nobody saw being made."""

_VALUES_INTO_PYTHON = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})
_EXPORTS = frozenset(
    """__array__ __dlpack__ __format__ __reduce_ex__ __repr__ data_ptr numpy storage tolist
    untyped_storage""".split()  # noqa: SIM905
)
"""Functions that hand values to Python or to other libraries without an operation that could be seen."""
ONLY_SHAPE = frozenset(
    """zeros_like ones_like full_like empty_like rand_like randn_like randint_like new_zeros new_ones new_full
    new_empty new_empty_strided is_pinned""".split()  # noqa: SIM905
)
"""Operations that take from their first argument its shape, dtype and device, and nothing else."""
_CHOOSES = frozenset({"index", "masked_select"})
"""Operations whose output has a shape that their later arguments decide, not the first one."""
_CORE = ("aten", "prims", "prim")
_LITERALS = frozenset({"tensor", "as_tensor", "asarray", "new_tensor", "__setitem__", "__getitem__"})
"""Functions that make a tensor of the numbers they are given."""
_METHODS = frozenset({"new_tensor", "__setitem__", "__getitem__"})
"""Those of them whose first argument is a tensor that gives no numbers."""


@dataclass(frozen=True)
class Event:
    """A dependence that the graph does not show.

    Attributes:
        name: the function that read a value into Python or left the tape, or `UNSEEN`.
        module: path of the module that was running.
        time: when, on the clock of the pass.
        lost: whether the calls that were seen, run again, would not do the same.
        read: whether a value came into Python, which may go anywhere with it.
    """

    name: str
    module: str
    time: int
    lost: bool
    read: bool = False


def tensors_in(tree: Any) -> list[Tensor]:
    """All tensors in nested lists, tuples, dicts and slices, in order."""
    found: list[Tensor] = []
    _collect(tree, found)
    return found


def _collect(item: Any, found: list[Tensor]) -> None:
    if isinstance(item, Tensor):
        found.append(item)
    elif isinstance(item, list | tuple):
        for part in item:
            _collect(part, found)
    elif isinstance(item, dict):
        for part in item.values():
            _collect(part, found)
    elif isinstance(item, slice):
        _collect((item.start, item.stop, item.step), found)
    elif isinstance(item, UserDict):
        _collect(item.data, found)
    elif is_dataclass(item) and not isinstance(item, type):
        _collect([getattr(item, one.name, None) for one in fields(item)], found)


def exchanged(tree: Any, old: Tensor, new: Tensor) -> Any:
    """The same nested lists, tuples, dicts and dataclasses with another tensor in the place of one."""
    if tree is old:
        return new
    if isinstance(tree, list | tuple):
        parts = [exchanged(part, old, new) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if isinstance(tree, dict | UserDict):
        changed = copy.copy(tree)
        for key, part in tree.items():
            if (made := exchanged(part, old, new)) is not part:
                changed[key] = made
        return changed
    if is_dataclass(tree) and not isinstance(tree, type):
        same = copy.copy(tree)
        for one in fields(tree):
            part = getattr(tree, one.name, None)
            if (made := exchanged(part, old, new)) is not part:
                object.__setattr__(same, one.name, made)
        return same
    return tree


class Provenance:
    """Follows the values of one pass.

    Args:
        held: the storages of what there was before the pass.
        where: gives the path of the module that is running.
    """

    def __init__(self, held: Collection[int], where: Callable[[], str]) -> None:
        self.events: list[Event] = []
        self.unlisted = False  # whether something was written otherwise than by a torch function
        self.clock = 0
        self.function = ""  # the torch function that is running, by its bare name
        self.arguments: Any = ()
        self._where = where
        self._dependent: dict[int, str] = {}  # storage -> the function that wrote it
        self._constant: set[int] = set()
        self._taped: set[int] = set()  # storages that a tensor on the tape was seen to have
        self._alive: dict[int, StorageWeakRef] = {}  # weak references keep numbers of storages from reuse
        self._names: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._reaches: dict[Node, bool] = {}
        self._holding = False
        self._held = held

    def follow(self, source: Tensor) -> None:
        """Follow the values of a tensor: on the tape, or, where it is not, hidden from the start."""
        for storage in self._storages(source):
            self._constant.discard(storage)
            self._dependent[storage] = "images"
        if source.grad_fn is not None:
            self._reaches = {source.grad_fn: True}
            self._taped.update(self._storages(source))

    def tick(self) -> int:
        """The next moment."""
        self.clock += 1
        return self.clock

    def on_tape(self, tensor: Tensor) -> bool:
        """Whether the graph leads from a tensor to the source."""
        return tensor.grad_fn is not None and self._leads(tensor.grad_fn)

    def depends(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on the source, visibly or not, or is of unknown origin."""
        return not self._storages(tensor) or not all(s in self._constant for s in self._storages(tensor))

    def hidden(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on the source otherwise than the graph says."""
        storages = self._storages(tensor)
        if self.on_tape(tensor):
            return not storages or not any(s in self._dependent for s in storages)
        return not storages or not all(s in self._constant for s in storages)

    def name_of(self, tensor: Tensor) -> str:
        """What made a tensor leave the tape, in words for the certificate."""
        if tensor in self._names:
            return str(self._names[tensor])
        known = [self._dependent[s] for s in self._storages(tensor) if s in self._dependent]
        return f"{known[0]}()" if known and not self.on_tape(tensor) else UNSEEN

    def event(self, name: str, *, lost: bool, read: bool = False) -> None:
        """Note a dependence that the graph does not show."""
        self.events.append(Event(name, self._where(), self.tick(), lost, read))

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Take what is computed in this block for constant."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False

    def operation(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation and note where its values come from and go to."""
        inputs = [] if self._holding else self._before(op, args, kwargs)
        result = op(*args, **kwargs)
        self._after(op, inputs, [*tensors_in(result), *written(op, args, kwargs)])
        return result

    def copied(self, original: Tensor, copy: Tensor) -> None:
        """Note that a copy of ours stands for a tensor of the model's."""
        if original in self._names:
            self._names[copy] = self._names[original]

    def begin(self, name: str, args: Any, kwargs: Any) -> None:
        """Note that Python calls a torch function."""
        self.function, self.arguments = name, (args, kwargs)
        inputs = tensors_in(self.arguments)
        self._taped.update(s for tensor in inputs if self.on_tape(tensor) for s in self._storages(tensor))
        if name in _EXPORTS and any(map(self.depends, inputs)):
            self.event(f"{name}()", lost=True, read=True)
        if name == "data =" and self.on_tape(args[0]):
            self.event("data on detached values", lost=True)

    def end(self, name: str, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        """Note what a torch function returned or wrote."""
        self.function, self.arguments = "", ()
        for tensor in outputs:
            if self.on_tape(tensor):
                self._taped.update(self._storages(tensor))
            elif self.depends(tensor):
                reasons = [self.name_of(item) for item in inputs if self.hidden(item)]
                self._names[tensor] = reasons[0] if reasons else f"{name}()"

    def _before(self, op: Any, args: Any, kwargs: Any) -> list[Tensor]:
        """Look at an operation that is about to run; returns the tensors whose values go into it."""
        name = op._schema.name.split("::")
        inputs = tensors_in((args, kwargs))
        if name[1] in ONLY_SHAPE:
            inputs = inputs[1:]
        if name[1] == "lift_fresh" and self._is_literal():
            self._constant.update(s for tensor in inputs for s in self._storages(tensor))
        self.unlisted |= not self.function and bool(written(op, args, kwargs))
        hidden = [tensor for tensor in inputs if self.hidden(tensor)]
        reads = name[0] not in _CORE or not _VALUES_INTO_PYTHON.isdisjoint(op.tags)
        deciding = tensors_in((args[1:], kwargs)) if name[1] in _CHOOSES else inputs
        if reads and any(map(self.depends, deciding)):
            self.event(self._running(name[1]), lost=True, read=name[0] in _CORE)
        elif hidden and any(map(self.on_tape, inputs)):
            reason = self.name_of(hidden[0])
            self.event(reason, lost=reason == UNSEEN)
        elif any(map(self._escapes, written(op, args, kwargs))):
            self.event(f"{self._running(name[1])} on detached values", lost=False)
        return inputs

    def _after(self, op: Any, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        """Note what an operation returned or wrote."""
        random = torch.Tag.nondeterministic_seeded in op.tags and not any(map(self.depends, inputs))
        if random or any(map(self.depends, inputs)):
            name = self.function or op._schema.name.split("::")[1]
            for storage in (s for tensor in outputs for s in self._storages(tensor)):
                self._constant.discard(storage)
                self._dependent[storage] = name
            return
        for storage in (s for tensor in outputs for s in self._storages(tensor)):
            if storage not in self._dependent:
                self._constant.add(storage)

    def _running(self, operation: str) -> str:
        """What is running, in words for the certificate."""
        if self.function:
            return f"{self.function}()"
        return f"{operation}() in scripted code, or with torch functions disabled"

    def _escapes(self, tensor: Tensor) -> bool:
        """Whether writing here changes values on the tape behind its back."""
        taped = any(storage in self._taped for storage in self._storages(tensor))
        return taped and not (self.on_tape(tensor) and torch.is_grad_enabled())

    def _is_literal(self) -> bool:
        """Whether a fresh tensor is made from plain numbers in Python."""
        if self.function not in _LITERALS:
            return False
        plain = (bool, int, float, complex, str, torch.dtype, torch.device, type(None), slice, type(...))
        args, kwargs = self.arguments
        args = args[self.function in _METHODS :]
        if self.function == "__setitem__" and isinstance(args[-1], Tensor):
            args = args[:-1]  # a tensor that is written as it is: only the index can be made of numbers
        leaves = pytree.tree_leaves((args, kwargs))
        return all(
            not self.depends(leaf) if isinstance(leaf, Tensor) else isinstance(leaf, plain) for leaf in leaves
        )

    def _leads(self, node: Node) -> bool:
        """Whether a node of the graph leads to the source; answers are kept."""
        stack = [node]
        while stack:
            current = stack[-1]
            if current in self._reaches:
                stack.pop()
                continue
            parents = [parent for parent, _ in current.next_functions if parent is not None]
            waiting = [parent for parent in parents if parent not in self._reaches]
            stack += waiting
            if not waiting:
                self._reaches[current] = any(self._reaches[parent] for parent in parents)
        return self._reaches[node]

    def _storages(self, tensor: Tensor) -> list[int]:
        """Numbers of the storages that hold a tensor's values; none where it does not say."""
        found = []
        for number, alive in storages_of(tensor):
            if number not in self._alive:
                self._alive[number] = alive
                if number in self._held and number not in self._dependent:
                    self._constant.add(number)
            found.append(number)
        return found


def written(op: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The arguments that an operation writes to, by its schema."""
    if not op._schema.is_mutable:
        return []
    named = dict(zip((a.name for a in op._schema.arguments), args, strict=False)) | kwargs
    targets = [
        named.get(a.name) for a in op._schema.arguments if a.alias_info is not None and a.alias_info.is_write
    ]
    return tensors_in(targets)
