"""The part of a model after a layer, as the list of calls that one forward pass made.

The list can be run again on other activations without the backbone, alone or for many at once. It holds
what was executed; where Python itself looked at a value another value might have led elsewhere, and the list
must not be trusted (`Head.replayable`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch.utils import _pytree as pytree

from hirescam.passes.provenance import tensors_in
from hirescam.passes.watch import Watch, mutates, target_of


@dataclass(frozen=True)
class _Slot:
    number: int


@dataclass(frozen=True)
class _Step:
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[tuple[int, int], ...]  # (position among the tensors of the result, slot)


class Head:
    """Records the calls after a layer and runs them again."""

    def __init__(self, watch: Watch, leaf: Tensor) -> None:
        self._watch = watch
        self._slots: dict[int, int] = {id(leaf): 0}
        self._alive: list[Tensor] = [leaf]
        self._steps: list[_Step] = []
        self._result: int | None = None
        self._opaque = self._convolves = False
        self._finished = False

    @property
    def replayable(self) -> bool:
        """Whether running the list again stands for running the model again."""
        lost = self._opaque or self._watch.unlisted or any(event.lost for event in self._watch.events)
        return self._result is not None and not lost

    @property
    def convolves(self) -> bool:
        """Whether there are convolutions among the calls, as far as calls show what runs."""
        return self._convolves or not self.replayable

    @property
    def constants(self) -> list[Tensor]:
        """The tensors from outside that the calls are made with, such as weights."""
        return [tensor for step in self._steps for tensor in tensors_in((step.args, step.kwargs))]

    def call(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function and note it."""
        if self._finished:
            return self._watch.function(name, func, args, kwargs)
        unknown = [tensor for tensor in tensors_in((args, kwargs)) if id(tensor) not in self._slots]
        strange = any(map(self._watch.provenance.depends, unknown))
        written = tensors_in(target_of(args, kwargs)) if mutates(name, kwargs) else []
        for tensor in written:
            self._own(tensor)
        self._convolves |= "conv" in name
        stored = pytree.tree_map(self._store, (args, kwargs))
        result = self._watch.function(name, func, args, kwargs)
        outputs = tensors_in(result)
        if outputs or mutates(name, kwargs):
            self._opaque |= strange
            for tensor in [*outputs, *written]:
                self._note(tensor)
            slots = tuple((i, self._slots[id(tensor)]) for i, tensor in enumerate(outputs))
            self._steps.append(_Step(func, stored[0], stored[1], slots))
        return result

    def finish(self, output: Tensor) -> None:
        """Say which of the values is the result; the others need not be kept any longer."""
        self._result = self._slots.get(id(output))
        self._finished = True
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

    def _own(self, target: Tensor) -> None:
        """Before something from outside is written into, take a copy that every run starts from."""
        if id(target) not in self._slots:
            original = target.detach().clone()
            self._note(target)
            self._steps.append(_Step(torch.clone, (original,), {}, ((0, self._slots[id(target)]),)))

    def _note(self, tensor: Tensor) -> None:
        self._slots.setdefault(id(tensor), len(self._slots))
        self._alive.append(tensor)


def batched(head: Callable[[Tensor], Tensor], many: Tensor) -> Tensor:
    """Apply a function of one batch to ``(n, b, ...)``, vectorised where every op allows it."""
    if len(many) == 1:
        return head(many[0]).unsqueeze(0)
    try:
        with _quiet_vmap():
            return torch.vmap(head, randomness="error")(many)
    except (RuntimeError, ValueError):  # no batching rule for an op, or values are looked at
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
