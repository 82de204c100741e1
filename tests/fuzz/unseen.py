"""Code that autograd or a watcher cannot see into: custom functions, scripts, threads, hooks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fuzz.hidden import computed_no_grad, in_thread
from fuzz.node import Entry, Kind, Named, Node, anything, flat, planes


def script(source: str) -> Callable[[], Any]:
    """Compile a scripted function when it is first needed."""

    @cache
    def compiled() -> Any:
        return torch.jit.CompilationUnit(source)

    return compiled


SCRIPTS = script("""
def tame(h, level: float):
    if bool(h.amax() > level):
        h = h.clamp(max=level)
    return h

def scaled(h):
    return h * 1.5 + 0.25

def gated(h):
    return h * h.mean()
""")


class Doubled(torch.autograd.Function):
    """Honest."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


class Misjudged(Doubled):
    """Affine, with a wrong gradient."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 3


class Straight(Doubled):
    """Rounds, and says that it is the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * 4).round() / 4

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Squared(Doubled):
    """Honest, and not affine."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * grad


class Dirty(Doubled):
    """Doubles in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)


def unseen(x: Tensor, change: Callable[[Tensor], object]) -> Tensor:
    """Write into the features' memory behind autograd's back."""
    change(x.detach())
    return x


def unrecorded(x: Tensor) -> Tensor:
    with torch.no_grad():
        x.mul_(x.mean())
    return x


def whole_in_thread(x: Tensor, own: Node) -> Tensor:
    weight = own.matrix("w", x.shape[-1], 4)
    return in_thread(lambda: x @ weight)


OPAQUE: dict[str, Entry] = {
    "honest function": (anything, lambda x, own, env: Doubled.apply(x)),
    "honest function in place": (anything, lambda x, own, env: Dirty.apply(x * 1)),
    "honest square": (anything, lambda x, own, env: Squared.apply(x)),
    "function with a wrong gradient": (anything, lambda x, own, env: Misjudged.apply(x)),
    "straight-through rounding": (anything, lambda x, own, env: Straight.apply(x)),
    "straight-through by detach": (anything, lambda x, own, env: x + ((x * 4).round() / 4 - x).detach()),
    "detached": (anything, lambda x, own, env: x + 0.5 * x.detach()),
    "clamp of data": (anything, lambda x, own, env: unseen(x, lambda d: d.clamp_(max=2 * own.typical(x)))),
    "write through data": (anything, lambda x, own, env: unseen(x * 1, lambda d: d.mul_(2))),
    "write through numpy": (anything, lambda x, own, env: unseen(x * 1, lambda d: d.numpy().__imul__(2))),
    "write under no_grad": (anything, lambda x, own, env: unrecorded(x * 1)),
    "script": (anything, lambda x, own, env: SCRIPTS().scaled(x)),
    "script with a gate": (anything, lambda x, own, env: SCRIPTS().gated(x)),
    "script with a branch": (
        anything,
        lambda x, own, env: SCRIPTS().tame(x, own.value("level", lambda: 1.001 * float(x.amax()))),
    ),
    "vmap": (anything, lambda x, own, env: torch.vmap(lambda row: row * 2 + 1)(x)),
    "vmap with a gate": (anything, lambda x, own, env: torch.vmap(lambda row: row * row.mean())(x)),
    "jvp": (anything, lambda x, own, env: torch.func.jvp(lambda z: z * z / 2, (x.detach(),), (x,))[1]),
    "linear in a thread": (anything, lambda x, own, env: whole_in_thread(x, own)),
    "gate in a thread": (anything, lambda x, own, env: in_thread(lambda: x * x.mean())),
    "whole in no_grad": (flat, lambda x, own, env: computed_no_grad(lambda: x * 2) + x),
    "numpy constant": (
        anything,
        lambda x, own, env: x * torch.from_numpy(own.value("array", lambda: torch.rand(1).numpy())).to(x),
    ),
    "apply_": (planes, lambda x, own, env: x + x.detach().clone().apply_(lambda v: v * v)),
}


@dataclass(frozen=True, repr=False)
class Opaque(Named):
    """Custom functions, scripts, threads and writes that leave no trace."""

    TABLE: ClassVar[dict[str, Entry]] = OPAQUE


# --- hooks -------------------------------------------------------------------------------------


def on_gradient(x: Tensor, change: Callable[[Tensor], Tensor | None]) -> Tensor:
    y = x * 1
    if y.requires_grad:
        y.register_hook(change)
    return y


def hooked(make: Callable[[], nn.Module], register: str, hook: Callable[..., Any]) -> Callable[[], nn.Module]:
    """A module with a hook on it."""

    def made() -> nn.Module:
        module = make()
        getattr(module, register)(hook)
        return module

    return made


def linear(x: Tensor) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(x.shape[-1], x.shape[-1])


HARMLESS: dict[str, Entry] = {
    "a hook that watches gradients": (anything, lambda x, own, env: on_gradient(x, lambda g: None)),
    "a module hook that watches": (
        anything,
        lambda x, own, env: own.part("m", hooked(linear(x), "register_forward_hook", lambda *a: None))(x),
    ),
    "a backward hook that watches": (
        anything,
        lambda x, own, env: own.part("m", hooked(linear(x), "register_full_backward_hook", lambda *a: None))(
            x
        ),
    ),
    "a hook that doubles the output": (
        anything,
        lambda x, own, env: own.part("m", hooked(linear(x), "register_forward_hook", lambda m, i, o: 2 * o))(
            x
        ),
    ),
    "a hook that doubles the input": (
        anything,
        lambda x, own, env: own.part(
            "m", hooked(linear(x), "register_forward_pre_hook", lambda m, i: (2 * i[0],))
        )(x),
    ),
}
MEDDLING: dict[str, Entry] = {
    "a hook that doubles gradients": (anything, lambda x, own, env: on_gradient(x, lambda g: 2 * g)),
    "a hook that clips gradients": (
        anything,
        lambda x, own, env: on_gradient(x, lambda g: g.clamp(-0.01, 0.01)),
    ),
    "a hook that flips gradients": (anything, lambda x, own, env: on_gradient(x, lambda g: g.flip(-1))),
    "a backward hook that doubles": (
        anything,
        lambda x, own, env: own.part(
            "m", hooked(linear(x), "register_full_backward_hook", lambda m, i, o: (2 * i[0],))
        )(x),
    ),
    "a hook that gates the output": (
        anything,
        lambda x, own, env: own.part(
            "m", hooked(linear(x), "register_forward_hook", lambda m, i, o: o * o.detach().mean())
        )(x),
    ),
}


@dataclass(frozen=True, repr=False)
class Hooked(Named):
    """Affine, with a hook that changes nothing in the gradient's truth."""

    TABLE: ClassVar[dict[str, Entry]] = HARMLESS
    IS: ClassVar[Kind] = Kind.AFFINE


@dataclass(frozen=True, repr=False)
class Meddled(Named):
    """A hook that makes gradients wrong, or the output something else."""

    TABLE: ClassVar[dict[str, Entry]] = MEDDLING
