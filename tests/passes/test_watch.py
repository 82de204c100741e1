"""One pass, watched from a source on: grad modes, tapes, origins of nodes."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from hirescam.passes import watch as watching
from hirescam.passes.state import State
from hirescam.passes.taps import Modes
from hirescam.passes.watch import Origin, Watch
from passes.follow import Followed, follow
from toys import FlattenNet, images, ready


def test_the_source_is_on_the_tape() -> None:
    seen = follow(lambda x: x * 2)
    assert seen.result.requires_grad
    assert seen.events == []
    assert seen.watch.origins[seen.source.grad_fn] == Origin("", "images")


@pytest.mark.parametrize("around", [nullcontext, partial(saved_tensors_hooks, lambda t: t + 0, lambda t: t)])
def test_a_part_that_is_checkpointed_runs_once(around: Callable[[], Any]) -> None:
    """Run again in the backward pass it would not be watched, nor be held where it was held."""
    runs = []

    def part(x: Tensor) -> Tensor:
        runs.append(1)
        return x.sin().exp()

    with around():
        seen = follow(lambda x: checkpoint(part, x, use_reentrant=False))
    (slope,) = torch.autograd.grad(seen.result.sum(), seen.source)
    assert len(runs) == 1
    torch.testing.assert_close(slope, seen.source.cos() * seen.source.sin().exp())


def test_hooks_for_saved_tensors_from_before_the_pass_are_kept() -> None:
    kept = []
    with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        seen = follow(lambda x: checkpoint(lambda y: y.sin().exp(), x.exp(), use_reentrant=False))
    torch.autograd.grad(seen.result.sum(), seen.source)
    assert torch.equal(kept[-1], seen.result)  # what the last step saves


# Grad modes -----------------------------------------------------------------------------------


def under_no_grad(function: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    def run(x: Tensor) -> Any:
        with torch.no_grad():
            return function(x)

    return run


def test_what_comes_from_the_source_stays_on_the_tape_whatever_the_grad_mode() -> None:
    seen = follow(under_no_grad(lambda x: x * 2))
    assert seen.watch.provenance.on_tape(seen.result)
    assert seen.events == []


def test_what_does_not_come_from_it_obeys_the_models_own_grad_mode() -> None:
    weight = torch.ones(2, requires_grad=True)
    assert follow(lambda x: weight * 2, held=[weight]).result.requires_grad
    assert not follow(under_no_grad(lambda x: weight * 2), held=[weight]).result.requires_grad


def test_weights_may_be_written_under_no_grad() -> None:
    weight = torch.full((2,), 3.0, requires_grad=True)

    def clamps(x: Tensor) -> Tensor:
        with torch.no_grad():
            weight.clamp_(-1, 1)
        return x * weight

    seen = follow(clamps, held=[weight])
    assert seen.events == []
    assert weight.is_leaf
    assert weight.tolist() == [1, 1]


@pytest.mark.parametrize("detached", [True, False])
def test_writing_into_out_is_not_for_the_tape(detached: bool) -> None:
    """Autograd refuses ``out=`` of what requires grad; the result depends on the source all the same."""
    box = torch.zeros(2)

    def run(x: Tensor) -> Tensor:
        torch.mul(x.detach() if detached else x, 2, out=box)
        return x * box

    seen = follow(run, held=[box])
    assert [event.name for event in seen.events] == ["detach()" if detached else "mul()"]
    assert box.tolist() == (seen.source.detach() * 2).tolist()


def canvas(x: Tensor, made_under: Callable[[], Any]) -> Tensor:
    box = torch.zeros(4)
    with made_under():
        view = box[:2]
    view.copy_(x)
    return box * 2


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_a_view_that_was_made_under_no_grad_may_be_written_to(mode: Callable[[], Any]) -> None:
    """In the model's own run both happen without a tape, and torch does not refuse it."""
    seen = follow(lambda x: canvas(x, mode))
    assert seen.events == []
    (slope,) = torch.autograd.grad(seen.result.sum(), seen.source)
    assert slope.tolist() == [2, 2]


INTO_VIEWS: dict[str, Callable[[Tensor], Any]] = {
    "itself": lambda x: x.mul_(2),
    "a slice": lambda x: x[:1].mul_(2),
    "an entry": lambda x: x.__setitem__(0, x[1] * 2),
    "by option": lambda x: F.relu(x, inplace=True),
}


