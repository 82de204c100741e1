"""What one pass with its graph shows: layers, operations after them, ways around them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hirescam import Guarantee, ModelError, Region
from hirescam.passes.cut import Site, look
from hirescam.passes.state import State
from hirescam.passes.taps import Place, Tap, parse
from hirescam.proof.graph import Graph, Sighting, grade_of_pass, read, value_of
from hirescam.proof.ops import Kind
from passes.made import call, run
from toys import (
    SIDE,
    After,
    Bypass,
    FlattenNet,
    FunctionalNet,
    NormNet,
    PooledNet,
    SegNet,
    Shared,
    TwoLayerNet,
    images,
    ready,
)


def graph_of(model: nn.Module, x: Any = None, target: Any = None, output: Any = None) -> Graph:
    return read(State(ready(model)), call(images() if x is None else x), output, target)


def at(graph: Graph, name: str) -> Sighting:
    (seen,) = graph.sighting(parse(name))
    return seen


def head(graph: Graph, name: str) -> list[str]:
    """Without the choice of a class, which is last."""
    names = [op.name for op in graph.grade(at(graph, name)).head]
    return names[:-1] if names[-1] == "gather" else names


# Sightings ------------------------------------------------------------------------------------


def test_a_read_of_the_layer_before_it_has_its_name_is_one_after_it() -> None:
    """Hooks of a module's own, and what it does with its output before it returns it."""

    class Reads(FlattenNet):
        def __init__(self) -> None:
            super().__init__()
            self.gate = 1.0
            self.features.register_forward_hook(self.look)

        def look(self, module: nn.Module, given: object, output: Tensor) -> None:
            self.gate = 2.0 if float(output.mean()) > 0 else 1.0

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.gate

    found = graph_of(Reads())
    graded = found.grade(at(found, "features"))
    assert graded.guarantee is Guarantee.NONE
    assert [str(op) for op in graded.breaks] == ["__float__() (features)"]
    assert graded.read == ()
    assert found.grade(at(found, "features.0")).read == ()


