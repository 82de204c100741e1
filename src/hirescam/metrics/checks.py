"""What metrics take for granted about the maps that they are given, or an error that says what is wrong."""

from torch import Tensor

from hirescam.errors import InputError


def flat(name: str, values: Tensor, like: Tensor | None = None) -> Tensor:
    """Return a batch of maps as ``(n, cells)`` in double precision.

    Args:
        name: of the argument, for the message.
        values: ``(n, *space)``.
        like: another batch of maps, whose shape this one must have.

    Raises:
        InputError: it has no space axis, another shape, or a value that is not finite.
    """
    if values.ndim < 2 or 0 in values.shape[1:]:
        raise InputError(f"{name} has shape {tuple(values.shape)}: expected (n, *space), one map per sample")
    if like is not None and values.shape != like.shape:
        raise InputError(
            f"{name} has shape {tuple(values.shape)}, but raw has {tuple(like.shape)}: give maps of one layer"
        )
    if not bool(values.isfinite().all()):
        bad = int((~values.isfinite()).flatten(1).any(1).nonzero()[0])
        raise InputError(f"{name}[{bad}] has NaN or infinite values: a metric of such a map means nothing")
    return values.double().flatten(1)
