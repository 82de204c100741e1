"""Does the map of a finding stay inside the organ where the finding can be?"""

import torch
from torch import Tensor

from hirescam.metrics import thresholds
from hirescam.metrics.ground_truth import matched
from hirescam.metrics.overlap import marked
from hirescam.metrics.registry import HIGHER, LOCALISATION, metric
from hirescam.metrics.scales import stretched

LEVELS = (0.004, 0.008, 0.012, 0.016, *(step / 100 for step in range(2, 100, 2)))
"""The 53 levels of the reference code."""


@metric(
    kind=LOCALISATION,
    better=HIGHER,
    bounds=(0, 1),
    units="share of marked voxels",
    cite="draelos2021",
    reduction=thresholds.best_mean_of_each_class,
)
def organ_iou(maps: Tensor, masks: Tensor, *, legacy: bool = False) -> Tensor:
    """Find how much of what the map marks lies in the allowed organ, at each class' best level.

    A / (A + B),   A = |marked ∩ mask|,   B = |marked| − A

    marked = R > level, where R is max(0, M) stretched from its minimum to its maximum; the 53 levels are in
    `LEVELS`. OrganIoU (Draelos & Carin 2021, arXiv 2111.12215; rachellea/explainable-ct-ai,
    ``iou_analysis.py``). In spite of its name it is precision: missing most of the organ costs nothing, and a
    single voxel inside is perfect. Read it beside `class_best_iou`, which is an IoU.

    The reference chooses each class' level on a validation set and reads it on the test set, over all samples
    of findings that are in the scan, at the map's own resolution, with the organ resampled to it by its
    nearest neighbours. Give classes as groups; `hirescam.metrics.thresholds.best_steps` chooses,
    `hirescam.metrics.thresholds.at_steps` reads. The reduction does both on the same samples, which flatters.

    A constant map and one without a positive value mark nothing: 0.

    Args:
        maps: ``(n, *size)``.
        masks: ``(n, *size)`` bool, the region where the finding may be.
        legacy: give 0 unless both A and B are positive, as the reference code does, so that a map entirely
            inside the organ scores 0. Only for numbers to be compared with its.

    Returns:
        ``(n, 53)`` in [0, 1]; NaN for an empty mask.

    Raises:
        InputError: a map has NaN or infinite values, or the shapes differ.
    """
    maps, masks = matched(maps, masks)
    values = stretched(maps.clamp(min=0))
    chosen = torch.tensor(LEVELS, dtype=torch.float64)
    inside, outside = marked(values, chosen, masks), marked(values, chosen, ~masks)
    scored = (inside > 0) & (outside > 0) if legacy else inside > 0
    found = (inside / (inside + outside)).where(scored, 0)
    return found.where(masks.flatten(1).any(1, keepdim=True), torch.nan)
