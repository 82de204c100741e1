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
from torch.utils._python_dispatch import TorchDispatchMode

from hirescam.errors import LayerError, ModelError

_HOOKS = torch.Tensor._backward_hooks
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
class Place:
    """Where in a forward pass to look for a tap.

    A module's output is reported by the module. A call has to be looked for, which costs time for every call,
    so `Watcher` begins to look only after the last module output before it.

    Attributes:
        tap: the tap.
        after: path of the module whose output is the last one before the call; None looks from the start.
        number: which output of it, from 1.
        before: how often the call's module had called the function by then.
        all: watch everything from the start, where constants are made before the tap and used after it.
    """

    tap: Tap
    after: str | None = None
    number: int = 0
    before: int = 0
    all: bool = False


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
    if not isinstance(layer, str | Tap):
        raise LayerError(
            f"layer={layer!r} is of type {type(layer).__name__}: pass a module of the model, or the name of "
            "a layer, see hirescam.layers(model, images)"
        )
    tap = parse(layer) if isinstance(layer, str) else layer
    paths = [name for name, _ in model.named_modules(remove_duplicate=False)]
    if tap.module not in paths and tap.module.startswith("module."):
        tap = Tap(tap.module.removeprefix("module."), tap.function, tap.number)
    if tap.module not in paths or not (tap.module or tap.function):
        close = get_close_matches(tap.module, [path for path in paths if path], n=3, cutoff=0.4)
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
            if isinstance(module, torch.jit.ScriptModule):
                continue  # takes no hooks
            handles.append(module.register_forward_hook(hook_for(path)))
        yield
    finally:
        for handle in handles:
            handle.remove()


