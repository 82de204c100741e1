"""Where channels and locations are in a layer's output: ``(b, k, *space)``, channels last, or tokens."""

from dataclasses import dataclass
from math import isqrt, prod

from torch import Tensor

from hirescam.errors import LayerError

_PREFIXES = (0, 1, 2, 4, 5)  # none, class, class and distillation, four registers, class and registers
_FEWEST_CELLS_AFTER_PREFIX = 9  # with fewer, almost any number of tokens could be read as a grid


@dataclass(frozen=True)
class Layout:
    """How to read one layer's output.

    ``space`` are the location axes of the raw map. ``grid`` is how locations lie on the image; it differs
    from ``space`` only where ``prefix`` tokens (a class token, registers) come before the grid.
    """

    channel_axis: int
    space: tuple[int, ...]
    grid: tuple[int, ...]
    prefix: int = 0

    @property
    def locations(self) -> int:
        """How many locations there are."""
        return prod(self.space)

    def read(self, tensor: Tensor) -> Tensor:
        """Turn a layer's output into ``(b, k, *space)``."""
        moved = tensor.movedim(self.channel_axis, 1)
        return moved if moved.shape[2:] == self.space else moved.flatten(2).unflatten(2, self.space)

    def write(self, activations: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Turn ``(b, k, *space)`` back into the layer's own shape (the inverse of `read`)."""
        inner = tuple(size for axis, size in enumerate(shape) if axis not in (0, self.channel_axis))
        if inner != self.space:
            activations = activations.flatten(2).unflatten(2, inner)
        return activations.movedim(1, self.channel_axis)


def infer(
    shape: tuple[int, ...], image: tuple[int, ...], *, grid: tuple[int, ...] | None = None
) -> Layout | None:
    """Find the layout of a layer's output, or None where it has no locations.

    Args:
        shape: shape of the layer's output, batch first.
        image: space axes of the image, such as ``(224, 224)``.
        grid: the caller's word on how locations are arranged, such as ``(14, 14)``.
    """
    inner = shape[1:]
    if grid is not None:
        return _with_grid(inner, grid)
    if len(inner) == len(image) + 1:
        return _with_space(inner, image)
    if len(inner) == 2 and len(image) > 1:
        return _tokens(inner, image)
    return None


def _with_space(inner: tuple[int, ...], image: tuple[int, ...]) -> Layout:
    first, last = inner[1:], inner[:-1]
    if _aspect_error(last, image) < _aspect_error(first, image):
        return Layout(len(inner), last, last)
    return Layout(1, first, first)


def _aspect_error(space: tuple[int, ...], image: tuple[int, ...]) -> float:
    """How far the image/space ratios are from being one scale for the two innermost axes."""
    if any(size > side for size, side in zip(space, image, strict=True)):
        return float("inf")
    ratios = [side / size for size, side in zip(space, image, strict=True)][-2:]
    return max(ratios) / min(ratios) - 1


def _tokens(inner: tuple[int, ...], image: tuple[int, ...]) -> Layout | None:
    """Tokens before channels; the other way round the caller has to say so, as channels look like grids."""
    count = inner[0]
    for prefix in _PREFIXES:
        grid = _grid_of(count - prefix, image)
        if grid is not None and (prefix == 0 or prod(grid) >= _FEWEST_CELLS_AFTER_PREFIX):
            return Layout(2, grid if prefix == 0 else (count,), grid, prefix)
    return None


def _grid_of(count: int, image: tuple[int, ...]) -> tuple[int, ...] | None:
    """The grid of equal square patches with ``count`` cells that tiles the image, if there is one."""
    if len(image) != 2 or count < 4:
        return None
    height, width = image
    rows = isqrt(max(1, round(count * height / width)))
    for row in (rows, rows + 1, rows - 1):
        if row < 1 or count % row:
            continue
        column = count // row
        if (
            row <= height
            and column <= width
            and height % row == 0
            and width % column == 0
            and (height // row == width // column)
        ):
            return (row, column)
    return None


def _with_grid(inner: tuple[int, ...], grid: tuple[int, ...]) -> Layout:
    for axis in range(len(inner)):
        rest = inner[:axis] + inner[axis + 1 :]
        if rest == grid:
            return Layout(axis + 1, grid, grid)
    if len(inner) == 2:
        for axis, count in enumerate(inner):
            prefix = count - prod(grid)
            if 0 <= prefix <= max(_PREFIXES):
                return Layout(2 - axis, grid if prefix == 0 else (count,), grid, prefix)
    raise LayerError(
        f"grid={grid} does not fit this layer's output of shape (b, {', '.join(map(str, inner))}): "
        f"give a grid of {' or '.join(map(str, inner))} cells, or choose another layer"
    )
