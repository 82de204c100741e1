"""What does the model say about the image seen through the map, and through what the map leaves out?

The map becomes a window M: its positive part, divided by its largest value. Negative evidence is therefore
never shown, zero stays zero, and a map without a positive part shows nothing: the model sees an image of
zeros. In normalised images that is the mean colour; multiplying moves colours towards it.

A map that is positive and even everywhere shows the whole image and loses nothing: read these numbers beside
``l1_complexity``, which is then 1.
"""

import torch
from torch import Tensor

from hirescam.metrics.checks import flat
from hirescam.metrics.registry import HIGHER, LOWER, PERTURBATION, SHAPE, metric
from hirescam.metrics.scoring import Outputs, check, target_probabilities


@metric(kind=PERTURBATION, better=LOWER, bounds=(0, 100), units="%", cite="chattopadhay2018")
def average_drop(maps: Tensor, images: Tensor, target: Tensor, predict: Outputs) -> Tensor:
    """Show the model only what the map shows, and find the share of the probability that is lost.

    With Y the target's probability of the image x, O that of x ∘ M, and M the map's positive part divided by
    its largest value:

        AD = 100 · max(0, Y − O) / Y

    A gain counts as no drop. A map of ones has AD = 0 (and ``l1_complexity`` = 1). A map without a positive
    part shows an image of zeros. On logits the same formula can be negative or far above 100.

    Source: Grad-CAM++, Chattopadhay et al. 2018, arXiv 1710.11063, section 4.1.

    Args:
        maps: ``(n, *size)``.
        images: ``(n, c, *size)``.
        target: ``(n,)``.
        predict: gives class probabilities; logits are an error.

    Returns:
        ``(n,)`` in [0, 100]; NaN where the image's own probability is 0.

    Raises:
        InputError: ``predict`` gives logits, shapes do not fit, or a map is not finite.
    """
    whole, part = _seen(maps, images, target, predict)
    return 100 * (whole - part).clamp(min=0) / _positive(whole)


@metric(kind=PERTURBATION, better=HIGHER, bounds=(0, 100), units="% of images", cite="chattopadhay2018")
def increase_in_confidence(maps: Tensor, images: Tensor, target: Tensor, predict: Outputs) -> Tensor:
    """Show the model only what the map shows, and find how often the probability rises.

    With Y and O as in ``average_drop``: IC = 100 · 1[O > Y]. Equal probabilities are no increase.

    Source: Grad-CAM++, Chattopadhay et al. 2018, arXiv 1710.11063, section 4.1.

    Args:
        maps: ``(n, *size)``.
        images: ``(n, c, *size)``.
        target: ``(n,)``.
        predict: gives class probabilities; logits are an error.

    Returns:
        ``(n,)``, 0 or 100; never NaN.

    Raises:
        InputError: ``predict`` gives logits, shapes do not fit, or a map is not finite.
    """
    whole, part = _seen(maps, images, target, predict)
    return 100 * (part > whole).double()


@metric(kind=PERTURBATION, better=HIGHER, bounds=(0, 100), units="%", cite="zhang2024")
def average_gain(maps: Tensor, images: Tensor, target: Tensor, predict: Outputs) -> Tensor:
    """Show the model only what the map shows, and find the share of the missing probability that is gained.

    With Y and O as in ``average_drop``:

        AG = 100 · max(0, O − Y) / (1 − Y)

    The counterpart of ``average_drop``: one of the two is 0 for each image. An image whose probability is 1
    has nothing to gain: 0.

    Source: Opti-CAM, Zhang et al. 2024, arXiv 2301.07002.

    Args:
        maps: ``(n, *size)``.
        images: ``(n, c, *size)``.
        target: ``(n,)``.
        predict: gives class probabilities; logits are an error.

    Returns:
        ``(n,)`` in [0, 100]; never NaN.

    Raises:
        InputError: ``predict`` gives logits, shapes do not fit, or a map is not finite.
    """
    whole, part = _seen(maps, images, target, predict)
    gain = (part - whole).clamp(min=0)
    return (100 * gain / (1 - whole)).where(gain > 0, 0)


@metric(kind=PERTURBATION, better=HIGHER, bounds=(-torch.inf, 100), units="%", cite="jung2021")
def average_drop_in_deletion(maps: Tensor, images: Tensor, target: Tensor, predict: Outputs) -> Tensor:
    """Hide what the map shows, and find the share of the probability that is lost.

    With Y the target's probability of the image x, D that of x ∘ (1 − M), and M the map's positive part
    divided by its largest value:

        ADD = 100 · (Y − D) / Y

    Signed: hiding distractors makes it negative. A map of ones hides everything; a map without a positive
    part hides nothing and has ADD = 0.

    Source: LIFT-CAM, Jung & Oh 2021, arXiv 2102.05228.

    Args:
        maps: ``(n, *size)``.
        images: ``(n, c, *size)``.
        target: ``(n,)``.
        predict: gives class probabilities; logits are an error.

    Returns:
        ``(n,)``, at most 100; NaN where the image's own probability is 0.

    Raises:
        InputError: ``predict`` gives logits, shapes do not fit, or a map is not finite.
    """
    check(maps, images, target)
    left = images * (1 - window(maps)).unsqueeze(1).to(images)
    whole, hidden = target_probabilities(predict, (images, left), target).unbind()
    return 100 * (whole - hidden) / _positive(whole)


@metric(kind=SHAPE, better=LOWER, bounds=(0, 1), units="share of the image", cite="poppi2021")
def l1_complexity(maps: Tensor) -> Tensor:
    """Find how much of the image the map shows.

    The mean of M, the map's positive part divided by its largest value: 1 for a map that is even everywhere,
    1/pixels for one with a single pixel, 0 for one without a positive part. This is the complexity in ADCC
    and ARCC, and not an entropy.

    Source: Poppi et al. 2021, arXiv 2104.10252; aimagelab/ADCC.

    Args:
        maps: ``(n, *size)``.

    Returns:
        ``(n,)`` in [0, 1]; never NaN.

    Raises:
        InputError: a map is not finite.

    Example:
        >>> import torch
        >>> from hirescam.metrics.confidence import l1_complexity
        >>> l1_complexity(torch.tensor([[4.0, 0.0, -9.0, 2.0], [5.0, 5.0, 5.0, 5.0]]))
        tensor([0.3750, 1.0000], dtype=torch.float64)
    """
    flat("maps", maps)
    return window(maps).flatten(1).mean(1)


def window(maps: Tensor) -> Tensor:
    """Return the positive part of each map, divided by its largest value; zeros where there is none."""
    positive = maps.double().clamp(min=0)
    largest = positive.flatten(1).amax(1).reshape(-1, *[1] * (maps.ndim - 1))
    return positive / largest.where(largest > 0, 1)


def shown(maps: Tensor, images: Tensor) -> Tensor:
    """Return the images seen through the maps, x ∘ M."""
    return images * window(maps).unsqueeze(1).to(images)


def _seen(maps: Tensor, images: Tensor, target: Tensor, predict: Outputs) -> tuple[Tensor, Tensor]:
    """Probabilities of the whole images and of what the maps show."""
    check(maps, images, target)
    whole, part = target_probabilities(predict, (images, shown(maps, images)), target).unbind()
    return whole, part


def _positive(probability: Tensor) -> Tensor:
    """The probability to divide by: NaN in place of 0."""
    return probability.where(probability > 0, torch.nan)
