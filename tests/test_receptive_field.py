"""Receptive fields against arithmetic, against brute force, and on networks that see everything."""

import pytest
import torch
from torch import Tensor, nn

import hirescam
from toys import FlattenNet, images, ready


class Stack(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(*layers)
        self.head = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()


def stack(*layers: nn.Module) -> nn.Module:
    model = Stack(*layers)
    with torch.no_grad():
        model(torch.zeros(1, 2, 32, 32))
    return model.eval()


def conv(width: int, **options: int) -> nn.Conv2d:
    return nn.Conv2d(width, 4, 3, padding=1, **options)


def brute_force(model: nn.Module, side: int, cell: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """One pixel at a time."""
    reached = torch.zeros(side, side, dtype=torch.bool)
    with torch.no_grad():
        for i in range(side):
            for j in range(side):
                x = torch.zeros(1, 2, side, side)
                x[:, :, i, j] = float("nan")
                reached[i, j] = model.features(x)[0, :, *cell].isnan().any()
    rows, columns = reached.any(1).nonzero()[:, 0], reached.any(0).nonzero()[:, 0]
    return (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)


NETWORKS = {
    "one convolution": (lambda: stack(conv(2), nn.ReLU()), (16, 16), ((15, 18), (15, 18))),
    "two, strided": (lambda: stack(conv(2, stride=2), nn.ReLU(), conv(4)), (8, 8), ((13, 20), (13, 20))),
    "pooled": (lambda: stack(conv(2), nn.MaxPool2d(2), conv(4)), (5, 9), ((7, 15), (15, 23))),
    "dilated": (
        lambda: stack(nn.Conv2d(2, 4, 3, padding=2, dilation=2), nn.Hardswish()), (10, 3), ((8, 13), (1, 6)),
    ),
    "corner": (lambda: stack(conv(2), conv(4)), (0, 31), ((0, 3), (29, 32))),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_box_is_what_arithmetic_and_brute_force_say(name: str) -> None:
    build, cell, box = NETWORKS[name]
    model = build()
    field = hirescam.explain(model, images(1, side=32, dtype=torch.float32), layer="features")
    found = field.receptive_field(cell)
    assert found.box == box == brute_force(model, 32, cell)
    assert not found.sees_everything
    assert f"pixels {box[0][0]}:{box[0][1]} × {box[1][0]}:{box[1][1]}" in str(found)


def test_nan_in_the_box_reaches_just_the_cell() -> None:
    model = stack(conv(2, stride=2), nn.ReLU(), conv(4))
    x = images(1, side=32, dtype=torch.float32)
    box = hirescam.explain(model, x, layer="features").receptive_field((4, 4)).box
    (top, bottom), (left, right) = box
    outside = torch.full_like(x, float("nan"))
    outside[:, :, top:bottom, left:right] = 0
    inside = torch.zeros_like(x)
    inside[:, :, top:bottom, left:right] = float("nan")
    with torch.no_grad():
        assert not model.features(outside)[0, :, 4, 4].isnan().any()
        assert model.features(inside)[0, :, 4, 4].isnan().any()


def test_squeeze_and_excitation_sees_everything_and_the_result_says_so() -> None:
    model = stack(nn.Conv2d(2, 4, 4, stride=4), Squeeze(4), nn.ReLU())
    field = hirescam.explain(model, images(1, side=32, dtype=torch.float32)).receptive_field((0, 0))
    assert field.size == (32, 32)
    assert field.sees_everything
    assert "Every cell of this layer can see the whole image" in str(field)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_signals_and_volumes(ndim: int) -> None:
    model = ready(FlattenNet(ndim, side=6))
    field = hirescam.explain(model, images(1, ndim, side=6)).receptive_field((2,) * ndim)
    assert field.box == ((1, 4),) * ndim


def test_the_middle_cell_is_the_default() -> None:
    result = hirescam.explain(ready(FlattenNet()), images())
    assert result.receptive_field().cell == (4, 4)


def test_a_cell_outside_the_grid_is_refused() -> None:
    result = hirescam.explain(ready(FlattenNet()), images())
    for cell in ((8, 0), (0, -1), (1,)):
        with pytest.raises(hirescam.InputError, match=r"is not in the layer's grid \(8, 8\)"):
            result.receptive_field(cell)


def test_a_network_that_swallows_nan_is_told_so() -> None:
    class Swallow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.nan_to_num()

    model = stack(Swallow(), conv(2), nn.ReLU())
    with pytest.raises(hirescam.ModelError, match="replaces NaN"):
        hirescam.explain(model, images(1, side=32, dtype=torch.float32)).receptive_field()


def test_resnet_cells_see_much_more_than_their_share() -> None:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.resnet18(weights=None).eval()
    field = hirescam.explain(model, torch.zeros(1, 3, 448, 448)).receptive_field((7, 7))
    assert field.size == (435, 435)  # the known receptive field of ResNet-18's last stage
