"""Follow one forward pass from a source to the scores: who made a node, and what no graph shows."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C import _autograd
from torch.autograd.graph import Node, saved_tensors_hooks
from torch.utils import _pytree as pytree

from hirescam.passes import taps
from hirescam.passes.held import normalisation
from hirescam.passes.provenance import Event, Provenance, tensors_in
from hirescam.passes.state import State, storages_of

Function = Callable[..., Any]


@dataclass(frozen=True)
class Origin:
    """Who made a node: the module that was running and the function that it called.

    ``held`` tells whether that was a call of a normaliser that can be held.
    """

    module: str
    function: str
    held: bool = False


class Watch:
    """What one forward pass did after its source.

    Args:
        state: what the model consists of.
        others: the inputs beside the images.
    """

    def __init__(self, state: State, others: Iterable[Tensor]) -> None:
        self.origins: dict[Node, Origin] = {}
        self.counts = taps.Counts(state.model, state.paths)
        given = {number for tensor in others for number, _ in storages_of(tensor)}
        self.provenance = Provenance(given | state.storages().keys(), self.module)
        self._grad = True  # the grad mode that the model itself asked for
        self._saving = _autograd._top_saved_tensors_default_hooks(True)

    @property
    def events(self) -> list[Event]:
        """The dependences that the graph does not show, in the order in which they came about."""
        return self.provenance.events

    @property
    def unlisted(self) -> bool:
        """Whether something was written that no torch function wrote, so that no list of calls has it."""
        return self.provenance.unlisted

    def module(self) -> str:
        """Path of the module that is running."""
        return self.counts.path(taps.caller())

    def follow(self, source: Tensor) -> None:
        """Follow the values of a tensor on the tape from now on."""
        self.provenance.follow(source)
        if source.grad_fn is not None:
            self.origins[source.grad_fn] = Origin("", "images")

    def function(self, name: str, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a torch function; what comes from the source stays on the tape, whatever the grad mode."""
        inputs = tensors_in((args, kwargs))
        self.provenance.begin(name, args, kwargs)
        if name in _READS:  # which refuse what is on a tape, or warn; without us it would not be
            args = tuple(item.detach() if isinstance(item, Tensor) else item for item in args)
        dependent = [tensor for tensor in inputs if self.provenance.depends(tensor)]
        wanted = self._grad or bool(dependent)
        changed = tensors_in(target_of(args, kwargs)) if mutates(name, kwargs) else []
        _allow_writes([*dependent, *changed])
        with self._saved_as_usual():
            if wanted and kwargs.get("out") is None:  # which autograd refuses
                result = func(*args, **kwargs)
            else:
                with torch.no_grad():
                    result = func(*args, **kwargs)
        outputs = [*tensors_in(result), *changed]
        self.provenance.end(name, inputs, outputs)
        call = normalisation(name, args, kwargs)
        held = call is not None and call.normalises(self.provenance.depends)
        self._attribute(outputs, Origin(self.module(), name, held))
        return result

    def saving_from_here(self) -> None:
        """Take the hooks for saved tensors that there are now for ours; later ones are the model's."""
        self._saving = _autograd._top_saved_tensors_default_hooks(True)

    def _saved_as_usual(self) -> AbstractContextManager[object]:
        """Save tensors as outside the model's own hooks for them.

        Those of `torch.utils.checkpoint` would run a part again in the backward pass, without what we do.
        """
        if _autograd._top_saved_tensors_default_hooks(True) in (None, self._saving):
            return nullcontext()
        return saved_tensors_hooks(*(self._saving or (_unchanged, _unchanged)))

    def sets_grad_mode(self, name: str, args: tuple[Any, ...]) -> bool:
        """Whether a function is the model's wish for a grad mode, which is noted and not carried out."""
        if name == "_set_grad_enabled":
            self._grad = bool(args[0])
            return True
        return False

    def plain(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Replace inference tensors (a model built under ``inference_mode``) by copies autograd can save."""
        if not any(tensor.is_inference() for tensor in tensors_in((args, kwargs))):
            return args, kwargs

        def copy(item: Any) -> Any:
            if not isinstance(item, Tensor) or not item.is_inference():
                return item
            made = item.clone()
            self.provenance.copied(item, made)
            return made

        return pytree.tree_map(copy, (args, kwargs))  # type: ignore[no-any-return]

    def operation(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation below autograd."""
        return self.provenance.operation(op, args, kwargs)

    def finish(self, result: Tensor) -> None:
        """Say what came out in the end; it must not come from nowhere either."""
        if self.provenance.hidden(result):
            name = self.provenance.name_of(result)
            self.provenance.event(name, lost=True)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Take what is computed in this block for constant: the divisor of a normaliser that is held."""
        with self.provenance.holding(), torch.no_grad():
            yield

    def _attribute(self, outputs: list[Tensor], origin: Origin) -> None:
        stack = [tensor.grad_fn for tensor in outputs]
        while stack:
            node = stack.pop()
            if node is None or node in self.origins:
                continue
            self.origins[node] = origin
            stack.extend(parent for parent, _ in node.next_functions)


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


def _allow_writes(targets: list[Tensor]) -> None:
    """Let autograd write into views as it does where there is no tape, and the model runs like that.

    It refuses those that were made under ``no_grad``, or by a custom function, such as the one that a module
    with backward hooks puts around itself.
    """
    for tensor in targets:
        if tensor._is_view() and _autograd._get_creation_meta(tensor) in _REFUSED:
            _autograd._set_creation_meta(tensor, _autograd.CreationMeta.DEFAULT)


_REFUSED = (
    _autograd.CreationMeta.NO_GRAD_MODE,
    _autograd.CreationMeta.INFERENCE_MODE,
    _autograd.CreationMeta.IN_CUSTOM_FUNCTION,
)
_READS = frozenset(
    """__array__ __bool__ __complex__ __float__ __format__ __index__ __int__ item numpy tolist
    __dlpack__""".split()  # noqa: SIM905
)


def mutates(name: str, kwargs: dict[str, Any]) -> bool:
    """Tell whether a torch function of this name writes into its first argument."""
    in_place = (name.endswith("_") and not name.endswith("__")) or kwargs.get("inplace") is True
    return in_place or name in _SETS or kwargs.get("out") is not None


def target_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a function that `mutates` writes into: ``out``, or its first argument, which may have a name."""
    if kwargs.get("out") is not None:
        return kwargs["out"]
    named = (kwargs[name] for name in ("input", "self", "tensor") if name in kwargs)
    return args[0] if args else next(named, None)


_SETS = frozenset({"__setitem__", "data =", "__iand__", "__ior__", "__ixor__", "__ilshift__", "__irshift__"})
