"""A function of one tensor, followed as the part of a model after a layer is."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hirescam.passes import taps
from hirescam.passes.provenance import Event, Provenance
from hirescam.passes.state import State
from hirescam.passes.watch import Watch


@dataclass(frozen=True)
class Followed:
    """What came of it; ``source`` is where it began."""

    watch: Watch
    source: Tensor
    result: Any

    @property
    def events(self) -> list[Event]:
        return self.watch.events

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]

    @property
    def values(self) -> Provenance:
        return self.watch.provenance


def follow(
    function: Callable[..., Any],
    x: Tensor | None = None,
    *,
    held: Iterable[Tensor] = (),
    finish: bool = False,
    with_watch: bool = False,
) -> Followed:
    """Run a function on a source that is on the tape."""
    leaf = (torch.tensor([0.5, -1.5]) if x is None else x.detach().clone()).requires_grad_()
    source = leaf.clone()
    watch = Watch(State(nn.Identity()), held)
    watch.follow(source)

    def on_function(func: Any, args: Any, kwargs: Any) -> Any:
        name = taps.function_name(func)
        if watch.sets_grad_mode(name, args):
            return None
        args, kwargs = watch.plain(args, kwargs)
        return watch.function(name, func, args, kwargs)

    with torch.enable_grad(), taps.Modes(on_function, watch.operation) as modes:
        modes.start_functions()
        modes.start_operations()
        result = function(source, watch) if with_watch else function(source)
    if finish:
        watch.finish(result)
    return Followed(watch, source, result)
