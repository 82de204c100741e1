"""Explain what a convolutional network looked at, and prove whether the explanation can be trusted.

A name loads what it needs at its first use, so that ``hirescam --help`` starts without torch.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hirescam.audits import Audit
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
    from hirescam.explainer import Explainer
    from hirescam.explanation import Explanation, load
    from hirescam.onnx_file import Exported, export
    from hirescam.onnx_network import ExportedNetwork
    from hirescam.passes.targets import AllClasses, Binary, Classes, Contrast, Finer, Labels, Region, TopK
    from hirescam.proof.certificate import Certificate
    from hirescam.proof.grade import Guarantee
    from hirescam.proof.laws import Laws
    from hirescam.proof.selection import Layer
    from hirescam.receptive_field import ReceptiveField
    from hirescam.rulebook.registry import Rule, rules
    from hirescam.theory import Relations, relations
    from hirescam.verbs import certify, explain, layers
    from hirescam.views import View

    __version__: str

__all__ = [
    "AllClasses",
    "Audit",
    "Binary",
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
    "Labels",
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

_NAMES = {
    "errors": (
        "HirescamError",
        "HirescamWarning",
        "ImageFileError",
        "InputError",
        "LayerError",
        "MetricError",
        "ModelError",
        "OutputError",
        "RuleError",
        "SpecError",
        "TargetError",
        "WeightsError",
    ),
    "audits": ("Audit",),
    "explainer": ("Explainer",),
    "explanation": ("Explanation", "load"),
    "onnx_file": ("Exported", "export"),
    "onnx_network": ("ExportedNetwork",),
    "passes.targets": ("AllClasses", "Binary", "Classes", "Contrast", "Finer", "Labels", "Region", "TopK"),
    "proof.certificate": ("Certificate",),
    "proof.grade": ("Guarantee",),
    "proof.laws": ("Laws",),
    "proof.selection": ("Layer",),
    "receptive_field": ("ReceptiveField",),
    "rulebook.registry": ("Rule", "rules"),
    "theory": ("Relations", "relations"),
    "verbs": ("certify", "explain", "layers"),
    "views": ("View",),
}
"""The public names by the module that defines them; type checkers read the same off the imports above."""

_HOMES = {name: module for module, names in _NAMES.items() for name in names}


def _loaded(name: str) -> object:
    """Find a public name, the version, or a module of the package."""
    if name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif name == "__version__":
        value = _version()
    elif find_spec(f"{__name__}.{name}"):
        value = import_module(f"{__name__}.{name}")
    else:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message, name=name, obj=sys.modules[__name__])
    globals()[name] = value
    return value


def _version() -> str:
    # Reading the metadata takes longer than everything else here.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(__name__)
    except PackageNotFoundError:
        return "unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


if not TYPE_CHECKING:  # it would take any misspelt name for one that is found
    __getattr__ = _loaded