def test_what_was_read_of_the_image_before_a_layer() -> None:
    class Reads(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if float(x.mean()) < 100 and x.max().item() < 100 else x

    found = graph_of(Reads())
    graded = found.grade(at(found, "features"))
    assert graded.guarantee is Guarantee.EXACT
    assert graded.read == ("__float__()", "item()")


def test_layers_are_seen_in_the_order_in_which_they_run() -> None:
    graph = graph_of(FlattenNet())
    assert [seen.tap.name for seen in graph.sightings] == [
        "features.0.conv2d()#1", "features.0#1", "features.1.relu()#1", "features.1#1", "features#1",
    ]  # fmt: skip
    times = [seen.time for seen in graph.sightings]
    assert times == sorted(times)
    assert [times.count(time) for time in times] == [
        2,
        2,
        3,
        3,
        3,
    ]  # one value has one time, whatever its names
    assert {seen.shape for seen in graph.sightings} == {(2, 6, SIDE, SIDE)}
    assert graph.logits.shape == (2, 5)
    assert not graph.logits.requires_grad


def test_only_maps_on_the_tape_are_layers() -> None:
    class Odd(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            features = self.features(x)
            features.detach().exp()
            torch.ones(1, 2, 3) * self.head.weight.sum()
            (features > 0).sum()
            return self.head(features.flatten(1))

    names = {seen.tap.name for seen in graph_of(Odd()).sightings}
    assert not names & {"exp()#1", "mul()#1", "detach()#1", "flatten()#1", "gt()#1"}
    assert "features#1" in names


def test_a_write_in_place_is_a_sighting_of_what_was_written() -> None:
    class Written(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            features = self.features(x)
            features[:, :, 0] = 0
            features.mul_(2)
            return self.head(features.flatten(1))

    graph = graph_of(Written())
    assert head(graph, "mul_()") == ["reshape", "linear"]
    assert head(graph, "setitem()")[0] == "mul"
    assert head(graph, "features")[0] == "__setitem__ on a view"


def test_a_name_stands_for_one_call_or_all() -> None:
    graph = graph_of(Shared())
    assert len(graph.sighting(Tap("relu"))) == 3
    assert [seen.tap.number for seen in graph.sighting(Tap("relu", None, 2))] == [2]
    assert graph.sighting(Tap("relu", None, 4)) == []
    assert graph.sighting(Tap("relu", "relu", 2))[0].tap == Tap("relu", "relu", 2)
    assert graph.sighting(Tap("", "relu")) == []
    assert graph.place(graph.sighting(Tap("relu", None, 2))[0]).tap == Tap("relu", None, 2)
    assert graph.place(at(graph, "first")).tap == Tap("first")
    assert graph.place(at(graph, "first.conv2d()")).tap == Tap("first", "conv2d")


def test_a_call_is_looked_for_after_the_last_module_before_it() -> None:
    graph = graph_of(FunctionalNet())
    relus = graph.sighting(Tap("", "relu"))
    assert [graph.place(seen) for seen in relus] == [
        Place(Tap("", "relu", 1), "conv1", 1, 0), Place(Tap("", "relu", 2), "conv2", 1, 1),
    ]  # fmt: skip
    assert graph.place(at(graph, "conv2")) == Place(Tap("conv2"))
    first = next(seen for seen in graph.sightings if seen.tap.function)
    assert graph.place(first) == Place(Tap("conv1", "conv2d"))


class Mixed(nn.Module):
    """The same function before, between and after modules that are called again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.head = nn.Linear(2 * SIDE**2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.relu(x) + 0.1) + x.sin()
        x = F.relu(self.conv(x)) + 0.2
        x = self.conv(x)
        x = F.relu(F.relu(x) - 0.3)
        return self.head(x.sin().flatten(1))


@pytest.mark.parametrize("net", [FlattenNet, FunctionalNet, Shared, Mixed, PooledNet, Bypass])
def test_every_layer_is_found_again_where_its_place_says(net: type) -> None:
    model, x = ready(net()), images(2)
    graph = graph_of(model, x)
    for seen in graph.sightings:
        by_place, _ = look(Site(model, graph.place(seen)), call(x))
        from_start, _ = look(Site(model, Place(seen.tap)), call(x))
        assert torch.equal(by_place, from_start), seen.tap.name
        assert tuple(by_place.shape) == seen.shape


# Heads ----------------------------------------------------------------------------------------


def test_a_head_is_the_operations_after_a_layer_in_order() -> None:
    graph = graph_of(TwoLayerNet())
    assert head(graph, "features") == ["reshape", "linear", "relu", "linear"]
    assert head(graph, "features.0") == ["relu", "reshape", "linear", "relu", "linear"]
    assert [op.module for op in graph.grade(at(graph, "features")).head] == [
        "head.0", "head.1", "head.2", "head.3", "",
    ]  # fmt: skip
    assert graph.grade(at(graph, "features")).guarantee is Guarantee.LOCAL
    assert str(graph.grade(at(graph, "features")).breaks[0]) == "relu (head.2)"


def test_a_cut_is_what_every_path_goes_through() -> None:
    graph = graph_of(Bypass())
    verdicts = {seen.tap.name: graph.grade(seen).bypass for seen in graph.sightings}
    assert verdicts == {
        "first.conv2d()#1": False, "first#1": False, "relu()#1": True, "deep.conv2d()#1": True,
        "deep#1": True, "add()#1": False,
    }  # fmt: skip
    assert graph.grade(at(graph, "deep")).guarantee is Guarantee.NONE
    assert head(graph, "add()") == ["reshape", "linear"]
    assert head(graph, "deep") == ["add", "reshape", "linear"]
    assert head(graph, "relu()") == ["conv", "add", "reshape", "linear"]
    assert head(graph, "first") == ["relu", "conv", "add", "reshape", "linear"]


def test_an_output_of_many_is_a_cut_only_if_the_others_are_not_used() -> None:
    class Splits(FlattenNet):
        def __init__(self, both: bool) -> None:
            super().__init__()
            self.both = both

        def forward(self, x: Tensor) -> Tensor:
            first, second = self.features(x).chunk(2, 1)
            return self.head(torch.cat([first, second if self.both else first], 1).flatten(1))

    for both in (True, False):
        graph = graph_of(Splits(both))
        assert graph.grade(at(graph, "chunk()")).bypass is both
        assert not graph.grade(at(graph, "features")).bypass
        assert head(graph, "features") == ["split", "cat", "reshape", "linear"]
        assert head(graph, "chunk()") == ["cat", "reshape", "linear"]


def test_paths_that_join_and_part_again() -> None:
    class Diamonds(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            a = self.features(x)
            b = a.sin() + a.cos()
            c = b * 2 + b.flip(2) + b
            return self.head(c.flatten(1))

    graph = graph_of(Diamonds())
    graded = {seen.tap.name: graph.grade(seen) for seen in graph.sightings}
    around = {name for name, one in graded.items() if one.bypass}
    assert around == {"sin()#1", "cos()#1", "mul()#1", "flip()#1", "add()#2"}
    assert sorted(head(graph, "features")) == sorted(
        ["sin", "cos", "add", "mul", "flip", "add", "add", "reshape", "linear"]
    )
    assert sorted(head(graph, "add()#1")) == sorted(["mul", "flip", "add", "add", "reshape", "linear"])
    assert graded["add()#1"].guarantee is Guarantee.EXACT
    assert graded["features#1"].guarantee is Guarantee.NONE


def test_a_normaliser_is_one_operation_however_many_nodes_it_has() -> None:
    class Normalised(NormNet):
        def forward(self, x: Tensor) -> Tensor:
            z = F.normalize(self.features(x).mean((2, 3)))
            return self.head(self.norm(F.normalize(z * 2)))

    graded = graph_of(Normalised())
    ops = graded.grade(at(graded, "features")).head
    kinds = [op.name for op in ops if op.kind is Kind.NORMALISING]
    assert kinds == ["normalize", "normalize", "layer_norm"]
    assert [op.module for op in ops if op.kind is Kind.NORMALISING] == ["", "", "norm"]
    assert graded.grade(at(graded, "features")).guarantee is Guarantee.CONDITIONAL


def half(change: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    def run(a: Tensor) -> Tensor:
        a = a.clone()
        change(a)
        return a

    return run


WRITES: list[tuple[Callable[[Tensor], Tensor], str, Guarantee]] = [
    (half(lambda a: a.__setitem__((slice(None), 0), a[:, 1])), "__setitem__ on a view", Guarantee.EXACT),
    (half(lambda a: a[:, :2].copy_(a[:, 2:4])), "copy_ on a view", Guarantee.EXACT),
    (half(lambda a: a[:, :2].relu_()), "relu_ on a view", Guarantee.LOCAL),
    (half(lambda a: a[:, :2].mul_(a[:, 2:4])), "mul_ on a view", Guarantee.NONE),
]


@pytest.mark.parametrize(("op", "name", "guarantee"), WRITES, ids=[one[1] for one in WRITES])
def test_a_write_to_a_view(op: Callable[[Tensor], Tensor], name: str, guarantee: Guarantee) -> None:
    graph = graph_of(After(op))
    grade = graph.grade(at(graph, "conv"))
    assert name in [one.name for one in grade.head]
    assert grade.guarantee is guarantee


def test_a_checkpoint_is_no_backward_pass() -> None:
    graph = graph_of(After(lambda a: checkpoint(torch.relu, a, use_reentrant=False)))
    assert graph.grade(at(graph, "conv")).guarantee is Guarantee.LOCAL


def test_values_are_told_apart_by_node_and_number() -> None:
    x = torch.ones(2, 4, requires_grad=True)
    first, second = (x * 1).split(2, 1)
    assert value_of(x) is None
    one, two = value_of(first), value_of(second)
    assert one is not None
    assert two is not None
    assert one[0] is two[0] is first.grad_fn
    assert (one[1], two[1]) == (0, 1)


# What no graph shows --------------------------------------------------------------------------


class Gated(nn.Module):
    """A hidden gate before the layer ``deep``, and perhaps one after it."""

    def __init__(self, before: bool, after: bool) -> None:
        super().__init__()
        self.first, self.deep = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.before, self.after = before, after
        self.head = nn.Linear(6 * SIDE**2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x * x.detach().sigmoid() if self.before else x
        x = self.deep(x)
        x = x * x.detach().mean() if self.after else x
        return self.head(x.flatten(1))


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("after", [True, False])
def test_only_what_is_hidden_after_a_layer_is_held_against_it(before: bool, after: bool) -> None:
    graph = graph_of(Gated(before, after))
    deep, first = graph.grade(at(graph, "deep")), graph.grade(at(graph, "first"))
    assert deep.guarantee is (Guarantee.NONE if after else Guarantee.EXACT)
    assert [str(op) for op in deep.breaks] == ["detach()"] * after
    assert first.guarantee is (Guarantee.NONE if after or before else Guarantee.EXACT)
    assert len(first.breaks) == before + after
    assert len(graph.events) == before + after


def test_a_branch_on_a_value_says_where_it_was() -> None:
    class Branches(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            a = self.features(x)
            return self.head(a.flatten(1)) * (2 if a.sum() > -1 else 3)

    graph = graph_of(Branches())
    assert [str(op) for op in graph.grade(at(graph, "features")).breaks] == ["__bool__()"]


def test_a_head_that_is_not_what_it_looks_like() -> None:
    class Exchanged(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            with torch._C.DisableTorchFunction():
                out.data = out.detach().softmax(1).clone()
            out = out * 1
            with torch._C.DisableTorchFunction():
                out.data = torch.ones_like(out)
            return out

    graph = graph_of(Exchanged())
    assert graph.grade(at(graph, "features")).guarantee is Guarantee.NONE


def test_other_inputs_are_constants_and_a_second_image_is_none() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = FlattenNet()

        def forward(self, picture: Tensor, row: Tensor) -> Tensor:
            return self.net(picture * row.mean()) * row.sum()

    row = torch.rand(2, 3, dtype=torch.float64)
    graph = graph_of(Two(), (images(2), row))
    assert graph.events == ()
    assert graph.grade(at(graph, "net.features")).guarantee is Guarantee.EXACT


# Targets --------------------------------------------------------------------------------------


def test_what_a_target_does_is_part_of_the_head() -> None:
    plain = head(graph_of(FlattenNet()), "features")
    assert plain == ["reshape", "linear"]
    squared = graph_of(FlattenNet(), target=lambda out: out[:, 0] ** 2)
    assert squared.grade(at(squared, "features")).guarantee is Guarantee.NONE
    assert "pow" in head(squared, "features")
    doubled = graph_of(FlattenNet(), target=lambda out: out[:, :2] * 2)
    assert doubled.grade(at(doubled, "features")).guarantee is Guarantee.EXACT
    reads = graph_of(FlattenNet(), target=lambda out: out[:, 0] * (1 if out[0, 0] > 0 else 2))
    assert [op.name for op in reads.grade(at(reads, "features")).breaks] == ["__bool__()"]
    gated = graph_of(FlattenNet(), target=lambda out: out[:, 0] * out.detach()[:, 1])
    assert [op.name for op in gated.grade(at(gated, "features")).breaks] == ["detach()"]


def test_regions_and_outputs() -> None:
    region = Region(1, torch.ones(SIDE, SIDE))
    graph = graph_of(SegNet(), target=region, output="out")
    assert graph.grade(at(graph, "features")).guarantee is Guarantee.EXACT
    assert [name[:8] for name in head(graph, "features")] == [
        "conv",
        "upsample",
        "select",
        "mul",
        "reshape",
        "sum",
    ]
    graph = graph_of(FlattenNet(), output=lambda out: out.softmax(1))
    assert "softmax" in head(graph, "features")


# Errors ---------------------------------------------------------------------------------------


class Ends(FlattenNet):
    def __init__(self, end: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self, x)


def in_inference_mode(net: FlattenNet, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return FlattenNet.forward(net, x)


def with_a_backward_pass(net: FlattenNet, x: Tensor) -> Tensor:
    out = FlattenNet.forward(net, x)
    torch.autograd.grad(out.sum(), net.head.weight)
    return out


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (
            lambda net, x: FlattenNet.forward(net, x).detach(),
            r"does not depend on images .* \(see detach\(\)\)",
        ),
        (in_inference_mode, r"does not depend on images in a way that autograd can follow"),
        (
            lambda net, x: net.head.bias.expand(2, -1) * 2,
            r"does not depend on images .* an op without a gradient$",
        ),
        (lambda net, x: FlattenNet.forward(net, x).round().long().double(), "does not depend on images"),
        (with_a_backward_pass, "the model runs a backward pass inside its forward"),
    ],
    ids=["detached", "inference mode", "constant", "rounded", "backward"],
)
def test_models_without_a_graph_are_told_so(end: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        graph_of(Ends(end))


def test_nothing_is_saved_for_a_backward_pass() -> None:
    graph = graph_of(TwoLayerNet())
    (node, _) = at(graph, "features.0").value
    while node.next_functions and node.name() != "ConvolutionBackward0":
        node = node.next_functions[0][0]
    with pytest.raises(ModelError, match="backward pass inside its forward"):
        _ = node._saved_input


# Of a pass that was cut -----------------------------------------------------------------------


@pytest.mark.parametrize("net", [FlattenNet, PooledNet, TwoLayerNet, NormNet])
def test_a_cut_pass_shows_the_same_head(net: type) -> None:
    model, x = ready(net()), images(2)
    graph = graph_of(model, x)
    whole, cut = graph.grade(at(graph, "features")), grade_of_pass(run(model, x))
    assert [str(op) for op in cut.head] == [str(op) for op in whole.head]
    assert cut == whole


def test_with_its_divisors_held_a_pass_is_affine() -> None:
    grade = grade_of_pass(run(ready(NormNet()), images(2), hold=True))
    assert grade.guarantee is Guarantee.EXACT
    assert not grade.bypass


def test_what_comes_around_the_layer_breaks() -> None:
    grade = grade_of_pass(run(ready(Bypass()), images(2), "deep"))
    assert grade.guarantee is Guarantee.NONE
    assert not grade.bypass
    assert [op.kind for op in grade.breaks] == [Kind.OTHER]
