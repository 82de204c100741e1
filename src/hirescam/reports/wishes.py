"""What is to be explained: the words of the command line are checked against a model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from hirescam.errors import InputError, TargetError
from hirescam.models import Described
from hirescam.passes.targets import Classes, Target, TopK
from hirescam.views import Resample, Sign


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be explained, and how it is shown.

    Attributes:
        target: the classes.
        layer: name of a layer; None for the best.
        rule: name of a rule.
        sign: which values are drawn.
        resample: how they are drawn.
        batch: how many pictures go through the model at once.
        audit: which share of the maps is checked in the model, see `hirescam.Explainer`.
    """

    target: Target = None
    layer: str | None = None
    rule: str = "hirescam"
    sign: Sign = "both"
    resample: Resample = "bilinear"
    batch: int = 16
    audit: float = 0.0


def target_of(model: Described, words: Sequence[str], top: int | None) -> Target:
    """Read what the command line says about classes.

    Raises:
        TargetError: both forms at once, or a class that does not exist.
    """
    if words and top is not None:
        raise TargetError("target: got both --target and --top; leave one of them out")
    if words:
        return Classes(*dict.fromkeys(class_index(model, word) for word in words))
    return None if top is None else TopK(top)


def class_index(model: Described, word: str) -> int:
    """Find a class by its number or its name.

    Raises:
        TargetError: the model has no such name, or several.
    """
    if re.fullmatch(r"[+-]?\d+", word.strip()):
        return int(word)
    if model.labels is None:
        raise TargetError(
            f"target={word!r}: {model.name} has no class names; give a number, or names with --labels"
        )
    wanted = _plain_label(word)
    found = [index for index, label in enumerate(model.labels) if _plain_label(label) == wanted]
    if len(found) == 1:
        return found[0]
    if found:
        raise TargetError(
            f"target={word!r} names the classes {', '.join(map(str, found))}: give one of the numbers"
        )
    close = get_close_matches(wanted, [_plain_label(label) for label in model.labels], n=3)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "give its number"
    raise TargetError(f"target={word!r} is no class of {model.name}: {hint}")


def check_pictures(model: Described) -> None:
    """Refuse a model that does not take pictures.

    Raises:
        InputError: the model takes signals, volumes or videos.
    """
    if len(model.input_shape) != 3:
        raise InputError(
            f"model={model.name!r} takes inputs of shape {model.input_shape}, and this command reads "
            "pictures "
            "(PNG, JPEG, TIFF, WebP ...): explain tensors from Python with hirescam.explain(model, tensor); "
            "'hirescam layers' and 'hirescam certify' work with any model"
        )


def _plain_label(label: str) -> str:
    return " ".join(label.replace("_", " ").casefold().split())
