"""From a transformer's tokens to maps ``(b, k, rows, columns)``.

hirescam finds the grid of most token models by itself; these are for scripts that pass a transform.
"""

from torch import Tensor


def vit_reshape_transform(tensor: Tensor, height: int = 14, width: int = 14) -> Tensor:
    """Lay the tokens after the class token on a grid.

    Args:
        tensor: ``(b, 1 + height · width, k)``.
        height: rows of the grid.
        width: columns of the grid.
    """
    return swinT_reshape_transform(tensor[:, 1:], height, width)


def swinT_reshape_transform(tensor: Tensor, height: int = 7, width: int = 7) -> Tensor:  # noqa: N802 - theirs
    """Lay the tokens on a grid.

    Args:
        tensor: ``(b, height · width, k)``.
        height: rows of the grid.
        width: columns of the grid.
    """
    return tensor.reshape(len(tensor), height, width, -1).movedim(-1, 1)
