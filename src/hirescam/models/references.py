"""What a reference to a network may look like, and what to say about one that leads nowhere."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable
from importlib import import_module

from hirescam.errors import SpecError
from hirescam.wording import FORMS

BUILTIN = ("lite0", "crepe")
"""References to the package's own networks."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Name what comes close, or some of what there is."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return f"known are {', '.join(sorted(known)[:5])} and so on" if known else "it has none"


def unknown(spec: str) -> SpecError:
    """Say why a reference has no known form, and what comes close."""
    if spec.endswith(".py"):
        return SpecError(
            f"spec: {spec!r} does not say what makes the model; add its name, as in {spec}:build"
        )
    return SpecError(f"spec: {spec!r} is not known; {_known_elsewhere(spec) or f'expected {FORMS}'}")


def _known_elsewhere(spec: str) -> str | None:
    own = difflib.get_close_matches(spec, BUILTIN, n=1)
    if own:
        return f"did you mean {own[0]!r}?"
    if importlib.util.find_spec("torchvision") is None:
        return None
    names = difflib.get_close_matches(spec, import_module("torchvision.models").list_models(), n=1)
    return f"did you mean 'torchvision:{names[0]}'?" if names else None


def one_line(error: BaseException) -> str:
    """Put the message of an error on one short line."""
    return " ".join(str(error).split())[:160] or type(error).__name__
