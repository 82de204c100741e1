"""Removal of whole superpixels: IROF."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hirescam.errors import InputError
from hirescam.metrics.imputation import Fill, substitute
from hirescam.metrics.ordering import ranks
from hirescam.metrics.perturbation import area
from hirescam.metrics.registry import HIGHER, PERTURBATION, metric
from hirescam.metrics.scoring import Outputs, check, target_probabilities

_COMPACTNESS_LAB, _COMPACTNESS = 10.0, 0.1
"""SLIC weighs places against colours: colours in Lab go up to 100, others here up to 1."""


@metric(
    kind=PERTURBATION, better=HIGHER, bounds=(-torch.inf, 1), units="share of probability", cite="rieger2020"
)
def irof(
    maps: Tensor,
    images: Tensor,
    target: Tensor,
    predict: Outputs,
    *,
    segments: int = 300,
    fill: Fill = "mean",
    seed: int = 0,
) -> Tensor:
    """Remove superpixels from the most relevant on, and take the mean share of the probability that is lost.

    With s_l the target's probability after the l superpixels of the highest mean have become the image's mean
    colour, and L their number:

        IROF = 1 − AUC(s_l / s_0)    over l/L from 0 to 1, by the trapezoid rule

    1 would be a probability that is gone at once, 0 one that stays, and below 0 one that rises. Divided by
    the number of superpixels, so that numbers of different images compare (Quantus gives the area in
    superpixels and leaves out the whole image). Ties are put in an order drawn from the seed.

    Superpixels are SLIC's, which stretches the image to [0, 1]: of images with three channels by colour in
    Lab, else by values; of volumes in three dimensions. A signal is cut into pieces of equal length. SLIC
    makes about as many as it is asked for.

    Source: IROF, Rieger & Hansen 2020, arXiv 2003.08747.

    Args:
        maps: ``(n, *size)``.
        images: ``(n, c, *size)``.
        target: ``(n,)``.
        predict: gives class probabilities; logits are an error.
        segments: how many superpixels to ask for.
        fill: what removed pixels become.
        seed: of the order among ties.

    Returns:
        ``(n,)``, at most 1; NaN where the image's own probability is 0, and where SLIC finds but one
        superpixel, as in pure noise.

    Raises:
        InputError: ``predict`` gives logits, shapes do not fit, a map is not finite, ``segments`` is below 2,
            or scikit-image is not installed.
    """
    check(maps, images, target)
    if segments < 2:
        raise InputError(f"segments={segments} must be at least 2, such as 300")
    other = substitute(images, fill)
    values = []
    for index in range(len(images)):
        one = slice(index, index + 1)
        place = _ranked(superpixels(images[index], segments), maps[index], seed=seed)
        curve = target_probabilities(predict, _removed(images[one], other[one], place), target[one])
        defined = (curve[0] > 0) & (len(curve) > 2)
        values.append(1 - area(curve / curve[0].where(defined, torch.nan)))
    return torch.cat(values)


def superpixels(image: Tensor, segments: int) -> Tensor:
    """Number the pixels of an image ``(c, *size)`` by superpixel, from 0 without gaps: ``(*size)`` int64."""
    space = image.shape[1:]
    if len(space) == 1:
        return torch.arange(space[0], device=image.device) * min(segments, space[0]) // space[0]
    photograph = image.shape[0] == 3 and len(space) == 2
    labels = _skimage().slic(
        image.detach().double().cpu().numpy(),
        n_segments=segments,
        compactness=_COMPACTNESS_LAB if photograph else _COMPACTNESS,
        convert2lab=photograph,
        channel_axis=0,
        start_label=0,
    )
    numbered: Tensor = torch.from_numpy(labels).unique(return_inverse=True)[1]
    return numbered.to(image.device)


def _ranked(labels: Tensor, values: Tensor, *, seed: int) -> Tensor:
    """For each pixel, how many superpixels are more relevant than its own: ``(*size)``."""
    flat = labels.flatten()
    sums = torch.zeros(int(flat.max()) + 1, dtype=torch.float64, device=flat.device)
    means: Tensor = sums.index_add(0, flat, values.double().flatten()) / flat.bincount()
    return ranks(means[None], seed=seed)[0][labels]


def _removed(image: Tensor, other: Tensor, place: Tensor) -> Iterator[Tensor]:
    for count in range(int(place.max()) + 2):
        yield torch.where(place < count, other, image)


def _skimage() -> Any:
    try:
        import skimage.segmentation
    except ImportError:
        raise InputError(
            'irof needs the package "scikit-image", which is not installed: pip install "hirescam[metrics]"'
        ) from None
    return skimage.segmentation
