"""One number out of three: harmonic means of coherency, complexity and what the map does to the probability.

All three parts are registered by themselves: read them beside the mean.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hirescam.metrics.confidence import average_drop, l1_complexity, shown, window
from hirescam.metrics.registry import HIGHER, PERTURBATION, metric
from hirescam.metrics.road import road
from hirescam.metrics.scoring import Explain, Outputs, check

_ROUNDING = 1e-12


@metric(kind=PERTURBATION, better=HIGHER, bounds=(0, 1), units="share", cite="poppi2021")
def coherency(maps: Tensor, images: Tensor, explain: Explain) -> Tensor:
    """Explain what the map shows, and find how much the new map resembles the first.

    With M the map's positive part divided by its largest value, and M' the same of the map for x ∘ M:

        Coh = (Pearson(M, M') + 1) / 2

    1/2 for maps that have nothing in common, 0 for opposite ones. 0 too where a map is constant and the
    correlation undefined, as in the official code. An explanation that does not look at the image has 1.

    Source: Poppi et al. 2021, arXiv 2104.10252, and aimagelab/ADCC (coherency.py).

    Args:
        maps: ``(n, *size)``.
        images: ``(n, c, *size)``.
        explain: explains other images for the same targets.

    Returns:
        ``(n,)`` in [0, 1]; never NaN.

    Raises:
        InputError: shapes do not fit, or a map is not finite.
    """
    check(maps, images)
    again = explain(shown(maps, images)).detach()
    check(again, images)
    first, second = (window(one).flatten(1) for one in (maps, again))
    first, second = (one - one.mean(1, keepdim=True) for one in (first, second))
    size = first.norm(dim=1) * second.norm(dim=1)
    alike: Tensor = ((first * second).sum(1) / size).clamp(-1, 1)
    return ((alike + 1) / 2).where(size > _ROUNDING * first.shape[1], 0)


@metric(kind=PERTURBATION, better=HIGHER, bounds=(0, 1), units="share", cite="poppi2021")
def adcc(maps: Tensor, images: Tensor, target: Tensor, predict: Outputs, explain: Explain) -> Tensor:
    """Join average drop, coherency and complexity by their harmonic mean.

        ADCC = 3 / (1/Coh + 1/(1 − Com) + 1/(1 − AD))

    with ``coherency``, ``l1_complexity`` and ``average_drop`` / 100. 0 where one of the three terms is 0: a
    map of ones, for all that its drop is 0, has complexity 1 and an ADCC of 0.

    The drop is of the target's probability. The official code divides by the predicted class's even where
    another class is explained.

    Source: Poppi et al. 2021, arXiv 2104.10252, and aimagelab/ADCC.

    Args:
        maps: ``(n, *size)``.
        images: ``(n, c, *size)``.
        target: ``(n,)``.
        predict: gives class probabilities; logits are an error.
        explain: explains other images for the same targets.

    Returns:
        ``(n,)`` in [0, 1]; NaN where the image's own probability is 0.

    Raises:
        InputError: ``predict`` gives logits, shapes do not fit, or a map is not finite.
    """
    kept = 1 - average_drop(maps, images, target, predict) / 100
    return harmonic_mean(coherency(maps, images, explain), 1 - l1_complexity(maps), kept)


@metric(kind=PERTURBATION, better=HIGHER, bounds=(0, 1), units="share", cite="domeniconi2026")
def arcc(
    maps: Tensor,
    images: Tensor,
    target: Tensor,
    predict: Outputs,
    explain: Explain,
    *,
    percentages: Sequence[float] = (20, 40, 60, 80),
    noise: float = 0.01,
    std: float | Sequence[float] = 1.0,
    seed: int = 0,
) -> Tensor:
    """Join ROAD, coherency and complexity by their harmonic mean.

        ARCC = 3 / (1/Coh + 1/(1 − Com) + 1/R)    with R = 2 · ROAD, within [0, 1]

    with ``coherency``, ``l1_complexity`` and ``road``. 0 where one of the three terms is 0, as it is for
    a map that ROAD finds no better than chance. The mean is harmonic, as in pytorch-grad-cam's code, and not
    geometric, as in its docstring.

    Source: Domeniconi et al. 2026, arXiv 2605.14641.

    Args:
        maps: ``(n, *size)``.
        images: ``(n, c, *size)``.
        target: ``(n,)``.
        predict: gives class probabilities; logits are an error.
        explain: explains other images for the same targets.
        percentages: of pixels removed, as for ``road``.
        noise: as for ``road``.
        std: as for ``road``.
        seed: as for ``road``.

    Returns:
        ``(n,)`` in [0, 1]; never NaN.

    Raises:
        InputError: ``predict`` gives logits, shapes do not fit, a map is not finite, an option is not what
            it must be, or scipy is not installed.
    """
    found = road(maps, images, target, predict, percentages=percentages, noise=noise, std=std, seed=seed)
    return harmonic_mean(coherency(maps, images, explain), 1 - l1_complexity(maps), (2 * found).clamp(0, 1))


def harmonic_mean(*parts: Tensor) -> Tensor:
    """Return the harmonic mean of tensors of one shape: 0 where one of them is 0."""
    return len(parts) / torch.stack(parts).reciprocal().sum(0)
