"""ROAD: remove and debias. What is removed is filled from its surroundings, so that no hole gives it away.

Source: Rong et al. 2022, arXiv 2202.00449, and tleemann/road_evaluation. Differences from that code, none of
which changes a value by itself: percentages count what is removed in either order (there, the least relevant
first counts what is kept), ties are put in an order drawn from a seed (there, by a fixed noise of 1e-4), and
the noise is one draw per call, the same for every image and percentage, so that rules are compared under the
same noise. Images that come normalised are filled as if before normalisation, because the filling commutes
with a shift and scale per channel: only the noise has to be divided by the channel's ``std``.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from hirescam.errors import InputError
from hirescam.metrics.neighbours import fill_from_neighbours
from hirescam.metrics.ordering import ranks
from hirescam.metrics.registry import HIGHER, LOWER, PERTURBATION, metric
from hirescam.metrics.scoring import Outputs, check, target_is_top, target_probabilities

Score = Literal["probability", "accuracy"]

PERCENTAGES = (10, 20, 30, 40, 50, 60, 70, 80, 90)

_Ask = Callable[[Outputs, Iterable[Tensor], Tensor], Tensor]
_ASK: dict[str, _Ask] = {"probability": target_probabilities, "accuracy": target_is_top}


@metric(kind=PERTURBATION, better=LOWER, bounds=(0, 1), units="probability", cite="rong2022")
def road_morf(
    maps: Tensor,
    images: Tensor,
    target: Tensor,
    predict: Outputs,
    *,
    percentages: Sequence[float] = PERCENTAGES,
    score: Score = "probability",
    noise: float = 0.01,
    std: float | Sequence[float] = 1.0,
    seed: int = 0,
) -> Tensor:
    """Replace the most relevant pixels by a guess from the others, and take the mean probability.

    For each percentage p the ⌊p % of the pixels⌋ of the highest rank go, all channels together, ties in an
    order drawn from the seed: exactly so many, also of a map that is mostly zeros. They are filled by linear
    imputation from their neighbours (weights 1/6 and 1/12 in the plane) plus Gaussian noise. The value is the
    mean over the percentages of the target's probability, or of 1 where no class is more probable and else 0
    (ROAD's own score is this accuracy, percentage by percentage).

    In signals and volumes the neighbours are weighted by the same product of (½, 1, ½); ROAD defines images.
    Volumes above about 64³ pixels take minutes.

    Source: ROAD, Rong et al. 2022, arXiv 2202.00449, and tleemann/road_evaluation.

    Args:
        maps: ``(n, *size)``.
        images: ``(n, c, *size)``.
        target: ``(n,)``.
        predict: gives class probabilities; logits are an error.
        percentages: of pixels removed, each above 0 and below 100.
        score: ``"probability"`` of the target, or ``"accuracy"``: whether it is still the top class.
        noise: standard deviation of what is added to filled pixels, before normalisation.
        std: what the channels were divided by when they were normalised, one number or one for each channel
            (such as 0.229, 0.224, 0.225); 1 for images that were not. The mean does not matter.
        seed: of the order among ties, and of the noise.

    Returns:
        ``(n,)`` in [0, 1]; never NaN.

    Raises:
        InputError: ``predict`` gives logits, shapes do not fit, a map is not finite, an option is not what
            it must be, or scipy is not installed.
    """
    check(maps, images, target)
    rank = ranks(maps, seed=seed)
    gone = [rank < count for count in _counts(percentages, rank[0].numel())]
    speckle = _speckle(images, noise=noise, std=std, seed=seed)
    return _ask(score)(predict, _imputed(images, gone, speckle), target).mean(0)


@metric(kind=PERTURBATION, better=HIGHER, bounds=(0, 1), units="probability", cite="rong2022")
def road_lerf(
    maps: Tensor,
    images: Tensor,
    target: Tensor,
    predict: Outputs,
    *,
    percentages: Sequence[float] = PERCENTAGES,
    score: Score = "probability",
    noise: float = 0.01,
    std: float | Sequence[float] = 1.0,
    seed: int = 0,
) -> Tensor:
    """Replace the least relevant pixels by a guess from the others, and take the mean probability.

    As ``road_morf``, from the lowest rank up: a good map lets the probability stand. At p % removed the
    (100 − p) % of the highest rank are kept.

    Source: ROAD, Rong et al. 2022, arXiv 2202.00449, and tleemann/road_evaluation.

    Args:
        maps: ``(n, *size)``.
        images: ``(n, c, *size)``.
        target: ``(n,)``.
        predict: gives class probabilities; logits are an error.
        percentages: of pixels removed, each above 0 and below 100.
        score: ``"probability"`` of the target, or ``"accuracy"``: whether it is still the top class.
        noise: standard deviation of what is added to filled pixels, before normalisation.
        std: what the channels were divided by when they were normalised; 1 for images that were not.
        seed: of the order among ties, and of the noise.

    Returns:
        ``(n,)`` in [0, 1]; never NaN.

    Raises:
        InputError: ``predict`` gives logits, shapes do not fit, a map is not finite, an option is not what
            it must be, or scipy is not installed.
    """
    check(maps, images, target)
    rank = ranks(maps, seed=seed)
    pixels = rank[0].numel()
    gone = [rank >= pixels - count for count in _counts(percentages, pixels)]
    speckle = _speckle(images, noise=noise, std=std, seed=seed)
    return _ask(score)(predict, _imputed(images, gone, speckle), target).mean(0)


@metric(kind=PERTURBATION, better=HIGHER, bounds=(-0.5, 0.5), units="probability", cite="rong2022")
def road(
    maps: Tensor,
    images: Tensor,
    target: Tensor,
    predict: Outputs,
    *,
    percentages: Sequence[float] = PERCENTAGES,
    score: Score = "probability",
    noise: float = 0.01,
    std: float | Sequence[float] = 1.0,
    seed: int = 0,
) -> Tensor:
    """Take half of what it matters whether the least or the most relevant pixels go first.

    (``road_lerf`` − ``road_morf``) / 2, over the same percentages. 0 for a map that knows nothing, negative
    for one that is upside down. The combination is pytorch-grad-cam's, not ROAD's own; its percentages count
    what is kept, which makes no difference where they are symmetric about 50.

    Source: ROAD, Rong et al. 2022, arXiv 2202.00449; the combination, jacobgil/pytorch-grad-cam (road.py).

    Args:
        maps: ``(n, *size)``.
        images: ``(n, c, *size)``.
        target: ``(n,)``.
        predict: gives class probabilities; logits are an error.
        percentages: of pixels removed, each above 0 and below 100.
        score: ``"probability"`` of the target, or ``"accuracy"``: whether it is still the top class.
        noise: standard deviation of what is added to filled pixels, before normalisation.
        std: what the channels were divided by when they were normalised; 1 for images that were not.
        seed: of the order among ties, and of the noise.

    Returns:
        ``(n,)`` in [−0.5, 0.5]; never NaN.

    Raises:
        InputError: ``predict`` gives logits, shapes do not fit, a map is not finite, an option is not what
            it must be, or scipy is not installed.
    """
    given = (maps, images, target, predict)
    lerf, morf = (
        one(*given, percentages=percentages, score=score, noise=noise, std=std, seed=seed)
        for one in (road_lerf, road_morf)
    )
    return (lerf - morf) / 2


def _ask(score: Score) -> _Ask:
    if score not in _ASK:
        raise InputError(f"score={score!r} is unknown: use 'probability' or 'accuracy'")
    return _ASK[score]


def _counts(percentages: Sequence[float], pixels: int) -> list[int]:
    if not percentages or not all(0 < one < 100 for one in percentages):
        raise InputError(
            f"percentages={tuple(percentages)} must be above 0 and below 100, such as (20, 40, 60, 80)"
        )
    return [int(pixels * one // 100) for one in percentages]


def _speckle(images: Tensor, *, noise: float, std: float | Sequence[float], seed: int) -> Tensor:
    """Noise ``(c, *size)`` in the units of the images."""
    channels, space = images.shape[1], images.shape[2:]
    scale = torch.as_tensor(std, dtype=torch.float64).reshape(-1)
    if len(scale) not in (1, channels) or not bool((scale > 0).all()):
        raise InputError(f"std={std} must be above 0, one number or one for each of {channels} channels")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(channels, *space, generator=generator, dtype=torch.float64)
    return (drawn * noise / scale.reshape(-1, *[1] * len(space))).to(images)


def _imputed(images: Tensor, gone: Sequence[Tensor], speckle: Tensor) -> Iterator[Tensor]:
    for removed in gone:
        filled = fill_from_neighbours(images, removed) + speckle
        yield torch.where(removed.unsqueeze(1), filled, images)
