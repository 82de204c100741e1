"""How alike are two maps of the same image? The measures that the sanity checks are made of.

All of them are 1 for a map and itself and blind to a positive factor. None of them has an answer for a map
that does not vary, so one is given here, the same for all: two constant maps are alike (1), a constant map
and one that varies are not (0). Without it such maps would drop out of averages, or count as anything.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hirescam.errors import InputError, MetricError
from hirescam.metrics.checks import flat
from hirescam.metrics.correlations import is_constant, pearson, spearman, to_unit

Similarity = Literal["spearman", "spearman_abs", "ssim", "hog"]
"""``"spearman"``: of the signed values. ``"spearman_abs"``: of their magnitudes. ``"ssim"``: structural
similarity. ``"hog"``: Pearson's correlation of histograms of oriented gradients, in two dimensions."""

_WINDOW = 7
_CELL, _CELLS_ACROSS, _ORIENTATIONS = 16, 4, 9


def alike(first: Tensor, second: Tensor, by: Similarity = "spearman") -> Tensor:
    """Compare maps one by one.

    - ``"spearman"``: Spearman's ρ over the pixels, average ranks for ties; values that differ by less than
      1e-5 of the map's largest magnitude are tied.
    - ``"spearman_abs"``: the same of |map|. A map and its negative are alike.
    - ``"ssim"``: mean structural similarity of 1/2 + map / (2 · max |map|), as on a diverging colour scale:
      within [0, 1], zero in the middle. (On signed values a negative mean times a negative covariance would
      make a map and its negative alike.) Uniform window of 7 pixels, less where the map is smaller.
      A map that was resampled from a coarse grid is nearly flat within a window, so that any two of them
      are rather alike.
    - ``"hog"``: Pearson's r of their histograms of oriented gradients: 9 orientations, cells of 16 pixels (or
      a quarter of the shorter side where that is less), blocks of 3 × 3 cells or as many as there are.

    A map is constant where it varies by less than 1e-5 of its largest magnitude. Two constant maps: 1. One
    constant map: 0. That includes maps of zeros.

    Source: the measures of Adebayo et al. 2018, arXiv 1810.03292; the sizes of windows and cells
    are ours.

    Args:
        first: ``(n, *size)``.
        second: ``(n, *size)``.
        by: see `Similarity`.

    Returns:
        ``(n,)`` in [−1, 1]; never NaN.

    Raises:
        InputError: the shapes differ, a map is not finite, or the measure is unknown or cannot be had for
            maps of this shape.
        MetricError: scikit-image is needed and not installed.

    Example:
        >>> import torch
        >>> from hirescam.metrics.similarity import alike
        >>> maps = torch.tensor([[1.0, 2.0, 3.0]])
        >>> [alike(maps, -maps, by).item() for by in ("spearman", "spearman_abs")]
        [-1.0, 1.0]
    """
    if by not in _MEASURES:
        raise InputError(f"similarity={by!r} is unknown: use one of {', '.join(map(repr, _MEASURES))}")
    if first.shape != second.shape:
        raise InputError(
            f"maps have shapes {tuple(first.shape)} and {tuple(second.shape)}: give maps of the same images"
        )
    rows, others = flat("maps", first), flat("maps", second)
    flat_first, flat_second = is_constant(rows), is_constant(others)
    shape = first.shape
    found = _MEASURES[by](to_unit(rows).reshape(shape), to_unit(others).reshape(shape))
    return found.where(~flat_first & ~flat_second, (flat_first & flat_second).double())


def _spearman(first: Tensor, second: Tensor) -> Tensor:
    return spearman(first.flatten(1), second.flatten(1))


def _spearman_abs(first: Tensor, second: Tensor) -> Tensor:
    return _spearman(first.abs(), second.abs())


def _ssim(first: Tensor, second: Tensor) -> Tensor:
    shortest = min(first.shape[1:])
    if shortest < 3:
        raise InputError(
            "similarity='ssim' needs at least 3 pixels along every axis, the maps are "
            f"{tuple(first.shape[1:])}: use 'spearman'"
        )
    window = min(_WINDOW, shortest - 1 + shortest % 2)
    measure = _skimage("metrics").structural_similarity
    found = [measure(*pair, data_range=1.0, win_size=window) for pair in _pairs(_grey(first), _grey(second))]
    return torch.tensor(found, dtype=torch.float64, device=first.device)


def _hog(first: Tensor, second: Tensor) -> Tensor:
    if first.ndim != 3 or min(first.shape[1:]) < 2 * _CELLS_ACROSS:
        raise InputError(
            f"similarity='hog' needs maps (n, height, width), at least {2 * _CELLS_ACROSS} pixels each way, "
            f"got {tuple(first.shape)}: use 'spearman' or 'ssim'"
        )
    cell = min(_CELL, min(first.shape[1:]) // _CELLS_ACROSS)
    describe = _skimage("feature").hog
    found = [
        [describe(one, _ORIENTATIONS, pixels_per_cell=(cell, cell)) for one in pair]
        for pair in _pairs(first, second)
    ]
    vectors = torch.from_numpy(np.array(found)).to(first)
    return pearson(*vectors.unbind(1))


def _grey(maps: Tensor) -> Tensor:
    """From [−1, 1] to [0, 1]."""
    return (maps + 1) / 2


def _pairs(first: Tensor, second: Tensor) -> Any:
    return zip(first.cpu().numpy(), second.cpu().numpy(), strict=True)


def _skimage(part: str) -> Any:
    try:
        return import_module(f"skimage.{part}")
    except ImportError as error:
        raise MetricError(
            "similarity='ssim' and 'hog' need scikit-image, which is not installed: "
            "`pip install hirescam[metrics]`, or use 'spearman'"
        ) from error


_MEASURES: dict[Similarity, Callable[[Tensor, Tensor], Tensor]] = {
    "spearman": _spearman,
    "spearman_abs": _spearman_abs,
    "ssim": _ssim,
    "hog": _hog,
}
