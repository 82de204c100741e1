"""What is checked of the map of one network, without the library's own word for it where that can be."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import inf, prod
from typing import Any

import torch
from torch import Tensor, nn

import hirescam
from hirescam.passes.borrow import possible_calls
from hirescam.passes.input_axes import input_axes
from hirescam.passes.laying import laid
from hirescam.passes.taps import parse
from hirescam.proof.measuring import measured
from zoo.networks import Entry

EVENT = (0.31, 0.64, 0.4, 0.6)
"""Where the event is along each axis, as a share of it."""
WIDTH = 6
"""An event is a sixth of the image wide."""
DRAWS = 4
MOST_LOCATIONS = 100
_LARGE = 10**5


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: the network.
        layer: that was chosen.
        guarantee: there.
        known: how it is known where the locations lie.
        grid: of the map.
        prefix: how many tokens without a place come before it.
        image_size: what the map lies on.
        error: of the sum of the map, against what the score loses when a plain hook sets the layer to zero,
            relative to the numbers that are added up; None where the layer is a call, or exactness is not
            promised.
        apart: the same of single values of the map, against what the score loses when a plain hook sets
            single locations to zero, whichever those are, relative to the largest.
        audited: what was wrong when the library itself removed single locations; ``""``.
        place: how far the strongest response to an event is from it, in cells, along the worst axis.
        measurement: ``agrees``, ``unknown`` or ``differs``; ``is it`` where nothing else says where locations
            lie, and ``""`` for large images, where it was not asked.
    """

    name: str
    layer: str
    guarantee: str
    known: str
    grid: tuple[int, ...]
    prefix: int
    image_size: tuple[int, ...]
    error: float | None
    apart: float | None
    audited: str
    place: float
    measurement: str


def row_of(entry: Entry) -> Row:
    """Explain one network and check its map.

    Raises:
        HirescamError: there is no map.
    """
    model, images = entry.model(), torch.randn(1, *entry.shape, dtype=torch.float64)
    explainer = hirescam.Explainer(model, audit=1.0, **entry.options)
    result = explainer(entry.given(images), target=entry.target)
    return Row(
        entry.name, result.layer, str(result.certificate.guarantee), result.certificate.geometry, result.grid,
        result.prefix, result.image_size, _sum_error(model, entry, images, result),
        _largest_error(model, entry, images, result),
        next(iter(result.audit.failures), "") if result.audit else "",
        _distance(explainer, entry, images, result), _measurement(model, entry, images, result),
    )  # fmt: skip


def _sum_error(model: nn.Module, entry: Entry, images: Tensor, result: hirescam.Explanation) -> float | None:
    if not _hookable(result):
        return None
    whole = _score(model, entry, images, result, lambda found: found)
    lost = whole - _score(model, entry, images, result, torch.zeros_like)
    return abs(float(result.raw.sum()) - lost) / float(result.raw.abs().sum() + abs(whole))


def _largest_error(
    model: nn.Module, entry: Entry, images: Tensor, result: hirescam.Explanation
) -> float | None:
    """Values of the map against what single locations are worth, both from the smallest to the largest.

    Which axis of the layer's output holds the channels is not asked of the library: the second and the last
    are tried, and one of them has to fit.
    """
    size = result.raw.numel()
    if not _hookable(result) or size > MOST_LOCATIONS:
        return None
    values = result.raw.flatten().sort().values
    errors = [inf]
    for axis in (1, -1):
        worth = _worth(model, entry, images, result, axis, size)
        if worth is not None:
            off = (worth.sort().values - values).abs().max()
            errors.append(float(off / values.abs().max().clamp_min(1e-300)))
    return min(errors)


def _worth(
    model: nn.Module, entry: Entry, images: Tensor, result: hirescam.Explanation, axis: int, size: int
) -> Tensor | None:
    """What the score loses with each location of the layer's output set to zero; one axis holds channels.

    None where it does not have so many locations then.
    """
    sizes: list[int] = []

    def noted(found: Tensor) -> Tensor:
        sizes.append(found.movedim(axis, 1)[0, 0].numel())
        return found

    def without(found: Tensor, number: int) -> Tensor:
        made = found.movedim(axis, 1).clone(memory_format=torch.contiguous_format)
        made.flatten(2)[:, :, number] = 0
        return made.movedim(1, axis)

    whole = _score(model, entry, images, result, noted)
    if sizes[-1] != size:
        return None
    lost = [
        whole - _score(model, entry, images, result, partial(without, number=number))
        for number in range(size)
    ]
    return torch.tensor(lost, dtype=torch.float64)


