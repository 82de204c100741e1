"""Every layer is listed once, under its outermost name, and the best one comes first."""

from typing import Any

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

import hirescam
from hirescam import Guarantee, LayerError
from hirescam.passes.layout import Layout, simple
from hirescam.passes.state import State
from hirescam.passes.taps import Place, Tap
from hirescam.proof.grade import grade
from hirescam.proof.graph import Sighting, read
from hirescam.proof.ops import Kind, Op
from hirescam.proof.placing import Placed, Places
from hirescam.proof.selection import Candidate, candidates, listing, ranked
from passes.made import call
from toys import (
    SIDE,
    Bypass,
    FlattenNet,
    FunctionalNet,
    PooledNet,
    Shared,
    TwoLayerNet,
    images,
    ready,
)

RELU, SOFTMAX = Op("relu", Kind.PIECEWISE), Op("softmax", Kind.OTHER)
GRID = simple((1, 2, 4, 4), 1)


GRAPH = read(State(ready(FlattenNet())), call(images(1)), None, None)


def found(model: nn.Module, x: Tensor | None = None, grid: Any = None) -> tuple[Any, list[Candidate]]:
    given = call(images(2) if x is None else x)
    graph = read(State(ready(model)), given, None, None)
    return graph, candidates(graph, Places(model, given, grid))


def names(model: nn.Module, x: Tensor | None = None) -> list[str]:
    graph, all_of_them = found(model, x)
    return [layer.name for layer in listing(graph, all_of_them, None)]


# Names ----------------------------------------------------------------------------------------


def test_one_tensor_has_the_name_of_the_outermost_module() -> None:
    assert names(FlattenNet()) == ["features.0", "features"]
    assert names(PooledNet())[:3] == ["features.0", "features.1", "features"]


def test_a_module_comes_before_a_call() -> None:
    class Named(FlattenNet):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.features[0](x))
            x = F.relu(x * 2)
            return self.head(x.flatten(1))

    assert names(Named()) == ["features.0", "act", "mul()", "relu()"]


def test_the_first_of_two_names_of_one_depth() -> None:
    class Same(FlattenNet):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Identity(), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.two(self.one(self.features[0](x))).flatten(1))

    assert names(Same()) == ["one"]


def test_a_call_that_hands_on_what_it_got_has_the_name_of_fewer_parts() -> None:
    class HandsOn(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.features(x).contiguous().flatten(1))

    class Inside(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).contiguous()

    class Deep(FlattenNet):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(Inside(*self.features))

    assert names(HandsOn()) == ["features.0", "features"]
    hands_on = HandsOn()
    hands_on.features = nn.Sequential(nn.Sequential(*hands_on.features))
    assert names(hands_on) == ["features.0.0", "features"]
    deep = Deep()
    deep.forward = lambda x: deep.head(deep.features[0](x).contiguous().flatten(1))
    assert names(deep) == ["features.0.0", "contiguous()"]


def test_functional_calls_are_taps() -> None:
    certificate = hirescam.certify(ready(FunctionalNet()), images())
    assert certificate.layer == "relu()#2"
    assert certificate.guarantee == "exact"
    listed = {layer.name: layer for layer in hirescam.layers(ready(FunctionalNet()), images())}
    assert listed["relu()#1"].guarantee == "local"
    assert [layer.name for layer in listed.values() if layer.chosen] == ["relu()#2"]


def test_repeated_modules_are_told_apart() -> None:
    listed = [layer.name for layer in hirescam.layers(ready(Shared()), images())]
    assert {"again#1", "again#2", "relu#1", "relu#2", "relu#3"} <= set(listed)
    assert hirescam.certify(ready(Shared()), images()).layer == "relu#3"


# What is listed -------------------------------------------------------------------------------


def test_a_layer_is_described() -> None:
    graph, every = found(Bypass())
    layers = listing(graph, every, every[-1])
    assert [(one.name, one.guarantee, one.bypass, one.chosen) for one in layers] == [
        ("first", Guarantee.LOCAL, False, False),
        ("relu()", Guarantee.NONE, True, False),
        ("deep", Guarantee.NONE, True, False),
        ("add()", Guarantee.EXACT, False, True),
    ]
    assert layers[0].breaks == ("relu",)
    assert layers[1].breaks == ()  # what runs beside a way around is not searched for
    assert layers[3].breaks == ()
    assert {one.shape for one in layers} == {(2, 6, SIDE, SIDE)}
    assert {one.space for one in layers} == {(SIDE, SIDE)}
    assert not any(one.chosen for one in listing(graph, every, None))


