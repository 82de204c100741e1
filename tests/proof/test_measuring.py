"""Axes that are measured with noise, held against networks whose places are known."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hirescam.passes.borrow import as_call
from hirescam.passes.laying import laid
from hirescam.passes.parts import Axes, Role, ordered
from hirescam.passes.taps import parse
from hirescam.proof import measuring
from hirescam.proof.measuring import measured


def measure(net: nn.Module, x: Tensor, layer: str = "tap") -> Axes | None:
    torch.manual_seed(0)
    (axes,) = measured(net.eval(), as_call(x), [parse(layer)])
    return axes


def roles(axes: Axes | None) -> str:
    assert axes is not None
    return " ".join("*".join(part.role for part in axis) or "one" for axis in axes)


class Through(nn.Module):
    """A stem, what is done with its output, and a tap."""

    def __init__(self, stem: nn.Module, move: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.stem, self.move, self.tap = stem, move, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.tap(self.move(self.stem(x))).flatten(1)


class Mixed(nn.Module):
    """Tokens that are mixed by a linear layer, with a way around it, as in an MLP-Mixer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.tap = nn.Conv2d(3, 16, 4, stride=4), nn.Linear(24, 24), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2)
        return self.tap((tokens + self.mix(tokens)).mT).flatten(1)


torch.manual_seed(0)
ORDER = torch.randperm(24).tolist()


def conv(width: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, width, 4, stride=4), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))


def behind(tokens: Tensor) -> Tensor:
    """Tokens behind two that are constant."""
    return torch.cat([torch.ones_like(tokens[:, :2]), tokens], 1)


IMAGE = torch.randn(1, 3, 16, 24)


@pytest.mark.parametrize(
    ("move", "expected", "grid", "prefix"),
    [
        (lambda a: a, "batch channel place place", (4, 6), 0),
        (lambda a: a.permute(0, 2, 3, 1), "batch place place channel", (4, 6), 0),
        (lambda a: a.permute(0, 3, 1, 2), "batch place channel place", (4, 6), 0),
        (lambda a: a.flatten(2).mT, "batch place*place channel", (4, 6), 0),
        (lambda a: a.flatten(2)[..., ORDER], "batch channel place", (4, 6), 0),
        (lambda a: behind(a.flatten(2).mT), "batch place channel", (4, 6), 2),
        (lambda a: a.flip(2), "batch channel place place", (4, 6), 0),
    ],
)
def test_axes_and_orders(
    move: Callable[[Tensor], Tensor], expected: str, grid: tuple[int, ...], prefix: int
) -> None:
    net = Through(conv(), move)
    axes = measure(net, IMAGE)
    assert roles(axes) == expected
    layout = laid(axes or (), 2)
    assert layout is not None
    assert (layout.grid, layout.prefix) == (grid, prefix)
    own = torch.randn(1, 16, 4, 6)  # what is read is what was moved, but for tokens without a place
    assert torch.equal(layout.read(move(own))[..., prefix:].flatten(2), own.flatten(2))


def test_tokens_that_were_mixed_keep_their_places() -> None:
    layout = laid(measure(Mixed(), IMAGE) or (), 2)
    assert layout is not None
    assert (layout.grid, layout.index) == ((4, 6), ())


def test_signals_and_volumes() -> None:
    signal = Through(nn.Sequential(nn.Conv1d(2, 20, 5, padding=4), nn.ReLU()))
    assert roles(measure(signal, torch.randn(1, 2, 40))) == "batch channel place"
    volume = Through(nn.Sequential(nn.Conv3d(1, 6, 2, stride=2), nn.ReLU()), lambda a: a.movedim(1, -1))
    assert roles(measure(volume, torch.randn(1, 1, 6, 8, 10))) == "batch place place place channel"


@pytest.mark.parametrize("both", [False, True])
def test_every_step_of_a_recurrent_layer_has_its_place(both: bool) -> None:
    """The last step sees them all."""

    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.tap = nn.LSTM(3, 16, batch_first=True, bidirectional=both), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.tap(self.rnn(x.mT)[0]).flatten(1)

    axes = measure(Steps(), torch.randn(1, 3, 8))
    assert axes is not None
    assert (axes[1][0].role, axes[1][0].inner, axes[1][0].size) == (Role.PLACE, (), 8)


def test_channels_and_places_on_one_axis_are_not_called_places() -> None:
    """Five features of each of four rows, one after the other."""
    torch.manual_seed(0)
    mixes = nn.Sequential(nn.Conv2d(3, 16, 4, stride=4), nn.Linear(6, 5))
    axes = measure(Through(mixes, lambda a: a.flatten(2).mT), IMAGE)
    assert axes is None or Role.UNKNOWN in {part.role for part in axes[1]}


def test_a_class_token_before_a_series_has_no_place() -> None:
    class Behind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
            self.embed, self.encoder = nn.Conv1d(3, 32, 5, padding=2), nn.TransformerEncoder(layer, 1)
            self.token, self.tap = nn.Parameter(torch.randn(1, 1, 32)), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            steps = self.embed(x).mT
            return self.tap(self.encoder(torch.cat([self.token, steps], 1))).flatten(1)

    layout = laid(measure(Behind(), torch.randn(1, 3, 24)) or (), 1)
    assert layout is not None
    assert (layout.grid, layout.prefix) == ((24,), 1)


