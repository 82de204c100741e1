"""Where the locations of a tap lie: as given, as operations show, or measured once for each architecture."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hirescam
from hirescam.passes.laying import laid
from hirescam.passes.layout import simple
from hirescam.passes.parts import Part, Role
from hirescam.passes.state import State
from hirescam.proof import placing
from hirescam.proof.graph import Sighting, read
from hirescam.proof.placing import Placed, Places
from passes.made import call


class Mixer(nn.Module):
    """Tokens mixed by a linear layer: operations do not show that they keep their places."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.mix = nn.Conv2d(3, 16, 4, stride=4), nn.Linear(24, 24)
        self.tap, self.fc = nn.Identity(), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2)
        return self.fc(self.tap((tokens + self.mix(tokens)).mT).mean(1))


class Everywhere(nn.Module):
    """A layer in which each value is made of all pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.all, self.tap, self.fc = nn.Linear(3 * 16 * 24, 80), nn.Identity(), nn.Linear(80, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.tap(self.all(x.flatten(1).sort(1).values).view(-1, 8, 10)).flatten(1))


IMAGES = torch.randn(2, 3, 16, 24)
HEADS = (Role.BATCH, Role.CHANNEL, Role.PLACE, Role.CHANNEL)


def seen(model: nn.Module, name: str) -> Sighting:
    graph = read(State(model.eval()), call(IMAGES), None, None)
    return next(one for one in graph.sightings if one.tap.module == name)


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many taps each measurement was asked for."""
    counts: list[int] = []
    plain = placing.measured

    def counted(model: nn.Module, given: Any, wanted: Any) -> Any:
        counts.append(len(wanted))
        return plain(model, given, wanted)

    monkeypatch.setattr(placing, "measured", counted)
    placing._kept.clear()
    return counts


def test_operations_show_it_and_nothing_is_measured(count: list[int]) -> None:
    model = Mixer()
    sighting = seen(model, "embed")
    places = Places(model, call(IMAGES), None)
    places.measure([sighting])
    placed = places.of(sighting)
    assert placed.layout is not None
    assert (placed.how, placed.layout.grid, placed.is_map, placed.unknown) == (
        "operations",
        (4, 6),
        True,
        False,
    )
    assert count == []


def test_what_operations_do_not_show_is_measured_once_for_each_architecture(count: list[int]) -> None:
    for seed in range(2):
        torch.manual_seed(seed)
        model = Mixer()
        sighting = seen(model, "tap")
        places = Places(model, call(IMAGES), None)
        assert places.of(sighting).unknown
        places.measure([sighting])
        placed = places.of(sighting)
        assert placed.layout is not None
        assert (placed.how, placed.layout.grid, placed.is_map) == ("measured", (4, 6), True)
        assert places.of(sighting) is placed
    assert count == [1]
    with torch.no_grad():
        hirescam.explain(model, IMAGES, layer="tap")
    assert count == [1]


def test_what_is_not_known_either_way_is_an_error_that_says_what_to_give(count: list[int]) -> None:
    model = Everywhere().eval()
    with pytest.raises(hirescam.LayerError, match=r"neither the operations before it nor a measurement show"):
        hirescam.explain(model, IMAGES, layer="tap")
    assert hirescam.explain(model, IMAGES, layer="tap", grid=(2, 5)).grid == (2, 5)
    assert count == [1]


def test_the_caller_goes_before_everything_else(count: list[int]) -> None:
    model = Mixer()
    for name, layout in (("tap", simple((2, 24, 16), 2, (3, 8))), ("embed", None)):
        sighting = seen(model, name)
        places = Places(model, call(IMAGES), (3, 8))
        places.measure([sighting])
        assert (places.of(sighting).layout, places.of(sighting).how) == (layout, "given")
    assert "does not fit" in places.of(sighting).why
    assert count == []


def test_a_better_layer_whose_locations_nobody_knows_is_told_of() -> None:
    class Both(Everywhere):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.first(x).sigmoid())

    certificate = hirescam.certify(Both().eval(), IMAGES)
    assert certificate.guarantee == "none"
    assert (
        "of shape (2, 8, 10), is exact, but neither operations nor a measurement show" in certificate.advice
    )
    assert "grid=(rows, columns)" in certificate.advice


def test_a_grid_for_what_has_no_images_first() -> None:
    class Turned(Mixer):
        def forward(self, x: Tensor) -> Tensor:
            tokens = self.embed(x).flatten(2)
            return self.fc(self.tap((tokens + self.mix(tokens)).permute(2, 0, 1)).mean(0))

    with pytest.raises(hirescam.LayerError, match="its first axis is not the images of the batch"):
        hirescam.explain(Turned().eval(), IMAGES, layer="tap", grid=(4, 6))


def test_the_inside_of_an_attention_is_no_map() -> None:
    axes = tuple((Part(role, size, 0),) for role, size in zip(HEADS, (2, 4, 6, 8), strict=True))
    placed = Placed(laid(axes, 1))
    assert placed.layout is not None
    assert not placed.is_map


class Flips(nn.Module):
    """Tokens whose order one flag decides, and which operations lose sight of."""

    def __init__(self, *, flip: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.flip = flip
        self.embed, self.mix = nn.Conv2d(3, 16, 4, stride=4), nn.Linear(24, 24)
        self.tap, self.fc = nn.Identity(), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x)
        tokens = (tokens.flip(-1) if self.flip else tokens).flatten(2)
        return self.fc(self.tap((tokens + self.mix(tokens)).mT).mean(1))


def test_two_networks_that_differ_in_a_flag_are_measured_apart(count: list[int]) -> None:
    for flip in (False, True):
        result = hirescam.explain(Flips(flip=flip).eval(), IMAGES, layer="tap")
        assert result.certificate.geometry == "measured"
    assert count == [1, 1]
