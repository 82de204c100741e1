"""Steps from explanations to explanations: smoothing and fusing, each recorded, each voiding both laws.

A map that has been averaged, projected or fused no longer adds up to the score, and none of its values is
what a location is worth. The result says so: its certificate is NONE, with the step as the reason.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hirescam.errors import InputError
from hirescam.explainer import Explainer
from hirescam.explanation import Explanation
from hirescam.passes.targets import Target
from hirescam.proof.grade import Guarantee
from hirescam.rulebook.registry import Rule
from hirescam.views import resize

Fusion = Literal["mean", "max", "product", "refine"]

_FUSE: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda maps: maps.mean(0),
    "max": lambda maps: maps.amax(0),
    "product": lambda maps: maps.prod(0),
    "refine": lambda maps: maps.prod(0),
}
_FACTORS = (0.9, 1.0, 1.1)
_TINY = 1e-30


def fuse(explanations: Sequence[Explanation], how: Fusion = "mean") -> Explanation:
    """Join the maps of several layers or rules, resampled to the finest grid among them.

    Args:
        explanations: of the same images and targets.
        how: ``"mean"``, ``"max"`` (largest value at each place), ``"product"`` of the maps, each divided by
            its largest magnitude first so that units do not mix, or ``"refine"``, the product of the maps'
            positive parts, each stretched to [0, 1] (RefineCAM, arXiv 2605.14641).

    Returns:
        An explanation without a guarantee; ``steps`` names what was fused.
    """
    if how not in _FUSE:
        raise InputError(f"how={how!r} is unknown: use one of {', '.join(map(repr, _FUSE))}")
    if not explanations:
        raise InputError("explanations is empty: give at least one")
    first = explanations[0]
    if any(not torch.equal(one.target, first.target) for one in explanations):
        raise InputError("explanations are of different targets: explain the same classes at every layer")
    finest = max(explanations, key=lambda one: torch.Size(one.grid).numel())
    maps = torch.stack([resize(one.on_grid, finest.grid, "bilinear") for one in explanations])
    if how == "product":
        maps = maps / _over_space(maps.abs(), torch.amax).clamp_min(_TINY)
    elif how == "refine":
        maps = maps.clamp(min=0) - _over_space(maps.clamp(min=0), torch.amin)
        maps = maps / _over_space(maps, torch.amax).clamp_min(_TINY)
    names = " + ".join(f"{one.rule} at {one.layer}" for one in explanations)
    layers = "+".join(dict.fromkeys(one.layer for one in explanations))
    return _void(
        replace(first, layer=layers, grid=finest.grid, places=finest.places, prefix=0),
        _FUSE[how](maps),
        f"{how} of {names}",
    )


def _over_space(maps: Tensor, reduce: Callable[..., Tensor]) -> Tensor:
    """Reduce ``(n, b, t, *grid)`` over the grid, keeping its axes."""
    return reduce(maps, dim=tuple(range(3, maps.ndim)), keepdim=True)


def average_over_flips(
    explainer: Explainer, images: Tensor, *, target: Target = None, rule: str | Rule = "hirescam"
) -> Explanation:
    """Average maps over a mirror image and three strengths of the image (test-time augmentation).

    The images are multiplied by 0.9, 1 and 1.1, as they are and mirrored along the last axis; maps of
    mirrored images are mirrored back. The target is settled on the images as they are.
    """
    plain = explainer(images, target=target, rule=rule)
    same: Target = target if callable(target) else plain.target
    total = torch.zeros_like(plain.on_grid)
    for factor in _FACTORS:
        total += explainer(images * factor, target=same, rule=rule).on_grid
        total += explainer((images * factor).flip(-1), target=same, rule=rule).on_grid.flip(-1)
    mean = total / (2 * len(_FACTORS))
    return _void(replace(plain, prefix=0), mean, "mean over mirror images and strengths 0.9, 1, 1.1")


def smooth(explanation: Explanation, size: int = 3) -> Explanation:
    """Replace every value by the mean of its neighbourhood, ``size`` cells wide (an odd number)."""
    if size < 1 or size % 2 == 0:
        raise InputError(f"size={size} must be an odd number of cells, 1 or more")
    maps = explanation.on_grid
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[maps.ndim - 2]
    mean = pool(maps, size, 1, size // 2, count_include_pad=False)
    return _void(replace(explanation, prefix=0), mean, f"mean over {size} cells along each axis")


def _void(explanation: Explanation, raw: Tensor, step: str) -> Explanation:
    """Put new maps in, and take the guarantee away."""
    certificate = replace(
        explanation.certificate,
        guarantee=Guarantee.NONE,
        layer=explanation.layer,
        completeness_error=float("nan"),
        location_error=float("nan"),
        reason=f"The maps were changed after the rule ({step}), which voids both laws.",
        advice="Advice: certify the raw map; use this one to look at.",
    )
    steps = (*explanation.steps, step)
    return replace(explanation, raw=raw, certificate=certificate, steps=steps, laws=None)
