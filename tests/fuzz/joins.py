"""Steps made of steps: residual and parallel branches, checkpoints, modes around a part of the head."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.profiler import record_function
from torch.utils.checkpoint import checkpoint

from fuzz.node import Env, Kind, Node, Step, chain, lowest, worst


@dataclass(frozen=True, repr=False)
class Inner(Step):
    """A step with steps inside."""

    steps: tuple[Step, ...] = ()

    @property
    def kind(self) -> Kind:
        return worst(self.steps)

    @property
    def precision(self) -> torch.dtype | None:
        return lowest(*(step.precision for step in self.steps))


@dataclass(frozen=True, repr=False)
class Residual(Inner):
    """``x + inner(x)``, or in place ``y = inner(x); y += x``."""

    in_place: bool = False

    def run(self, x: Tensor, own: Node, env: Env) -> Tensor:
        inner = chain(self.steps, own, x.clone(), env)
        if not self.in_place:
            return x + inner
        inner = inner.clone()
        inner += x
        return inner


JOINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "mean": lambda a, b: torch.stack([a, b]).mean(0),
    "join": lambda a, b: torch.cat([a, b], 1),
    "difference": lambda a, b: a.sub_(b),
    "multiply": torch.mul,
    "maximum": torch.maximum,
    "gate": lambda a, b: a * b.sigmoid(),
}
AFFINE_JOINS = ("add", "mean", "join", "difference")


@dataclass(frozen=True, repr=False)
class Parallel(Inner):
    """Two branches of one input, joined; `steps` is the first."""

    others: tuple[Step, ...] = ()
    join: str = "add"

    def run(self, x: Tensor, own: Node, env: Env) -> Tensor:
        one = chain(self.steps, own, x.clone(), env)
        two = chain(self.others, own, x.clone(), env, first=len(self.steps))
        return JOINS[self.join](one.clone(), two)

    @property
    def kind(self) -> Kind:
        return worst(self.steps + self.others) if self.join in AFFINE_JOINS else Kind.OTHER

    @property
    def precision(self) -> torch.dtype | None:
        return lowest(*(step.precision for step in self.steps + self.others))


@dataclass(frozen=True, repr=False)
class Checkpointed(Inner):
    """The inner steps are run again in the backward pass."""

    reentrant: bool = False

    def run(self, x: Tensor, own: Node, env: Env) -> Tensor:
        def inner(x: Tensor) -> Tensor:
            return chain(self.steps, own, x.clone(), env)

        return checkpoint(inner, x, use_reentrant=self.reentrant)


MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "enable_grad": torch.enable_grad,
    "record_function": lambda: record_function("head"),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "not inference_mode": lambda: torch.inference_mode(False),
    "DisableTorchFunctionSubclass": torch._C.DisableTorchFunctionSubclass,
}
SEEN = ("enable_grad", "record_function")


@dataclass(frozen=True, repr=False)
class Within(Inner):
    """The inner steps run inside a mode."""

    mode: str = "enable_grad"

    def run(self, x: Tensor, own: Node, env: Env) -> Tensor:
        with MODES[self.mode]():
            return chain(self.steps, own, x.clone(), env)

    @property
    def kind(self) -> Kind:
        return worst(self.steps) if self.mode in SEEN else Kind.OTHER
