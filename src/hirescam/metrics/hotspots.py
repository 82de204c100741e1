"""Is what a picture shows in red worth anything to the score? Questions about a map's positive part.

A cell counts as worthless when its effect is zero, negative, or below rounding (1e-5 of the image's largest).
"""

import torch
from torch import Tensor

from hirescam.errors import InputError
from hirescam.metrics.checks import flat
from hirescam.metrics.correlations import ROUNDING
from hirescam.metrics.reductions import ratio_of_sums
from hirescam.metrics.registry import FAITHFULNESS, LOWER, NEITHER, metric

LEVEL = 0.15
"""Share of the largest value above which Grad-CAM's authors draw their boxes (Selvaraju et al. 2017)."""


@metric(kind=FAITHFULNESS, better=LOWER, bounds=(0, 1), units="share of images", cite="draelos2020")
def dead_hotspot_rate(raw: Tensor, effects: Tensor) -> Tensor:
    """Find how often removing the map's hottest location does not lower the score.

    1 if effects[argmax raw] ≤ 0 (up to rounding), else 0.

    Cells that share the largest value count equally, so that no order of cells decides. A map without a
    positive cell has no hotspot: NaN, counted as undefined by `hirescam.metrics.estimate`, and not as
    success; an exact map has none only where no location raises the score.

    Args:
        raw: ``(n, *space)``.
        effects: ``(n, *space)``.

    Returns:
        ``(n,)``, 0 or 1, between them for ties; NaN for a map without a positive cell.
    """
    raw, effects = flat("raw", raw), flat("effects", effects, raw)
    peak = raw.amax(1, keepdim=True)
    hottest = (raw == peak).double()
    dead = (hottest * _worthless(effects)).sum(1) / hottest.sum(1)
    return dead.where(peak[:, 0] > 0, torch.nan)


@metric(kind=FAITHFULNESS, better=LOWER, bounds=(0, 1), units="share of the positive mass", cite="rao2022")
def unused_mass(raw: Tensor, unused: Tensor) -> Tensor:
    """Find how much of the map's positive part lies where the score cannot come from.

    Σ_{s unused} max(raw[s], 0) / Σ_s max(raw[s], 0)

    Where the network is known not to use some locations (weights of the head that are zero there), any
    mass on them is wrong, whatever the image; Rao et al. 2022 (arXiv 2205.10435) cut networks for this
    purpose. On a network that is free to use them compare with the same quantity of the effects, not with 0.

    Args:
        raw: ``(n, *space)``.
        unused: ``(n, *space)`` bool.

    Returns:
        ``(n,)`` in [0, 1]; NaN for a map without a positive cell.
    """
    positive = flat("raw", raw).clamp(min=0)
    return _share(positive, flat("unused", unused, raw) > 0)


@metric(
    kind=FAITHFULNESS, better=NEITHER, bounds=(0, float("inf")), units="times HiResCAM's",
    cite="draelos2020", reduction=ratio_of_sums,
)  # fmt: skip
def area_expansion(raw: Tensor, reference: Tensor, *, level: float = LEVEL) -> Tensor:
    """Find how much larger the area that a map highlights is than HiResCAM's.

    area(raw) / area(reference), where area(m) is the share of cells with m > level · max m.

    Draelos & Carin 2020 (arXiv 2011.08891) observe that Grad-CAM's maps look larger and smoother than what
    the model used; this is the size of it. 1 for HiResCAM itself. Larger is not wrong by this number alone
    (see ``contradicted_area`` for what part of it is), and where HiResCAM is not exact it is no yardstick.
    Areas are summed over images before they are divided.

    Args:
        raw: ``(n, *space)``.
        reference: ``(n, *space)``.
        level: share of a map's own largest value, from 0 up to but not including 1.

    Returns:
        ``(n, 2)``: both areas; NaN where either map has no positive cell.

    Raises:
        InputError: ``level`` is not in [0, 1).
    """
    _check_level(level)
    maps = (flat("raw", raw), flat("reference", reference, raw))
    return _both(*((_above(values, level) > 0).double().mean(1) for values in maps), maps=maps)


