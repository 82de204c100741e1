"""Does the map say what the model does? Exact questions about raw maps, in the layer's own space.

``effects`` is what the score really loses when a location of the layer is removed, computed by running the
head; where a HiResCAM map is exact, it *is* the effects. Nothing here looks at pixels or needs ground truth.
`hirescam.metrics.hotspots` asks the same of the part of a map that a picture shows.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hirescam.errors import InputError
from hirescam.metrics.checks import flat
from hirescam.metrics.correlations import ROUNDING, pearson, spearman
from hirescam.metrics.reductions import ratio_of_maxima, ratio_of_sums
from hirescam.metrics.registry import FAITHFULNESS, HIGHER, LOWER, metric

ScoreKept = Callable[[Tensor], Tensor]
"""From factors ``(m, n, *space)`` to the scores ``(m, n)`` of the layer multiplied by them."""


@metric(kind=FAITHFULNESS, better=HIGHER, bounds=(-1, 1), units="rank correlation", cite="selvaraju2017")
def ablation_correlation(raw: Tensor, effects: Tensor) -> Tensor:
    """Rank the locations by the map and by what they are worth to the score, and correlate.

    Spearman's ρ(raw, effects) over the locations of each image, with average ranks for ties.

    Exact maps reach 1. Values that differ by less than 1e-5 of the image's largest magnitude are tied, since
    rounding would order them. An image without any difference to find, where the map claims none either,
    counts 1; a constant map of an image with differences, or differences claimed where there are none,
    counts 0. Selvaraju et al. 2017 (arXiv 1610.02391) rank pixels against occlusion in the same way; here
    it is the layer's own locations against exact removal. Ranks do not see a wrong scale or offset: read it
    with ``ablation_error``.

    Args:
        raw: ``(n, *space)``.
        effects: ``(n, *space)``.

    Returns:
        ``(n,)`` in [−1, 1], never NaN.
    """
    raw, effects = flat("raw", raw), flat("effects", effects, raw)
    return spearman(raw, effects)


@metric(
    kind=FAITHFULNESS, better=LOWER, bounds=(0, float("inf")), units="share of the largest effect",
    cite="draelos2020", reduction=ratio_of_maxima,
)  # fmt: skip
def ablation_error(raw: Tensor, effects: Tensor) -> Tensor:
    """Find the largest gap between the map and what the locations are worth to the score.

    max |raw − effects| / max |effects|, both over all locations of all images.

    0 for exact maps, up to rounding: it is the location law as a number. A map in other units than the
    score's (CAM's is larger by the number of locations) is far off here, rightly: it does not say what a
    location is worth. One image without effects gets 0 if its map is zero too, else infinity; among others
    it just does not add to the denominator. As a maximum it depends on the number of images, and its
    bootstrap interval can only look down.

    Args:
        raw: ``(n, *space)``.
        effects: ``(n, *space)``.

    Returns:
        ``(n, 2)``: the two maxima of each image, whose ratio is the image's own error; never NaN.
    """
    raw, effects = flat("raw", raw), flat("effects", effects, raw)
    return torch.stack([(raw - effects).abs().amax(1), effects.abs().amax(1)], dim=1)


@metric(
    kind=FAITHFULNESS, better=LOWER, bounds=(0, float("inf")), units="share of the score's change",
    cite="sundararajan2017", reduction=ratio_of_sums,
)  # fmt: skip
def completeness_error(raw: Tensor, score_kept: ScoreKept) -> Tensor:
    """Compare the sum of the map with all that the layer adds to the score.

    Σ_i |f(A_i) − f(0) − Σ_s raw_i[s]| / Σ_i |f(A_i) − f(0)|, over images i.

    0 for complete maps, up to rounding; a share, where a test for equality of floats would nearly always
    fail. Necessary, not sufficient: every map can be made complete by adding a constant. Sums are divided,
    not ratios averaged, so that an image to which the layer adds next to nothing does not swamp the others.
    Sundararajan et al. 2017 (arXiv 1703.01365, section 2) state the axiom for pixels and a baseline image;
    here the baseline is the layer at zero.

    Args:
        raw: ``(n, *space)``.
        score_kept: from factors ``(m, n, *space)`` to scores ``(m, n)``.

    Returns:
        ``(n, 2)``: |f(A) − f(0) − Σ raw| and |f(A) − f(0)|, in units of the score; never NaN.
    """
    total = _lost(score_kept, torch.zeros_like(raw).unsqueeze(0))[:, 0]
    return torch.stack([(total - flat("raw", raw).sum(1)).abs(), total.abs()], dim=1)


@metric(kind=FAITHFULNESS, better=HIGHER, bounds=(-1, 1), units="correlation", cite="ancona2018")
def sensitivity_n(
    raw: Tensor,
    score_kept: ScoreKept,
    *,
    shares: Sequence[float] = (0.1, 0.3, 0.5, 0.8),
    subsets: int = 100,
    seed: int = 0,
) -> Tensor:
    """Remove random sets of n locations and correlate what the map promises with what the score loses.

    For each image and each n, over random subsets S of n locations:
    Pearson's r(Σ_{s ∈ S} raw[s], f(A) − f(A without S)).

    Exact maps reach 1 for every n. The subsets are drawn for each image by itself and the correlation is
    within the image, over its subsets, as in Ancona et al. 2018 (arXiv 1711.06104, section 3.1), who go up
    to about 80 % of the features; here the features are the layer's locations. A constant map counts 0, and
    so does a map that varies where the score does not; where both are constant (all locations removed, or an
    image that the head does not see) it counts 1. Correlation does not see a wrong scale or offset.

    Args:
        raw: ``(n, *space)``.
        score_kept: from factors ``(m, n, *space)`` to scores ``(m, n)``.
        shares: n as shares of the number of locations, each above 0 and at most 1, at least one location.
        subsets: how many for each n and image, at least 3.
        seed: of the subsets; an image's depend on it, on the image's place in the batch and on the grid.

    Returns:
        ``(n, len(shares))`` in [−1, 1], a column for each share; never NaN.

    Raises:
        InputError: there is no share, or one is not above 0 and at most 1, or ``subsets`` is below 3.
    """
    if not shares or not all(0 < share <= 1 for share in shares):
        raise InputError(f"shares={tuple(shares)} must be numbers above 0 and at most 1, such as (0.1, 0.5)")
    if subsets < 3:
        raise InputError(f"subsets={subsets} is too few for a correlation: use at least 3, such as 100")
    cells = flat("raw", raw)
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand((len(cells), subsets, cells.shape[1]), generator=generator).to(raw.device).argsort(-1)
    found = []
    for share in shares:
        chosen = order.movedim(0, 1) < max(1, round(share * cells.shape[1]))
        lost = _lost(score_kept, (~chosen).to(raw.dtype).reshape(subsets, *raw.shape))
        found.append(pearson((chosen * cells).sum(-1).T, lost))
    return torch.stack(found, dim=1)


@metric(kind=FAITHFULNESS, better=LOWER, bounds=(0, 1), units="share of cells", cite="draelos2020")
def wrong_sign_rate(raw: Tensor, effects: Tensor, *, level: float = 0.05) -> Tensor:
    """Find how often the map says that a location helps when it hurts, or the other way round.

    Among the cells with |raw| > level · max |raw|: the share where raw and effects have opposite signs.

    Strictly opposite signs: a cell without any effect (or one below 1e-5 of the image's largest, whose sign
    may be rounding) is counted below the line and never as wrong, so read it together with
    ``dead_hotspot_rate`` and ``unused_mass``. A map of zeros says nothing: NaN.

    Args:
        raw: ``(n, *space)``.
        effects: ``(n, *space)``.
        level: cells below this share of the map's largest magnitude are left out.

    Returns:
        ``(n,)`` in [0, 1]; NaN for a map of zeros.
    """
    raw, effects = flat("raw", raw), flat("effects", effects, raw)
    noticeable = (raw.abs() > level * raw.abs().amax(1, keepdim=True)) & (raw != 0)
    real = effects.abs() > ROUNDING * effects.abs().amax(1, keepdim=True)
    wrong = (raw.sign() * effects.sign() < 0) & noticeable & real
    count = noticeable.sum(1).double()
    return wrong.sum(1) / count.where(count > 0, torch.nan)


def _lost(score_kept: ScoreKept, keep: Tensor) -> Tensor:
    """What the score loses, ``(n, m)``, when the layer is multiplied by factors ``(m, n, *space)``."""
    whole = score_kept(torch.ones_like(keep[:1]))
    return (whole - score_kept(keep)).double().T