OnCall = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Called instead of a function, with the function and its arguments; returns its result."""


class _Functions(TorchFunctionMode):
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
        if getattr(func, "__self__", None) is _HOOKS:  # autograd's own, under a lock that grad_fn waits for
            return func(*args)
        return self.on_call(func, args, kwargs or {})


class _Operations(TorchDispatchMode):
    def __init__(self, on_call: OnCall) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.on_call = on_call

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        with torch._C.DisableTorchFunction():  # what we look at is no function of the model's
            return self.on_call(func, args, kwargs or {})


class Modes:
    """Shows what runs in this thread: functions of torch as Python calls them, and operations below autograd.

    A block in which observation starts when it is wanted: it costs time for every call.
    """

    def __init__(self, on_function: OnCall, on_operation: OnCall | None = None) -> None:
        self._functions = _Functions(on_function)
        self._operations = None if on_operation is None else _Operations(on_operation)
        self._depth: dict[object, int] = {}
        self._started: list[TorchFunctionMode | TorchDispatchMode] = []

    def start_functions(self) -> None:
        """Show functions from now to the end of the block.

        Raises:
            ModelError: the model has a torch mode of its own open here, which would be torn.
        """
        self._start(self._functions, torch._C._len_torch_function_stack)

    def start_operations(self) -> None:
        """Show operations from now to the end of the block; for the errors see `start_functions`."""
        if self._operations is not None:
            self._start(self._operations, torch._C._len_torch_dispatch_stack)

    def _start(self, mode: TorchFunctionMode | TorchDispatchMode, depth: Callable[[], int]) -> None:
        if mode in self._started:
            return
        if depth() != self._depth[depth]:
            raise ModelError(
                "the model runs this layer inside a torch mode of its own (such as a `with "
                "torch.device(...)` block in forward), which cannot be observed: choose a layer outside it"
            )
        mode.__enter__()  # type: ignore[no-untyped-call]
        self._started.append(mode)

    def __enter__(self) -> Self:
        stacks = (torch._C._len_torch_function_stack, torch._C._len_torch_dispatch_stack)
        self._depth = {depth: depth() for depth in stacks}
        return self

    def __exit__(self, *error: object) -> None:
        while self._started:
            self._started.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]


def function_name(func: Callable[..., Any]) -> str:
    """The bare name of a function: ``relu``, ``add_``; ``shape`` of a property, ``data =`` to set one."""
    name = str(getattr(func, "__name__", ""))
    if name in ("__get__", "__set__"):
        found = str(getattr(getattr(func, "__self__", None), "__name__", name))
        return f"{found} =" if name == "__set__" else found
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

    def __init__(self, model: nn.Module, known: dict[int, str] | None = None) -> None:
        self._model, self._known = model, known
        self._seen: Counter[tuple[str, str | None]] = Counter()

    @cached_property
    def _paths(self) -> dict[int, str]:
        return self._known or paths(self._model)

    def module(self, path: str) -> Tap:
        """Note that a module returned."""
        return self._next(path, None)

    def path(self, module: nn.Module | None) -> str:
        """Path of a module; ``""`` for the model itself, and for strangers."""
        return self._paths.get(id(module), "") if module is not None else ""

    def function(self, func: Callable[..., Any]) -> Tap:
        """Note that a function was called by the module that is running."""
        return self._next(self.path(caller()), tap_name(function_name(func)))

    def start(self, tap: Tap, number: int) -> None:
        """Count the calls of a function from here, as if so many had been seen."""
        self._seen[tap.module, tap.function] = number

    def of(self, tap: Tap) -> int:
        """How often this module or function was called so far."""
        return self._seen[tap.module, tap.function]

    def _next(self, path: str, function: str | None) -> Tap:
        self._seen[path, function] += 1
        return Tap(path, function, self._seen[path, function])


class Watcher:
    """Waits for one tap in a forward pass and hands it over, then everything that runs after it.

    Args:
        model: the eager model.
        place: where to look.
        on_tap: given the tap's output; a result other than None replaces it.
        on_function: called instead of every torch function after the tap; None watches only for the tap.
        on_operation: the same for operations below autograd.
    """

    def __init__(
        self,
        model: nn.Module,
        place: Place,
        on_tap: Callable[[Any], Any],
        on_function: OnCall | None = None,
        on_operation: OnCall | None = None,
    ) -> None:
        self._place, self._on_tap, self._on_function = place, on_tap, on_function
        self._counts = Counts(model)
        self._modes = Modes(self._function, on_operation)
        path = place.tap.module if place.tap.function is None else place.after
        self._watched = [] if path is None else [(path, model.get_submodule(path))]
        self._found = False

    @contextmanager
    def active(self) -> Iterator[None]:
        """Watch while the block runs the model.

        Raises:
            LayerError: the tap was not met, or was met several times and its name does not say which one.
        """
        with module_outputs(self._watched, self._output), self._modes as modes:
            if self._place.all or not self._watched:
                modes.start_functions()
            if self._place.all:
                modes.start_operations()
            yield
        self._check()

    def _check(self) -> None:
        tap = self._place.tap
        calls = self._counts.of(tap)
        if not self._found:
            raise LayerError(
                f"layer={tap.name!r} was not called in this forward pass"
                + (f" that often (calls: {calls})" if calls else "")
                + ": choose one that is, see hirescam.layers(model, images)"
            )
        if tap.number is None and calls > 1:
            raise LayerError(
                f"layer={tap.name!r} is called {calls} times in one forward pass: say which call, "
                f"{tap.name + '#1'!r} to {f'{tap.name}#{calls}'!r}"
            )

    def _output(self, path: str, output: Any) -> Any:
        seen, place = self._counts.module(path), self._place
        if place.tap.function is None:
            return self._hand_over(output) if self._is_tap(seen) else None
        if (seen.module, seen.number) == (place.after, place.number):
            self._counts.start(place.tap, place.before)
            self._modes.start_functions()
        return None

    def _function(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        shown = self._on_function is not None and (self._found or self._place.all)
        run = self._on_function if shown and self._on_function is not None else _plain
        result = run(func, args, kwargs)
        if tap_name(function_name(func)) == self._place.tap.function:
            seen = self._counts.function(func)
            replaced = self._hand_over(result) if self._is_tap(seen) else None
            return result if replaced is None else replaced
        return result

    def _hand_over(self, output: Any) -> Any:
        self._found = True
        replaced = self._on_tap(output)
        if self._on_function is not None:
            self._modes.start_functions()
            self._modes.start_operations()
        return replaced

    def _is_tap(self, seen: Tap) -> bool:
        """Whether a numbered sighting is the tap; without a number the first call is meant."""
        tap = self._place.tap
        return (tap.module, tap.function, tap.number or 1) == (seen.module, seen.function, seen.number)


def _plain(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)
