"""Measure which axes of a layer's output are locations, and where each lies, where operations do not show it.

Noise n goes through the network, and the same noise times a ramp c(p) that rises along one axis of the image
from -1 to 1. With the responses y and z of an entry of the layer's output,

    κ = Σ y z / Σ y²

is where the entry looks, as a coordinate from -1 to 1, almost without variance where its field is narrow. An
axis along which κ moves, by more than its noise from draw to draw (an analysis of variance), is one of
locations. Each draw has weights of its own, the model's own ones with rows, columns and kernels shuffled:
channels of a trained network have places that they prefer, and channels without meaning have none.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, lgamma, log, log1p, prod
from typing import Any

import torch
from torch import Tensor, nn

from hirescam.errors import HirescamError
from hirescam.passes import taps
from hirescam.passes.borrow import Call, eager, session
from hirescam.passes.parts import Axes, Axis, Part, Role, channels, ordered, unknown
from hirescam.passes.provenance import tensors_in
from hirescam.passes.taps import Tap
from hirescam.proof.fingerprint import weights

_LOOKS = (4, 8, 16)  # draws
_STRENGTH = 1e-2  # of the noise, in standard deviations of the image
_MOVES, _STAYS = 1e-4, 0.05  # p of an axis of locations, at most, and of one of channels, at least
_FLOOR = 0.1  # of the mean energy, so that dead channels do not explode
_SMALL = 0.3  # a movement this small beside another's may be of channels that look aside
_SCORE = 0.25  # of an order of tokens, at most
_WIDE = 0.35  # spread of an entry that sees everything
_REVERSED = 4.0  # standard errors by which two neighbours may be in the wrong order
_MOST_ENTRIES = 2**22  # of one output
_NOT_RUN = (HirescamError, RuntimeError, TypeError, ValueError, AttributeError)
"""What comes of a network that cannot be copied, or does not run with other weights."""


def measured(model: nn.Module, call: Call, wanted: Sequence[Tap]) -> list[Axes | None]:
    """Measure the axes of some layers' outputs for images like those of a call.

    The model itself is left alone; a copy of it runs.

    Args:
        model: in evaluation mode.
        call: the inputs.
        wanted: the layers.

    Returns:
        For each its axes, some perhaps unknown; None where it cannot be measured.
    """
    found: list[Axes | None] = [None] * len(wanted)
    try:
        draws = _Draws(model, call, wanted)
    except _NOT_RUN:
        return found
    for look in _LOOKS:
        try:
            draws.more(look)
        except _NOT_RUN:
            break
        for number in range(len(wanted)):
            if not _decided(found[number]):
                found[number] = _together(found[number], _axes(draws, number))
        if all(map(_decided, found)):
            break
    return found


def _decided(axes: Axes | None) -> bool:
    return axes is not None and all(part.role is not Role.UNKNOWN for axis in axes for part in axis)


def _together(before: Axes | None, now: Axes | None) -> Axes | None:
    """What an earlier look decided stands."""
    if before is None or now is None:
        return before or now
    undecided = (any(part.role is Role.UNKNOWN for part in axis) for axis in before)
    return tuple(new if open else old for old, new, open in zip(before, now, undecided, strict=True))


# Responses ------------------------------------------------------------------------------------


class _Draws:
    """Responses of some layers to noise, draw by draw.

    ``products[i]`` has the y z of layer i, ``(draws, axes of space, *output)``, ``energies[i]`` the y².
    """

    def __init__(self, model: nn.Module, call: Call, wanted: Sequence[Tap]) -> None:
        self.model = copy.deepcopy(model).float() if _is_half(model) else copy.deepcopy(model)
        call = call.first(1)
        self.call = call.replace(call.images.detach().float() if _is_half(model) else call.images.detach())
        self.space, self.batch = call.space, len(call.images)
        self._wanted = wanted
        self._own = {name: tensor.detach().clone() for name, tensor in weights(self.model)}
        self._generator = torch.Generator().manual_seed(0)
        self.products: list[list[Tensor]] = [[] for _ in wanted]
        self.squares: list[list[Tensor]] = [[] for _ in wanted]
        self.energies: list[list[Tensor]] = [[] for _ in wanted]

    def more(self, count: int) -> None:
        """Draw until there are so many."""
        while len(self.energies[0]) < count:
            self._draw()

    def _draw(self) -> None:
        images = self.call.images
        spread = images.std() if images.numel() > 1 else images.new_ones(())
        spread = torch.where(spread > 0, spread, torch.ones_like(spread))
        # an image of its own: where things are moved by what is in the image, places are not known
        images = images.mean() + spread * torch.randn(images.shape, generator=self._generator).to(images)
        noise = torch.randn(images.shape, generator=self._generator).sign().to(images) * _STRENGTH * spread
        with torch.no_grad():
            for name, tensor in weights(self.model):
                tensor.copy_(_shuffled(self._own[name], self._generator))
        before = self._outputs(images)
        plain = self._outputs(images + noise)
        ramped = [self._outputs(images + noise * self._ramp(dim)) for dim in range(len(self.space))]
        for number, base in enumerate(before):
            if base is None:
                raise HirescamError("the layer was not met")
            y = (plain[number] - base).cpu().double()  # type: ignore[operator]
            z = torch.stack([(one[number] - base).cpu().double() for one in ramped])  # type: ignore[operator]
            self.products[number].append(y * z)
            self.squares[number].append(z.square())
            self.energies[number].append(y.square())

    def _ramp(self, dim: int) -> Tensor:
        images = self.call.images
        ramp = torch.linspace(-1, 1, self.space[dim], dtype=images.dtype, device=images.device)
        return ramp.reshape([-1 if i == dim else 1 for i in range(len(self.space))])

    def _outputs(self, images: Tensor) -> list[Tensor | None]:
        found: dict[tuple[str, str | None, int], Tensor] = {}
        names = {(tap.module, tap.function, tap.number or 1) for tap in self._wanted}
        counts = taps.Counts(self.model)

        def keep(seen: Tap, output: Any) -> None:
            key = (seen.module, seen.function, seen.number or 1)
            if key in names:
                found[key] = tensors_in(output)[0].detach().clone()

        def on_output(path: str, output: Any) -> None:
            keep(counts.module(path), output)

        def on_function(func: Any, args: Any, kwargs: Any) -> Any:
            result = func(*args, **kwargs)
            with torch._C.DisableTorchFunction():
                keep(counts.function(func), result)
            return result

        modules = [(tap.module, self.model.get_submodule(tap.module)) for tap in self._wanted if tap.module]
        with (
            session(grad=False),
            eager(self.model),
            taps.module_outputs(dict(modules).items(), on_output),
            taps.Modes(on_function) as modes,
        ):
            if any(tap.function for tap in self._wanted):
                modes.start_functions()
            self.call.replace(images).run(self.model)
        return [found.get((tap.module, tap.function, tap.number or 1)) for tap in self._wanted]


def _is_half(model: nn.Module) -> bool:
    return any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in model.parameters())


def _shuffled(own: Tensor, generator: torch.Generator) -> Tensor:
    """Weights without their meaning: rows and columns in another order, kernels mirrored or not."""
    if not own.is_floating_point():
        return own
    made = own
    for dim in range(min(own.ndim, 2) if own.ndim > 3 else own.ndim):
        order = torch.randperm(own.shape[dim], generator=generator).to(own.device)
        made = made.index_select(dim, order)
    return made.flip([dim for dim in range(2, own.ndim) if torch.rand((), generator=generator) < 0.5])


# Which axes move ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Movement:
    """How an axis moves along one axis of the image: p, and the standard deviation of its profile."""

    dim: int
    p: float
    sd: float


def _axes(draws: _Draws, number: int) -> Axes | None:
    """The axes of one layer, as far as the draws tell."""
    energy = torch.stack(draws.energies[number])  # (r, *output)
    products = torch.stack(draws.products[number])  # (r, d, *output)
    shape = energy.shape[1:]
    if energy[0].numel() > _MOST_ENTRIES or not bool(energy.isfinite().all() and products.isfinite().all()):
        return None
    if len(shape) < 2 or shape[0] != draws.batch or not float(energy.sum()) > 0:
        return None
    moving = {i: _movements(products, energy, i, ()) for i in range(1, len(shape)) if shape[i] > 1}
    locations = [i for i, found in moving.items() if found and found[0].p < _MOVES]
    if not locations:
        return None
    for i in moving:  # once more, apart for each location
        if i not in locations and prod(shape[j] for j in locations) * shape[i] <= _MOST_ENTRIES:
            moving[i] = _movements(products, energy, i, locations)
    locations = [i for i, found in moving.items() if found[0].p < _MOVES]
    weakest = min(moving[i][0].sd for i in locations)
    found: list[Axis] = [(Part(Role.BATCH, shape[0]),)]
    for i in range(1, len(shape)):
        still = i in moving and moving[i][0].p > _STAYS and moving[i][0].sd < weakest / 2
        found.append(() if shape[i] == 1 else channels(shape[i]) if still else unknown(shape[i]))
    placed = _placed(draws, number, locations, moving)
    for i, axis in placed.items():
        found[i] = axis
    return tuple(found)


def _movements(products: Tensor, energy: Tensor, axis: int, given: Sequence[int]) -> list[_Movement]:
    """How one axis moves along each axis of the image, the surest first."""
    kept = sorted((axis, *given))
    others = [i for i in range(energy.ndim - 1) if i not in kept]  # the batch among them
    total = energy.sum([1 + i for i in others])
    pooled = products.sum([2 + i for i in others])
    floor = _FLOOR * total.flatten(1).mean(1).reshape(-1, *[1] * len(kept))
    kappa = pooled / (total + floor).unsqueeze(1)  # (r, d, *kept)
    place = 2 + kept.index(axis)
    rest = [i for i in range(2, kappa.ndim) if i != place]
    profile = kappa.mean(rest) if rest else kappa  # (r, d, n)
    count = products.shape[1]
    found = [_movement(profile[:, dim], dim, count) for dim in range(count)]
    return sorted(found, key=lambda one: (one.p, -one.sd))


def _movement(profile: Tensor, dim: int, dims: int) -> _Movement:
    """Two-way analysis of variance of ``(draws, entries)``."""
    draws, entries = profile.shape
    means = profile.mean(0)
    residual = profile - means - profile.mean(1, keepdim=True) + profile.mean()
    between = draws * float((means - means.mean()).square().sum()) / (entries - 1)
    within = float(residual.square().sum()) / ((entries - 1) * (draws - 1))
    ratio = between / within if within > 0 else (inf if between > 0 else 0.0)
    p = min(1.0, dims * _survival(ratio, entries - 1, (entries - 1) * (draws - 1)))
    return _Movement(dim, p, (between / draws) ** 0.5)


def _survival(ratio: float, over: int, under: int) -> float:
    """P(F > ratio) of an F distribution with these degrees of freedom."""
    if ratio == inf:
        return 0.0
    return _beta(under / (under + over * ratio), under / 2, over / 2)


def _beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (Lentz)."""
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(1 - x, b, a)
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x)) / a
    tiny, result, c, d = 1e-300, 1.0, 1.0, 0.0
    for i in range(400):
        m = i // 2
        if i == 0:
            term = 1.0
        elif i % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / (1 + term * d or tiny)
        c = 1 + term / c or tiny
        result *= c * d
        if abs(1 - c * d) < 1e-12:
            break
    return front * (result - 1)


