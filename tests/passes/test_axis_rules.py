"""What operations do to axes, held against values that show where every entry came from."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import nan
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hirescam.errors import LayerError
from hirescam.passes import taps
from hirescam.passes.geometry import Geometry
from hirescam.passes.input_axes import usual_axes
from hirescam.passes.laying import laid
from hirescam.passes.parts import Axes, Part, Role, channels, size_of

BATCH, CHANNELS = 2, 3
DOUBLE = torch.float64


@contextmanager
def shown_to(geometry: Geometry) -> Iterator[None]:
    """Show the operations of a block to a geometry."""

    def plain(func: Any, args: Any, kwargs: Any) -> Any:
        return func(*args, **kwargs)

    def shown(func: Any, args: Any, kwargs: Any) -> Any:
        result = func(*args, **kwargs)
        geometry.operation(func, args, kwargs, result)
        return result

    with taps.Modes(plain, shown) as modes:
        modes.start_operations()
        yield


def follow(function: Callable[[Tensor], Tensor], image: Tensor) -> tuple[Tensor, Axes]:
    """What a function returns, and its axes."""
    geometry = Geometry(lambda tensor: False)
    geometry.start(image, usual_axes(image))
    with shown_to(geometry):
        result = function(image)
    axes = geometry.of(result)
    assert axes is not None
    assert [size_of(axis) for axis in axes] == list(result.shape)
    return result, axes


def entries(axis: tuple[Part, ...], wanted: Callable[[Part, int], float]) -> Tensor:
    """For every entry of an axis, the sum of something over its parts."""
    total = torch.zeros(1, dtype=DOUBLE)
    for part in axis:
        if part.inner:
            inner = entries(part.inner, wanted)
            row = torch.tensor([nan if i < 0 else inner[i].item() for i in part.order], dtype=DOUBLE)
        else:
            row = torch.tensor([wanted(part, i) for i in range(part.size)], dtype=DOUBLE)
        total = (total[:, None] + row).flatten()
    return total


def predicted(axes: Axes, wanted: Callable[[Part, int], float]) -> Tensor:
    total = torch.zeros([1] * len(axes), dtype=DOUBLE)
    for i, axis in enumerate(axes):
        total = total + entries(axis, wanted).reshape([-1 if i == j else 1 for j in range(len(axes))])
    return total


def place(dim: int) -> Callable[[Part, int], float]:
    return lambda part, i: part.first + part.step * i if (part.role, part.dim) == (Role.PLACE, dim) else 0.0


def ramp(shape: tuple[int, ...], axis: int) -> Tensor:
    """An image whose values say where they are along one axis."""
    values = torch.arange(shape[axis], dtype=DOUBLE)
    return values.reshape([-1 if i == axis else 1 for i in range(len(shape))]).expand(shape).clone()


# Moving entries about -------------------------------------------------------------------------


def halves(x: Tensor, dim: int) -> Tensor:
    return torch.cat(x.chunk(2, dim), dim)


def token_in_front(x: Tensor) -> Tensor:
    return torch.cat([torch.full((len(x), 1, x.shape[2]), nan, dtype=x.dtype), x], 1)


def windows(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, c)


def back_from_windows(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return windows(x).view(b, h // 2, w // 2, 2, 2, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda x: x,
    "channels last": lambda x: x.permute(0, 2, 3, 1).contiguous(),
    "tokens": lambda x: x.flatten(2).transpose(1, 2),
    "tokens behind another": lambda x: token_in_front(x.flatten(2).transpose(1, 2)),
    "and without it again": lambda x: token_in_front(x.flatten(2).transpose(1, 2))[:, 1:],
    "rows of tokens": lambda x: token_in_front(x.flatten(2).transpose(1, 2)).reshape(-1, x.shape[1]),
    "windows": windows,
    "windows and back": back_from_windows,
    "rolled and back": lambda x: back_from_windows(x.roll((-1, -1), (2, 3))).roll((1, 1), (2, 3)),
    "flipped": lambda x: x.flip(2, 3),
    "flipped twice": lambda x: x.flip(2).flip(2),
    "cropped": lambda x: x[:, :, 1:-1, ::2],
    "halves": lambda x: halves(x, 3),
    "a row": lambda x: x[:, :, 2],
    "squeezed": lambda x: x[:, :, 2:3].squeeze(2),
    "unsqueezed": lambda x: x.unsqueeze(1),
    "flat": lambda x: x.flatten(1),
    "all in one": lambda x: x.flatten(),
    "batch and channels in one": lambda x: x.flatten(0, 1),
    "swapped": lambda x: x.mT,
    "expanded": lambda x: x[:, :, None].expand(-1, -1, 5, -1, -1),
    "unfolded by views": lambda x: x.unflatten(3, (2, -1)).movedim(3, 1),
    "copied": lambda x: torch.empty_like(x).copy_(x),
    "chosen": lambda x: x[:, :, torch.tensor([3, 0, 2])],
    "chosen by a mask": lambda x: x[..., torch.tensor([True, False, True, True, False, True])],
    "shuffled tokens": lambda x: x.flatten(2)[..., torch.tensor([*range(23, 3, -2), *range(0, 24, 2)])],
    "shuffled and sliced": lambda x: x.flatten(2).index_select(2, torch.tensor([5, 3, 9, 1]))[..., 1:3],
    "a token behind": lambda x: token_in_front(x.flatten(2).mT).roll(-1, 1)[:, :5],
    "windows by unfold": lambda x: x.unfold(3, 3, 3).unfold(2, 2, 2),
    "overlapping windows": lambda x: x.unfold(3, 4, 1),
    "patches": lambda x: F.unfold(x, 2, stride=2),
    "overlapping patches": lambda x: F.unfold(x, 2)[:, :, 5:11],
    "patches put back": lambda x: F.fold(F.unfold(x, 2, stride=2), x.shape[2:], 2, stride=2),
    "tokens between": lambda x: torch.cat(
        [(t := token_in_front(x.flatten(2).mT))[:, :1], t[:, :1], t[:, 1:]], 1
    ),
    "tokens apart and back": lambda x: torch.cat([x.flatten(2)[..., 9:], x.flatten(2)[..., :9]], 2),
    "blocks of pixels": lambda x: F.pixel_unshuffle(x, 2),
    "blocks of pixels and back": lambda x: F.unfold(F.pixel_unshuffle(x, 2), 1),
    "shuffled channels": lambda x: F.channel_shuffle(x, 3),
    "strided anew": lambda x: x.contiguous().as_strided((2, 1, 3, 4, 6), (72, 72, 24, 6, 1)),
    "strided otherwise": lambda x: x.contiguous().as_strided((2, 3, 4, 3), (72, 24, 6, 2)),
    "stacked rows": lambda x: torch.stack([x[:, :, i] for i in (0, 2)], 2),
    "stacked and unbound": lambda x: torch.stack(x.unbind(3)[::-1], 1),
    "rows side by side": lambda x: torch.cat([x[:, :, i, None] for i in range(4)], 2),
    "a pair": lambda x: torch.stack([x, x], 1)[:, 0],
}


@pytest.mark.parametrize("name", MOVES)
def test_moved_entries_are_where_their_values_say(name: str) -> None:
    check(MOVES[name], (BATCH, CHANNELS, 4, 6))


def check(move: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
    roles = {0: Role.BATCH, 1: Role.CHANNEL}
    for axis in range(len(shape)):
        values, axes = follow(move, ramp(shape, axis))
        told = [part.role for row in axes for part in row]
        if Role.UNKNOWN in told or any(part.turn for row in axes for part in _flat(row)):
            continue
        if axis >= 2:
            if any(part.dim == axis - 2 for row in axes for part in _flat(row) if part.role is Role.PLACE):
                shown = predicted(axes, place(axis - 2)).expand(values.shape)
                torch.testing.assert_close(values, shown, equal_nan=True)
            continue
        for i, row in enumerate(axes):  # values vary along a part only if it has the role
            varies = bool((values.diff(dim=i).nan_to_num(0) != 0).any()) if values.shape[i] > 1 else False
            assert not varies or any(part.role is roles[axis] for part in _flat(row)), (axis, i, axes)


def _flat(row: tuple[Part, ...]) -> list[Part]:
    return [one for part in row for one in (_flat(part.inner) if part.inner else [part])]


@st.composite
def chains(draw: st.DrawFn) -> list[tuple[str, Any]]:
    kinds = ["permute", "split", "join", "flip", "slice", "roll", "halves", "unsqueeze"]
    return [
        (draw(st.sampled_from(kinds)), draw(st.randoms(use_true_random=False)))
        for _ in range(draw(st.integers(1, 6)))
    ]


def step(x: Tensor, kind: str, random: Any) -> Tensor:
    dim = random.randrange(x.ndim)
    if kind == "permute":
        return x.permute(random.sample(range(x.ndim), x.ndim))
    if kind == "split":
        factors = [f for f in range(2, x.shape[dim]) if x.shape[dim] % f == 0]
        return x.unflatten(dim, (random.choice(factors), -1)) if factors else x
    if kind == "join" and x.ndim > 2:
        start = random.randrange(x.ndim - 1)
        return x.flatten(start, start + 1)
    if kind == "flip":
        return x.flip(dim)
    if kind == "slice" and x.shape[dim] > 2:
        return x.narrow(dim, random.randrange(2), x.shape[dim] - 1)
    if kind == "roll":
        return x.roll(1, dim)
    if kind == "halves" and x.shape[dim] > 1:
        return halves(x, dim)
    return x.unsqueeze(dim) if kind == "unsqueeze" and x.ndim < 7 else x


@given(chains())
def test_chains_of_moves(chain: list[tuple[str, Any]]) -> None:
    def move(x: Tensor) -> Tensor:
        for kind, random in chain:
            state = random.getstate()
            x = step(x, kind, random)
            random.setstate(state)  # the same steps for every image
        return x

    check(move, (2, 3, 4, 6))


def moved(x: Tensor, kind: str, random: Any) -> Tensor:
    """A move that keeps an image an image ``(b, c, *space)``."""
    dim = random.choice((2, 3))
    if kind == "flip":
        return x.flip(dim)
    if kind == "roll":
        return x.roll(random.randrange(-3, 4), dim)
    if kind == "roll both":
        return x.roll((random.randrange(4), -1), (2, 3))
    if kind == "swap":
        return x.mT
    if kind == "shift inside windows" and x.shape[dim] % 4 == 0:
        windows = x.unflatten(dim, (2, -1))
        return windows.roll((1, 1), (dim, dim + 1)).flatten(dim, dim + 1)
    if kind == "flip windows" and x.shape[dim] % 4 == 0:
        return x.unflatten(dim, (2, -1)).flip(dim).flatten(dim, dim + 1)
    if kind == "pool" and not (x.shape[2] % 2 or x.shape[3] % 2):
        return F.avg_pool2d(x, 2)
    if kind == "every other":
        return x[:, :, ::2] if x.shape[2] > 2 else x
    if kind == "shuffle":
        order = random.sample(range(x.shape[dim]), x.shape[dim])
        return x.index_select(dim, torch.tensor(order))
    return x


ENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "image": lambda x: x,
    "channels last": lambda x: x.permute(0, 2, 3, 1),
    "tokens": lambda x: x.flatten(2).mT,
    "rolled tokens": lambda x: token_in_front(x.flatten(2).mT).roll(3, 1),
    "patches": lambda x: x.unflatten(3, (2, -1)).permute(0, 3, 1, 2, 4) if x.shape[3] % 2 == 0 else x,
    "shuffled tokens": lambda x: x.flatten(2).mT[
        :, torch.randperm(x.shape[2] * x.shape[3], generator=torch.Generator().manual_seed(0))
    ],
}


@st.composite
def images_moved(draw: st.DrawFn) -> tuple[list[tuple[str, Any]], str]:
    kinds = [
        "flip", "roll", "roll both", "swap", "pool", "every other", "shuffle", "shift inside windows",
        "flip windows",
    ]  # fmt: skip
    moves = draw(st.lists(st.sampled_from(kinds), max_size=5))
    ends = draw(st.sampled_from(sorted(ENDS)))
    return [(kind, draw(st.randoms(use_true_random=False))) for kind in moves], ends


def in_order(moves: list[tuple[str, Any]], ends: str) -> bool | None:
    """Whether a layout puts values in the order of the image; None where nothing is claimed."""

    def move(x: Tensor) -> Tensor:
        for kind, random in moves:
            state = random.getstate()
            x = moved(x, kind, random)
            random.setstate(state)  # the same steps for every image
        return ENDS[ends](x)

    for dim in (0, 1):
        values, axes = follow(move, ramp((2, 3, 8, 12), 2 + dim))
        try:
            layout = laid(axes, 2)
        except LayerError:
            return None
        if layout is None:
            return None
        read = layout.read(values)[:, :, layout.prefix :] if layout.prefix else layout.read(values)
        if layout.grid[dim] == 1:  # which may see all of it
            continue
        first, step = layout.places[dim] or (nan, nan)
        expected = first + step * torch.arange(layout.grid[dim], dtype=DOUBLE)
        found = read.reshape(2, 3, *layout.grid)
        if not torch.allclose(found, expected.reshape((-1, 1) if dim == 0 else (1, -1)).expand_as(found)):
            return False
    return True


@settings(max_examples=300, deadline=None)
@given(images_moved())
def test_what_is_claimed_of_moved_images_is_their_order(drawn: tuple[list[tuple[str, Any]], str]) -> None:
    assert in_order(*drawn) is not False


@pytest.mark.parametrize("ends", sorted(set(ENDS) - {"rolled tokens"}))
@pytest.mark.parametrize(
    "kinds", [("roll", "flip"), ("flip", "roll", "flip"), ("roll both", "swap", "shuffle"), ("roll both",)]
)
def test_rolls_and_flips_are_followed(kinds: tuple[str, ...], ends: str) -> None:
    if "shuffle" in kinds and ends == "shuffled tokens":
        ends = "tokens"  # an order of an order of one axis of two is not followed
    assert in_order([(kind, Random(3)) for kind in kinds], ends)


@pytest.mark.parametrize("shift", [2, -6, 12, 3])
def test_what_was_rolled_may_be_pooled_where_its_seam_is_between_windows(shift: int) -> None:
    values, axes = follow(lambda x: F.avg_pool2d(x.roll(shift, 3), 2), ramp((2, 3, 8, 12), 3))
    if shift % 2:
        assert roles(axes) == "batch channel place unknown"
        return
    layout = laid(axes, 2)
    assert layout is not None
    assert layout.read(values)[0, 0, 0].tolist() == [0.5, 2.5, 4.5, 6.5, 8.5, 10.5]


def test_rolls_that_are_not_along_an_axis_of_places() -> None:
    image = torch.rand(2, 3, 4, 6, dtype=DOUBLE)
    assert roles(follow(lambda x: x.roll(1), image)[1]) == "unknown unknown unknown unknown"
    assert roles(follow(lambda x: x.roll((1, 1), (0, 1)), image)[1]) == "unknown channel place place"
    assert roles(follow(lambda x: x[:, :, :1].roll(1, 2), image)[1]) == "batch channel place place"


# Windows over places --------------------------------------------------------------------------


def ones(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.ones_(parameter)
    return layer.double().eval()


WINDOWED: dict[str, nn.Module] = {
    "convolution": nn.Conv2d(3, 4, 3, padding=1),
    "without padding": nn.Conv2d(3, 4, 5),
    "stride": nn.Conv2d(3, 4, 3, stride=2, padding=1),
    "even kernel": nn.Conv2d(3, 4, 4, stride=4),
    "dilated": nn.Conv2d(3, 4, 3, dilation=2, padding=2),
    "two strides": nn.Conv2d(3, 4, (5, 3), stride=(4, 1), padding=(2, 1)),
    "depthwise": nn.Conv2d(3, 6, 3, groups=3),
    "mean": nn.AvgPool2d(2),
    "mean with overlap": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "adaptive": nn.AdaptiveAvgPool2d((4, 6)),
    "padded": nn.ZeroPad2d((2, 1, 3, 1)),
    "two": nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.AvgPool2d(2)),
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
}


@pytest.mark.parametrize("name", WINDOWED)
def test_the_centre_of_what_a_location_sees(name: str) -> None:
    """With weights of one, the mean place of all that reaches an inner location is where it lies."""
    layer, image = ones(WINDOWED[name]), torch.zeros(1, 3, 16, 24, dtype=DOUBLE)
    _, axes = follow(layer, image)
    assert [part.role for axis in axes for part in axis] == [Role.BATCH, Role.CHANNEL, Role.PLACE, Role.PLACE]
    jacobian = torch.func.jacrev(lambda x: layer(x)[0, 0])(image)[:, :, 0].sum(2)  # (rows, columns, 16, 24)
    for dim in (0, 1):
        where = ramp((16, 24), dim)
        seen = (jacobian * where).sum((2, 3)) / jacobian.sum((2, 3))
        shown = predicted(axes, place(dim))[0, 0].expand(seen.shape)
        rows, columns = (slice(n // 4, n - n // 4) for n in seen.shape)
        torch.testing.assert_close(seen[rows, columns], shown[rows, columns])


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(3, 4, 2, stride=2),
        nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1),
        nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1),
        nn.Upsample(scale_factor=2),
        nn.Upsample(scale_factor=2, mode="bicubic"),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    ],
)
def test_finer_locations_lie_between_the_ones_they_came_from(layer: nn.Module) -> None:
    _, axes = follow(layer.double(), torch.zeros(1, 3, 8, 10, dtype=DOUBLE))
    for axis, size in zip(axes[2:], (8, 10), strict=True):
        (part,) = axis
        assert part.size == 2 * size
        assert part.step == 0.5
        assert abs(part.first + part.step * (part.size - 1) / 2 - (size - 1) / 2) <= 0.25


def test_signals_and_volumes() -> None:
    for conv, pool, ndim in ((nn.Conv1d, nn.AvgPool1d, 1), (nn.Conv3d, nn.AvgPool3d, 3)):
        net = nn.Sequential(conv(3, 4, 3, padding=1), pool(2)).double()
        _, axes = follow(net, torch.zeros(2, 3, *[8] * ndim, dtype=DOUBLE))
        places = [Part(Role.PLACE, 4, dim, 2.0, 0.5) for dim in range(ndim)]
        assert axes == ((Part(Role.BATCH, 2),), channels(4), *((part,) for part in places))


# Values that are computed ---------------------------------------------------------------------

KEEP: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "in place": lambda x: F.hardswish(x.clone(), inplace=True),
    "added to itself": lambda x: x + x,
    "with a bias": lambda x: x + torch.ones(3, 1, 1).double(),
    "gated": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "batch norm": lambda x: F.batch_norm(x, torch.zeros(3).double(), torch.ones(3).double()),
    "layer norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "group norm": lambda x: F.group_norm(x, 1),
    "softmax": lambda x: x.softmax(1),
    "double": lambda x: x.float().double(),
    "glu": lambda x: F.glu(torch.cat([x, x], 1), 1),
    "split attention": lambda x: split_attention(torch.cat([x, x], 1)),
}


def split_attention(x: Tensor) -> Tensor:
    """As in ResNeSt: two halves of the channels, weighed against each other."""
    halves = x.unflatten(1, (2, 3))
    weights = F.conv2d(x.mean((2, 3), keepdim=True), torch.ones(6, 6, 1, 1).double())
    weights = weights.view(2, 1, 2, -1).transpose(1, 2).softmax(1).reshape(2, -1).view(2, -1, 1, 1)
    return (halves * weights.reshape(2, 2, 3, 1, 1)).sum(1)


@pytest.mark.parametrize("name", KEEP)
def test_values_that_are_computed_one_by_one_stay_where_they_are(name: str) -> None:
    image = torch.rand(2, 3, 4, 6, dtype=DOUBLE)
    assert follow(KEEP[name], image)[1] == follow(lambda x: x, image)[1]


def test_a_token_that_is_padded_to_a_grid_has_no_place() -> None:
    padded = follow(lambda x: F.pad(x.flatten(2), (1, 0)), torch.rand(2, 3, 2, 3, dtype=DOUBLE))[1]
    in_front = follow(
        lambda x: torch.cat([torch.zeros(2, 3, 1).double(), x.flatten(2)], 2),
        torch.rand(2, 3, 2, 3, dtype=DOUBLE),
    )[1]
    assert padded == in_front
    assert padded[2][0].order == (-1, 0, 1, 2, 3, 4, 5)
    mirrored = follow(lambda x: F.pad(x.flatten(2), (1, 0), "reflect"), torch.rand(2, 3, 2, 3).double())[1]
    assert roles(mirrored) == "batch channel unknown"


def causal(x: Tensor, reach: int, dilation: int = 1) -> Tensor:
    weight = torch.ones(3, 3, reach + 1, dtype=DOUBLE)
    return F.conv1d(F.pad(x, (reach * dilation, 0)), weight, dilation=dilation)


def test_sums_lie_where_the_way_lies_that_sees_least() -> None:
    series = torch.rand(1, 3, 400, dtype=DOUBLE)
    place = follow(lambda x: x, series)[1][2][0]
    assert (place.first, place.half) == (0, 0)

    def blocks(x: Tensor) -> Tensor:
        for i in range(7):
            x = x + causal(x, 2, 2**i)
        return x

    for net, half in ((blocks, 2 * 127), (lambda x: causal(x, 30) * x, 30)):
        axes = follow(net, series)[1]
        assert roles(axes) == "batch channel place"
        assert (axes[2][0].first, axes[2][0].half) == (0, half)
    (alone,) = follow(lambda x: causal(x, 30), series)[1][2]
    assert (alone.first, alone.half) == (-15, 15)
    assert roles(follow(lambda x: x[..., 20:] + x[..., :-20], series)[1]) == "batch channel unknown"


def test_what_comes_back_up_lies_where_the_way_around_it_lies() -> None:
    def up_and_down(x: Tensor) -> Tensor:
        weight = torch.ones(3, 3, 3, 3, dtype=DOUBLE)
        ways = [x]
        for _ in range(3):
            ways.append(F.conv2d(ways[-1], weight, stride=2, padding=1))
        x = ways.pop()
        while ways:
            x = F.interpolate(x, scale_factor=2, mode="bilinear") + ways.pop()
        return x

    axes = follow(up_and_down, torch.rand(1, 3, 64, 64, dtype=DOUBLE))[1]
    assert roles(axes) == "batch channel place place"
    assert all(axis[0].step == 1 and abs(axis[0].first) < 0.5 for axis in axes[2:])


def roles(axes: Axes) -> str:
    return " ".join("*".join(part.role for part in axis) or "one" for axis in axes)


WEIGHT = torch.ones(5, 3, dtype=DOUBLE)


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).mT


PRODUCTS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "linear": (lambda x: F.linear(x.movedim(1, -1), WEIGHT), "batch place place channel"),
    "linear after flatten": (lambda x: x.flatten(1) @ torch.ones(72, 5).double(), "batch channel"),
    "places mixed": (lambda x: F.linear(x.flatten(2), torch.ones(9, 24).double()), "batch channel unknown"),
    "einsum": (lambda x: torch.einsum("bchw,kc->bkhw", x, WEIGHT), "batch channel place place"),
    "weights first": (lambda x: WEIGHT @ x.flatten(2), "batch channel place*place"),
    "attention": (lambda x: tokens(x) @ tokens(x).mT, "batch place*place place*place"),
    "attended": (
        lambda x: (tokens(x) @ tokens(x).mT).softmax(-1) @ tokens(x), "batch place*place channel",
    ),
    "attention as one": (
        lambda x: F.scaled_dot_product_attention(*[tokens(x)[:, None]] * 3)[:, 0],
        "batch place*place channel",
    ),
    "mean": (lambda x: x.mean((2, 3)), "batch channel"),
    "kept": (lambda x: x.amax((2, 3), keepdim=True), "batch channel one one"),
    "expanded": (lambda x: x.mean((2, 3), keepdim=True).expand_as(x) * 1, "batch channel copy copy"),
    "repeated": (lambda x: x.mean((2, 3), keepdim=True).repeat(1, 1, 4, 6), "batch channel copy copy"),
    "tiled": (lambda x: x.repeat(1, 1, 2, 1), "batch channel unknown place"),
    "gathered": (lambda x: x[:, :, torch.tensor([[1, 0]])], "unknown unknown unknown unknown unknown"),
    "chosen": (lambda x: x[:, :, torch.tensor([1, 0])], "batch channel place place"),
    "sorted": (lambda x: x.sort(-1).values, "unknown unknown unknown unknown"),
    "half of the places": (lambda x: F.glu(x, -1), "batch channel place unknown"),
    "two orders": (lambda x: x + x.flip(2), "batch channel unknown place"),
    "by frames": (lambda x: x.movedim(2, 1).flatten(0, 1), "batch*place channel place"),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_what_products_make_of_axes(name: str) -> None:
    function, expected = PRODUCTS[name]
    assert roles(follow(function, torch.rand(2, 3, 4, 6, dtype=DOUBLE))[1]) == expected
