"""The two laws and the affinity of a head, measured by running it on other activations.

All probes of one head go through it together: a large head is bound by reading its weights, and reads them
once for many inputs.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

import torch
from torch import Tensor

from hirescam.passes.trace import Trace
from hirescam.rulebook.registry import Map

SAMPLED_CELLS = 16
"""So many cells are removed where a head is measured on the way, and not because somebody asked for it."""
_MOST_CELLS = 64
_PROBED_CELLS = 5  # eight inputs in all, for about twice the price of one where the weights are many
_TINY = 1e-30
_ROUNDING = 64
_BLOCK_BYTES = 128 * 2**20
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.03}
_MIX = 0.3


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
    return _compare(trace, raw, cells, _scores(trace, _removals(trace, cells)))


def probe(trace: Trace, raw: Map) -> tuple[Laws, float]:
    """Measure both laws and the affinity of a head that should be affine, in one run of it.

    Args:
        trace: the pass that the map was made from.
        raw: ``(b, t, *space)``.

    Returns:
        The laws, on a few cells (the structure of the head is the proof; this is to find it misread), and
        |f(αA + (1−α)B) − αf(A) − (1−α)f(B)| for the activations A and random ones B, relative to
        |f(A) − f(B)| or the largest score.
    """
    cells = _spread(trace, _PROBED_CELLS)
    scores = _scores(trace, chain(_removals(trace, cells), _mixtures(trace)))
    return _compare(trace, raw, cells, scores[:-2]), _affinity_error(trace.score, *scores[-2:])


def tolerance_of(dtype: torch.dtype) -> float:
    """Relative error that rounding explains when a head is run in this precision."""
    return _TOLERANCE.get(dtype, 1e-3)


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


def _mixtures(trace: Trace) -> Iterator[Tensor]:
    """Random activations B, and αA + (1−α)B."""
    activations = trace.activations
    noise = torch.randn(activations.shape, generator=torch.Generator().manual_seed(0)).to(activations)
    scale = activations.std() if activations.numel() > 1 else activations.abs().mean()
    other = activations.flip(-1) + scale * noise
    yield from (other, _MIX * activations + (1 - _MIX) * other)


def _scores(trace: Trace, inputs: Iterable[Tensor]) -> Tensor:
    """Scores ``(n, b, t)`` of ``n`` other activations, in blocks under a bound of memory."""
    waiting = iter(inputs)
    together = max(1, _BLOCK_BYTES // max(1, trace.activations.nbytes))
    scores = []
    while block := list(islice(waiting, together)):
        scores.append(trace.rescore(torch.stack(block)))
    return torch.cat(scores)


def _compare(trace: Trace, raw: Map, cells: list[int], found: Tensor) -> Laws:
    """Hold a map against the scores ``(1 + n, b, t)`` with nothing left and without each of ``n`` cells."""
    score, scores = trace.score.to(raw.dtype), found.to(raw.dtype)
    total = score - scores[0]
    missing = (total - raw.flatten(2).sum(-1)).abs()
    lost = (score - scores[1:]).movedim(0, -1)
    wrong = (lost - raw.flatten(2)[:, :, cells]).abs().amax(-1)
    largest = raw.flatten(2).abs().amax(-1)
    tolerance = tolerance_of(trace.logits.dtype)
    rounding = _ROUNDING * torch.finfo(trace.logits.dtype).eps * scores.abs().amax(0)
    return Laws(
        completeness_error=float((missing / total.abs().clamp_min(_TINY)).max()),
        location_error=float((wrong / largest.clamp_min(_TINY)).max()),
        cells=len(cells),
        complete=bool((missing <= tolerance * total.abs() + rounding).all()),
        local=bool((wrong <= tolerance * largest + rounding).all()),
    )


def _affinity_error(score: Tensor, other: Tensor, mixture: Tensor) -> float:
    gap = (mixture - _MIX * score - (1 - _MIX) * other).abs()
    size = torch.stack([score - other, score, other, mixture]).abs().amax(0)
    return float((gap / size.clamp_min(_TINY)).max())
