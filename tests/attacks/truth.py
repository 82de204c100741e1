"""The truth about a head, by brute force; nothing here comes from the library.

The model itself runs, in float64 where it can, and a plain forward hook replaces its layer's output: one
location of one image is removed, or all of them, or the image is another one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hirescam

SAME = 1e-3
"""Errors below this, relative to the largest loss, count as none."""
STEP = 1e-5
Edit = Callable[[Tensor], Tensor]


class Divisors:
    """Layer norm and L2 normalisation, with divisors that are noted once and held from then on."""

    def __init__(self) -> None:
        self.noted: list[Tensor] = []
        self.place: int | None = None

    def next(self, divisor: Tensor) -> Tensor:
        if self.place is None:
            self.noted.append(divisor)
            return divisor
        self.place += 1
        return self.noted[self.place - 1]

    def layer_norm(
        self, x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
    ) -> Tensor:
        axes = tuple(range(-len(shape), 0))
        centred = x - x.mean(axes, keepdim=True)
        out = centred / self.next((centred.square().mean(axes, keepdim=True) + eps).sqrt())
        out = out if weight is None else out * weight
        return out if bias is None else out + bias

    def normalize(self, x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
        return x / self.next(torch.linalg.vector_norm(x, p, dim, keepdim=True).clamp_min(eps))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Note at the first run, hold at all later ones."""
        self.place = 0 if self.noted else None
        with patch.object(F, "layer_norm", self.layer_norm), patch.object(F, "normalize", self.normalize):
            yield


