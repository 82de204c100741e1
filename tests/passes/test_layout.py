"""Reading a layer's output, and writing it back."""

from math import prod

import pytest
import torch
from hypothesis import given as for_all
from hypothesis import strategies as st

from hirescam.errors import LayerError
from hirescam.passes.layout import Layout, given, simple

CASES = [
    ((2, 64, 100), 1, None, 0, "a signal"),
    ((2, 50, 512), 2, None, 0, "a signal, channels last"),
    ((1, 768, 7, 7), 1, None, 0, "an image"),
    ((1, 7, 14, 64), 3, None, 0, "channels last"),
    ((1, 3, 8, 8, 2), 4, None, 0, "a volume, channels last"),
    ((2, 197, 768), 2, (14, 14), 1, "tokens behind a class token"),
    ((2, 196, 768), 2, (14, 14), 0, "tokens alone"),
    ((2, 16, 12), 1, (3, 4), 0, "flattened places after channels"),
]


@pytest.mark.parametrize(("shape", "axis", "grid", "prefix", "what"), CASES, ids=[c[4] for c in CASES])
def test_simple_layouts(
    shape: tuple[int, ...], axis: int, grid: tuple[int, ...] | None, prefix: int, what: str
) -> None:
    layout = simple(shape, axis, grid, prefix)
    tensor = torch.randn(shape)
    read = layout.read(tensor)
    rest = tuple(size for i, size in enumerate(shape) if i not in (0, axis))
    assert layout.space == (grid if grid and not prefix else rest)
    assert tuple(read.shape) == (shape[0], shape[axis], *layout.space)
    assert torch.equal(read.flatten(2), tensor.movedim(axis, 1).flatten(2))
    assert layout.locations == prod(rest)
    assert layout.channel_axes == 1
    assert torch.equal(layout.write(read), tensor)
    assert layout.fits(shape, shape[0])
    assert not layout.fits(shape, shape[0] + 1)


FRAMES = Layout(((-1, 3), (5,), (2,), (4,)), (0, 2, 1, 3, 4), 1, (3, 2, 4), (3, 2, 4))
FRAMES_FIRST = Layout(((3, -1), (5,), (2,), (4,)), (1, 2, 0, 3, 4), 1, (3, 2, 4), (3, 2, 4))
BLOCKS = Layout(((-1,), (2, 3, 2, 2), (5,)), (0, 5, 1, 3, 2, 4), 1, (4, 6), (4, 6))
HEADS = Layout(((-1,), (2,), (6,), (5,)), (0, 1, 3, 2), 2, (6,), (6,))
TURNED = Layout(((-1,), (5,), (4,)), (0, 1, 2), 1, (4,), (4,), index=(1, 2, 3, 0))
BACKWARDS = Layout(((-1,), (4,), (5,)), (0, 2, 1), 1, (4,), (4,), index=(3, 2, 1, 0))


def test_frames_in_the_batch_come_back_as_an_axis() -> None:
    clips = torch.randn(7, 5, 3, 2, 4)  # (b, k, frames, rows, columns)
    for layout, folded in (
        (FRAMES, clips.movedim(2, 1).flatten(0, 1)),
        (FRAMES_FIRST, clips.movedim(2, 0).flatten(0, 1)),
    ):
        assert torch.equal(layout.read(folded), clips)
        assert torch.equal(layout.write(clips), folded)
        assert layout.fits((21, 5, 2, 4), 7)
        assert not layout.fits((21, 5, 2, 4), 21)


def test_blocks_of_tokens_come_back_as_rows_and_columns() -> None:
    images = torch.randn(2, 5, 4, 6)
    blocks = images.unflatten(2, (2, 2)).unflatten(4, (3, 2)).permute(0, 2, 4, 3, 5, 1).flatten(1, 4)
    assert torch.equal(BLOCKS.read(blocks), images)
    assert torch.equal(BLOCKS.write(images), blocks)


def test_channels_on_two_axes_are_joined() -> None:
    tensor = torch.randn(3, 2, 6, 5)
    assert HEADS.channel_axes == 2
    assert torch.equal(HEADS.read(tensor), tensor.transpose(2, 3).flatten(1, 2))
    assert torch.equal(HEADS.write(HEADS.read(tensor)), tensor)


