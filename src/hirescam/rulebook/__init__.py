"""Methods as pure functions of a trace, in one registry."""

from hirescam.rulebook.gradient import cam, gradcam, hirescam
from hirescam.rulebook.registry import Rule, get, rules

__all__ = ["Rule", "cam", "get", "gradcam", "hirescam", "rules"]
