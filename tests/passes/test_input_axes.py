"""What the axes of the images are, as the caller says or as they usually are."""

import pytest
import torch

from hirescam.errors import InputError
from hirescam.passes.borrow import as_call
from hirescam.passes.input_axes import InputAxes, input_axes, usual_axes, with_channels_at
from toys import images


@pytest.mark.parametrize("letters", ["bchw", "bhwc", "bwhc", "hbwc", "bhw", "wbh"])
def test_axes_of_their_own(letters: str) -> None:
    """Images are (b, c, *space) for us, in the order of the letters, and as they were for the model."""
    axes, sizes = InputAxes(letters), dict(zip("bchw", (2, 3, 5, 7), strict=True))
    own = torch.randn([sizes[letter] for letter in letters])
    made = as_call(own, axes)
    space = [sizes[letter] for letter in letters if letter not in "bc"]
    assert made.images.shape == (2, 3 if "c" in letters else 1, *space)
    assert made.space == tuple(space)
    assert made.own is own
    assert torch.equal(made.replace(made.images.clone()).own, own)
    assert made.alone(1).own.shape == own.narrow(letters.index("b"), 1, 1).shape
    assert made.first(1).own.shape == made.alone(0).own.shape


def test_axes_that_are_said_wrong() -> None:
    for axes, why in (
        (5, "must be text"), ("chw", "no 'b'"), ("bhh", "each of them once"), ("bc", "0 space axes"),
        ("bc1", "must be letters"), ("bcdefgh", "5 space axes"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=why):
            input_axes(axes)
    assert input_axes(None) is None
    assert input_axes("B, H, W, C") == InputAxes("bhwc")
    with pytest.raises(InputError, match=r"shape \(1, 2, 8, 8\), and axes='bct' names 3 axes"):
        as_call(images(1), InputAxes("bct"))
    with pytest.raises(InputError, match="has no float tensor with 5 axes 'btchw'"):
        as_call((images(1), images(1)), InputAxes("btchw"))


def test_axes_as_they_usually_are() -> None:
    assert [usual_axes(torch.zeros([1] * n)).letters for n in (3, 4, 5)] == ["bct", "bchw", "bcdhw"]
    assert [with_channels_at(axis, 5).letters for axis in (2, 3, 4)] == ["btchw", "bthcw", "bthwc"]
    assert (with_channels_at(2, 3).letters, with_channels_at(3, 4).letters) == ("btc", "bhwc")
    assert usual_axes(torch.zeros(1, 1, 1)).usual
    assert not InputAxes("bhwc").usual
    assert InputAxes("bthwc").space_letters == "thw"