@pytest.mark.parametrize("name", INTO_VIEWS)
def test_what_a_module_with_backward_hooks_returns_may_be_written_to(name: str) -> None:
    """Autograd refuses that, for the hooks' sake; where there is no tape it does not."""
    module = nn.Identity()
    module.register_full_backward_hook(lambda *given: None)

    def run(x: Tensor) -> Tensor:
        x = module(x * 1)
        INTO_VIEWS[name](x)
        return x * 3

    seen, plain = follow(run), torch.tensor([0.5, -1.5])
    (slope,) = torch.autograd.grad(seen.result.sum(), seen.source)
    INTO_VIEWS[name](plain)
    assert torch.equal(seen.result.detach(), plain * 3)
    leaf = torch.tensor([0.5, -1.5], requires_grad=True)
    clone = leaf.clone()
    INTO_VIEWS[name](clone)
    (expected,) = torch.autograd.grad((3 * clone).sum(), leaf)
    assert torch.equal(slope, expected)
    assert seen.events == []


def test_grad_modes_are_noted_and_not_carried_out() -> None:
    constant = torch.ones(1, requires_grad=True)
    watch = Watch(State(nn.Identity()), [constant])
    assert watch.sets_grad_mode("_set_grad_enabled", (False,))
    assert torch.is_grad_enabled()
    assert not watch.sets_grad_mode("relu", (False,))
    assert watch.function("mul", torch.mul, (constant, 2), {}).requires_grad is False
    assert watch.sets_grad_mode("_set_grad_enabled", (True,))
    assert watch.function("mul", torch.mul, (constant, 2), {}).requires_grad


READS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x[0].item(),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "__array__": lambda x: x.__array__(),
    "float": lambda x: float(x[0]),
    "int": lambda x: int(x[0]),
    "bool": lambda x: bool(x[0] > 0),
    "complex": lambda x: complex(x[0]),
    "format": lambda x: f"{x[0]:.3f}",
    "__dlpack__": lambda x: torch.utils.dlpack.from_dlpack(x.__dlpack__()),
}


@pytest.mark.parametrize("name", READS)
def test_reads_work_as_they_would_without_a_tape(name: str) -> None:
    """Without us the values would not be on a tape, so no read may fail or warn."""
    plain = torch.tensor([1.5, -2.0])
    seen = follow(READS[name], plain)
    expected = READS[name](plain)
    assert str(seen.result) == str(expected)
    assert len(seen.events) >= 1
    assert all(event.lost for event in seen.events)


# Inference tensors ----------------------------------------------------------------------------


def test_inference_tensors_are_copied_where_autograd_would_save_them() -> None:
    with torch.inference_mode():
        weight = torch.tensor([2.0, 3.0])
    seen = follow(lambda x: x * weight, held=[weight])
    assert seen.events == []
    seen.result.sum().backward()

    def gate(x: Tensor) -> Tensor:
        with torch.inference_mode():
            made = x.sigmoid()
        return x * made

    assert [event.name for event in follow(gate).events] == ["sigmoid()"]


def test_what_is_plain_stays_itself() -> None:
    watch, tensor = Watch(State(nn.Identity()), []), torch.ones(1)
    args, kwargs = (tensor, [tensor, 3]), {"other": tensor}
    assert watch.plain(args, kwargs) == (args, kwargs)
    with torch.inference_mode():
        strange = torch.full((1,), 5.0)
    args, kwargs = watch.plain((tensor, [strange, 3]), {"other": strange})
    assert args[0] is tensor
    assert args[1][1] == 3
    assert not args[1][0].is_inference()
    assert not kwargs["other"].is_inference()
    assert float(kwargs["other"]) == 5.0


# The end --------------------------------------------------------------------------------------


def test_a_result_from_nowhere_is_an_event() -> None:
    assert [(e.name, e.lost) for e in follow(lambda x: x.detach() + 1, finish=True).events] == [
        ("detach()", True)
    ]
    assert follow(lambda x: x + 1, finish=True).events == []
    made = torch.ones(2)
    assert follow(lambda x: made, held=[made], finish=True).events == []


# Origins --------------------------------------------------------------------------------------


def origins(function: Callable[[Tensor], Tensor], x: Tensor | None = None) -> dict[str, set[Origin]]:
    """By the name of the node."""
    seen: Followed = follow(function, x)
    found: dict[str, set[Origin]] = {}
    for node, origin in seen.watch.origins.items():
        found.setdefault(node.name(), set()).add(origin)
    return found


