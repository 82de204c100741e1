"""The two laws, measured on a map by running the head on changed activations."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from hirescam.passes.trace import Trace
from hirescam.rulebook.registry import Map

_MOST_CELLS = 64
_TINY = 1e-30
_ROUNDING = {torch.float64: 64, torch.float32: 64, torch.bfloat16: 4, torch.float16: 4}
"""In units in the last place: long sums round many times, but those of half precision are kept in float32."""
_BLOCK_BYTES = 128 * 2**20
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.03}


@dataclass(frozen=True)
class Laws:
    """The two laws, measured on one map.

    Attributes:
        completeness_error: |score − score(A = 0) − Σ raw| / |score − score(A = 0)|, the largest of the batch.
        location_error: |score − score(A without s) − raw[s]| / max |raw|, the largest over the cells.
        cells: how many cells of each map were checked.
        complete: whether completeness holds to the precision of the arithmetic.
        local: whether the location law does.
    """

    completeness_error: float
    location_error: float
    cells: int
    complete: bool
    local: bool

    @property
    def hold(self) -> bool:
        """Whether both laws hold to the precision of the arithmetic."""
        return self.complete and self.local


def measure(trace: Trace, raw: Map, *, most_cells: int = _MOST_CELLS) -> Laws:
    """Measure both laws on a raw map, by running the head on changed activations.

    Args:
        trace: the pass that the map was made from.
        raw: ``(b, t, *space)``.
        most_cells: check at most this many cells, spread evenly over the map.
    """
    cells = _spread(trace, most_cells)
    scores = _scores(trace, _removals(trace, cells))
    removed = torch.tensor(cells, device=raw.device)[:, None].expand(-1, len(raw))
    return judged(trace, raw, scores[0], scores[1:], removed)


def tolerance_of(dtype: torch.dtype) -> float:
    """Relative error that rounding explains when a head is run in this precision."""
    return _TOLERANCE.get(dtype, 1e-3)


def rounding_of(dtype: torch.dtype) -> float:
    """Error, relative to the numbers that are added up, that rounding explains in this precision."""
    return _ROUNDING.get(dtype, 64) * torch.finfo(dtype).eps


def _spread(trace: Trace, most: int) -> list[int]:
    locations = trace.layout.locations
    cells: list[int] = torch.linspace(0, locations - 1, min(locations, most)).round().long().tolist()
    return cells


def _removals(trace: Trace, cells: list[int]) -> Iterator[Tensor]:
    """No activation at all, then the activations without each cell."""
    yield torch.zeros_like(trace.activations)
    for cell in cells:
        changed = trace.activations.flatten(2).clone()
        changed[:, :, cell] = 0
        yield changed.reshape(trace.activations.shape)


def _scores(trace: Trace, inputs: Iterable[Tensor]) -> Tensor:
    """Scores ``(n, b, t)`` of ``n`` other activations, in blocks under a bound of memory."""
    waiting = iter(inputs)
    together = max(1, _BLOCK_BYTES // max(1, trace.activations.nbytes))
    scores = []
    while block := list(islice(waiting, together)):
        scores.append(trace.rescore(torch.stack(block)))
    return torch.cat(scores)


def judged(trace: Trace, raw: Map, nothing: Tensor, without: Tensor, removed: Tensor) -> Laws:
    """Hold a map against the scores of changed activations.

    Args:
        trace: the pass that the map was made from.
        raw: ``(b, t, *space)``.
        nothing: scores ``(b, t)`` with no activation at all.
        without: scores ``(n, b, t)`` without one location of each image.
        removed: numbers ``(n, b)`` of those locations.
    """
    score, nothing, without = (tensor.to(raw.dtype) for tensor in (trace.score, nothing, without))
    total = score - nothing
    flat = raw.flatten(2)
    missing = (total - flat.sum(-1)).abs()
    picked = removed.unsqueeze(2).expand(-1, -1, raw.shape[1]).permute(1, 2, 0)  # (b, t, n)
    lost = (score - without).movedim(0, -1)
    wrong = (lost - flat.gather(2, picked)).abs().amax(-1)
    largest = flat.abs().amax(-1)
    tolerance = tolerance_of(trace.precision)
    rounding = rounding_of(trace.precision) * torch.maximum(without.abs().amax(0), nothing.abs())
    return Laws(
        completeness_error=float((missing / total.abs().clamp_min(_TINY)).max()),
        location_error=float((wrong / largest.clamp_min(_TINY)).max()),
        cells=len(removed),
        complete=bool((missing <= tolerance * total.abs() + rounding).all()),
        local=bool((wrong <= tolerance * largest + rounding).all()),
    )
