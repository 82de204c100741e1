"""Do the values of a map add up to what the score loses when pixels go?

Both metrics ask about the explained score itself, the logit, and not about a probability: a map in units of
the score cannot add up to a softmax. They take any map on the pixels; what a map that was resampled from a
layer's cells promises about pixels, no certificate speaks of.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from math import prod

import torch
from torch import Tensor

from hirescam.errors import InputError
from hirescam.metrics.correlations import pearson
from hirescam.metrics.imputation import Fill, substitute
from hirescam.metrics.registry import HIGHER, LOWER, PERTURBATION, metric
from hirescam.metrics.scoring import Outputs, check, target_logits

Sets = Callable[[], Iterator[Tensor]]
"""Gives the same sets of pixels, as flat indices, each time it is called."""


@metric(kind=PERTURBATION, better=LOWER, bounds=(0, torch.inf), units="score²", cite="yeh2019")
def infidelity(
    maps: Tensor,
    images: Tensor,
    target: Tensor,
    logits: Outputs,
    *,
    samples: int = 100,
    largest: int | None = None,
    fill: Fill = "zeros",
    rescale: bool = True,
    seed: int = 0,
) -> Tensor:
    """Remove random squares and compare what the map promises with what the score loses.

    With Iᵀφ the sum of the map over a square I, Δ what the logit of the target loses without the square, and
    averages over squares:

        E[(β · Iᵀφ − Δ)²]    with β = E[Δ · Iᵀφ] / E[(Iᵀφ)²]

    The best factor β is applied first, as the official code always does, so that the units of the map do not
    matter (captum leaves it out unless told). 0 for a map that adds up exactly. A map whose sums are all 0
    has E[Δ²]. In units of the score squared: compare maps of the same images and model only.

    The squares are drawn evenly from all of sides 1 … ``largest`` at all places, which are what the official
    code goes through on 28 × 28 pixels with sides up to 10; in signals and volumes they are pieces and cubes.
    All channels go together, and every image gets the same squares.

    Source: Yeh et al. 2019, arXiv 1901.09392, section 2, and chihkuanyeh/saliency_evaluation
    (infid_sen_utils.py, the perturbation "Square").

    Args:
        maps: ``(n, *size)``.
        images: ``(n, c, *size)``.
        target: ``(n,)``.
        logits: gives the scores that are explained.
        samples: how many squares.
        largest: side of the largest square; None is 10/28 of the image's shortest side.
        fill: what removed pixels become.
        rescale: whether to apply β.
        seed: of the squares.

    Returns:
        ``(n,)`` from 0 up; never NaN.

    Raises:
        InputError: shapes do not fit, a map is not finite, or an option is not what it must be.
    """
    check(maps, images, target)
    size = tuple(maps.shape[1:])
    side = max(1, min(size) * 10 // 28) if largest is None else largest
    if samples < 1 or not 1 <= side <= min(size):
        raise InputError(
            f"samples={samples} and largest={largest}: expected at least one sample, and a side from 1 to "
            f"{min(size)}, the image's shortest"
        )
    sets = partial(_squares, size, samples=samples, largest=side, seed=seed)
    promised, lost = _promised_and_lost((maps, images, target, logits), sets, fill)
    if rescale:
        square = promised.square().mean(0)
        promised = promised * ((lost * promised).mean(0) / square).where(square > 0, 0)
    return (promised - lost).square().mean(0)


@metric(kind=PERTURBATION, better=HIGHER, bounds=(-1, 1), units="correlation", cite="ancona2018")
def input_sensitivity_n(
    maps: Tensor,
    images: Tensor,
    target: Tensor,
    logits: Outputs,
    *,
    shares: Sequence[float] = (0.1, 0.3, 0.5, 0.8),
    subsets: int = 100,
    fill: Fill = "zeros",
    seed: int = 0,
) -> Tensor:
    """Remove random sets of n pixels and correlate what the map promises with what the score loses.

    For each image and each n, over random sets S of n pixels: Pearson's r(Σ_{p ∈ S} map[p], Δ), with Δ what
    the logit of the target loses when the pixels of S become the substitute.

    ``sensitivity_n`` is the same question in the layer's own space, where exact maps reach 1; here scattered
    pixels go, about which a coarse map can say little. Random sets anew for each n, the same ones for every
    image; the correlation is within the image. A constant map counts 0, and so does a map that varies where
    the score does not; where both are constant (all pixels removed) it counts 1.

    Source: Ancona et al. 2018, arXiv 1711.06104, section 3.1, who go up to about 80 % of the pixels.

    Args:
        maps: ``(n, *size)``.
        images: ``(n, c, *size)``.
        target: ``(n,)``.
        logits: gives the scores that are explained.
        shares: n as shares of the number of pixels, each above 0 and at most 1, at least one pixel.
        subsets: how many for each n, at least 3.
        fill: what removed pixels become.
        seed: of the sets.

    Returns:
        ``(n, len(shares))`` in [−1, 1], a column for each share; never NaN.

    Raises:
        InputError: shapes do not fit, a map is not finite, or an option is not what it must be.
    """
    check(maps, images, target)
    if not shares or not all(0 < share <= 1 for share in shares):
        raise InputError(f"shares={tuple(shares)} must be numbers above 0 and at most 1, such as (0.1, 0.5)")
    if subsets < 3:
        raise InputError(f"subsets={subsets} is too few for a correlation: use at least 3, such as 100")
    pixels = maps[0].numel()
    counts = [max(1, round(share * pixels)) for share in shares]
    sets = partial(_random_sets, pixels, counts=counts, subsets=subsets, seed=seed)
    promised, lost = _promised_and_lost((maps, images, target, logits), sets, fill)
    rows = (len(shares), subsets)
    return pearson(promised.T.unflatten(1, rows), lost.T.unflatten(1, rows))


def _promised_and_lost(
    given: tuple[Tensor, Tensor, Tensor, Outputs], sets: Sets, fill: Fill
) -> tuple[Tensor, Tensor]:
    """For each set of pixels, the sum of each map over it and what the score loses with it: ``(sets, n)``."""
    maps, images, target, logits = given
    values = maps.double().flatten(1)
    promised = torch.stack([values[:, chosen].sum(1) for chosen in _on(values, sets())])
    variants = _without(images, substitute(images, fill), _on(images, sets()))
    scores = target_logits(logits, chain([images], variants), target)
    return promised.to(scores), scores[0] - scores[1:]


def _on(like: Tensor, sets: Iterator[Tensor]) -> Iterator[Tensor]:
    return (chosen.to(like.device) for chosen in sets)


def _without(images: Tensor, other: Tensor, sets: Iterator[Tensor]) -> Iterator[Tensor]:
    flat = other.flatten(2)
    for chosen in sets:
        changed = images.flatten(2).clone()
        changed[:, :, chosen] = flat[:, :, chosen]
        yield changed.reshape(images.shape)


def _squares(size: tuple[int, ...], *, samples: int, largest: int, seed: int) -> Iterator[Tensor]:
    """Cubes in the space axes, drawn evenly from all sides and places."""
    generator = torch.Generator().manual_seed(seed)
    places = [prod(n - side + 1 for n in size) for side in range(1, largest + 1)]
    sides = (
        torch.multinomial(torch.tensor(places).double(), samples, replacement=True, generator=generator) + 1
    )
    index = torch.arange(prod(size)).reshape(size)
    for side in sides.tolist():
        starts = [int(torch.randint(n - side + 1, (), generator=generator)) for n in size]
        yield index[tuple(slice(start, start + side) for start in starts)].flatten()


def _random_sets(pixels: int, *, counts: Sequence[int], subsets: int, seed: int) -> Iterator[Tensor]:
    """``subsets`` sets for each of the counts, one count after another."""
    generator = torch.Generator().manual_seed(seed)
    for count in counts:
        for _ in range(subsets):
            yield torch.randperm(pixels, generator=generator)[:count]