def test_an_order_of_their_own() -> None:
    signal = torch.randn(2, 5, 4)
    assert torch.equal(TURNED.read(signal.roll(1, 2)), signal)
    assert torch.equal(TURNED.write(signal), signal.roll(1, 2))
    assert torch.equal(BACKWARDS.read(signal.flip(2).mT), signal)
    assert torch.equal(BACKWARDS.write(signal), signal.flip(2).mT)


@pytest.mark.parametrize("layout", [FRAMES, FRAMES_FIRST, BLOCKS, HEADS, TURNED, simple((2, 3, 4), 2)])
def test_leading_axes_stay(layout: Layout) -> None:
    """Gradients of several scores come with an axis in front, which is no part of the batch."""
    shape = [prod(3 if size == -1 else size for size in axis) for axis in layout.factors]
    many = torch.randn(4, *shape)
    read = layout.read(many, leading=1)
    assert torch.equal(read, torch.stack([layout.read(one) for one in many]))
    assert torch.equal(layout.write(read, leading=1), many)


@for_all(st.permutations(range(4)), st.integers(1, 3), st.integers(1, 3))
def test_write_is_the_inverse_of_read(order: list[int], batch: int, size: int) -> None:
    sizes = [-1, 2, size, 3]
    axes = tuple((sizes[number],) for number in order)
    places = tuple(order.index(number) for number in range(4))
    layout = Layout(axes, places, 1, (size, 3), (size, 3))
    tensor = torch.randn([batch if axis == (-1,) else axis[0] for axis in axes])
    assert layout.read(tensor).shape == (batch, 2, size, 3)
    assert torch.equal(layout.write(layout.read(tensor)), tensor)


def test_the_callers_grid() -> None:
    assert given((1, 7, 16), (2, 3), 2) == simple((1, 7, 16), 2, (2, 3), 1)
    assert given((1, 16, 6), (2, 3), 2) == simple((1, 16, 6), 1, (2, 3))
    assert given((1, 5, 6, 7), (6, 7), 2) == simple((1, 5, 6, 7), 1)
    assert given((1, 16, 9), (2, 4), 2) == simple((1, 16, 9), 1, (2, 4), 1)
    assert given((1, 2, 3, 4), (2, 3), 2) == simple((1, 2, 3, 4), 3)
    assert given((1, 3, 6), (6,), 1) == simple((1, 3, 6), 1)
    assert given((1, 75, 16), (8, 8), 2) == simple((1, 75, 16), 2, (8, 8), 11)


def test_operations_say_which_axis_is_the_channels() -> None:
    assert given((1, 16, 16, 16), (16, 16), 2) == simple((1, 16, 16, 16), 1)
    assert given((1, 16, 16, 16), (16, 16), 2, (3,)) == simple((1, 16, 16, 16), 3)
    assert given((1, 16, 9), (2, 4), 2, (2,)) == simple((1, 16, 9), 2, (2, 4), 8)
    assert given((1, 5, 6, 7), (6, 7), 2, (3,)) == simple((1, 5, 6, 7), 1)  # the caller goes before them


def test_a_grid_of_more_axes_than_the_image_has() -> None:
    """The first ones are the network's own, such as frequencies."""
    layout = given((1, 12, 10, 50), (10, 50), 1)
    assert (layout.grid, layout.beyond) == ((10, 50), (10,))


def test_grids_that_do_not_fit() -> None:
    with pytest.raises(
        LayerError, match=r"grid=\(7, 7\) does not fit .* \(b, 6, 40\): give a grid of 6 or 40"
    ):
        given((1, 6, 40), (7, 7), 2)
    for shape in ((1, 5, 4), (1, 6, 2, 2)):
        with pytest.raises(LayerError, match=r"grid=\(2, 3\) does not fit"):
            given(shape, (2, 3), 2)
    with pytest.raises(LayerError, match=r"grid=\(6,\) has 1 axes, and the images have 2"):
        given((1, 3, 6), (6,), 2)