def run(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def cast(inputs: Any, dtype: torch.dtype) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.detach().clone().to(dtype) if inputs.is_floating_point() else inputs
    if isinstance(inputs, dict):
        return {name: cast(value, dtype) for name, value in inputs.items()}
    return tuple(cast(value, dtype) for value in inputs) if isinstance(inputs, tuple) else inputs


def only(inputs: Any, row: int, batch: int) -> Any:
    """The inputs of one image alone."""
    if isinstance(inputs, Tensor):
        return inputs[row : row + 1] if inputs.ndim and len(inputs) == batch else inputs
    if isinstance(inputs, dict):
        return {name: only(value, row, batch) for name, value in inputs.items()}
    return tuple(only(value, row, batch) for value in inputs) if isinstance(inputs, tuple) else inputs


def score_of(target: Any, logits: Tensor, index: Tensor) -> Callable[[Tensor, slice], Tensor]:
    """The scores ``(b, t)`` of some rows of a batch, as the design defines them."""
    if isinstance(target, hirescam.Contrast):
        return lambda y, rows: y[:, [target.a]] - y[:, [target.b]]
    if isinstance(target, hirescam.Region):
        return lambda y, rows: (y[:, target.label] * target.mask.to(y)).flatten(1).sum(1, keepdim=True)
    if isinstance(target, hirescam.Finer):
        distance = (logits - logits.gather(1, index)).abs().scatter(1, index, torch.inf)
        near = distance.topk(target.k, largest=False).indices
        return lambda y, rows: (
            y.gather(1, index[rows]) - target.strength * y.gather(1, near[rows]).mean(1, keepdim=True)
        )
    if callable(target):
        return lambda y, rows: target(y).reshape(len(y), -1)
    return lambda y, rows: y.gather(1, index[rows])


def logits_in(output: Any) -> Tensor:
    """The logits in what a toy model returns."""
    if isinstance(output, dict):
        return next(iter(output.values()))
    return output if isinstance(output, Tensor) else output[0]


@dataclass(eq=False)
class Truth:
    """What a map of one call must say.

    Attributes:
        model: the model; it is in float64 from now on.
        inputs: what it was called with.
        others: inputs of another mean and scale.
        layer: name of the layer.
        output: function that finds the logits, or None.
        target: what is explained.
        index: classes ``(b, t)``; None is the class of the largest logit.
        hold: whether the divisors of normalisers are held.
    """

    model: nn.Module
    inputs: Any
    others: Any
    layer: str
    output: Callable[[Any], Tensor] | None = None
    target: Any = None
    index: Tensor | None = None
    hold: bool = False

    def __post_init__(self) -> None:
        self._divisors: dict[int, Divisors] = {}
        own = next(self.model.parameters()).dtype
        wanted, others = self.inputs, self.others
        for dtype in (torch.float64, own):
            self.model.to(dtype)
            self.inputs, self.others = cast(wanted, dtype), cast(others, dtype)
            with suppress(RuntimeError, TypeError):
                logits, self.layer_output = self.run(self.inputs)
                self.run(self.others)  # so that divisors that are held are those of whole layers
                break
        if self.index is None:
            self.index = logits.argmax(1, keepdim=True) if logits.ndim == 2 else None
        self.index = None if self.index is None else self.index.clone()  # no inference tensor
        self._score = score_of(self.target, logits, self.index)
        self.base = self._score(logits, slice(None))
        self.batch, self.places = len(self.base), self.layer_output[0, 0].numel()

    @torch.no_grad()
    def run(self, inputs: Any, edit: Edit = Tensor.clone) -> tuple[Tensor, Tensor]:
        """Logits and the layer's output, which ``edit`` may replace."""
        seen = []

        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            seen.append(output.detach().clone())
            return edit(output.detach().clone())

        handle = self.model.get_submodule(self.layer).register_forward_hook(hook)
        try:
            with self._divisors.setdefault(id(inputs), Divisors()).held() if self.hold else nullcontext():
                output = run(self.model, inputs)
                found = logits_in(output) if self.output is None else self.output(output)
        finally:
            handle.remove()
        return found.detach().double(), seen[0]

    def scores(self, edit: Edit = Tensor.clone, inputs: Any = None) -> Tensor:
        return self._score(self.run(self.inputs if inputs is None else inputs, edit)[0], slice(None))

    def scaled(self, row: int, place: int, factor: float) -> Tensor:
        """Scores with one location of one image multiplied."""

        def edit(a: Tensor) -> Tensor:
            a[row].flatten(1)[:, place].mul_(factor)
            return a

        return self.scores(edit)

    def _each(self, change: Callable[[int, int], Tensor]) -> tuple[Tensor, float]:
        """``(b, t, locations)`` for the image whose location it is, and the largest for all other images."""
        table = torch.stack(
            [torch.stack([change(i, s) for s in range(self.places)], -1) for i in range(self.batch)]
        )
        rows = torch.arange(self.batch)
        own = table[rows, rows]
        table[rows, rows] = 0
        return own, float(table.abs().max())

    @cached_property
    def _removals(self) -> tuple[Tensor, float]:
        return self._each(lambda row, place: self.base - self.scaled(row, place, 0))

    @cached_property
    def losses(self) -> Tensor:
        """What the score of an image loses with each of its locations."""
        return self._removals[0]

    @property
    def cross(self) -> float:
        """The most that an image loses with a location of another."""
        return self._removals[1]

    @cached_property
    def slopes(self) -> Tensor:
        """The first-order effect of each location."""

        def change(row: int, place: int) -> Tensor:
            return (self.scaled(row, place, 1 + STEP) - self.scaled(row, place, 1 - STEP)) / (2 * STEP)

        return self._each(change)[0]

    @cached_property
    def empty(self) -> Tensor:
        """Scores of each image with all of its locations removed."""

        def without(row: int) -> Edit:
            def edit(a: Tensor) -> Tensor:
                a[row] = 0
                return a

            return edit

        return torch.stack([self.scores(without(row))[row] for row in range(self.batch)])

    @cached_property
    def unit(self) -> float:
        """The largest loss."""
        return float(self.losses.abs().max())

    @cached_property
    def chance(self) -> float:
        """How much two equal runs differ."""
        return self._gap(self.scores(), self.base)

    @cached_property
    def coupling(self) -> float:
        """How much the images of a batch matter to each other."""
        try:
            alone = [self._alone(row) for row in range(self.batch)]
        except (RuntimeError, ValueError, IndexError):
            return float("inf")
        return max(self._gap(torch.cat(alone), self.base), self.cross / self.unit)

    def _alone(self, row: int) -> Tensor:
        part = only(self.inputs, row, self.batch)
        return self._score(self.run(part)[0], slice(row, row + 1))

    @cached_property
    def bypass(self) -> float:
        """How much the score changes with the image while the layer's output is held."""
        return self._gap(self.scores(lambda _: self.layer_output.clone(), self.others), self.base)

    @cached_property
    def drift(self) -> float:
        """How much the score of an empty layer changes with the image."""
        return self._gap(self.scores(torch.zeros_like, self.others), self.scores(torch.zeros_like))

    @cached_property
    def additivity(self) -> float:
        """How far the losses are from adding up to the loss of everything."""
        whole = self.base - self.empty
        return float((self.losses.sum(-1) - whole).abs().max() / max(self.unit, float(whole.abs().max())))

    @cached_property
    def naive(self) -> float:
        """How wrong a map is that is gradient times activation and nothing else."""
        leaves: list[Tensor] = []

        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            leaves.append(output.detach().clone().requires_grad_())
            return leaves[0].clone()

        handle = self.model.get_submodule(self.layer).register_forward_hook(hook)
        try:
            output = run(self.model, self.inputs)
            found = logits_in(output) if self.output is None else self.output(output)
            score = self._score(found, slice(None)).sum(0)
            grads = [torch.autograd.grad(one, leaves, retain_graph=True)[0] for one in score]
        except RuntimeError:
            return float("inf")
        finally:
            handle.remove()
        raw = torch.stack([(grad * leaves[0]).flatten(2).sum(1) for grad in grads], 1).detach()
        return self._gap(raw, self.losses)

    def _gap(self, got: Tensor, wanted: Tensor) -> float:
        return float((got - wanted).abs().max() / self.unit)

    @property
    def errors(self) -> dict[str, float]:
        """Every way in which the head is not exact, relative to the largest loss."""
        names = ("chance", "naive", "additivity", "coupling", "bypass", "drift")
        return {name: getattr(self, name) for name in names}
