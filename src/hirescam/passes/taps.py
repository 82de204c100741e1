"""Where a network can be tapped: module outputs, and outputs of calls such as ``F.relu``.

Module outputs are seen by forward hooks, calls by a torch-function mode. Both act in the calling thread
only, and both are gone when their ``with`` block ends.
"""

import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Self

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from hirescam.errors import LayerError, ModelError

_CALL_IMPL = nn.Module._call_impl.__code__
_NAME = re.compile(r"^(?P<path>.*?)(?P<call>\(\))?(?:#(?P<number>\d+))?$")


@dataclass(frozen=True)
class Tap:
    """One place in a network.

    Attributes:
        module: path of a module, ``""`` for the network itself.
        function: name of a function that this module calls itself; None for the module's output.
        number: which call, from 1; None where there is just one.
    """

    module: str
    function: str | None = None
    number: int | None = None

    @property
    def name(self) -> str:
        """The name used everywhere: ``layer4``, ``layer4.2.add()``, ``relu()#2``."""
        call = f"{self.function}()" if self.function else ""
        path = ".".join(part for part in (self.module, call) if part)
        return f"{path}#{self.number}" if self.number else path


@dataclass(frozen=True)
class Anchor:
    """The module output after which a call has to be looked for, so that nothing is observed before it.

    Attributes:
        module: path of the module whose output is the last one before the call.
        number: which output of it, from 1.
        before: how often the call's module had called the function by then.
    """

    module: str
    number: int
    before: int


def parse(name: str) -> Tap:
    """Read a tap's name; the inverse of `Tap.name`."""
    match = _NAME.match(name)
    if match is None:
        raise LayerError(f"layer={name!r} is not a layer name: see hirescam.layers(model, images)")
    path, number = match["path"], int(match["number"]) if match["number"] else None
    if not match["call"]:
        return Tap(path, None, number)
    module, _, function = path.rpartition(".")
    return Tap(module, function, number)


def find(model: nn.Module, layer: "str | nn.Module | Tap") -> Tap:
    """Turn what the caller named into a tap of this model.

    Raises:
        LayerError: the model has no such layer.
    """
    if isinstance(layer, nn.Module):
        return Tap(_path_of(model, layer))
    tap = parse(layer) if isinstance(layer, str) else layer
    paths = [name for name, _ in model.named_modules(remove_duplicate=False)]
    if tap.module not in paths and tap.module.startswith("module."):
        tap = Tap(tap.module.removeprefix("module."), tap.function, tap.number)
    if tap.module not in paths or not (tap.module or tap.function):
        close = get_close_matches(tap.module, paths, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(map(repr, close))}?" if close else ""
        raise LayerError(
            f"layer={tap.name!r} is not in this {type(model).__name__}: "
            f"{hint or 'see hirescam.layers(model, images) for the names'}"
        )
    return tap


def _path_of(model: nn.Module, layer: nn.Module) -> str:
    path = paths(model).get(id(layer), "")
    if path:
        return path
    raise LayerError(
        f"layer is a {type(layer).__name__} that is not a part of this {type(model).__name__}: "
        "pass a module of the same model, or its name"
    )


def paths(model: nn.Module) -> dict[int, str]:
    """Map ``id(module)`` to the module's first path."""
    return {id(module): name for name, module in model.named_modules()}


OnOutput = Callable[[str, Any], Any]
"""Called with a module's path and output; a result other than None replaces the output."""


@contextmanager
def module_outputs(modules: Iterable[tuple[str, nn.Module]], on_output: OnOutput) -> Iterator[None]:
    """Report the outputs of some modules while the block runs, in this thread only."""
    here = threading.get_ident()

    def hook_for(path: str) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            if threading.get_ident() != here:
                return None
            with torch._C.DisableTorchFunction():
                return on_output(path, output)

        return hook

    handles = []
    try:
        for path, module in modules:
            handles.append(module.register_forward_hook(hook_for(path)))
        yield
    finally:
        for handle in handles:
            handle.remove()


OnCall = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Called instead of a torch function, with the function and its arguments; returns its result."""


class _Mode(TorchFunctionMode):
    def __init__(self, on_call: OnCall) -> None:
        super().__init__()
        self.on_call = on_call

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return self.on_call(func, args, kwargs or {})


class Calls:
    """Hands every torch function that Python code calls in this thread to ``on_call``.

    A block in which observation starts when it is wanted: it costs time for every call.
    """

    def __init__(self, on_call: OnCall) -> None:
        self._mode = _Mode(on_call)
        self._depth = 0
        self._started = False

    def start(self) -> None:
        """Observe from now to the end of the block.

        Raises:
            ModelError: the model has a torch-function mode of its own open here, which would be torn.
        """
        if self._started:
            return
        if torch._C._len_torch_function_stack() != self._depth:
            raise ModelError(
                "the model runs this layer inside a torch-function mode of its own (such as a `with "
                "torch.device(...)` block in forward), which cannot be observed: choose a layer outside it"
            )
        self._mode.__enter__()  # type: ignore[no-untyped-call]
        self._started = True

    def __enter__(self) -> Self:
        self._depth = torch._C._len_torch_function_stack()
        return self

    def __exit__(self, *error: object) -> None:
        if self._started:
            self._started = False
            self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]


def function_name(func: Callable[..., Any]) -> str:
    """The bare name of a torch function: ``relu``, ``add_``; ``shape`` for a property."""
    name = str(getattr(func, "__name__", ""))
    if name in ("__get__", "__set__"):
        return str(getattr(getattr(func, "__self__", None), "__name__", name))
    overload = isinstance(func, torch._ops.OpOverload)
    return name.split(".")[0] if overload else name


def tap_name(function: str) -> str:
    """How a function is written in a tap's name: ``__getitem__`` is ``getitem``."""
    dunder = function.startswith("__") and function.endswith("__")
    return function[2:-2] if dunder else function


def caller() -> nn.Module | None:
    """The module whose own ``forward`` is running in this thread, from the Python stack."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _CALL_IMPL:
            found = frame.f_locals["self"]
            return found if isinstance(found, nn.Module) else None
        frame = frame.f_back  # type: ignore[assignment]
    return None


class Counts:
    """Numbers the calls of one forward pass."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._seen: Counter[tuple[str, str | None]] = Counter()

    @cached_property
    def _paths(self) -> dict[int, str]:
        return paths(self._model)

    def module(self, path: str) -> Tap:
        """Note that a module returned."""
        return self._next(path, None)

    def function(self, func: Callable[..., Any]) -> Tap:
        """Note that a function was called by the module that is running."""
        module = caller()
        path = self._paths.get(id(module), "") if module is not None else ""
        return self._next(path, tap_name(function_name(func)))

    def start(self, tap: Tap, number: int) -> None:
        """Count the calls of a function from here, as if so many had been seen."""
        self._seen[tap.module, tap.function] = number

    def of(self, tap: Tap) -> int:
        """How often this module or function was called so far."""
        return self._seen[tap.module, tap.function]

    def _next(self, path: str, function: str | None) -> Tap:
        self._seen[path, function] += 1
        return Tap(path, function, self._seen[path, function])
