"""Which axis of the images is the batch, which are channels, and which are space."""

from dataclasses import dataclass

from torch import Tensor

from hirescam.errors import InputError

USUAL = {3: "bct", 4: "bchw", 5: "bcdhw"}
_MOST_SPACE = 4


@dataclass(frozen=True)
class InputAxes:
    """What the axes of the images are, as the model gets them: one letter each.

    ``b`` is the batch and ``c`` the channels, which may be missing; all others are space axes, in the order
    of the map's.
    """

    letters: str

    @property
    def space_letters(self) -> str:
        """The letters of the space axes."""
        return "".join(letter for letter in self.letters if letter not in "bc")

    @property
    def usual(self) -> bool:
        """Whether the model takes ``(b, c, *space)``, as everything here does."""
        return self.letters.startswith("bc")

    def canonical(self, images: Tensor) -> Tensor:
        """From the model's order to ``(b, c, *space)``."""
        if self.usual:
            return images
        moved = images.permute([self.letters.index(letter) for letter in self._order])
        return moved if "c" in self.letters else moved.unsqueeze(1)

    def own(self, images: Tensor) -> Tensor:
        """From ``(b, c, *space)`` to the model's order."""
        if self.usual:
            return images
        plain = images if "c" in self.letters else images.squeeze(1)
        return plain.permute([self._order.index(letter) for letter in self.letters]).contiguous()

    @property
    def _order(self) -> str:
        return "b" + "c" * ("c" in self.letters) + self.space_letters


_NAMES = {1: "t", 2: "hw", 3: "thw", 4: "nthw"}


def with_channels_at(axis: int, ndim: int) -> InputAxes:
    """The axes of images whose batch is first, and whose channels are on another axis than the second."""
    names = _NAMES[ndim - 2]
    return InputAxes(f"b{names[: axis - 1]}c{names[axis - 1 :]}")


def without_channels(ndim: int) -> InputAxes | None:
    """The axes of images whose batch is first, and which have no channels; None for more than can be read."""
    return InputAxes("b" + _NAMES[ndim - 1]) if ndim - 1 in _NAMES else None


def input_axes(axes: object) -> InputAxes | None:
    """Check what the caller says of the axes of the images; None leaves them as they usually are.

    Raises:
        InputError: it is no such text.
    """
    if axes is None:
        return None
    example = "write one letter for each axis, such as 'bhwc' for (batch, rows, columns, channels)"
    if not isinstance(axes, str):
        raise InputError(f"axes={axes!r} must be text: {example}")
    letters = axes.replace(" ", "").replace(",", "").lower()
    if not letters.isalpha() or len(set(letters)) != len(letters):
        raise InputError(f"axes={axes!r} must be letters, each of them once: {example}")
    if "b" not in letters:
        raise InputError(f"axes={axes!r} has no 'b' for the batch: {example}")
    space = len(letters) - 1 - ("c" in letters)
    if not 1 <= space <= _MOST_SPACE:
        raise InputError(f"axes={axes!r} has {space} space axes, expected 1 to {_MOST_SPACE}: {example}")
    return InputAxes(letters)


def usual_axes(images: Tensor) -> InputAxes:
    """What the axes of images are where the caller does not say: ``(b, c, *space)``."""
    return InputAxes(USUAL[images.ndim])