def test_what_sees_everything_is_not_known() -> None:
    everywhere = Through(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 24, 80)), lambda a: a.view(-1, 8, 10))
    axes = measure(everywhere, IMAGE)
    assert axes is None or Role.UNKNOWN in {part.role for axis in axes for part in axis}


def test_channels_that_look_aside_are_not_called_places() -> None:
    """Channels shifted along the image, as in a temporal shift: they move little beside the places."""

    def shift(a: Tensor) -> Tensor:
        return torch.cat([a[:, :8].roll(1, 3) * (torch.arange(6) > 0), a[:, 8:]], 1)

    axes = measure(Through(conv(), shift), IMAGE)
    assert axes is not None
    assert axes[1][0].role in (Role.CHANNEL, Role.UNKNOWN)
    assert [axis[0].role for axis in axes[2:]] == [Role.PLACE, Role.PLACE]


@pytest.mark.parametrize("seed", range(4))
def test_channels_of_a_trained_network_are_not_called_places(seed: int) -> None:
    """Each channel looks at a place of its own; without the meaning of its weights it does not."""
    torch.manual_seed(seed)
    net = Through(nn.Sequential(nn.Conv2d(3, 12, 7, padding=3), nn.ReLU()))
    with torch.no_grad():
        for number in range(12):
            net.stem[0].weight[number].mul_(1e-3)
            net.stem[0].weight[number, :, number % 7, 3] = 1.0
    axes = measure(net, IMAGE)
    assert axes is not None
    assert axes[1][0].role is not Role.PLACE
    assert [axis[0].role for axis in axes[2:]] == [Role.PLACE, Role.PLACE]


def test_several_layers_in_the_same_passes_and_calls_too() -> None:
    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 4, stride=4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(torch.relu(self.conv(x)).mT).flatten(1)

    first, second = measured(
        Calls().eval(), as_call(IMAGE), [parse("relu()#1"), parse("relu()#2")]
    )  # fmt: skip
    assert roles(first) == roles(second) == "batch channel place place"
    assert first is not None
    assert second is not None
    assert [axis[0].dim for axis in first[2:]] == [0, 1]
    assert [axis[0].dim for axis in second[2:]] == [1, 0]


def test_the_model_and_the_random_numbers_are_left_alone() -> None:
    net = Through(conv())
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    (axes,) = measured(net.eval(), as_call(IMAGE), [parse("tap")])
    assert axes is not None
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not net._forward_hooks
    assert not net.tap._forward_hooks


def test_a_model_that_cannot_be_measured_is_not_known() -> None:
    class Uncopied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tap, self.hook = nn.Conv2d(3, 4, 3), (n for n in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.tap(x)

    assert measure(Uncopied(), IMAGE) is None
    assert measure(Through(conv()), IMAGE, "stem.7") is None


@pytest.mark.parametrize(("over", "under"), [(1, 3), (6, 18), (48, 144), (195, 585), (10000, 30000)])
def test_the_tail_of_an_f_distribution(over: int, under: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    for ratio in (0.0, 0.2, 0.7, 1.0, 1.3, 2.0, 5.0, 40.0):
        expected = float(stats.f.sf(ratio, over, under))
        assert measuring._survival(ratio, over, under) == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert measuring._survival(math.inf, over, under) == 0


def test_the_axis_that_moves_in_an_analysis_of_variance() -> None:
    stats = pytest.importorskip("scipy.stats")
    profile = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    profile += 0.6 * torch.arange(7)
    found = measuring._movement(profile, 1, 2)
    rows = profile - profile.mean(1, keepdim=True)
    between = 5 * float(rows.mean(0).square().sum()) / 6
    within = float((rows - rows.mean(0)).square().sum()) / 24
    assert found.p == pytest.approx(2 * float(stats.f.sf(between / within, 6, 24)), rel=1e-6)
    assert (found.dim, found.sd) == (1, pytest.approx((between / 5) ** 0.5))


def test_a_lattice_and_its_order() -> None:
    grid = torch.cartesian_prod(torch.arange(4.0), torch.arange(6.0)).T
    shuffled = grid[:, ORDER]
    score, order = measuring._lattice(shuffled, torch.zeros(2, 24), (4, 6))
    assert score == 0
    assert torch.equal(shuffled[:, order], grid)
    noisy = shuffled + 0.3 * torch.randn(2, 24, generator=torch.Generator().manual_seed(1))
    assert measuring._lattice(noisy, torch.zeros(2, 24), (4, 6))[0] > 0.25
    assert measuring._lattice(shuffled, torch.full((2, 24), 0.5), (4, 6))[0] == pytest.approx(0.5)
    assert measuring._lattice(torch.zeros(2, 24), torch.zeros(2, 24), (4, 6))[0] == math.inf


def test_all_grids_of_so_many_cells() -> None:
    assert measuring._factorisations(12, 2) == [(2, 6), (3, 4), (4, 3), (6, 2)]
    assert measuring._factorisations(8, 3) == [(2, 2, 2)]
    assert measuring._factorisations(7, 2) == []


def test_tokens_among_others() -> None:
    lost = torch.tensor([True, False, False, True])
    parts = laid_parts(2)
    assert measuring._among(parts, lost) == ordered(parts, [-1, 0, 1, -1])
    assert measuring._among(parts, lost, [1, 0]) == ordered(parts, [-1, 1, 0, -1])


def laid_parts(count: int) -> tuple[measuring.Part, ...]:
    return (measuring.Part(Role.PLACE, count, 0, 4.0, 1.5),)
