"""Which classes of the network stand for a class of the data."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from hirescam.errors import InputError, TargetError
from hirescam.evaluation.imagenet import is_imagenet, members
from hirescam.models import Model
from hirescam.reports import class_index

Naming = Mapping[str, tuple[int, ...]]
"""Class numbers of the network by class name of the data; none where the network has no such class."""

_MOST_BYTES = 2**20


def naming_of(model: Model, wanted: Iterable[str], own: Mapping[str, object] | None = None) -> Naming:
    """Find the classes of a network for classes of the data.

    A table of one's own comes first; then a class of the network of that name; then, for the labels of
    ImageNet-1k and a class of PASCAL VOC, `hirescam.evaluation.imagenet`.

    Args:
        model: its labels are compared without regard to case, underscores and double spaces.
        wanted: class names of the data.
        own: for some names, one class or a list of classes: numbers or labels of the network.

    Raises:
        TargetError: ``own`` names a class that the network does not have.
    """
    own = own or {}
    return {
        name: _declared(model, name, own[name]) if name in own else _found(model, name) for name in wanted
    }


def read_classes(path: Path | str) -> dict[str, object]:
    """Read a table from a JSON file such as ``{"cat": ["tabby", 285], "car": "sports car"}``.

    Raises:
        InputError: the file is missing, too large, or no such table.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"larger than {_MOST_BYTES:,} bytes")
        content = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise _bad(path, str(error)) from None
    if not isinstance(content, dict) or not all(map(_is_choice, content.values())):
        raise _bad(path, "expected class names of the data, each with a number, a label or a list of them")
    return content


def _declared(model: Model, name: str, choice: object) -> tuple[int, ...]:
    words = choice if isinstance(choice, (list, tuple)) else [choice]
    try:
        return tuple(dict.fromkeys(class_index(model, str(word)) for word in words))
    except TargetError as error:
        raise TargetError(f"classes: for {name!r}, {error}") from None


def _found(model: Model, name: str) -> tuple[int, ...]:
    try:
        return (class_index(model, name),) if model.labels else ()
    except TargetError:
        return members(name) if is_imagenet(model.labels) else ()


def _is_choice(value: object) -> bool:
    items = value if isinstance(value, list) else [value]
    return all(isinstance(item, (int, str)) and not isinstance(item, bool) for item in items)


def _bad(path: Path, reason: str) -> InputError:
    return InputError(f"classes: {str(path)!r} cannot be used ({reason})")