def _hookable(result: hirescam.Explanation) -> bool:
    """Whether the promise is about all of a module's output, which a plain hook can replace."""
    return result.certificate.guarantee == "exact" and "()" not in result.layer


def _score(
    model: nn.Module,
    entry: Entry,
    images: Tensor,
    result: hirescam.Explanation,
    change: Callable[[Tensor], Tensor],
) -> float:
    """The score with the layer's output changed by a plain hook."""
    name, _, number = result.layer.partition("#")
    calls = count(1)

    def replaced(module: nn.Module, inputs: Any, output: Any) -> Any:
        return _with_first(output, change) if not number or next(calls) == int(number) else None

    handle = model.get_submodule(name).register_forward_hook(replaced)
    try:
        return float(entry.score(entry.run(model, images), int(result.target)))
    finally:
        handle.remove()


def _with_first(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """An output with the first tensor in it changed."""
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, tuple):
        return (_with_first(output[0], change), *output[1:])
    key = next(key for key, value in output.items() if value is not None)
    output[key] = _with_first(output[key], change)
    return output


def _distance(
    explainer: hirescam.Explainer, entry: Entry, images: Tensor, result: hirescam.Explanation
) -> float:
    """How far the peak of the layer's response to an event lies from the event, in cells."""
    axes = result.axes
    space = [letter for letter in axes if letter not in "bc"]
    made = len(result.grid) - len(space)
    total = torch.zeros(result.grid, dtype=torch.float64)
    before = _activations(explainer, entry, images, result)
    torch.manual_seed(1)
    centres = {}
    event = torch.zeros_like(images)
    event[...] = 1
    for number, letter in enumerate(space):
        axis = axes.index(letter)
        size = images.shape[axis]
        width = max(1, size // WIDTH)
        start = round(EVENT[number] * size - width / 2)
        centres[number] = start + (width - 1) / 2
        inside = torch.zeros(size, dtype=torch.float64)
        inside[start : start + width] = 1
        event = event * inside.reshape([-1 if i == axis else 1 for i in range(images.ndim)])
    for _ in range(DRAWS):
        after = _activations(explainer, entry, images + 3 * event * torch.randn_like(images), result)
        total += (after - before).square().sum(0)
    peak = torch.unravel_index(total.argmax(), total.shape)
    worst = 0.0
    for number in range(len(space)):
        found = result.geometry.centres[made + number]
        cells = len(found)
        step = (found[-1] - found[0]) / (cells - 1) if cells > 1 else float("inf")
        half = max(1, images.shape[axes.index(space[number])] // WIDTH) / 2
        off = abs(found[int(peak[made + number])] - centres[number])
        worst = max(worst, max(0.0, off - half) / step)
    return round(worst, 2)


def _activations(
    explainer: hirescam.Explainer, entry: Entry, images: Tensor, result: hirescam.Explanation
) -> Tensor:
    """``(k, *grid)``."""
    activations = explainer.trace(entry.given(images), target=entry.target).activations[0]
    return activations[:, result.prefix :].unflatten(1, result.grid) if result.prefix else activations


def _measurement(model: nn.Module, entry: Entry, images: Tensor, result: hirescam.Explanation) -> str:
    if result.certificate.geometry == "measured":
        return "is it"
    if images.numel() > _LARGE:
        return ""
    if len(result.grid) > len([letter for letter in result.axes if letter not in "bc"]):
        return "unknown"
    (call,) = possible_calls(entry.given(images), input_axes(result.axes), entry.options.get("input"))
    (axes,) = measured(model, call, [parse(result.layer)])
    try:
        layout = None if axes is None else laid(axes, len(result.grid))
    except hirescam.LayerError:
        return "unknown"
    if layout is None:
        return "unknown"
    same = (layout.grid, layout.prefix) == (result.grid, result.prefix)
    return "agrees" if same and prod(layout.space) == prod(result.raw.shape[2:]) else "differs"
