"""How much does an explanation change when the image hardly does?"""

import torch
from torch import Tensor

from hirescam.errors import InputError
from hirescam.metrics.registry import LOWER, PERTURBATION, metric
from hirescam.metrics.scoring import Explain, check


@metric(kind=PERTURBATION, better=LOWER, bounds=(0, torch.inf), units="share of the map", cite="yeh2019")
def max_sensitivity(
    maps: Tensor,
    images: Tensor,
    explain: Explain,
    *,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
) -> Tensor:
    """Add noise to the image and find how much the map changes at most.

        max_y ‖φ(y) − φ(x)‖ / ‖φ(x)‖    over y = x + U(−r, r), for every channel and pixel by itself

    Euclidean norms of the signed maps; the noise is two-sided and the same for every image. A maximum over
    samples grows with their number, and everything depends on the radius (captum takes 0.02 and 10 samples,
    Quantus 0.2 and 200): compare numbers only with the same options. The radius is in units of the images as
    they are given, so that normalisation changes what it means.

    A constant explanation, which says nothing about the image, has 0, the best value: never use it alone.

    Source: Yeh et al. 2019, arXiv 1901.09392, section 3, with the division by ‖φ(x)‖ of
    chihkuanyeh/saliency_evaluation (infid_sen_utils.py). That code divides inside its loop over samples, so
    that earlier maxima shrink again and again; here the largest change is divided, once.

    Args:
        maps: ``(n, *size)``.
        images: ``(n, c, *size)``.
        explain: explains other images for the same targets.
        radius: r, the largest change of a value of the image.
        samples: how many noisy images.
        seed: of the noise.

    Returns:
        ``(n,)`` from 0 up; NaN for a map of zeros.

    Raises:
        InputError: shapes do not fit, a map is not finite, ``radius`` is not above 0 or there is no sample.
    """
    check(maps, images)
    if not radius > 0 or samples < 1:
        raise InputError(f"radius={radius} and samples={samples}: expected a radius above 0, and a sample")
    generator = torch.Generator().manual_seed(seed)
    changes = []
    for _ in range(samples):
        noise = torch.rand(images.shape[1:], generator=generator, dtype=torch.float64) * 2 - 1
        again = explain(images + (radius * noise).to(images)).detach()
        check(again, images)
        changes.append((again - maps).double().flatten(1).norm(dim=1))
    size: Tensor = maps.double().flatten(1).norm(dim=1)
    return torch.stack(changes).amax(0) / size.where(size > 0, torch.nan)
