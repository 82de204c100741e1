"""Brute force: what is true of a head, by running the real model with the layer's output replaced.

Nothing here knows how the library works. A forward hook replaces the layer's output; locations are removed,
activations are mixed and scaled, images are exchanged while the layer is held.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fuzz.asking import Ask
from fuzz.node import Divisors, holding

Head = Callable[[Tensor], Tensor]
"""From the layer's output for all images to scores ``(b, t)``."""

TOLERANCE = {torch.float64: 1e-7, torch.float32: 2e-3, torch.float16: 0.05, torch.bfloat16: 0.15}
_ROUNDING = {torch.float64: 1e-10, torch.float32: 3e-5, torch.float16: 0.01, torch.bfloat16: 0.05}
_SHARE = 0.3
_SCALES = (0.1, 1.0, 8.0)
_REPEATS = 4
_HALF = (torch.float16, torch.bfloat16)
_STEPS = {torch.float64: (1e-6,), torch.float32: (1e-2, 2e-3)}  # smaller ones where kinks lie close together
_SLOPE = {torch.float64: 1e-4, torch.float32: 5e-3, torch.float16: 0.1, torch.bfloat16: 0.2}
_DIRECTIONS = 4


def called(model: nn.Module, images: Tensor) -> Tensor:
    """Call a model with images alone."""
    return model(images)


