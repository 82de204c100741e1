"""Metrics of explanations: faithfulness first, then localisation, sanity and shape.

Every metric is a pure function of tensors with one value per sample, found by name in one registry.
"""

from hirescam.metrics import (
    boxes,
    composites,
    confidence,
    faithfulness,
    ground_truth,
    hotspots,
    infidelity,
    organs,
    overlap,
    perturbation,
    pixels,
    pointing,
    road,
    robustness,
    sanity,
    seeds,
    shape,
    superpixels,
    thresholds,
)
from hirescam.metrics.case import Case, Scene
from hirescam.metrics.ground_truth import boxes_to_masks
from hirescam.metrics.intervals import Estimate, estimate
from hirescam.metrics.pointing import center_map
from hirescam.metrics.registry import INPUTS, Better, Kind, Metric, get, metric, metrics

# Importing a module registers its metrics.
__all__ = [
    "INPUTS",
    "Better",
    "Case",
    "Estimate",
    "Kind",
    "Metric",
    "Scene",
    "boxes",
    "boxes_to_masks",
    "center_map",
    "composites",
    "confidence",
    "estimate",
    "faithfulness",
    "get",
    "ground_truth",
    "hotspots",
    "infidelity",
    "metric",
    "metrics",
    "organs",
    "overlap",
    "perturbation",
    "pixels",
    "pointing",
    "road",
    "robustness",
    "sanity",
    "seeds",
    "shape",
    "superpixels",
    "thresholds",
]
