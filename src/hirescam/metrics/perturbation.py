"""What happens to the probability when the pixels that a map points at go, or come?

The order of a map's values is all that counts here. The images that the model is shown in between are unlike
any that it was trained on, and what fills the gaps matters: compare numbers only with the same options.
"""

from collections.abc import Iterator
from math import ceil

import torch
from torch import Tensor

from hirescam.errors import InputError
from hirescam.metrics.imputation import Fill, substitute
from hirescam.metrics.ordering import ranks
from hirescam.metrics.registry import HIGHER, LOWER, PERTURBATION, metric
from hirescam.metrics.scoring import Outputs, check, target_probabilities

_STEPS = 28
"""RISE's run over ImageNet: 1,792 of 224 × 224 pixels at a time."""


@metric(kind=PERTURBATION, better=LOWER, bounds=(0, 1), units="probability", cite="petsiuk2018")
def deletion(
    maps: Tensor,
    images: Tensor,
    target: Tensor,
    predict: Outputs,
    *,
    step: int | None = None,
    fill: Fill = "zeros",
    seed: int = 0,
) -> Tensor:
    """Remove pixels from the most relevant on, and take the mean probability on the way.

    With s_i the probability of the target after i steps, s_0 that of the whole image and N = ⌈pixels / step⌉:

        AUC = (Σ_i s_i − s_0/2 − s_N/2) / N

    All channels of a pixel go together. A small area means that the probability falls early. The last step
    may be shorter than the others and counts as much, as in RISE's code. Ties (a ReLU leaves mostly ties) are
    put in an order drawn from the seed; RISE's own code takes the last index first and torchcam the first,
    and so disagree on one and the same map. A constant map is an order at random. Negative evidence comes
    last, as it should.

    Source: RISE, Petsiuk et al. 2018, arXiv 1806.07421, and eclique/RISE (evaluation.py), which scores
    the predicted class: that is ``target`` unless another class is explained.

    Args:
        maps: ``(n, *size)``.
        images: ``(n, c, *size)``.
        target: ``(n,)``.
        predict: gives class probabilities; logits are an error.
        step: pixels per step; None divides the image into 28 steps, as RISE's run over ImageNet did.
        fill: what removed pixels become; ``"zeros"`` is the mean colour where images are normalised.
        seed: of the order among ties.

    Returns:
        ``(n,)`` in [0, 1]; never NaN.

    Raises:
        InputError: ``predict`` gives logits, shapes do not fit, a map is not finite, or an option is not
            what it must be.

    Example:
        >>> import torch
        >>> from hirescam.metrics.perturbation import deletion
        >>> signal, target = torch.tensor([[[0.1, 0.2, 0.3, 0.4]]]), torch.tensor([0])
        >>> predict = lambda x: torch.stack([x.sum((1, 2)), 1 - x.sum((1, 2))], dim=1)
        >>> deletion(signal[:, 0], signal, target, predict, step=1)  # 1.0 0.6 0.3 0.1 0.0
        tensor([0.3750], dtype=torch.float64)
    """
    check(maps, images, target)
    rank = ranks(maps, seed=seed)
    variants = _replaced(images, substitute(images, fill), rank, _step(step, rank[0].numel()))
    return area(target_probabilities(predict, variants, target))


@metric(kind=PERTURBATION, better=HIGHER, bounds=(0, 1), units="probability", cite="petsiuk2018")
def insertion(
    maps: Tensor,
    images: Tensor,
    target: Tensor,
    predict: Outputs,
    *,
    step: int | None = None,
    fill: Fill = "blur",
    seed: int = 0,
) -> Tensor:
    """Bring pixels back from the most relevant on, and take the mean probability on the way.

    As ``deletion``, from the substitute image to the whole one: a large area means that the probability rises
    early. It starts from the image out of focus (Gaussian, 11 pixels wide, σ = 5), because sharp pixels on an
    even ground make edges of their own.

    Source: RISE, Petsiuk et al. 2018, arXiv 1806.07421, and eclique/RISE (evaluation.py).

    Args:
        maps: ``(n, *size)``.
        images: ``(n, c, *size)``.
        target: ``(n,)``.
        predict: gives class probabilities; logits are an error.
        step: pixels per step; None divides the image into 28 steps, as RISE's run over ImageNet did.
        fill: what pixels are before they come back.
        seed: of the order among ties.

    Returns:
        ``(n,)`` in [0, 1]; never NaN.

    Raises:
        InputError: ``predict`` gives logits, shapes do not fit, a map is not finite, or an option is not
            what it must be.
    """
    check(maps, images, target)
    rank = ranks(maps, seed=seed)
    variants = _replaced(substitute(images, fill), images, rank, _step(step, rank[0].numel()))
    return area(target_probabilities(predict, variants, target))


def area(curve: Tensor) -> Tensor:
    """Integrate curves ``(points, n)`` over [0, 1] by the trapezoid rule, points at equal distances."""
    return (curve.sum(0) - curve[0] / 2 - curve[-1] / 2) / (len(curve) - 1)


def _replaced(start: Tensor, end: Tensor, rank: Tensor, step: int) -> Iterator[Tensor]:
    """From ``start`` to ``end``, ``step`` pixels more at a time in the order of their ranks."""
    for steps in range(ceil(rank[0].numel() / step) + 1):
        yield torch.where((rank < steps * step).unsqueeze(1), end, start)


def _step(step: int | None, pixels: int) -> int:
    if step is None:
        return ceil(pixels / _STEPS)
    if step < 1:
        raise InputError(f"step={step} must be at least one pixel")
    return step
