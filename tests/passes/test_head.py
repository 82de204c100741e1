"""The list of calls after a layer: recorded once, run again on anything."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C import _functorch

from hirescam.passes import taps
from hirescam.passes.head import Head, batched, chunks
from hirescam.passes.state import State
from hirescam.passes.watch import Watch

LEAF = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
OTHER = torch.randn(2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
WEIGHT = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def record(function: Callable[[Tensor], Tensor], held: tuple[Tensor, ...] = (WEIGHT,)) -> Head:
    """A head as `Cut` makes it: the calls of one function after a layer."""
    leaf = LEAF.clone().requires_grad_()
    fed = leaf.clone()
    watch = Watch(State(nn.Identity()), held)
    watch.follow(fed)
    head = Head(watch, fed)

    def on_function(func: Any, args: Any, kwargs: Any) -> Any:
        name = taps.function_name(func)
        return None if watch.sets_grad_mode(name, args) else head.call(name, func, args, kwargs)

    with torch.enable_grad(), taps.Modes(on_function, watch.operation) as modes:
        modes.start_functions()
        modes.start_operations()
        head.finish(function(fed))
    return head


def add_half(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :2] += 0.5
    return x


def write_into_constant(x: Tensor) -> Tensor:
    box = torch.ones(2, 4, dtype=torch.float64)
    box.mul_(x)
    return box


def twice_in_place(x: Tensor) -> Tensor:
    x.relu_()
    x.add_(1)
    return x @ WEIGHT


def by_out(x: Tensor) -> Tensor:
    made = torch.zeros(2, 4, dtype=torch.float64)
    with torch.no_grad():
        torch.mul(WEIGHT[:, 0], 2, out=made[0])
    return x + made


def fill_a_view(x: Tensor) -> Tensor:
    made = torch.zeros(2, 4, dtype=torch.float64)
    made[:, :2] = x[:, 2:]
    return made * 2


def split_and_join(x: Tensor) -> Tensor:
    first, second, third = x.split([1, 2, 1], 1)
    low, high = x.aminmax(dim=1, keepdim=True)
    return torch.cat([third, {"a": [second * high]}["a"][0], first - low], 1)


HEADS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x @ WEIGHT,
    "nothing": lambda x: x,
    "made again and again": lambda x: (x.relu() + x.sin()).sum(1),
    "in place": twice_in_place,
    "in place on a view": add_half,
    "in place on a constant": write_into_constant,
    "a view of a constant": fill_a_view,
    "out": by_out,
    "several results": split_and_join,
    "nested arguments": lambda x: torch.stack([x, torch.cat([x[:, :2], x[:, 2:]], 1)]).sum(0),
    "keyword arguments": lambda x: F.linear(input=x, weight=WEIGHT.T),
    "a branch that leads nowhere": lambda x: (x * 2, x.exp())[0],
    "properties": lambda x: x.T.mT + x.mean(),
    "a parameter in the middle": lambda x: (WEIGHT * 2).T.matmul(x.unsqueeze(2)),
}


@pytest.mark.parametrize("name", HEADS)
def test_running_the_list_is_running_the_function(name: str) -> None:
    function = HEADS[name]
    head = record(function)
    assert head.replayable
    for leaf in (OTHER, LEAF, OTHER):
        kept = leaf.clone()
        torch.testing.assert_close(head.run(leaf), function(leaf.clone()))
        assert torch.equal(leaf, kept)


def test_what_was_made_outside_and_is_written_to_starts_afresh_every_time() -> None:
    box = torch.zeros(2, 4, dtype=torch.float64)
    head = record(lambda x: box.add_(x) * 1, held=(box,))
    assert torch.equal(box, LEAF)
    assert head.replayable
    for _ in range(2):
        torch.testing.assert_close(head.run(OTHER), OTHER)
    assert torch.equal(box, LEAF)


def test_what_is_written_by_out_starts_afresh_too() -> None:
    box = torch.full((2, 4), 7.0, dtype=torch.float64)

    def run(x: Tensor) -> Tensor:
        torch.mul(x.detach(), 2, out=box)
        return x + box

    head = record(run, held=(box,))
    assert torch.equal(box, 2 * LEAF)
    torch.testing.assert_close(head.run(OTHER), 3 * OTHER)
    assert torch.equal(box, 2 * LEAF)


def by_name(x: Tensor) -> Tensor:
    z = torch.clamp_(min=-0.5, input=x * 1)
    return torch.relu_(input=z) + nn.init.ones_(tensor=torch.empty(4, dtype=torch.float64))


def initialised(x: Tensor) -> Tensor:
    w = torch.empty(4, 4, dtype=torch.float64)
    return x @ (nn.init.eye_(w) + nn.init.constant_(torch.empty_like(w), 2.0))


def two_outs(x: Tensor) -> Tensor:
    values, places = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
    torch.max(x.detach(), 1, out=(values, places))
    return x + values[:, None] + places[:, None]


@pytest.mark.parametrize("function", [by_name, initialised, two_outs])
def test_what_is_written_to_may_have_a_name_and_be_several(function: Callable[[Tensor], Tensor]) -> None:
    head = record(function)
    for _ in range(2):
        assert torch.equal(head.run(LEAF), function(LEAF))
        assert torch.equal(head.run(OTHER), function(OTHER))


def test_gradients_flow_through_the_list() -> None:
    head, leaf = record(lambda x: add_half(x).relu_() @ WEIGHT), OTHER.clone().requires_grad_()
    (got,) = torch.autograd.grad(head.run(leaf).sum(), leaf)
    torch.testing.assert_close(got, (add_half(OTHER) > 0) * WEIGHT.sum(1))


BLIND: dict[str, Callable[[Tensor], Tensor]] = {
    "a value was read": lambda x: x * (2 if x.sum() > 0 else 3),
    "a value was read by item": lambda x: x * x[0, 0].item(),
    "values became a shape": lambda x: x[x > 0].sum() + x,
    "something came from nowhere": lambda x: x * torch.from_numpy(LEAF.numpy()),
    "something of the layer was made unseen": lambda x: torch.cat([x, _unseen(lambda: x * 2)]),
    "the result was made unseen": lambda x: _unseen(lambda: x * 2),
    "the result does not come from the layer": lambda x: WEIGHT,
    "part of a complex number was set": lambda x: _imaginary(x).abs() * x,
}


def _imaginary(x: Tensor) -> Tensor:
    made = torch.zeros(2, 4, dtype=torch.complex128)
    made.imag = x  # which torch does not show as a call of a function
    return made


def _unseen(function: Callable[[], Tensor]) -> Tensor:
    with torch._C.DisableTorchFunction():
        return function()


@pytest.mark.parametrize("name", BLIND)
def test_a_list_that_does_not_stand_for_the_model_says_so(name: str) -> None:
    assert not record(BLIND[name]).replayable


def test_something_hidden_that_was_seen_being_made_is_in_the_list() -> None:
    head = record(lambda x: x * x.detach().sigmoid())
    assert head.replayable
    torch.testing.assert_close(head.run(OTHER), OTHER * OTHER.sigmoid())


def test_after_the_end_nothing_is_recorded_or_kept_alive() -> None:
    head = record(lambda x: x @ WEIGHT)
    steps = len(head._steps)
    assert head._alive == []
    made = head.call("mul", torch.mul, (LEAF, 2), {})
    assert torch.equal(made, LEAF * 2)
    assert len(head._steps) == steps


def test_before_the_end_it_is_not_replayable() -> None:
    fed = LEAF.clone().requires_grad_() * 1
    assert not Head(Watch(State(nn.Identity()), []), fed).replayable


# Many at once ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "convolves"),
    [
        (lambda x: x @ WEIGHT, False),
        (lambda x: F.linear(x, WEIGHT.T).relu(), False),
        (lambda x: F.conv1d(x[:, None], WEIGHT.T[:, None, :2]).flatten(1), True),
        (
            lambda x: nn.Conv2d(4, 2, 1).double()(x[:, :, None, None]).flatten(1) @ torch.ones(2, 1).double(),
            True,
        ),
        (lambda x: x * float(x.sum()), True),  # a list that does not show all there is
    ],
)
def test_whether_there_are_convolutions(function: Callable[[Tensor], Tensor], convolves: bool) -> None:
    assert record(function).convolves is convolves


def test_many_are_run_together_where_every_op_allows_it() -> None:
    many, runs = torch.stack([LEAF, OTHER, LEAF - OTHER]), []

    def head(x: Tensor) -> Tensor:
        runs.append(1)
        return x @ WEIGHT

    torch.testing.assert_close(batched(head, many), many @ WEIGHT)
    assert len(runs) == 1
    torch.testing.assert_close(batched(head, many[:1]), many[:1] @ WEIGHT)


@pytest.mark.parametrize(
    "head",
    [
        lambda x: x * (2 if x.sum() > 0 else 3),  # RuntimeError
        lambda x: x * torch.rand(1).mul(0).add(1),  # randomness
        lambda x: torch.stack([row for row in x if row[0] > 0] or [x[0]]).sum(0),
        lambda x: _refuses(x),
        lambda x: _refuses(x, ValueError),
        lambda x: _refuses(x, NotImplementedError),
    ],
    ids=["branch", "random", "data", "runtime", "value", "not implemented"],
)
def test_others_are_run_one_by_one(head: Callable[[Tensor], Tensor]) -> None:
    many = torch.stack([LEAF, OTHER, -LEAF])
    torch.testing.assert_close(batched(head, many), torch.stack([head(x) for x in many]))


def _refuses(x: Tensor, error: type[Exception] = RuntimeError) -> Tensor:
    if _functorch.is_batchedtensor(x):
        raise error
    return x * 2


def test_a_bug_in_a_head_is_not_hidden() -> None:
    with pytest.raises(KeyError):
        batched(lambda x: {}[0], torch.stack([LEAF, OTHER]))


def test_ops_without_a_batching_rule_are_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    switch: list[bool] = []
    monkeypatch.setattr(_functorch, "_set_vmap_fallback_warning_enabled", switch.append)
    many = torch.stack([LEAF, OTHER])
    batched(lambda x: switch.append(None) or x, many)  # type: ignore[func-returns-value]
    assert switch == [False, None, True]
    switch.clear()
    batched(_refuses, many)
    assert switch == [False, True]


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (5, 2, [(0, 2), (2, 4), (4, 5)]),
        (4, 2, [(0, 2), (2, 4)]),
        (3, 10, [(0, 3)]),
        (3, 0, [(0, 1), (1, 2), (2, 3)]),
        (2, -1, [(0, 1), (1, 2)]),
        (0, 3, []),
    ],
)
def test_chunks(count: int, size: int, expected: list[tuple[int, int]]) -> None:
    assert [(part.start, part.stop) for part in chunks(count, size)] == expected
