"""Fill removed pixels from their neighbours: the linear imputation of ROAD, without its noise.

A removed pixel is the weighted mean of the pixels around it, removed or not, so that all of them follow from
one sparse linear system. ROAD (Rong et al. 2022, arXiv 2202.00449) weighs the four direct neighbours in the
plane by 1/6 and the four diagonal ones by 1/12, and gives the weight of neighbours outside the image to the
others. These are the weights of the product of (½, 1, ½) along both axes without its centre; the same product
serves signals (1/2 on either side: straight lines across the gap) and volumes (1/14, 1/28 and 1/56).
"""

from collections.abc import Callable
from functools import lru_cache, reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hirescam.errors import InputError


def fill_from_neighbours(images: Tensor, removed: Tensor) -> Tensor:
    """Return the images with the removed pixels filled in; the others stay as they are.

    The result depends on the remaining pixels alone. A change of contrast or brightness of a channel before
    is the same as after.

    Args:
        images: ``(n, c, *size)``.
        removed: ``(n, *size)`` bool; at least one pixel of each image remains.

    Raises:
        InputError: nothing remains of an image, or scipy is not installed.

    Example:
        >>> import torch
        >>> from hirescam.metrics.neighbours import fill_from_neighbours
        >>> gap = torch.tensor([[False, True, True, False]])
        >>> fill_from_neighbours(torch.tensor([[[0.0, 7.0, 7.0, 3.0]]]), gap)
        tensor([[[0., 1., 2., 3.]]])
    """
    if bool(removed.flatten(1).all(1).any()):
        raise InputError(
            "every pixel of an image is removed: at least one must remain to fill the others from"
        )
    filled = images.detach().clone()
    for image, gone in zip(filled, removed, strict=True):
        if bool(gone.any()):
            image[:, gone] = torch.from_numpy(_solution(image, gone)).to(image)
    return filled


def _solution(image: Tensor, gone: Tensor) -> Any:
    """Values ``(c, removed)`` of the removed pixels of an image ``(c, *size)``."""
    weights, system = _system(tuple(gone.shape))
    away = gone.flatten().cpu().numpy()
    known = image.flatten(1).double().cpu().numpy()[:, ~away].T
    solve = _direct if gone.ndim < 3 else _iterative
    return solve(system[away][:, away], weights[away][:, ~away] @ known).T


@lru_cache(maxsize=2)
def _system(size: tuple[int, ...]) -> tuple[Any, Any]:
    """Weights of neighbours ``(pixels, pixels)``, and their row sums on the diagonal minus the weights."""
    sparse = _scipy().sparse
    axes = [sparse.diags_array([0.5, 1.0, 0.5], offsets=[-1, 0, 1], shape=(n, n)) for n in size]
    weights = reduce(sparse.kron, axes) - sparse.eye_array(int(np.prod(size)))
    return weights.tocsr(), (sparse.diags_array(weights.sum(1)) - weights).tocsr()


def _direct(system: Any, known: Any) -> Any:
    """Factorise once for all channels; the order of elimination is for symmetric matrices."""
    factors = _scipy().sparse.linalg.splu(
        system.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    return factors.solve(known)


def _iterative(system: Any, known: Any) -> Any:
    """Conjugate gradients, for volumes, whose factors would not fit into memory."""
    solve: Callable[..., Any] = _scipy().sparse.linalg.cg
    return np.stack([solve(system, channel, rtol=1e-10)[0] for channel in known.T], axis=1)


def _scipy() -> Any:
    try:
        import scipy.sparse.linalg
    except ImportError:
        raise InputError(
            'ROAD needs the package "scipy", which is not installed: pip install "hirescam[metrics]"'
        ) from None
    return scipy
