"""Programs: a small model whose head is a list of steps, drawn at random and built from a seed.

A program is plain data whose repr is Python, so a failing example is a script::

    from fuzz.grammar import *

    model = Program(steps=(Launder(hidden="detach"), Readout(op="flatten"))).build()
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from fuzz.affine import CONV, POOL, Affine, Readout
from fuzz.around import Around, Coupled, End, Random, Rounded, Stateful
from fuzz.asking import AFFINE_TARGETS, TARGETS
from fuzz.curved import Curved, Normalise, Piecewise
from fuzz.hidden import (
    COMPUTED,
    COUNT_USES,
    COUNTS,
    HIDING,
    TESTS,
    USES,
    VALUES,
    Branch,
    Count,
    Launder,
    Pick,
)
from fuzz.in_place import InPlace
from fuzz.joins import JOINS, MODES, Checkpointed, Parallel, Residual, Within
from fuzz.node import Env, Kind, Node, Plain, Step, lowest, quiet, worst
from fuzz.source import Drawn, Source
from fuzz.unseen import Hooked, Meddled, Opaque

__all__ = [
    "Affine", "Around", "Branch", "Checkpointed", "Count", "Coupled", "Curved", "End", "Hooked", "InPlace",
    "Launder", "Meddled", "Normalise", "Opaque", "Parallel", "Pick", "Piecewise", "Program", "Random",
    "Readout", "Residual", "Rounded", "Stateful", "Within",
]  # fmt: skip

CHANNELS, CLASSES = 8, 4
SIDES = {1: 16, 2: 8, 3: 4}
DTYPES = {"float64": torch.float64, "float32": torch.float32}


@dataclass(frozen=True, repr=False)
class Program(Plain):
    """A model, images, and what is explained.

    Attributes:
        steps: of the head, down to the scores.
        ndim: how many axes of space.
        dtype: of the model.
        batch: how many images.
        ends: what the layer ends in, ``pool``, ``relu`` or ``conv``.
        seed: of the weights.
        target: a name in `asking.TARGETS`.
        layer: what is explained; None is the automatic choice.
    """

    steps: tuple[Step, ...]
    ndim: int = 2
    dtype: str = "float64"
    batch: int = 2
    ends: str = "pool"
    seed: int = 0
    target: str = "one"
    layer: str | None = "layer"

    def build(self) -> "Model":
        """Make the model; the same program makes the same one."""
        with quiet(), torch.no_grad():
            torch.manual_seed(self.seed)
            return Model(self)

    def images(self, batch: int | None = None, seed: int = 1) -> Tensor:
        """Return images ``(b, 3, *space)``."""
        generator = torch.Generator().manual_seed(seed)
        shape = (batch or self.batch, 3, *[SIDES[self.ndim]] * self.ndim)
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(DTYPES[self.dtype])

    @property
    def kind(self) -> Kind:
        """What the head is by construction, the target included."""
        return worst(self.steps) if self.target in AFFINE_TARGETS else Kind.OTHER

    @property
    def precision(self) -> torch.dtype:
        """The lowest precision on the way to the scores."""
        return lowest(DTYPES[self.dtype], *(step.precision for step in self.steps)) or torch.float64


class Model(nn.Module):
    """An early feature, the layer that is explained, and the head."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        conv = CONV[program.ndim]
        self.stem = nn.Sequential(conv(3, 4, 3, padding=1), nn.ReLU())
        layer = [conv(4, CHANNELS, 3, padding=1, stride=1 if program.ends == "pool" else 2)]
        layer += [nn.ReLU(inplace=program.ends == "relu")] if program.ends != "conv" else []
        layer += [Pool(program.ndim)] if program.ends == "pool" else []
        self.layer = nn.Sequential(*layer)
        self.steps = nn.ModuleList()
        self.last = nn.Identity()
        self.power, self.mix = 1, "add"
        self.double().eval()
        self._run_while_building(program)
        for module in self.modules():
            if isinstance(module, Node):
                module.building = False
        self.to(DTYPES[program.dtype]).eval()

    def _run_while_building(self, program: Program) -> None:
        images = program.images().double()
        size = self.features(images)[0].abs().mean()
        for tensor in self.layer[0].parameters():  # so that thresholds and curves have something to act on
            tensor.div_(2 * size)
        x, env = self.features(images)
        for step in program.steps:
            node = Node(step)
            self.steps.append(node)
            x = node(x, env)

    def features(self, image: Tensor) -> tuple[Tensor, Env]:
        """The layer's output, and what the head can see besides."""
        early = self.stem(image)
        return self.layer(early), Env(image, early)

    def forward(self, image: Tensor, extra: Tensor | None = None, refine: bool = False) -> Tensor:
        x, env = self.features(image)
        for node in self.steps:
            x = node(x, env)
        x = self.last(x)
        if self.power != 1:
            x = x**self.power
        if extra is not None:
            x = x + extra if self.mix == "add" else x * extra
        return (12 * x).softmax(1) if refine else x


class Pool(nn.Module):
    """Averages of two locations along each axis."""

    def __init__(self, ndim: int) -> None:
        super().__init__()
        self.ndim = ndim

    def forward(self, x: Tensor) -> Tensor:
        return POOL[self.ndim](x, 2)


# --- drawing -----------------------------------------------------------------------------------

MOST_NUMBERS = 1200


