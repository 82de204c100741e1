"""What a head is made of: steps, which are plain data, and nodes, the modules that run them."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from enum import IntEnum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class Kind(IntEnum):
    """What a step is by construction; a head is what its worst step is."""

    AFFINE = 0
    NORMALISING = 1
    OTHER = 2


@dataclass(frozen=True)
class Env:
    """What a step can see of the pass besides its input: the image, and a feature from before the layer."""

    image: Tensor
    early: Tensor


class Node(nn.Module):
    """Runs one step. Weights and constants are made when the step first asks for them, while `building`."""

    def __init__(self, step: "Step") -> None:
        super().__init__()
        self.step = step
        self.building = True
        self.values: dict[str, Any] = {}

    def forward(self, x: Tensor, env: Env) -> Tensor:
        return self.step.run(x, self, env) if _divisors is None else _divisors.run(x, self, env)

    def weight(self, name: str, *shape: int) -> Tensor:
        """Return a parameter with magnitudes from 0.5 to 1.5, so that it can divide."""

        def make() -> nn.Parameter:
            signs = torch.randint(0, 2, shape) * 2 - 1
            return nn.Parameter((torch.rand(shape, dtype=torch.float64) + 0.5) * signs)

        return self._own(self._parameters, name, make)

    def per_channel(self, x: Tensor, name: str = "w") -> Tensor:
        """Return a parameter with one value for each entry of the second axis."""
        return self.weight(name, x.shape[1], *[1] * (x.ndim - 2))

    def matrix(self, name: str, rows: int, columns: int, *rest: int) -> Tensor:
        """Return a parameter that keeps the scale of what it is multiplied with."""

        def make() -> nn.Parameter:
            made = torch.randn(rows, columns, *rest, dtype=torch.float64)
            return nn.Parameter(made / made[0].numel() ** 0.5)

        return self._own(self._parameters, name, make)

    def constant(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """Return a buffer."""
        return self._own(self._buffers, name, make)

    def half(self, x: Tensor) -> Tensor:
        """Return a bool buffer in the shape of one image's features, about half of it true."""
        return self.constant("pattern", lambda: torch.rand(x.shape[1:]) < 0.5)

    def part(self, name: str, make: Callable[[], nn.Module]) -> nn.Module:
        """Return a module of its own, in evaluation mode and in double precision while building."""
        return self._own(self._modules, name, lambda: make().double().eval())

    def value(self, name: str, make: Callable[[], Any]) -> Any:
        """Return a plain Python value, found while building: a threshold, a size."""
        return self._own(self.values, name, make)

    def typical(self, x: Tensor) -> float:
        """Return a number close to the middle of the features."""
        return self.value("typical", lambda: 1.001 * float(x.mean()))

    def _own(self, where: dict[str, Any], name: str, make: Callable[[], Any]) -> Any:
        if self.building and name not in where:
            with torch.inference_mode(False), torch.no_grad():  # whatever the step is in
                where[name] = make()
        return where[name]

    def child(self, number: int, step: "Step") -> "Node":
        """Return the node of an inner step."""
        return self.part(f"inner{number}", lambda: Node(step))


class Plain:
    """Written as Python, without the fields that have their default value."""

    def __repr__(self) -> str:
        given = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.default is MISSING or value != field.default:
                given.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(given)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # what hypothesis prints
        printer.text(repr(self))


@dataclass(frozen=True, repr=False)
class Step(Plain):
    """One step of a head: what it does to features ``(b, ...)``."""

    def run(self, x: Tensor, own: Node, env: Env) -> Tensor:
        """Do it, as a model would."""
        raise NotImplementedError

    def fits(self, x: Tensor) -> bool:
        """Whether features of this shape can be its input."""
        return True

    @property
    def kind(self) -> Kind:
        """What it is by construction."""
        return Kind.OTHER

    @property
    def precision(self) -> torch.dtype | None:
        """The precision to which it rounds, if lower than its input's."""
        return None


Function = Callable[[Tensor, Node, Env], Tensor]
Entry = tuple[Callable[[Tensor], bool], Function]


@dataclass(frozen=True, repr=False)
class Named(Step):
    """A step out of a table."""

    op: str
    TABLE: ClassVar[dict[str, Entry]] = {}
    IS: ClassVar[Kind] = Kind.OTHER

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.op!r})"

    def run(self, x: Tensor, own: Node, env: Env) -> Tensor:
        return self.TABLE[self.op][1](x, own, env)

    def fits(self, x: Tensor) -> bool:
        return self.TABLE[self.op][0](x)

    @property
    def kind(self) -> Kind:
        return self.IS

    @classmethod
    def every(cls) -> list["Step"]:
        """All steps of the table."""
        return [cls(op) for op in cls.TABLE]


def chain(steps: tuple[Step, ...], own: Node, x: Tensor, env: Env, first: int = 0) -> Tensor:
    """Run inner steps one after the other, as nodes of the outer one."""
    for number, step in enumerate(steps, first):
        x = own.child(number, step)(x, env)
    return x


def worst(steps: tuple[Step, ...]) -> Kind:
    """What a chain of steps is by construction."""
    return max((step.kind for step in steps), default=Kind.AFFINE)


def lowest(*parts: torch.dtype | None) -> torch.dtype | None:
    """The lowest of several precisions; None is none in particular."""
    named = [part for part in parts if part is not None]
    return max(named, key=lambda dtype: torch.finfo(dtype).eps, default=None)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings and the state of the random numbers to itself."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        yield


# --- held divisors -----------------------------------------------------------------------------


class Divisors:
    """The divisors of one pass, noted first and then used for other activations."""

    def __init__(self) -> None:
        self._noted: dict[int, Tensor] = {}
        self.noting = True

    def run(self, x: Tensor, node: Node, env: Env) -> Tensor:
        """Run a node, with its divisor held where it has one."""
        divide = getattr(node.step, "divisor", None)
        if divide is None:
            return node.step.run(x, node, env)
        if self.noting:
            self._noted[id(node)] = divide(x, node)
        return node.step.held(x, node, self._noted[id(node)])


_divisors: Divisors | None = None


@contextmanager
def holding(divisors: Divisors) -> Iterator[None]:
    """Let the nodes take the divisors of normalisers from here."""
    global _divisors
    _divisors, before = divisors, _divisors
    try:
        yield
    finally:
        _divisors = before


# --- what a step needs of its input ------------------------------------------------------------


def anything(x: Tensor) -> bool:
    return True


def maps(x: Tensor) -> bool:
    """At least three axes."""
    return x.ndim >= 3


def planes(x: Tensor) -> bool:
    """Channels and two more axes."""
    return x.ndim == 4


def flat(x: Tensor) -> bool:
    """One axis besides the batch."""
    return x.ndim == 2


def even(x: Tensor) -> bool:
    """An even number of channels."""
    return x.shape[1] % 2 == 0


def wide(x: Tensor) -> bool:
    """At least three entries on the last axis."""
    return x.shape[-1] >= 3


def roomy(x: Tensor) -> bool:
    """Channels and up to three axes of two and more: what convolutions and pools want."""
    return 3 <= x.ndim <= 5 and min(x.shape[2:]) >= 2
