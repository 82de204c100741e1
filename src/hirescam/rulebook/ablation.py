"""Rules that run the head on activations of which a part is removed, a block of them at a time."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hirescam.passes.head import chunks
from hirescam.passes.trace import Trace
from hirescam.rulebook.gradient import combine, ratio
from hirescam.rulebook.registry import HEAD, Map, rule

MOST_BYTES = 128 * 2**20
"""How much of altered activations, or images, to hold at once."""

_BLUR = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def scores_of(trace: Trace, count: int, masks: Callable[[slice], Tensor]) -> Tensor:
    """Scores ``(b, t, count)`` of the activations times each mask.

    Args:
        trace: what is explained.
        count: how many masks there are.
        masks: gives a part of them, ``(n, k or 1, *s or ones)``.
    """
    activations = trace.activations.detach()
    parts = chunks(count, MOST_BYTES // max(1, activations.nbytes))
    scores = [trace.rescore(masks(part).to(activations).unsqueeze(1) * activations) for part in parts]
    return torch.cat(scores).movedim(0, -1)


def one_by_one(trace: Trace, part: slice) -> Tensor:
    """Masks ``(n, 1, *s)`` that are one at a single location."""
    space = trace.activations.shape[2:]
    cells = torch.arange(part.start, part.stop, device=trace.activations.device)
    return F.one_hot(cells, space.numel()).reshape(-1, 1, *space)


def on_grid(trace: Trace, maps: Tensor) -> Map:
    """From ``(b, t, locations)`` to ``(b, t, *s)``."""
    return maps.reshape(*maps.shape[:2], *trace.activations.shape[2:])


def without_anything(trace: Trace) -> Tensor:
    """Score ``(b, t)`` of activations that are zero."""
    return trace.rescore(torch.zeros_like(trace.activations).unsqueeze(0))[0]


@rule(needs=HEAD, cite="desai2020")
def ablationcam(trace: Trace, *, relative: bool = True) -> Map:
    """Weight each channel by what the score loses without it.

    raw[b, t, s] = Σ_k w[b, t, k] · A[b, k, s]
    w[b, t, k] = (y − y_k) / y,   y_k = score(A without channel k)

    Ablation-CAM (Desai & Ramaswamy, WACV 2020). A removed channel is zero. Divided by a negative score the
    whole map changes sign; a score of zero gives zeros. No law holds: what a channel does as a whole is
    spread over its own shape.

    Args:
        trace: what is explained.
        relative: divide by the score, as the paper does; False keeps w in units of the score.
    """
    channels = trace.activations.shape[1]
    ones = [1] * (trace.activations.ndim - 2)
    keep = 1 - torch.eye(channels, device=trace.activations.device).reshape(channels, channels, *ones)
    score = trace.score.detach().unsqueeze(-1)
    drop = score - scores_of(trace, channels, lambda part: keep[part])
    weights = ratio(drop, score) if relative else drop
    return combine(weights.reshape(*weights.shape, *ones).to(trace.activations), trace.activations)


@rule(needs=HEAD, cite="byun2024", exact_for="affine")
def reciprocam(trace: Trace, *, blur: bool = False) -> Map:
    """Show what the score gains from one location alone.

    raw[b, t, s] = score(A with location s only) − score(A = 0)

    Recipro-CAM (arXiv 2209.14074). The paper rescales the map, which hides the constant score(A = 0); with
    it subtracted the map is HiResCAM on every affine head. On others it sees no interplay of locations.

    Args:
        trace: what is explained.
        blur: keep the neighbours of s too, by a quarter, half, quarter along each axis (the paper's 3×3
            Gaussian). The map is then a blurred one, and neither law holds.
    """
    space = trace.activations.shape[2:]

    def masks(part: slice) -> Tensor:
        cells = one_by_one(trace, part)
        pool = _BLUR[len(space)]
        return pool(pool(cells.float(), 2, 1, padding=1), 2, 1) if blur else cells

    scores = scores_of(trace, space.numel(), masks)
    return on_grid(trace, scores - without_anything(trace).unsqueeze(-1))


@rule(needs=HEAD, cite="zeiler2014", exact_for="affine", local_for="any")
def removal(trace: Trace) -> Map:
    """Remove each location and show what the score loses.

    raw[b, t, s] = score(A) − score(A without location s)

    Occlusion (arXiv 1311.2901) of a layer's cells instead of the image's pixels: the location law made into
    a method, so it holds for every head. The map adds up to the score only on affine heads, where it is
    HiResCAM at the price of one run of the head per location.
    """
    space = trace.activations.shape[2:]
    scores = scores_of(trace, space.numel(), lambda part: 1 - one_by_one(trace, part))
    return on_grid(trace, trace.score.detach().unsqueeze(-1) - scores)


@rule(needs=HEAD, cite="castro2009", exact_for="affine", complete_for="any")
def shapley(trace: Trace, *, samples: int = 4, seed: int = 0) -> Map:
    """Share the score among the locations by their Shapley values.

    raw[b, t, s] = mean over orders π of score(A with s and all before it) − score(A with all before s)

    Shapley values with the layer's locations as players and absent ones at zero, by sampled orders (Castro
    et al., 2009). The differences telescope, so the map is complete on every head. On an affine head every
    order gives the same values, which are HiResCAM's. The same orders serve every image and target.

    Args:
        trace: what is explained.
        samples: how many orders; each runs the head once per location.
        seed: of a generator of its own; the global one is left alone.
    """
    space = trace.activations.shape[2:]
    generator = torch.Generator().manual_seed(seed)
    shares = [_marginal(trace, torch.randperm(space.numel(), generator=generator)) for _ in range(samples)]
    return on_grid(trace, torch.stack(shares).mean(0))


def _marginal(trace: Trace, order: Tensor) -> Tensor:
    """What each location adds ``(b, t, locations)`` when they come one after another."""
    space = trace.activations.shape[2:]
    rank = order.argsort()

    def masks(part: slice) -> Tensor:
        present = rank < torch.arange(part.start, part.stop).unsqueeze(1)
        return present.reshape(-1, 1, *space)

    scores = scores_of(trace, len(order) + 1, masks)
    return scores.diff(dim=-1)[..., rank.to(scores.device)]