def test_a_verdict_overrides_what_structure_says() -> None:
    graph, every = found(Bypass())
    verdict = hirescam.certify(ready(Bypass()), images(2), "first")
    layers = listing(graph, every, every[0], [(every[2], verdict)])
    assert [one.probed for one in layers] == [False, False, True, False]
    assert (layers[2].guarantee, layers[2].bypass) == (verdict.guarantee, verdict.bypass)
    assert layers[2].breaks == verdict.breaks != ()


def test_layers_without_a_grid_are_listed_and_not_chosen() -> None:
    class Odd(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            tokens = self.features(x).flatten(2)[..., :7].transpose(1, 2).exp()
            return self.tail(tokens.flatten(1))

        def __init__(self) -> None:
            super().__init__()
            self.tail = nn.Linear(42, 5)

    graph, every = found(Odd())
    layers = {one.name: one for one in listing(graph, every, None)}
    assert layers["exp()"].space == ()
    assert layers["exp()"].guarantee is Guarantee.EXACT
    assert listing(graph, ranked(every, Odd(), graph), None)[0].name != "exp()"


def test_a_grid_that_does_not_fit_a_layer_is_no_error() -> None:
    _, every = found(FlattenNet(), grid=(4, 16))
    assert [one.placed.layout for one in every] == [None, None]
    _, every = found(FlattenNet(), grid=(SIDE, SIDE))
    assert [one.placed.how for one in every] == ["operations"] * 2
    assert [one.placed.layout.grid for one in every] == [(SIDE, SIDE)] * 2


# Order ----------------------------------------------------------------------------------------


def candidate(
    time: int, ops: tuple[Op, ...] = (), bypass: bool = False, layout: Layout | None = GRID
) -> Candidate:
    tap = Tap(f"at{time}")
    return Candidate(
        Sighting(tap, (None, time), None, (1, 2, 4, 4), (), time, Place(tap), late=False),
        Placed(layout),
        grade(ops, bypass=bypass),
    )


def order(*given: Candidate) -> list[int]:
    return [one.sighting.time for one in ranked(list(given), nn.Identity(), GRAPH)]


def test_the_strongest_guarantee_comes_first() -> None:
    norm = Op("layer_norm", Kind.NORMALISING)
    assert order(candidate(1, (SOFTMAX,)), candidate(2, (RELU,)), candidate(3, (norm,)), candidate(4)) == [
        4,
        3,
        2,
        1,
    ]


def test_then_one_without_a_way_around_it() -> None:
    assert order(candidate(1, (SOFTMAX,), bypass=True), candidate(2, (SOFTMAX, SOFTMAX))) == [2, 1]


def test_then_the_fewest_operations_that_break() -> None:
    assert order(candidate(1, (RELU, RELU)), candidate(2, (RELU,)), candidate(3, (RELU, RELU, RELU))) == [
        2,
        1,
        3,
    ]


def test_then_the_one_nearest_the_input() -> None:
    assert order(candidate(7), candidate(3), candidate(5)) == [3, 5, 7]


def test_two_locations_at_least() -> None:
    one, two = simple((1, 2, 1, 1), 1), simple((1, 2, 2), 1)
    assert order(
        candidate(1, layout=one), candidate(2, (SOFTMAX,), layout=two), candidate(3, layout=None)
    ) == [2]
    with pytest.raises(
        LayerError, match="no layer of this Identity is known to be a map of at least two locations"
    ):
        order(candidate(1, layout=one), candidate(3, layout=None))


@pytest.mark.parametrize(
    ("net", "layer"),
    [(FlattenNet, "features"), (PooledNet, "features"), (TwoLayerNet, "features"), (Bypass, "add()")],
)
def test_the_best_layer_of_small_models(net: type, layer: str) -> None:
    model = ready(net())
    graph, every = found(model)
    best = ranked(every, model, graph)[0]
    assert graph.place(best.sighting).tap.name == layer
    assert [one.name for one in hirescam.layers(model, images()) if one.chosen] == [layer]


def test_a_finer_grid_after_an_earlier_one_is_not_preferred() -> None:
    class Up(FlattenNet):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6 * (2 * SIDE) ** 2, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.interpolate(self.features(x), scale_factor=2.0).flatten(1))

    assert hirescam.certify(ready(Up()), images()).layer == "features"