# Where entries lie ----------------------------------------------------------------------------


def _placed(
    draws: _Draws, number: int, locations: Sequence[int], moving: dict[int, list[_Movement]]
) -> dict[int, Axis]:
    """The axes of locations whose places are sure."""
    along = {i: [one.dim for one in moving[i] if one.p < _MOVES] for i in locations}
    if len(locations) == 1 and len(along[locations[0]]) > 1:
        axis = _tokens(draws, number, locations[0], sorted(along[locations[0]]))
        return {} if axis is None else {locations[0]: axis}
    found: dict[int, Axis] = {}
    taken: set[int] = set()
    largest = {dim: max(moving[i][0].sd for i in locations if moving[i][0].dim == dim) for i in locations
               for dim in [moving[i][0].dim]}  # fmt: skip
    for i in locations:
        dim = moving[i][0].dim
        small = moving[i][0].sd < _SMALL * largest[dim]
        axis = None if small or dim in taken else _line(draws, number, i, dim)
        if axis is not None:
            found[i], taken = axis, taken | {dim}
    return found


def _centroids(draws: _Draws, number: int, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where each entry of an axis looks ``(d, n)``, how far that varies, and how wide it sees ``(d, n)``."""
    energy = torch.stack(draws.energies[number])
    others = [i for i in range(energy.ndim - 1) if i != axis]
    total = energy.sum([1 + i for i in others])  # (r, n)
    products = torch.stack(draws.products[number]).sum([2 + i for i in others])  # (r, d, n)
    squares = torch.stack(draws.squares[number]).sum([2 + i for i in others])
    floor = 1e-9 * total.mean()
    each = products / (total + floor).unsqueeze(1)
    centre = products.sum(0) / (total.sum(0) + floor)
    spread = (squares.sum(0) / (total.sum(0) + floor) - centre.square()).clamp_min(0).sqrt()
    dead = (total.sum(0) < 1e-6 * total.sum(0).mean()).expand_as(spread)
    return centre, each.std(0) / len(energy) ** 0.5, spread.masked_fill(dead, inf)


def _placeless(spread: Tensor) -> Tensor:
    """Which entries see everything, or nothing ``(n,)``, from how wide they see ``(d, n)``."""
    finite = spread[spread.isfinite()]
    typical = spread.nan_to_num(posinf=float(finite.max()) if len(finite) else 1.0).median(1).values
    return ((spread > _WIDE) & (spread > 2 * typical.unsqueeze(1))).all(0)


def _line(draws: _Draws, number: int, axis: int, dim: int) -> Axis | None:
    """An axis whose entries lie in order along one axis of the image, but for some without a place."""
    centre, noise, spread = (found[dim] for found in _centroids(draws, number, axis))
    wide, dead = _placeless(spread.unsqueeze(0)), spread.isinf()
    # The last step of a recurrent layer sees far, and lies where it lies; a class token is out of order.
    for lost, sure in ((dead, wide & ~dead), (wide, torch.zeros_like(wide))):
        places = (~lost).nonzero()[:, 0]
        if len(places) < 2:
            continue
        steps, errors = centre[places].diff(), noise[places]
        doubt = _REVERSED * (errors[1:].square() + errors[:-1].square()).sqrt()
        doubt = doubt.masked_fill(sure[places][1:] | sure[places][:-1], 0)
        size = len(places)
        step = draws.space[dim] / size
        for sign in (1, -1):
            rises = float(sign * (centre[places][-1] - centre[places][0])) > 0
            if (
                rises
                and bool((sign * steps >= -doubt).all())
                and not _mixed(draws, number, axis, dim, places)
            ):
                first = (step - 1) / 2 if sign > 0 else draws.space[dim] - 1 - (step - 1) / 2
                return _among((Part(Role.PLACE, size, dim, sign * step, first),), lost)
    places = (~wide).nonzero()[:, 0]
    if len(places) < 2:
        return None
    step = draws.space[dim] / len(places)
    score, order = _lattice(centre[places].unsqueeze(0), noise[places].unsqueeze(0), (len(places),))
    part = Part(Role.PLACE, len(places), dim, step, (step - 1) / 2)
    return _among((part,), wide, order) if score <= _SCORE else None


def _mixed(draws: _Draws, number: int, axis: int, dim: int, places: Tensor) -> bool:
    """Whether groups of neighbours may all lie in one place: channels on the same axis, behind the places."""
    energy = torch.stack(draws.energies[number])
    products = torch.stack(draws.products[number])[:, dim]
    others = [1 + i for i in range(energy.ndim - 1) if i != axis]
    total = energy.sum(others)
    profile = products.sum(others) / (total + _FLOOR * total.mean(1, keepdim=True))
    profile = profile[:, places]
    count, looks = len(places), len(profile)
    for size in range(2, count // 2 + 1):
        if count % size:
            continue
        groups = profile.reshape(looks, -1, size)
        within = (groups - groups.mean(2, keepdim=True)).flatten(1)
        means, freedom = within.mean(0), count - count // size
        moved = looks * float(means.square().sum()) / freedom
        noise = float((within - means).square().sum()) / (freedom * (looks - 1))
        if _survival(moved / max(noise, 1e-300), freedom, freedom * (looks - 1)) >= _MOVES:
            return True
    return False


def _tokens(draws: _Draws, number: int, axis: int, dims: Sequence[int]) -> Axis | None:
    """An axis of tokens whose places lie on a grid, in whatever order."""
    centre, noise, spread = (found[dims] for found in _centroids(draws, number, axis))
    lost = _placeless(spread)
    places = (~lost).nonzero()[:, 0]
    centre, noise = centre[:, places], noise[:, places]
    grids = _factorisations(len(places), len(dims))
    scored = [(*_lattice(centre, noise, grid), grid) for grid in grids]
    if not scored:
        return None
    score, order, grid = min(scored, key=lambda one: one[0])
    if not score <= _SCORE:
        return None
    parts = []
    for dim, size in zip(dims, grid, strict=True):
        step = draws.space[dim] / size
        parts.append(Part(Role.PLACE, size, dim, step, (step - 1) / 2))
    return _among(tuple(parts), lost, order)


def _factorisations(count: int, dims: int) -> list[tuple[int, ...]]:
    """All grids of so many cells, none of one row or column."""
    if dims == 1:
        return [(count,)] if count > 1 else []
    return [
        (first, *rest)
        for first in range(2, count // 2 + 1)
        if count % first == 0
        for rest in _factorisations(count // first, dims - 1)
    ]


def _lattice(centre: Tensor, noise: Tensor, grid: tuple[int, ...]) -> tuple[float, list[int]]:
    """How far places ``(d, n)`` are from a grid, and which entry lies where on it, rows first.

    The score is the scatter of what should be level, over the smallest gap between neighbouring levels.
    """
    order = torch.arange(centre.shape[1])
    for dim in range(len(grid)):  # sort, nested: rows, and the columns of each row
        groups = order.reshape(*grid[:dim], -1)
        sorts = centre[dim][groups].argsort(-1)
        order = groups.gather(-1, sorts).flatten()
    worst = 0.0
    for dim, size in enumerate(grid):
        levels = centre[dim][order].reshape(grid).movedim(dim, 0).reshape(size, -1)
        means = levels.mean(1)
        gap = float(means.diff().min())
        if size > 1 and gap <= 0:
            return inf, order.tolist()
        within = float((levels - means.unsqueeze(1)).square().mean()) + float(noise[dim].square().mean())
        worst = max(worst, within**0.5 / gap)
    return worst, order.tolist()


def _among(parts: Axis, lost: Tensor, order: Sequence[int] | None = None) -> Axis:
    """An axis of entries that lie on a grid in some order, and of others that have no place.

    Args:
        parts: the grid.
        lost: which entries have no place ``(n,)``.
        order: numbers of the entries that have one, as they lie on the grid.
    """
    size = len(lost) - int(lost.sum())
    where = dict(zip(order or range(size), range(size), strict=True))
    numbers = iter(range(size))
    return ordered(parts, [-1 if gone else where[next(numbers)] for gone in lost.tolist()])
