"""From axes that are known to a map of locations."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hirescam.errors import LayerError
from hirescam.passes.laying import laid
from hirescam.passes.layout import Layout
from hirescam.passes.parts import Axes, Part, Role, channels, ordered, size_of, unknown

B, C = (Part(Role.BATCH, 2),), channels(5)
ROWS, COLUMNS = Part(Role.PLACE, 4, 0, 2.0), Part(Role.PLACE, 6, 1, 2.0)
TOKENS = (ROWS, COLUMNS)
IMAGE = torch.randn(2, 5, 4, 6)  # as (b, k, rows, columns)


def made(axes: Axes, ndim: int = 2) -> Layout:
    layout = laid(axes, ndim)
    assert layout is not None
    return layout


def check(axes: Axes, tensor: Tensor, expected: Tensor) -> Layout:
    """A tensor with these axes is read as expected, and written back."""
    layout = made(axes)
    assert [size_of(axis) for axis in axes] == list(tensor.shape)
    assert torch.equal(layout.read(tensor), expected)
    assert torch.equal(layout.write(expected), tensor)
    return layout


def test_axes_in_any_order() -> None:
    check((B, C, (ROWS,), (COLUMNS,)), IMAGE, IMAGE)
    check((B, (ROWS,), (COLUMNS,), C), IMAGE.permute(0, 2, 3, 1), IMAGE)
    check((B, C, (COLUMNS,), (ROWS,)), IMAGE.mT, IMAGE)
    check(((ROWS,), B, C, (COLUMNS,)), IMAGE.permute(2, 0, 1, 3), IMAGE)
    check((B, TOKENS, C), IMAGE.flatten(2).mT, IMAGE)
    check((B, C, TOKENS), IMAGE.flatten(2), IMAGE)
    check((B, (COLUMNS, ROWS), C), IMAGE.mT.flatten(2).mT, IMAGE)
    check((B, (), C, (ROWS,), (COLUMNS,)), IMAGE[:, None], IMAGE)


def test_axes_of_the_image_that_are_gone_have_one_place() -> None:
    line = IMAGE[:, :, 0]
    assert check((B, C, (COLUMNS,)), line, line[:, :, None]).grid == (1, 6)
    assert made((B, C, (ROWS,), ())).grid == (4, 1)
    assert made((B, C, (), ())).grid == (1, 1)


def test_no_channels_are_one_channel() -> None:
    check((B, (ROWS,), (COLUMNS,)), IMAGE[:, 0], IMAGE[:, :1])
    check((B, (), (ROWS,), (COLUMNS,)), IMAGE[:, :1], IMAGE[:, :1])


def test_channels_and_places_on_one_axis() -> None:
    layout = check((B, (*C, ROWS), (COLUMNS,)), IMAGE.flatten(1, 2), IMAGE)
    assert layout.channel_axes == 1
    heads = (B, channels(2), TOKENS, channels(3))
    assert made(heads).channel_axes == 2
    assert made(heads).read(torch.randn(2, 2, 24, 3)).shape == (2, 6, 4, 6)


def test_places_in_the_batch() -> None:
    check(((*B, ROWS), C, (COLUMNS,)), IMAGE.transpose(1, 2).flatten(0, 1), IMAGE)
    check(((ROWS, *B), C, (COLUMNS,)), IMAGE.permute(2, 0, 1, 3).flatten(0, 1), IMAGE)


def test_windows() -> None:
    """Parts of one axis of the image, the coarser first, wherever they are."""
    outer, inner = Part(Role.PLACE, 2, 0, 4.0), Part(Role.PLACE, 2, 0, 2.0)
    split = IMAGE.unflatten(2, (2, 2))
    check((B, C, (inner,), (outer,), (COLUMNS,)), split.transpose(2, 3), IMAGE)
    check(((*B, outer), C, (inner,), (COLUMNS,)), split.movedim(2, 1).flatten(0, 1), IMAGE)


def test_orders_of_their_own() -> None:
    backwards = Part(Role.PLACE, 4, 0, -2.0)
    check((B, C, (backwards,), (COLUMNS,)), IMAGE.flip(2), IMAGE)
    check((B, C, (Part(Role.PLACE, 4, 0, 2.0, turn=1, ring=4),), (COLUMNS,)), IMAGE.roll(1, 2), IMAGE)
    with pytest.raises(LayerError, match="in pieces"):
        laid((B, C, (Part(Role.PLACE, 4, 0, 2.0, turn=1, ring=8),), (COLUMNS,)), 2)
    check((B, (COLUMNS, backwards), C), IMAGE.flip(2).mT.flatten(2).mT, IMAGE)
    order = torch.randperm(24).tolist()
    check((B, ordered(TOKENS, order), C), IMAGE.flatten(2)[..., order].mT, IMAGE)


def test_tokens_without_a_place_come_first() -> None:
    order = [-1, *range(20), -1, *range(20, 24), -1]
    flat = IMAGE.flatten(2)
    tokens = torch.cat([flat, torch.zeros(2, 5, 1)], 2)[..., order]
    layout = made((B, ordered(TOKENS, order), C))
    assert (layout.space, layout.grid, layout.prefix) == ((27,), (4, 6), 3)
    assert torch.equal(layout.read(tokens.mT)[..., 3:], flat)
    assert torch.equal(layout.write(layout.read(tokens.mT)), tokens.mT)
    usual = made((B, ordered(TOKENS, [-1, -1, *range(24)]), C))
    places = ((0.0, 2.0), (0.0, 2.0))
    assert usual == Layout(((-1,), (26,), (5,)), (0, 2, 1), 1, (26,), (4, 6), 2, places=places)


def test_where_the_locations_lie() -> None:
    strided = Part(Role.PLACE, 4, 0, 2.0, 0.5), Part(Role.PLACE, 6, 1, -2.0, 11.5)
    assert made((B, C, *((part,) for part in strided))).places == ((0.5, 2.0), (1.5, 2.0))
    windows = Part(Role.PLACE, 2, 0, 8.0), Part(Role.PLACE, 2, 0, 4.0, 1.0)
    assert made((B, C, windows, ())).places == ((1.0, 4.0), None)
    single = Part(Role.PLACE, 1, 0, 32.0, 15.5)
    assert made((B, C, (single,), (COLUMNS,))).places == ((15.5, 32.0), (0.0, 2.0))


def test_axes_that_the_network_makes_come_first() -> None:
    frequencies, time = Part(Role.PLACE, 10, 1, 4.0, made=True), Part(Role.PLACE, 50, 0, 160.0)
    layout = made((B, C, (time,), (frequencies,)), 1)
    assert (layout.grid, layout.beyond) == ((10, 50), (40,))
    tensor = torch.randn(2, 5, 50, 10)
    assert torch.equal(layout.read(tensor), tensor.mT)


def test_layouts_of_volumes() -> None:
    """An axis of the image that is gone, before or after the others, and one that is new."""
    depth, rows, columns = ((Part(Role.PLACE, size, dim),) for dim, size in enumerate((3, 4, 6)))
    for axes, grid in (
        ((B, C, depth, rows), (3, 4, 1)),
        ((B, rows, columns, C), (1, 4, 6)),
        ((B, C, depth, (), columns), (3, 1, 6)),
        ((B, (), depth, C, rows, columns), (3, 4, 6)),
        ((B, C, (*depth, *rows), columns), (3, 4, 6)),
    ):
        layout = made(axes, 3)
        assert layout.space == layout.grid == grid
        tensor = torch.rand([size_of(axis) for axis in axes])
        read = layout.read(tensor)
        assert read.shape == (2, 5, *grid)
        assert torch.equal(layout.write(read), tensor)


@pytest.mark.parametrize(
    "axes",
    [(B, C, unknown(4), (COLUMNS,)), (B, C, (Part(Role.COPY, 4),), (COLUMNS,)), (), (unknown(2), C, TOKENS)],
)
def test_what_is_not_known_has_no_layout(axes: Axes) -> None:
    assert laid(axes, 2) is None


OVERLAPPING = (Part(Role.PLACE, 3, 0, 2.0), Part(Role.PLACE, 4, 0, 1.0))


@pytest.mark.parametrize(
    ("axes", "why"),
    [
        ((B, C, TOKENS, TOKENS), "an axis of the image is there twice"),
        ((B, C, OVERLAPPING, (COLUMNS,)), "windows that overlap"),
        ((C, TOKENS), "no axis of it is the images of the batch"),
        ((B, B, C, TOKENS), "no axis of it is the images of the batch, or not those alone"),
        ((B, ordered(TOKENS, range(23)), C), "some places of the image are left out"),
        ((B, ordered(TOKENS, [0, 0, *range(24)]), C), "or there twice"),
        ((B, ordered(TOKENS, [-1, *range(24)]), (COLUMNS,)), "along one axis of several"),
        (
            (B, (Part(Role.PLACE, 2, 0, 2.0, turn=1), Part(Role.PLACE, 2, 0, 1.0)), C),
            "in another order than those of the image, in pieces",
        ),
    ],
)
def test_axes_that_are_no_map(axes: Axes, why: str) -> None:
    with pytest.raises(LayerError, match=why):
        laid(axes, 2)


@pytest.mark.parametrize("order", [(2, 0, 3, 1), (3, 2, 1, 0)])
def test_one_axis_of_several_in_an_order_of_its_own(order: tuple[int, ...]) -> None:
    rows, backwards = ordered((ROWS,), order), replace(COLUMNS, step=-2.0, first=10.0)
    check((B, C, rows, (COLUMNS,)), IMAGE[:, :, list(order)], IMAGE)
    check((B, C, (COLUMNS,), rows), IMAGE[:, :, list(order)].mT, IMAGE)
    check((B, (*C, *rows), (backwards,)), IMAGE[:, :, list(order)].flip(3).flatten(1, 2), IMAGE)
    columns = ordered((COLUMNS,), (5, 0, 4, 1, 3, 2))
    check((B, rows, columns, C), IMAGE[:, :, list(order)][..., [5, 0, 4, 1, 3, 2]].permute(0, 2, 3, 1), IMAGE)


@pytest.mark.parametrize("order", [(2, 0, 3, 3), (0, 2, 1), (-1, 2, 0, 3, 1)])
def test_one_axis_of_several_that_is_not_every_place_once(order: tuple[int, ...]) -> None:
    with pytest.raises(LayerError, match="along one axis of several"):
        laid((B, C, ordered((ROWS,), order), (COLUMNS,)), 2)
