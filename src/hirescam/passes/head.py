"""The part of a network after a layer, as the list of calls that one forward pass made.

The list can be run again on other activations without the backbone, alone or for many at once. It holds
what was executed; where Python itself looked at a value (`Head.reads`) another value might have led
elsewhere, and the list must not be trusted.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch.utils import _pytree as pytree

READS = frozenset(
    """__bool__ __int__ __float__ __complex__ __index__ __contains__ __array__ item tolist numpy equal
    allclose is_nonzero nonzero unique masked_select""".split()  # noqa: SIM905
)
"""Functions through which Python control flow, or the shape of a result, comes to depend on a value."""


@dataclass(frozen=True)
class _Slot:
    number: int


@dataclass(frozen=True)
class _Step:
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[tuple[int, int], ...]  # (position among the tensors of the result, slot)


def tensors_in(tree: Any) -> list[Tensor]:
    """All tensors in nested containers."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def mutates(name: str, kwargs: dict[str, Any]) -> bool:
    """Tell whether a torch function of this name writes into its first argument."""
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or name == "__setitem__" or "out" in kwargs


def without_inference(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Replace inference tensors (a model built under ``inference_mode``) by copies autograd can save."""
    if not any(tensor.is_inference() for tensor in tensors_in((args, kwargs))):
        return args, kwargs

    def plain(item: Any) -> Any:
        return item.clone() if isinstance(item, Tensor) and item.is_inference() else item

    return pytree.tree_map(plain, (args, kwargs))  # type: ignore[no-any-return]


class Head:
    """Records the calls after a layer and runs them again."""

    def __init__(self, leaf: Tensor) -> None:
        self._slots: dict[int, int] = {id(leaf): 0}
        self._derived: set[int] = {0}
        self._alive: list[Tensor] = [leaf]
        self._steps: list[_Step] = []
        self._result: int | None = None
        self.reads: list[str] = []
        self.opaque = False

    @property
    def replayable(self) -> bool:
        """Whether running the list again stands for running the network again."""
        return self._result is not None and not self.reads and not self.opaque

    def call(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function and note it."""
        inputs = tensors_in((args, kwargs))
        if name in READS and any(self._is_derived(tensor) for tensor in inputs):
            self.reads.append(name)
        self.opaque |= any(self._is_unknown(tensor) for tensor in inputs)
        if mutates(name, kwargs):
            self._own(kwargs["out"] if "out" in kwargs else args[0])
        stored = pytree.tree_map(self._store, (args, kwargs))
        result = func(*args, **kwargs)
        outputs = tensors_in(result)
        if outputs or mutates(name, kwargs):
            derived = any(self._is_derived(tensor) for tensor in inputs)
            changed = [args[0]] if mutates(name, kwargs) and "out" not in kwargs else []
            for tensor in [*outputs, *changed]:
                self._note(tensor, derived)
            slots = tuple((i, self._slots[id(tensor)]) for i, tensor in enumerate(outputs))
            self._steps.append(_Step(func, stored[0], stored[1], slots))
        return result

    def constants(self) -> list[Tensor]:
        """The tensors from outside that the calls read: parameters, buffers."""
        return tensors_in([(step.args, step.kwargs) for step in self._steps])

    def finish(self, output: Tensor) -> None:
        """Say which of the values is the result; the others need not be kept any longer."""
        self._result = self._slots.get(id(output))
        self._alive.clear()

    def run(self, leaf: Tensor) -> Tensor:
        """Run the calls on other activations of the layer's own shape."""
        values: dict[int, Tensor] = {0: leaf.clone()}

        def load(item: Any) -> Any:
            return values[item.number] if isinstance(item, _Slot) else item

        for step in self._steps:
            args, kwargs = pytree.tree_map(load, (step.args, step.kwargs))
            outputs = tensors_in(step.func(*args, **kwargs))
            for position, slot in step.results:
                values[slot] = outputs[position]
        assert self._result is not None
        return values[self._result]

    def _store(self, item: Any) -> Any:
        if isinstance(item, Tensor) and id(item) in self._slots:
            return _Slot(self._slots[id(item)])
        return item

    def _own(self, target: Any) -> None:
        """Before something from outside is written into, take a copy that every run starts from."""
        if isinstance(target, Tensor) and id(target) not in self._slots:
            original = target.detach().clone()
            self._note(target, derived=False)
            slot = self._slots[id(target)]
            self._steps.append(_Step(torch.clone, (original,), {}, ((0, slot),)))

    def _note(self, tensor: Tensor, derived: bool) -> None:
        slot = self._slots.setdefault(id(tensor), len(self._slots))
        self._alive.append(tensor)
        if derived:
            self._derived.add(slot)

    def _is_derived(self, tensor: Tensor) -> bool:
        return self._slots.get(id(tensor)) in self._derived

    def _is_unknown(self, tensor: Tensor) -> bool:
        """A tensor on the tape that no observed call has made (scripted code, C++ extensions)."""
        return tensor.grad_fn is not None and id(tensor) not in self._slots


def batched(head: Callable[[Tensor], Tensor], many: Tensor) -> Tensor:
    """Apply a function of one batch to ``(n, b, ...)``, vectorised where every op allows it."""
    if len(many) == 1:
        return head(many[0]).unsqueeze(0)
    try:
        with _quiet_vmap():
            return torch.vmap(head, randomness="error")(many)
    except (RuntimeError, ValueError, NotImplementedError):
        return torch.stack([head(item) for item in many])


@contextmanager
def _quiet_vmap() -> Iterator[None]:
    """Ops without a batching rule run one by one; that is right, and no news to the user."""
    _functorch._set_vmap_fallback_warning_enabled(False)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        _functorch._set_vmap_fallback_warning_enabled(True)  # type: ignore[attr-defined]


def chunks(count: int, size: int) -> Iterator[slice]:
    """Cut ``range(count)`` into slices of at most ``size``."""
    for start in range(0, count, max(1, size)):
        yield slice(start, min(count, start + max(1, size)))
