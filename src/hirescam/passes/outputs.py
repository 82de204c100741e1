"""Find the logits in what a model returns."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from hirescam.errors import HirescamError, OutputError
from hirescam.passes.borrow import first_not_finite

OutputSelector = str | int | Callable[[Any], Tensor] | None
"""How to find the logits in what the model returns: a key, an index, a function, or by itself."""


def logits_of(output: Any, selector: OutputSelector, batch: int) -> Tensor:
    """Find the logits in a model's output.

    Args:
        output: whatever the model returned.
        selector: key, attribute, index or function; None finds a tensor, ``.logits``, or a single entry.
        batch: number of images that went in.

    Returns:
        ``(b, c)`` for classifiers, ``(b, c, *space)`` for dense outputs.
    """
    found = _pick(output, selector)
    if not isinstance(found, Tensor):
        raise OutputError(
            f"the model returned {describe(output)}, which is not one tensor of scores: say which "
            'part is, for example Explainer(model, output=0) or output="logits"'
        )
    if found.ndim == 1 and found.shape[0] == batch:
        found = found.unsqueeze(1)
    if found.ndim < 2 or found.shape[0] != batch:
        raise OutputError(
            f"the model's output has shape {tuple(found.shape)} for {batch} image(s), expected "
            "(b, classes): reshape it with output=lambda out: ..., or add the batch axis to images"
        )
    if not found.is_floating_point():
        raise OutputError(
            f"the model's output is {found.dtype}, expected float scores: explain the logits, "
            "not the predicted labels"
        )
    return found


def check_finite(logits: Tensor) -> None:
    """Raise unless every score is a finite number."""
    bad = first_not_finite(logits)
    if bad is not None:
        raise OutputError(
            f"the model's output for images[{bad}] is NaN or infinite: the model overflows on this "
            "image (in half precision, try float32)"
        )


def _pick(output: Any, selector: OutputSelector) -> Any:
    if selector is not None:
        return _select(output, selector)
    if isinstance(output, Tensor):
        return output
    if isinstance(getattr(output, "logits", None), Tensor):
        return output.logits
    if isinstance(output, Mapping):
        named = [output[key] for key in ("logits", "out") if key in output]
        return named[0] if named else _only(list(output.values()))
    return _only(list(output)) if isinstance(output, (tuple, list)) else output


def _only(items: list[Any]) -> Any:
    return items[0] if len(items) == 1 else items


def _select(output: Any, selector: str | int | Callable[[Any], Tensor]) -> Any:
    if callable(selector):
        try:
            return selector(output)
        except HirescamError:
            raise
        except Exception as error:
            raise OutputError(
                f"the function output= failed on what the model returned, {describe(output)}: "
                f"{words_of(error)}"
            ) from error
    try:
        if isinstance(selector, str) and not isinstance(output, Mapping):
            return getattr(output, selector)
        return output[selector]
    except (KeyError, IndexError, AttributeError, TypeError):
        raise OutputError(
            f"output={selector!r} does not exist in what the model returned: {describe(output)}"
        ) from None


def describe(output: Any) -> str:
    """What a model, or a function, returned, in words."""
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with the keys {sorted(map(str, output))}"
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of {len(output)} entries"
    return f"a {type(output).__name__}"


def words_of(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {str(error).strip()}".split("\n")[0]
