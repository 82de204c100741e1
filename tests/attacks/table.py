"""One row of the table of attacks: a model or a sequence of calls, and which verdicts are right."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import Flag, StrEnum, auto
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import hirescam


class Kind(StrEnum):
    """What an attack aims at; each is a table of the page."""

    CONTROL = "Controls: heads that are what they look like"
    LOST = "Values that lose their origin"
    SIZES = "Values that become sizes"
    UNSEEN = "Code that cannot be observed"
    LATER = "Later calls"
    COMPILED = "Later calls of a compiled explainer"
    CHECK = "Changes that a check of the score does not see"
    BATCH = "Images that influence each other"
    TARGET = "What targets and output= do"
    GRADIENT = "Gradients that are not the head's"
    LOCAL = "Piecewise linear heads"
    CONSTANT = "Offsets that are no constant of the model"
    DISK = "What a manifest says"
    STATE = "What is left behind"
    LOUD = "Parts that used to end in an error"


HARMLESS = (Kind.CONTROL, Kind.LOUD, Kind.STATE, Kind.DISK)
"""Kinds whose heads may well be exact, whatever verdict is right for them."""


class Right(Flag):
    """Verdicts that may be given."""

    EXACT = auto()
    CONDITIONAL = auto()
    LOCAL = auto()
    NONE = auto()
    REFUSED = auto()
    WEAKER = CONDITIONAL | LOCAL | NONE

    def __str__(self) -> str:
        names = [one.name.lower() for one in Right if one in self and one in Right.WEAKER]
        weaker = ["not exact"] if self & Right.WEAKER == Right.WEAKER else names
        exact = ["exact"] if Right.EXACT in self else []
        refused = ["one sentence"] if Right.REFUSED in self else []
        return " or ".join(exact + weaker + refused)


EXACT, CONDITIONAL, LOCAL, NONE = Right.EXACT, Right.CONDITIONAL, Right.LOCAL, Right.NONE
REFUSED, WEAKER = Right.REFUSED, Right.WEAKER
Head = Callable[[Any, Tensor], Tensor]


def pictures(count: int = 2, side: int = 16) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def four_and_two() -> Tensor:
    """Images that look alike, then two that are 20 times brighter."""
    return torch.cat([pictures(), pictures(), 20 * pictures()])


def brighter(inputs: Any) -> Any:
    """The same call with images of another mean and scale; an image has three channels."""
    if isinstance(inputs, Tensor):
        return 4 * inputs - 1 if inputs.ndim > 2 and inputs.shape[1] == 3 else inputs
    if isinstance(inputs, dict):
        return {name: brighter(value) for name, value in inputs.items()}
    return tuple(map(brighter, inputs)) if isinstance(inputs, tuple) else inputs


def pooled(a: Tensor) -> Tensor:
    return a.mean((2, 3))


class Net(nn.Module):
    """Convolution, ReLU, average pooling to 4 × 4 (the layer), then the head that is tried."""

    def __init__(self, head: Head | None = None) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4))
        self.fc, self.gate, self.flat = nn.Linear(8, 5), nn.Linear(8, 8), nn.Linear(128, 5)
        self.last, self.tried = nn.Identity(), head
        with torch.no_grad():
            seen = self.layer(pictures())
        self.level = 0.97 * float(pooled(seen).mean(1).min())
        self.median = 1.001 * float(seen.mean(1).median())

    def soft(self, z: Tensor) -> Tensor:
        """A smooth gate."""
        return torch.sigmoid(10 * self.gate(z))

    def hard(self, z: Tensor) -> Tensor:
        """A gate ``(b, 1)`` of two values; with a bright location removed it shuts."""
        return (z.mean(1, keepdim=True) > self.level).to(z.dtype) + 0.5

    def head(self, a: Tensor) -> Tensor:
        return self.fc(pooled(a)) if self.tried is None else self.tried(self, a)

    def forward(self, image: Tensor) -> Any:
        return self.last(self.head(self.layer(image)))


@dataclass(eq=False)
class Scene:
    """A model that is being attacked, and what is asked of it."""

    model: Any
    images: Any
    target: Any
    explainer: hirescam.Explainer
    notes: dict[str, Any] = field(default_factory=dict)

    def explain(self) -> Any:
        return self.explainer(self.images, target=self.target)


def within(context: Callable[[], AbstractContextManager[Any]], scene: Scene) -> Any:
    """Ask inside a block."""
    with context():
        return scene.explain()


@contextmanager
def rounded() -> Iterator[None]:
    """Factors of float32 products in bfloat16, on processors that can."""
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


def nothing(*_: Any) -> list[str]:
    """Do nothing, and find nothing wrong."""
    return []


@dataclass(frozen=True)
class Attack:
    """One row.

    Attributes:
        name: unique; the name of the function that makes the attack.
        kind: what it aims at.
        tried: what it does, in one line for the page.
        right: the verdicts that may be given; each is judged by brute force besides.
        build: makes the model, from seed 0.
        images: makes the inputs.
        others: makes inputs of another mean and scale out of them.
        target: what is explained.
        layer: where; None leaves the choice to the library.
        output: how the logits are found.
        input: which of several inputs is explained.
        play: what happens before the call that is judged.
        ask: the call that is judged.
        check: finds more that may be wrong afterwards.
        says: a pattern that the certificate or the error must have, unless the verdict is exact.
        own: attributes that the model's own forward pass changes, which no borrower can give back.
        tolerance: relative to the largest true loss.
        slow: whether a compiler is at work.
    """

    name: str
    kind: Kind
    tried: str
    right: Right
    build: Callable[[], Any] = Net
    images: Callable[[], Any] = pictures
    others: Callable[[Any], Any] = brighter
    target: Any = None
    layer: str | None = "layer"
    output: Any = None
    input: Any = None
    play: Callable[[Scene], Any] = nothing
    ask: Callable[[Scene], Any] = Scene.explain
    check: Callable[[Scene, Any], list[str]] = nothing
    says: str = ""
    own: tuple[str, ...] = ()
    tolerance: float = 1e-3
    slow: bool = False

    def scene(self) -> Scene:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = self.build()
        for part in model.modules():
            part.training = False  # exported parts refuse eval()
        explainer = hirescam.Explainer(model, layer=self.layer, output=self.output, input=self.input)
        return Scene(model, self.images(), self.target, explainer)


ATTACKS: dict[str, Attack] = {}


def add(name: str, kind: Kind, tried: str, right: Right, **fields: Any) -> None:
    name = name.strip("_").replace("_", "-")
    assert name not in ATTACKS, name
    ATTACKS[name] = Attack(name, kind, tried, right, **fields)


def head(kind: Kind, tried: str, right: Right = WEAKER, **fields: Any) -> Callable[[Head], Head]:
    """Register a function ``(net, activations) -> logits`` as an attack."""

    def note(function: Head) -> Head:
        add(function.__name__, kind, tried, right, build=partial(Net, function), **fields)
        return function

    return note


def model(kind: Kind, tried: str, right: Right = WEAKER, **fields: Any) -> Callable[[Any], Any]:
    """Register a function or class that builds a model as an attack."""

    def note(build: Any) -> Any:
        name = "".join("_" * c.isupper() + c.lower() for c in build.__name__)
        add(name, kind, tried, right, build=build, **fields)
        return build

    return note


def play(kind: Kind, tried: str, right: Right = WEAKER, **fields: Any) -> Callable[[Any], Any]:
    """Register what happens before the judged call as an attack; the first call is made here."""

    def note(change: Callable[[Scene], None]) -> Callable[[Scene], None]:
        def both(scene: Scene) -> None:
            scene.explain()
            change(scene)

        add(change.__name__, kind, tried, right, play=both, **fields)
        return change

    return note