@metric(
    kind=FAITHFULNESS, better=NEITHER, bounds=(0, float("inf")), units="times HiResCAM's",
    cite="draelos2020", reduction=ratio_of_sums,
)  # fmt: skip
def mass_expansion(raw: Tensor, reference: Tensor, *, level: float = LEVEL) -> Tensor:
    """Find how much more red a map shows than HiResCAM, each drawn on its own scale.

    mass(raw) / mass(reference), where mass(m) is the mean over cells of m / max m where m > level · max m,
    and 0 elsewhere.

    Like ``area_expansion``, but a faint cell counts less than a hot one. Maps are divided by their largest
    value, as overlays are, so that units do not matter. 1 for HiResCAM itself.

    Args:
        raw: ``(n, *space)``.
        reference: ``(n, *space)``.
        level: share of a map's own largest value, from 0 up to but not including 1.

    Returns:
        ``(n, 2)``: both masses; NaN where either map has no positive cell.

    Raises:
        InputError: ``level`` is not in [0, 1).
    """
    _check_level(level)
    maps = (flat("raw", raw), flat("reference", reference, raw))
    return _both(*(_above(values, level).mean(1) for values in maps), maps=maps)


@metric(kind=FAITHFULNESS, better=LOWER, bounds=(0, 1), units="share of the area", cite="draelos2020")
def contradicted_area(raw: Tensor, effects: Tensor, *, level: float = LEVEL) -> Tensor:
    """Find how much of the area that a map highlights adds nothing to the score, or takes from it.

    Among the cells with raw > level · max raw: the share with effects ≤ 0 (up to rounding).

    0 for exact maps whose largest value is not itself rounding.

    Args:
        raw: ``(n, *space)``.
        effects: ``(n, *space)``.
        level: share of the map's largest value, from 0 up to but not including 1.

    Returns:
        ``(n,)`` in [0, 1]; NaN for a map without a positive cell.

    Raises:
        InputError: ``level`` is not in [0, 1).
    """
    _check_level(level)
    raw, effects = flat("raw", raw), flat("effects", effects, raw)
    return _share((_above(raw, level) > 0).double(), _worthless(effects))


@metric(
    kind=FAITHFULNESS, better=LOWER, bounds=(0, 1), units="share of the positive mass", cite="draelos2020"
)
def contradicted_mass(raw: Tensor, effects: Tensor, *, level: float = LEVEL) -> Tensor:
    """Find how much of what a map shows in red lies where the model gains nothing, or loses.

    Σ raw over the cells with raw > level · max raw and effects ≤ 0, divided by Σ raw over those with
    raw > level · max raw.

    Like ``contradicted_area``, but a faint cell counts less than a hot one.

    Args:
        raw: ``(n, *space)``.
        effects: ``(n, *space)``.
        level: share of the map's largest value, from 0 up to but not including 1.

    Returns:
        ``(n,)`` in [0, 1]; NaN for a map without a positive cell.

    Raises:
        InputError: ``level`` is not in [0, 1).
    """
    _check_level(level)
    raw, effects = flat("raw", raw), flat("effects", effects, raw)
    return _share(_above(raw, level), _worthless(effects))


def _worthless(effects: Tensor) -> Tensor:
    return effects <= ROUNDING * effects.abs().amax(1, keepdim=True)


def _above(maps: Tensor, level: float) -> Tensor:
    """Positive values above a level as shares of the map's largest, and 0 elsewhere."""
    peak = maps.amax(1, keepdim=True)
    shares = maps / peak.where(peak > 0, torch.inf)
    return shares.where(shares > level, 0)


def _share(amounts: Tensor, where: Tensor) -> Tensor:
    total = amounts.sum(1)
    return (amounts * where).sum(1) / total.where(total > 0, torch.nan)


def _both(first: Tensor, second: Tensor, *, maps: tuple[Tensor, Tensor]) -> Tensor:
    positive = (maps[0].amax(1) > 0) & (maps[1].amax(1) > 0)
    return torch.stack([first, second], dim=1).where(positive.unsqueeze(1), torch.nan)


def _check_level(level: float) -> None:
    if not 0 <= level < 1:
        raise InputError(f"level={level} must be a share of the largest value in [0, 1), such as {LEVEL}")