@dataclass(frozen=True, eq=False)
class Subject:
    """A model as it is now, and the call that is judged.

    Attributes:
        model: a module that returns logits.
        images: ``(b, c, *space)``.
        ask: what is explained.
        layer: name of a module that is called once.
        call: from the model and images to logits, with the other inputs of this call.
        elsewhere: the same with different other inputs, where there are any.
        context: what surrounds the call, such as autocast.
        precision: of the maps, the lowest on the way to the scores when they were made.
        arithmetic: of the judge's own runs.
        channels: the axis of the layer's output that holds them.
        moves: for each axis of its locations whether it runs backwards on the map, and how far it is rolled.
        swapped: whether the last two axes of locations are swapped on it, first of all.
        free: whether the map may have them in any order, the same for all images.
    """

    model: nn.Module
    images: Tensor
    ask: Ask
    layer: str = "layer"
    call: Callable[[nn.Module, Tensor], Tensor] = called
    elsewhere: Callable[[nn.Module, Tensor], Tensor] | None = None
    context: Callable[[], AbstractContextManager[object]] = nullcontext
    precision: torch.dtype = torch.float64
    arithmetic: torch.dtype = torch.float64
    channels: int = 1
    moves: tuple[tuple[bool, int], ...] = ()
    swapped: bool = False
    free: bool = False

    def mapped(self, costs: Tensor) -> Tensor:
        """What locations are worth ``(..., *locations)``, in the order of the map."""
        costs = costs.mT if self.swapped else costs
        for axis, (backwards, by) in enumerate(self.moves, costs.ndim - len(self.moves)):
            costs = costs.roll(by, axis)
            costs = costs.flip(axis) if backwards else costs
        return costs

    def unmapped(self, raw: Tensor) -> Tensor:
        """A map ``(..., *locations)`` in the order of the layer's output: the inverse of `mapped`."""
        for axis, (backwards, by) in enumerate(self.moves, raw.ndim - len(self.moves)):
            raw = raw.flip(axis) if backwards else raw
            raw = raw.roll(-by, axis)
        return raw.mT if self.swapped else raw

    def run(
        self,
        images: Tensor | None = None,
        output: Tensor | None = None,
        call: Callable[[nn.Module, Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the model, with the layer's output replaced if one is given; return logits and that output."""
        seen: list[Tensor] = []

        def replace(module: nn.Module, inputs: Any, found: Tensor) -> Tensor | None:
            seen.append((found if output is None else output).detach().clone())
            return None if output is None else output.clone()

        handle = self.model.get_submodule(self.layer).register_forward_hook(replace)
        try:
            with torch.no_grad(), self.context():
                logits = (call or self.call)(self.model, self.images if images is None else images)
        finally:
            handle.remove()
        if not seen:
            raise RuntimeError(f"layer {self.layer!r} was not called")
        return logits.detach().clone(), seen[-1]


@dataclass(eq=False)
class Truth:
    """What brute force finds. Reasons are sentences, or "" where there is nothing against it."""

    subject: Subject
    logits: Tensor = field(init=False)
    activations: Tensor = field(init=False)
    score: Callable[[Tensor], Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.logits, self.activations = self.subject.run()
        self.score = self.subject.ask.bind(self.logits)
        self.tolerance = TOLERANCE[self.subject.arithmetic]
        self._removed: dict[bool, tuple[Tensor, Tensor]] = {}

    # --- the model -----------------------------------------------------------------------------

    @cached_property
    def scores(self) -> Tensor:
        """``(b, t)``."""
        return self.score(self.logits)

    @cached_property
    def unsteady(self) -> str:
        """Whether the same images get other logits the second time."""
        for _ in range(_REPEATS):  # two orders of four channels may be the same by chance
            again, activations = self.subject.run()
            if not self._same(again, self.logits):
                return "the same images get other scores the second time"
            allowed = self._rounding(float(self.activations.abs().amax()))
            if activations.shape != self.activations.shape or gap(activations, self.activations) > allowed:
                return "the same images get other activations the second time"
        return ""

    @cached_property
    def others(self) -> Tensor:
        """Images of another mean and scale."""
        return 2 * self.subject.images.flip(-1).roll(1, 0) + 0.7

    @cached_property
    def unsteady_after(self) -> str:
        """Whether they do even where the layer gives the same both times."""
        (one, _), (other, _) = (self.subject.run(output=self.activations) for _ in range(2))
        return "" if self._same(one, other) else "the same activations get other scores the second time"

    @cached_property
    def around(self) -> str:
        """Whether the scores follow the image although the layer is held."""
        for images in (self.others, 0 * self.subject.images - 0.4):
            logits, _ = self.subject.run(images, self.activations)
            if not self._same(logits, self.logits):
                return (
                    f"another image changes the score by {gap(logits, self.logits):.1e} with the layer held"
                )
        return ""

    @cached_property
    def together(self) -> str:
        """Whether the head gives an image other logits alone than in its batch."""
        for number in range(len(self.logits)):
            one = slice(number, number + 1)
            try:
                alone, _ = self.subject.run(
                    self.subject.images[one], self.activations[one], self._alone(number)
                )
            except (RuntimeError, IndexError, ValueError) as error:
                return f"image {number} alone fails: {error}"
            if not self._same(alone[0], self.logits[number]):
                return f"image {number} alone gets other scores, by {gap(alone[0], self.logits[number]):.1e}"
        return ""

    def _alone(self, number: int) -> Callable[[nn.Module, Tensor], Tensor]:
        return getattr(self.subject.call, "alone", lambda number: self.subject.call)(number)

    @cached_property
    def without_gradient(self) -> str:
        """Why torch itself cannot differentiate the head, or ""."""
        leaf = self.activations.clone().requires_grad_()
        module = self.subject.model.get_submodule(self.subject.layer)
        handle = module.register_forward_hook(lambda module, inputs, output: leaf.clone())
        try:
            with torch.enable_grad(), self.subject.context():
                logits = self.subject.call(self.subject.model, self.subject.images)
                torch.autograd.grad(self.score(logits).sum(), leaf)
        except RuntimeError as error:
            return str(error)
        finally:
            handle.remove()
        return ""

    def _same(self, one: Tensor, other: Tensor) -> bool:
        largest = float(other.abs().amax())
        spread = float((self.score(self.logits) - self.zero).abs().amax())
        return gap(one, other) <= self.tolerance * max(spread, 1e-9) + self._rounding(largest)

    def _rounding(self, largest: float, dtype: torch.dtype | None = None) -> float:
        return _ROUNDING[dtype or self.subject.arithmetic] * (1 + largest)

    # --- the head ------------------------------------------------------------------------------

    def plain(self, activations: Tensor) -> Tensor:
        """The head as it is."""
        return self.score(self.subject.run(output=activations)[0])

    @cached_property
    def held(self) -> Head:
        """The head with the divisors of its normalisers held at these images' values."""
        divisors = self._divisors(None)

        def head(activations: Tensor) -> Tensor:
            with holding(divisors):
                return self.score(self.subject.run(output=activations)[0])

        return head

    def _divisors(self, images: Tensor | None) -> Divisors:
        divisors = Divisors()
        with holding(divisors):
            self.subject.run(images)
        divisors.noting = False
        return divisors

    @cached_property
    def zero(self) -> Tensor:
        """Scores ``(b, t)`` with nothing left of any image."""
        return self.plain(torch.zeros_like(self.activations))

    @cached_property
    def curved(self) -> str:
        """Why the head is not affine."""
        return self._why_not_affine(self.plain)

    @cached_property
    def held_curved(self) -> str:
        """Why the head is not affine with the divisors held."""
        return self._why_not_affine(self.held)

    def _why_not_affine(self, head: Head) -> str:
        try:
            return self._mixtures(head) or self._multiples(head) or self._exchange(head)
        except (RuntimeError, IndexError, ValueError) as error:
            return f"it fails on other activations: {str(error).splitlines()[0]}"

    @cached_property
    def other_activations(self) -> Tensor:
        """The layer's output for images of another mean and scale."""
        return self.subject.run(self.others)[1]

    def _scales(self, *wanted: float) -> list[float]:
        """In half precision larger activations round more than the scores tell."""
        most = 1.0 if self.subject.arithmetic in _HALF else max(wanted)
        return [scale for scale in wanted if scale <= most]

    def _mixtures(self, head: Head) -> str:
        one = head(self.activations)
        for scale in self._scales(*_SCALES):
            other = scale * self.other_activations
            mixed = head(_SHARE * self.activations + (1 - _SHARE) * other)
            ends = head(other)
            why = self._off(mixed, _SHARE * one + (1 - _SHARE) * ends, ends, one)
            if why:
                return f"a mixture with {scale} times another image's activations is {why}"
        return ""

    def _multiples(self, head: Head) -> str:
        one, zero = head(self.activations), head(torch.zeros_like(self.activations))
        for scale in self._scales(0.1, 8.0):
            found = head(scale * self.activations)
            why = self._off(found, scale * one + (1 - scale) * zero, one, zero, found)
            if why:
                return f"{scale} times the activations are {why}"
        return ""

    def _exchange(self, head: Head) -> str:
        """Change the first image's activations and leave the others."""
        one = head(self.activations)
        changed, mixed = self.activations.clone(), self.activations.clone()
        changed[0] = self.other_activations[0]
        mixed[0] = _SHARE * self.activations[0] + (1 - _SHARE) * changed[0]
        ends, found = head(changed), head(mixed)
        why = self._off(found, _SHARE * one + (1 - _SHARE) * ends, one, ends)
        if why:
            return f"a mixture in the first image alone is {why}"
        why = self._off(ends[1:], one[1:], one, ends)
        return f"exchanging the first image's activations leaves the other images {why}" if why else ""

    def _off(self, found: Tensor, expected: Tensor, *seen: Tensor, terms: int = 1) -> str:
        """How far a score is from what affinity demands, or "" if rounding explains it.

        Scores are rounded as logits, which may be larger, and a sum of scores once for each of its terms.
        """
        if not found.numel():
            return ""
        stacked = torch.stack(seen)
        spread = float((stacked - stacked[:1]).abs().amax())
        largest = max(float(stacked.abs().amax()), float(self.logits.abs().amax()))
        allowed = self.tolerance * spread + terms**0.5 * self._rounding(largest)
        wrong = gap(found, expected)
        return "" if wrong <= allowed else f"off by {wrong:.1e} where scores differ by {spread:.1e}"

    # --- the map -------------------------------------------------------------------------------

    def removals(self, held: bool) -> tuple[Tensor, Tensor]:
        """What each location of each image is worth ``(b, t, *space)``, and each image ``(b, t)``.

        A location is removed from all images together; the strongest of each image, and each whole image,
        also by itself. Where that makes a difference, every location of every image is removed by itself.
        """
        if held not in self._removed:
            self._removed[held] = self._remove(self.held if held else self.plain)
        return self._removed[held]

    def _remove(self, head: Head) -> tuple[Tensor, Tensor]:
        base = head(self.activations)
        images = range(len(base))
        shape = self.activations.movedim(self.subject.channels, 1).shape[2:]
        places = range(shape.numel())

        def alone(image: int, place: int | None) -> Tensor:
            return (base - head(self._scaled(image, place, 0.0)))[image]

        totals = torch.stack([alone(image, None) for image in images])
        costs = torch.stack([base - head(self._scaled(None, place, 0.0)) for place in places], -1)
        strongest = [int(costs[image].abs().amax(0).argmax()) for image in images]
        checked = torch.stack([alone(image, place) for image, place in enumerate(strongest)])
        together = torch.stack([costs[image, :, place] for image, place in enumerate(strongest)])
        apart = base - head(torch.zeros_like(self.activations))
        if self._off(together, checked, costs[..., 0], checked) or self._off(apart, totals, apart, totals):
            costs = torch.stack(
                [torch.stack([alone(image, place) for place in places], -1) for image in images]
            )
        return self.subject.mapped(costs.unflatten(2, shape)), totals

    def _scaled(self, image: int | None, place: int | None, factor: float) -> Tensor:
        """The activations with one location of one image multiplied; None is all of them."""
        places = self.activations.movedim(self.subject.channels, 1).clone(
            memory_format=torch.contiguous_format
        )
        images, part = (slice(None) if one is None else slice(one, one + 1) for one in (image, place))
        places.flatten(2)[images, :, part] *= factor
        return places.movedim(1, self.subject.channels)

    def apart(self, raw: Tensor, held: bool) -> str:
        """Where a map breaks the location law or completeness, or ""."""
        costs, totals = self.removals(held)
        raw = raw.detach().to(costs.dtype)
        if self.subject.free and raw.shape == costs.shape:
            order = costs[0, 0].flatten().argsort()[raw[0, 0].flatten().argsort().argsort()]
            costs = costs.flatten(2)[..., order].reshape(costs.shape)
        if raw.shape != costs.shape:
            return f"the map has shape {tuple(raw.shape)}, expected {tuple(costs.shape)}"
        precision = self.subject.precision
        largest = costs.flatten(2).abs().amax(-1)
        allowed = TOLERANCE[precision] * largest + self._rounding(float(self.scores.abs().amax()), precision)
        off = (raw - costs).flatten(2).abs().amax(-1)
        if bool((~(off <= allowed)).any()):
            return f"a location is off by {float((off / largest.clamp_min(1e-12)).amax()):.1e} of the largest"
        missing = (raw.flatten(2).sum(-1) - totals).abs()
        allowed = allowed * raw[0, 0].numel() ** 0.5 + TOLERANCE[precision] * totals.abs()
        if bool((~(missing <= allowed)).any()):
            return f"the map's sum is off by {float(missing.amax()):.1e}"
        return ""

    def not_additive(self, held: bool) -> str:
        """How far what locations are worth one by one is from what they are worth together, or ""."""
        costs, totals = self.removals(held)
        parts = costs.flatten(2)
        return self._off(parts.sum(-1), totals, totals, torch.zeros_like(totals), terms=parts.shape[-1])

    # --- first order ---------------------------------------------------------------------------

    def slopes(self, raw: Tensor) -> str:
        """Where a map differs from the slope of the score along a location, or ""."""
        if self.subject.arithmetic not in _STEPS:
            return ""
        raw = self.subject.unmapped(raw.detach()).to(self.scores.dtype)
        for image in range(len(raw)):
            allowed = _SLOPE[self.subject.precision] * float(raw[image].abs().amax())
            for place in self._places(raw, image):
                if not self._is_slope(raw[image].flatten(1), image, place, allowed):
                    where = "the whole map" if place is None else f"location {place}"
                    return f"{where} of image {image} is not the slope of the score"
        return ""

    def _places(self, raw: Tensor, image: int) -> list[int | None]:
        count = raw[0, 0].numel()
        strongest = int(raw[image].flatten(1).abs().amax(0).argmax())
        return [None, strongest, *range(0, count, max(1, count // _DIRECTIONS))]

    def _is_slope(self, worth: Tensor, image: int, place: int | None, allowed: float) -> bool:
        """Whether it lies between the slopes ahead and behind, which differ only at a kink."""
        here = self.scores[image]
        value = worth.sum(-1) if place is None else worth[:, place]
        for step in _STEPS[self.subject.arithmetic]:
            ahead, behind = (
                self.plain(self._scaled(image, place, 1 + sign * step))[image] for sign in (1, -1)
            )
            sides = torch.stack([(ahead - here) / step, (here - behind) / step])
            margin = allowed + 0.1 * self._rounding(float(self.scores.abs().amax())) / step
            if bool(((sides.amin(0) - margin <= value) & (value <= sides.amax(0) + margin)).all()):
                return True
        return False

    @cached_property
    def bent(self) -> str:
        """Whether the score is curved where it should be piecewise linear, by second differences."""
        if self.subject.arithmetic is not torch.float64:
            return ""
        for image in range(len(self.scores)):
            wide, narrow = (self._second_difference(image, step) for step in (2e-4, 1e-4))
            noise = 1e-12 * (1 + float(self.scores.abs().amax()))
            smooth = (narrow.abs() > noise) & ((wide / narrow - 4).abs() < 0.2)
            if bool(smooth.any()):
                return f"the score of image {image} is curved, not piecewise linear"
        return ""

    def _second_difference(self, image: int, step: float) -> Tensor:
        here = self.scores[image]
        ahead, behind = (self.plain(self._scaled(image, None, 1 + sign * step))[image] for sign in (1, -1))
        return ahead + behind - 2 * here

    # --- the offset ----------------------------------------------------------------------------

    def offsets_differ(self, held: bool) -> str:
        """Whether what remains without any activation depends on the image, or on the other inputs."""
        first = self._rest(None, held, self.subject.call)
        rests = [self._rest(self.others, held, self.subject.call)]
        rests += [self._rest(None, held, self.subject.elsewhere)] if self.subject.elsewhere else []
        if self.subject.ask.index is not None:  # of one class, all images have the same
            rests.append(first[:1].expand_as(first))
        largest = max(float(rest.abs().amax()) for rest in [first, *rests])
        size = float((self.scores - self.zero).abs().amax())
        worst = max(gap(first, rest) for rest in rests)
        return (
            "" if worst <= self.tolerance * size + self._rounding(largest) else f"it differs by {worst:.1e}"
        )

    def _rest(self, images: Tensor | None, held: bool, call: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
        """The scores without activations, of all classes that are asked for, or of the target itself."""
        nothing, index = torch.zeros_like(self.activations), self.subject.ask.index
        with holding(self._divisors(images)) if held else nullcontext():
            logits, _ = self.subject.run(images, nothing, call)
        return self.score(logits) if index is None else logits[:, index(self.logits).unique()]


def gap(one: Tensor, other: Tensor) -> float:
    """Largest difference; infinite where something is not a number."""
    worst = float((one - other).abs().nan_to_num(nan=float("inf")).amax()) if one.numel() else 0.0
    return worst


def affine(truth: Truth) -> bool:
    """Whether brute force finds nothing against exactness, and the score follows the layer at all."""
    moves = float((truth.scores - truth.zero).abs().amax()) > 1e-8
    why = truth.unsteady_after or truth.around or truth.together or truth.curved
    return moves and not why and not truth.not_additive(held=False)
