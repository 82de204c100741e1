"""The names of classes, from a file or from torchvision."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from hirescam.errors import InputError


def read_labels(path: Path) -> tuple[str, ...]:
    """Read the names of classes from a text or JSON file.

    Args:
        path: One label per line; or, where the name ends in ``.json``, a list of labels or a dict
            from class index to label.

    Raises:
        InputError: The file is missing, empty, or of another form.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        names = _json_labels(json.loads(text)) if Path(path).suffix == ".json" else _lines(text)
    except (OSError, ValueError) as error:
        raise _bad_labels(path, str(error)) from error
    if not names or not all(isinstance(name, str) for name in names):
        raise _bad_labels(path, "no labels, or labels that are not strings")
    return tuple(names)


def imagenet_labels() -> tuple[str, ...] | None:
    """Take the 1000 names of ImageNet from torchvision, where it is installed."""
    try:
        published = import_module("torchvision.models").ResNet18_Weights.IMAGENET1K_V1
        return tuple(published.meta["categories"])
    except (ImportError, AttributeError, KeyError):
        return None


def _json_labels(content: object) -> list[Any]:
    if isinstance(content, dict):
        return [_last(content[str(index)]) for index in range(len(content)) if _has(content, index)]
    if isinstance(content, list):
        return content
    raise ValueError(f"JSON of type {type(content).__name__}")


def _has(content: Mapping[str, object], index: int) -> bool:
    if str(index) in content:
        return True
    raise ValueError(f"no label for class {index}")


def _last(label: object) -> object:
    return label[-1] if isinstance(label, list) and label else label


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


def _bad_labels(path: Path, reason: str) -> InputError:
    return InputError(
        f"labels: {str(path)!r} cannot be used ({reason}); give a UTF-8 text file with one label "
        "per line, or a .json file with a list or a dict by class index"
    )