class Builder:
    """Knows the features after the steps so far, so that the next one fits."""

    def __init__(self, x: Tensor, env: Env, keeps_shape: bool = False) -> None:
        self.x, self.env, self.keeps_shape = x, env, keeps_shape
        self.steps: list[Step] = []

    def add(self, step: Step) -> bool:
        """Take a step if the model that has it still runs."""
        with torch.inference_mode(self.x.is_inference()):
            x = self.x.clone()
        try:
            y = Node(step)(x, self.env)
        except RuntimeError:  # such as a write into an inference tensor outside of inference mode
            return False
        if not sane(y, self.x) or (self.keeps_shape and y.shape != self.x.shape):
            return False
        self.x = y
        self.steps.append(step)
        return True

    def inner(self) -> "Builder":
        """For steps inside of a step."""
        return Builder(self.x.clone(), self.env, keeps_shape=True)


def sane(y: Tensor, x: Tensor) -> bool:
    """Whether features are some finite numbers for each image."""
    if y.ndim < 2 or y.ndim > 5 or len(y) != len(x) or y.dtype != x.dtype:
        return False
    numbers = y[0].numel()
    return 3 <= numbers <= MOST_NUMBERS and y.shape[1] > 1 and bool(y.abs().amax() < 1e4)


Family = Callable[[Source, Builder], Step]


def out_of(steps: list[Step]) -> Family:
    """Any step of a table that fits."""
    return lambda source, builder: source.pick([step for step in steps if step.fits(builder.x)])


def launder(source: Source, builder: Builder) -> Step:
    return Launder(*(source.pick(list(table)) for table in (VALUES, COMPUTED, HIDING, USES)))


def branch(source: Source, builder: Builder) -> Step:
    return Branch(source.pick(list(TESTS)), source.pick([1.001, 0.999, 3.0, 100.0]))


def count(source: Source, builder: Builder) -> Step:
    return Count(source.pick(list(COUNTS)), source.pick(list(COUNT_USES)))


def joined(families: list[Family], modes: list[str], joins: list[str]) -> Family:
    """A step around steps of these families."""

    def draw(source: Source, builder: Builder) -> Step:
        def inner() -> tuple[Step, ...]:
            return tuple(some(source, builder.inner(), families, source.integer(1, 2)).steps)

        match source.pick(["residual", "parallel", "checkpoint", "within"]):
            case "residual":
                return Residual(inner(), in_place=source.pick([False, True]))
            case "parallel":
                return Parallel(inner(), inner(), source.pick(joins))
            case "checkpoint":
                return Checkpointed(inner(), reentrant=source.pick([False, True]))
            case _:
                return Within(inner(), source.pick(modes))

    return draw


def some(source: Source, builder: Builder, families: list[Family], number: int) -> Builder:
    """Add so many steps of some families; one that does not fit is left out."""
    for _ in range(number):
        builder.add(source.pick(families)(source, builder))
    return builder


PLAIN: list[Family] = [out_of(Affine.every())] * 6 + [out_of(InPlace.every())] * 2 + [out_of(Hooked.every())]
AFFINE = (
    PLAIN + [joined(PLAIN, ["enable_grad", "record_function"], ["add", "mean", "join", "difference"])] * 2
)
NORMALISING: list[Family] = [out_of(Normalise.every())]
_ODD: list[Family] = [
    out_of(Piecewise.every()),
    out_of(Piecewise.every()),
    out_of(Curved.every()),
    out_of(Curved.every()),
    launder,
    launder,
    launder,
    branch,
    count,
    out_of(Pick.every()),
    out_of(Opaque.every()),
    out_of(Meddled.every()),
    out_of(Around.every()),
    out_of(Around.every()),
    out_of(Coupled.every()),
    out_of(Random.every()),
    out_of(Stateful.every()),
    out_of(Rounded.every()),
]
ODD = _ODD * 3 + [joined([*PLAIN, *_ODD], list(MODES), list(JOINS))] * 18 + NORMALISING * 4
THEMES = {"affine": AFFINE, "normalising": NORMALISING, "local": [out_of(Piecewise.every())], "odd": ODD}


def draw_program(source: Source, theme: str = "") -> Program:
    """Draw a program: affine steps, and among them none, a normaliser, or something odd."""
    theme = theme or source.pick(["affine"] * 9 + ["normalising"] * 2 + ["odd"] * 9)
    base = Program(
        steps=(),
        ndim=source.pick([2, 2, 2, 2, 1, 3]),
        dtype=source.pick(["float64", "float64", "float32"]),
        batch=source.pick([2, 3, 1, 4]),
        ends=source.pick(["pool", "pool", "pool", "relu", "conv"]),
        seed=source.integer(0, 999),
        target=source.pick(draw_targets(theme)),
        layer=source.pick(["layer", "layer", "layer", None]),
    )
    with quiet(), torch.no_grad():
        torch.manual_seed(base.seed)
        steps = draw_steps(source, theme, Builder(*Model(base).double().features(base.images().double())))
    return replace(base, steps=tuple(steps))


def draw_targets(theme: str) -> list[str]:
    """Mostly targets that are affine, so that the head decides."""
    return AFFINE_TARGETS * 4 + (list(TARGETS) if theme == "odd" else [])


def draw_steps(source: Source, theme: str, builder: Builder) -> list[Step]:
    """Affine steps, the theme's, affine steps, the readout; the theme's may also come at the end."""
    late = theme == "odd" and source.integer(0, 5) == 5
    some(source, builder, AFFINE, source.integer(0, 2))
    if theme != "affine" and not late:
        some(source, builder, THEMES[theme], source.pick([1, 1, 1, 2]))
    some(source, builder, AFFINE, source.integer(0, 2))
    while not builder.add(source.pick([step for step in Readout.every() if step.fits(builder.x)])):
        pass
    if late:
        builder.keeps_shape = True
        some(source, builder, [out_of(End.every()), *ODD], 1)
    return builder.steps


@st.composite
def programs(draw: st.DrawFn, theme: str = "") -> Program:
    """Programs that hypothesis can shrink."""
    return draw_program(Drawn(draw), theme)
