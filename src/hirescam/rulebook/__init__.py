"""Methods as pure functions of a trace, in one registry."""

from hirescam.rulebook import ablation, activation, gradient, masking, principal
from hirescam.rulebook.gradient import cam, gradcam, hirescam
from hirescam.rulebook.registry import Rule, get, rules

# Importing a module registers its rules.
__all__ = [
    "Rule",
    "ablation",
    "activation",
    "cam",
    "get",
    "gradcam",
    "gradient",
    "hirescam",
    "masking",
    "principal",
    "rules",
]
