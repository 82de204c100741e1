"""Explain what a convolutional network looked at, and prove whether the explanation can be trusted."""

from importlib.metadata import PackageNotFoundError, version

from hirescam.errors import (
    HirescamError,
    HirescamWarning,
    ImageFileError,
    InputError,
    LayerError,
    MetricError,
    ModelError,
    OutputError,
    RuleError,
    SpecError,
    TargetError,
    WeightsError,
)
from hirescam.explainer import Explainer, certify, explain, layers
from hirescam.explanation import Explanation, load
from hirescam.onnx_file import Exported, export
from hirescam.onnx_network import ExportedNetwork
from hirescam.passes.targets import AllClasses, Classes, Contrast, Finer, Region, TopK
from hirescam.proof.certificate import Certificate, Guarantee
from hirescam.proof.laws import Laws
from hirescam.proof.selection import Layer
from hirescam.receptive_field import ReceptiveField
from hirescam.rulebook.registry import Rule, rules
from hirescam.theory import Relations, relations
from hirescam.views import View

try:
    __version__ = version("hirescam")
except PackageNotFoundError:
    __version__ = "unknown"

__all__ = [
    "AllClasses",
    "Certificate",
    "Classes",
    "Contrast",
    "Explainer",
    "Explanation",
    "Exported",
    "ExportedNetwork",
    "Finer",
    "Guarantee",
    "HirescamError",
    "HirescamWarning",
    "ImageFileError",
    "InputError",
    "Laws",
    "Layer",
    "LayerError",
    "MetricError",
    "ModelError",
    "OutputError",
    "ReceptiveField",
    "Region",
    "Relations",
    "Rule",
    "RuleError",
    "SpecError",
    "TargetError",
    "TopK",
    "View",
    "WeightsError",
    "certify",
    "explain",
    "export",
    "layers",
    "load",
    "relations",
    "rules",
]