def test_every_node_knows_the_function_that_made_it() -> None:
    found = origins(lambda x: F.layer_norm(x, (2,)) + x.var(0))
    assert found["NativeLayerNormBackward0"] == {Origin("", "layer_norm", held=True)}
    assert found["VarBackward0"] == {Origin("", "var")}
    assert found["AddBackward0"] == {Origin("", "add")}
    assert found["CloneBackward0"] == {Origin("", "images")}


def test_every_node_knows_the_module_that_was_running() -> None:
    model = ready(FlattenNet())
    image = images(1).requires_grad_().clone()
    watch = Watch(State(model), [])
    watch.follow(image)

    def on_function(func: Any, args: Any, kwargs: Any) -> Any:
        return watch.function(func.__name__, func, args, kwargs)

    with Modes(on_function, watch.operation) as modes:
        modes.start_functions()
        modes.start_operations()
        model(image)
    made = {(origin.function, origin.module) for origin in watch.origins.values()}
    assert made == {
        ("images", ""), ("conv2d", "features.0"), ("relu", "features.1"), ("flatten", ""), ("linear", "head"),
    }  # fmt: skip


def test_nodes_of_normalisers_are_marked() -> None:
    seen = follow(lambda x: F.normalize(x, dim=0) * x.norm())
    marked = {node.name(): origin.function for node, origin in seen.watch.origins.items() if origin.held}
    assert "DivBackward0" in marked
    assert "MulBackward0" not in marked
    assert len(marked) > 1
    assert set(marked.values()) == {"normalize"}


def test_a_normaliser_whose_weight_depends_on_the_layer_is_not_one_that_can_be_held() -> None:
    found = origins(lambda x: F.layer_norm(x, (2,), weight=x * 2))
    assert {origin.held for origin in found["NativeLayerNormBackward0"]} == {False}


def test_a_write_in_place_has_an_origin_too() -> None:
    def run(x: Tensor) -> Tensor:
        made = x.clone()
        made[0] = x[1]
        made.mul_(2)
        return made

    found = origins(run)
    assert found["torch::autograd::CopySlices"] == {Origin("", "__setitem__")}
    assert found["MulBackward0"] == {Origin("", "mul_")}


def test_every_node_of_a_function_has_an_origin() -> None:
    """Also those that are met after one that is known already."""
    seen = follow(lambda x: torch.einsum("i,j->ij", x * 2, x * 3))
    stack, met = [seen.result.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is not None and node not in met:
            met.add(node)
            stack += [parent for parent, _ in node.next_functions if node is not seen.source.grad_fn]
    assert met <= set(seen.watch.origins)
    assert sum(origin.function == "einsum" for origin in seen.watch.origins.values()) > 2


def test_what_a_write_only_reads_keeps_its_name() -> None:
    def run(x: Tensor) -> Tensor:
        gate = x.data
        x.detach().clone().mul_(gate)
        return x * gate

    assert follow(run).names == ["data()"]


def test_holding_takes_what_is_made_for_constant() -> None:
    def run(x: Tensor, watch: Watch) -> Tensor:
        with torch._C.DisableTorchFunction(), watch.holding():
            divisor = x.norm()
        return x / divisor

    assert follow(run, with_watch=True).events == []
    assert [e.name for e in follow(lambda x: x / x.detach().norm()).events] == ["detach()"]


NAMES = [
    ("add_", {}, True),
    ("relu_", {}, True),
    ("__setitem__", {}, True),
    ("data =", {}, True),
    ("relu", {"inplace": True}, True),
    ("relu", {"inplace": False}, False),
    ("__iand__", {}, True),
    ("requires_grad =", {}, False),
    ("data", {}, False),
    ("__getitem__", {}, False),
    ("add", {}, False),
    ("add", {"out": None}, False),
    ("add", {"out": torch.zeros(1)}, True),
    ("__x_", {}, True),
]


@pytest.mark.parametrize(("name", "kwargs", "expected"), NAMES, ids=range(len(NAMES)))
def test_names_of_writes(name: str, kwargs: dict[str, Any], expected: bool) -> None:
    assert watching.mutates(name, kwargs) is expected


def test_what_is_written_into() -> None:
    first, second, out = object(), object(), object()
    assert watching.target_of((first, second), {}) is first
    assert watching.target_of((first, second), {"other": out}) is first
    assert watching.target_of((first, second), {"out": None}) is first
    assert watching.target_of((first, second), {"out": out}) is out
    for name in ("input", "self", "tensor"):
        assert watching.target_of((), {"min": 0, name: first}) is first
    assert watching.target_of((), {"unknown": first}) is None
