"""Where values come from: what is constant, what is on the tape, what is hidden, and where they meet."""

import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hirescam.passes.provenance import UNSEEN, Provenance, tensors_in, written
from hirescam.passes.state import storages_of
from passes.follow import Followed, follow

HELD = torch.tensor([2.0, 3.0])
FIRST = torch.tensor([True, False])
IMAGE = torch.tensor([0.5, -1.5])


def kind(seen: Followed, tensor: Tensor | None = None) -> str:
    tensor, values = (seen.result if tensor is None else tensor), seen.values
    if values.on_tape(tensor):
        return "exchanged" if values.hidden(tensor) else "tape"
    assert values.hidden(tensor) == values.depends(tensor)
    return "hidden" if values.hidden(tensor) else "constant"


def seen(function: Callable[[Tensor], Any]) -> Followed:
    return follow(function, IMAGE, held=[HELD, FIRST])


# Constants ------------------------------------------------------------------------------------

CONSTANT: dict[str, Callable[[Tensor], Tensor]] = {
    "what the model held": lambda x: HELD,
    "a view of it": lambda x: HELD[1:],
    "made of it": lambda x: (HELD * 2 + HELD.mean()).softmax(0),
    "a parameter of it": lambda x: nn.Parameter(HELD),
    "its data": lambda x: HELD.data,
    "made of plain numbers": lambda x: torch.zeros(2) + torch.arange(2) * torch.eye(2)[0],
    "tensor": lambda x: torch.tensor([1.0, 2.0]),
    "tensor of nested numbers": lambda x: torch.tensor([[1, 2], (3, 4)], dtype=torch.float32, device="cpu"),
    "tensor of constants": lambda x: torch.tensor([HELD[0], 3.0]),
    "as_tensor": lambda x: torch.as_tensor([1.0, 2.0]),
    "asarray": lambda x: torch.asarray([1.0, 2.0]),
    "new_tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "new_tensor of nothing known": lambda x: x.detach().new_tensor([True, 1, 2.0]),
    "written by numbers": lambda x: _set(torch.zeros(2), 0, 3.0),
    "written by constants": lambda x: _set(torch.zeros(2), slice(None), HELD),
    "written in place": lambda x: HELD.clone().mul_(2).add_(HELD),
    "sparse": lambda x: HELD.to_sparse(),
    "sparse rows": lambda x: torch.diag(HELD).to_sparse_csr(),
    "sparse columns": lambda x: torch.diag(HELD).to_sparse_csc(),
    "under vmap": lambda x: torch.vmap(torch.sin)(HELD),
    "under inference mode": lambda x: _inference(lambda: HELD * 2),
    "with functions disabled": lambda x: _disabled(lambda: HELD * 2),
}


def _set(tensor: Tensor, at: Any, value: Any) -> Tensor:
    tensor[at] = value
    return tensor


def _inference(function: Callable[[], Tensor]) -> Tensor:
    with torch.inference_mode():
        return function()


def _disabled(function: Callable[[], Any]) -> Any:
    with torch._C.DisableTorchFunction():
        return function()


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("name", CONSTANT)
def test_a_constant_is_held_or_made_of_constants(name: str) -> None:
    found = seen(CONSTANT[name])
    assert kind(found) == "constant"
    assert found.events == []


ONLY_SHAPE: dict[str, Callable[[Tensor], Tensor]] = {
    "zeros_like": torch.zeros_like,
    "ones_like": torch.ones_like,
    "full_like": lambda x: torch.full_like(x, 3.0),
    "empty_like": torch.empty_like,
    "new_zeros": lambda x: x.new_zeros(2),
    "new_ones": lambda x: x.new_ones(2),
    "new_full": lambda x: x.new_full((2,), 3.0),
    "new_empty": lambda x: x.new_empty(2),
    "new_empty_strided": lambda x: x.new_empty_strided((2,), (1,)),
    "to": HELD.to,
    "type_as": lambda x: HELD.double().type_as(x),
    "expand_as": HELD[:1].expand_as,
    "view_as": HELD.view_as,
    "size": lambda x: HELD * len(x) * x.shape[0] * x.numel() * x.ndim,
}


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("name", ONLY_SHAPE)
def test_shape_dtype_and_device_are_no_dependence(name: str, detached: bool) -> None:
    found = seen(lambda x: ONLY_SHAPE[name](x.detach() if detached else x))
    assert kind(found) == "constant"
    assert found.events == []


WRITTEN_AT: dict[str, Any] = {
    "a list": [1, 0],
    "a list of truths": [True, False],
    "a tuple of lists": ([1, 0],),
    "a slice": slice(0, 2),
    "a tensor of the model's": FIRST.new_tensor([1, 0], dtype=torch.int64),
}


@pytest.mark.parametrize("name", WRITTEN_AT)
def test_where_something_is_written_may_be_said_in_plain_numbers(name: str) -> None:
    at = WRITTEN_AT[name]
    held = [at] if isinstance(at, Tensor) else []
    found = follow(lambda x: _set(x.clone(), at, 2 * x[at]), IMAGE, held=held)
    assert kind(found) == "tape"
    assert found.events == []


def test_where_something_is_written_may_not_be_said_by_an_array() -> None:
    """NumPy's numbers come from where nobody looks."""
    found = seen(lambda x: _set(x.clone(), np.array([1, 0]), x))
    assert found.names == ["__setitem__()"]


def test_a_fill_value_is_a_value() -> None:
    found = seen(lambda x: torch.full_like(x, x.detach().sum()))
    assert [(e.name, e.lost) for e in found.events] == [("full_like()", True)]


# Hidden ---------------------------------------------------------------------------------------

HIDDEN: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "detached": (lambda x: x.detach(), "detach()"),
    "made of something detached": (lambda x: (x.detach() + HELD).exp(), "detach()"),
    "a view of something detached": (lambda x: x.detach()[1:], "detach()"),
    "in inference mode": (lambda x: _inference(lambda: x.sigmoid()), "sigmoid()"),
    "without a gradient": (lambda x: x > 0, "gt()"),
    "an index": (lambda x: x.argmax(), "argmax()"),
    "looked up": (lambda x: torch.eye(2)[0].gather(0, x.argsort()), "argsort()"),
    "a parameter": (lambda x: nn.Parameter(x.detach()), "detach()"),
    "data": (lambda x: _data(x.detach()), "detach()"),
    "written in place": (lambda x: HELD.clone().mul_(x.detach()), "mul_()"),
    "written into a slice": (lambda x: _set(torch.zeros(2), 0, x[0].detach()), "__setitem__()"),
    "written by out": (lambda x: torch.exp(x.detach(), out=torch.zeros(2)), "detach()"),
    "sparse": (lambda x: x.detach().to_sparse(), "detach()"),
    "sparse rows": (lambda x: torch.diag(x.detach()).to_sparse_csr(), "detach()"),
    "sparse columns": (lambda x: torch.diag(x.detach()).to_sparse_csc(), "detach()"),
    "under vmap": (lambda x: torch.vmap(torch.sin)(x.detach()), "sin()"),
    "a new tensor of tensors": (lambda x: torch.tensor([x[0].detach(), HELD[0]]), "detach()"),
    "a new tensor of its own": (lambda x: HELD.new_tensor([x[0].detach(), 1.0]), "detach()"),
    "random": (lambda x: torch.rand(2), "rand()"),
    "random in place": (lambda x: torch.zeros(2).normal_(), "normal_()"),
    "random by constants": (lambda x: torch.bernoulli(HELD / 5), "bernoulli()"),
    "random like": (lambda x: torch.rand_like(x), "rand_like()"),
    "randn like": (lambda x: torch.randn_like(HELD), "randn_like()"),
    "randint like": (lambda x: torch.randint_like(HELD, 5), "randint_like()"),
    "an array": (lambda x: torch.from_numpy(np.ones(2)), "lift_fresh()"),
    "a tensor of an array": (lambda x: torch.tensor(np.ones(2)), "tensor()"),
    "as a tensor of an array": (lambda x: torch.as_tensor(np.ones(2)), "as_tensor()"),
    "asarray of an array": (lambda x: torch.asarray(np.ones(2)), "asarray()"),
    "new_tensor of an array": (lambda x: x.new_tensor(np.ones(2)), "new_tensor()"),
    "the constructor": (lambda x: torch.Tensor([1.0, 2.0]), "lift_fresh()"),
    "bytes": (lambda x: torch.frombuffer(bytearray(8), dtype=torch.float32), UNSEEN),
    "numbers, with functions disabled": (
        lambda x: _disabled(lambda: torch.tensor([1.0, 2.0])), "lift_fresh()",
    ),
    "from a thread": (lambda x: _in_a_thread(lambda: torch.ones(2)), UNSEEN),
}  # fmt: skip


def _data(value: Tensor) -> Tensor:
    made = nn.Parameter(torch.ones(2))
    made.data = value
    return made


def _in_a_thread(function: Callable[[], Tensor]) -> Tensor:
    made: list[Tensor] = []
    thread = threading.Thread(target=lambda: made.append(function()))
    thread.start()
    thread.join()
    return made[0]


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("name", HIDDEN)
def test_everything_else_is_hidden_and_says_what_hid_it(name: str) -> None:
    function, reason = HIDDEN[name]
    found = seen(function)
    assert kind(found) == "hidden"
    assert found.values.name_of(found.result) == reason
    assert found.events == []


def test_what_the_model_held_is_hidden_once_something_hidden_was_written_to_it() -> None:
    held = torch.ones(2)
    found = follow(lambda x: held.copy_(x.detach()), held=[held])
    assert kind(found, held) == "hidden"


def test_a_tensor_that_does_not_say_where_its_values_are_is_hidden() -> None:
    found = seen(lambda x: HELD.to_mkldnn())
    assert kind(found) == "hidden"
    on_tape = seen(lambda x: x.to_mkldnn())
    assert kind(on_tape) == "exchanged"


# Where something hidden meets the tape --------------------------------------------------------

MEETS: dict[str, tuple[Callable[[Tensor], Any], list[tuple[str, bool]]]] = {
    "a product": (lambda x: x * x.detach(), [("detach()", False)]),
    "a concatenation": (lambda x: torch.cat([HELD, x, x.detach()]), [("detach()", False)]),
    "a mask": (lambda x: x * (x > 0), [("gt()", False)]),
    "a choice": (lambda x: torch.where(x > 0, x, 0.0), [("gt()", False)]),
    "in inference mode": (lambda x: x * _inference(lambda: x.exp()).clone(), [("exp()", False)]),
    "in place": (lambda x: (x * 1).mul_(x.detach()), [("detach()", False)]),
    "an index that is looked up": (lambda x: x.gather(0, x.argsort()), [("argsort()", False)]),
    "random numbers": (lambda x: x * torch.rand(2), [("rand()", False)]),
    "dropout": (lambda x: F.dropout(x, training=True), [("dropout()", False)]),
    "an array": (lambda x: x * torch.from_numpy(np.ones(2, np.float32)), [("lift_fresh()", False)]),
    "another thread": (lambda x: x * _in_a_thread(lambda: torch.ones(2)), [(UNSEEN, True)]),
    "numbers twice": (lambda x: x * x.detach() + x.argmax(), [("detach()", False), ("argmax()", False)]),
    "one that was copied": (lambda x: x * x.detach().clone().to(torch.float64), [("detach()", False)]),
    "a new tensor of tensors": (
        lambda x: x * torch.tensor([x[0].detach(), x[1].detach()]), [("detach()", False)],
    ),
    "as_tensor of tensors": (
        lambda x: x * torch.as_tensor([x[0].detach(), x[1].detach()]), [("detach()", False)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MEETS)
def test_where_something_hidden_meets_the_tape_there_is_an_event(name: str) -> None:
    function, expected = MEETS[name]
    found = seen(function)
    assert [(event.name, event.lost) for event in found.events] == expected
    assert kind(found) == "tape"


QUIET: dict[str, Callable[[Tensor], Any]] = {
    "nothing but the tape": lambda x: (x * 2 + x.exp()).sum(),
    "constants": lambda x: x * HELD + torch.tensor([1.0, 2.0]),
    "two that are hidden": lambda x: x.detach() * x.argmax() * HELD,
    "in place on the tape": lambda x: (x * 1).mul_(HELD).relu_(),
    "in place on a view": lambda x: _set(x * 1, 0, x[1]),
    "in place on a detached copy": lambda x: x.detach().clone().mul_(2),
    "in place on a constant": lambda x: HELD.clone().mul_(2) * x,
    "numbers into the tape": lambda x: _set(x * 1, 0, 3.0),
    "a list as an index": lambda x: x[[1, 0]],
    "a constant index": lambda x: x[torch.tensor([1, 0])],
    "a constant mask": lambda x: x[FIRST],
    "a constant mask, by function": lambda x: torch.masked_select(x, FIRST),
    "a constant count": lambda x: x.repeat_interleave(torch.tensor([1, 2])),
    "constant bounds": lambda x: x[torch.tensor(0) : torch.tensor(1)],
    "reading a constant": lambda x: x * HELD[0].item() * float(HELD[1]) * len(HELD.nonzero()),
    "exporting a constant": lambda x: x * float(HELD.numpy()[0]) * HELD.tolist()[0],
    "a data pointer of a constant": lambda x: HELD.data_ptr(),
    "asking for its memory": lambda x: x.is_pinned() or x.is_contiguous() or x.stride(),
    "looking at the tape": lambda x: x.requires_grad and x.grad_fn is not None and x.dtype,
}


@pytest.mark.parametrize("name", QUIET)
def test_what_the_graph_shows_is_no_event(name: str) -> None:
    assert seen(QUIET[name]).events == []


READS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "item": (lambda x: x[0].item(), "item()"),
    "float": (lambda x: float(x[0]), "__float__()"),
    "bool": (lambda x: bool(x[0] > 0), "__bool__()"),
    "index": (lambda x: [3, 4][x.argmax()], "__index__()"),
    "equal": (lambda x: torch.equal(x, HELD), "equal()"),
    "nonzero": (lambda x: x.nonzero(), "nonzero()"),
    "where": (lambda x: torch.where(x > 0), "where()"),
    "argwhere": (lambda x: torch.argwhere(x > 0).shape[0], "argwhere()"),
    "unique": (lambda x: x.unique(), "unique()"),
    "unique_consecutive": (lambda x: torch.unique_consecutive(x), "unique_consecutive()"),
    "a mask": (lambda x: x[x.detach() > 0], "__getitem__()"),
    "a mask on a constant": (lambda x: HELD[x > 0], "__getitem__()"),
    "masked_select": (lambda x: torch.masked_select(x, x > 0), "masked_select()"),
    "masked_select of a constant": (lambda x: torch.masked_select(HELD, x > 0), "masked_select()"),
    "repeat_interleave": (lambda x: HELD.repeat_interleave((x > 0).long()), "repeat_interleave()"),
    "the bounds of a slice": (lambda x: x[: x.argmax()], "__getitem__()"),
    "bincount": (lambda x: (x > 0).long().bincount(), "bincount()"),
    "with functions disabled": (
        lambda x: _disabled(lambda: x.detach().sum().item()),
        "_local_scalar_dense() in scripted code, or with torch functions disabled",
    ),
}
EXPORTS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "numpy": (lambda x: x.numpy(), "numpy()"),
    "tolist": (lambda x: x.tolist(), "tolist()"),
    "array": (lambda x: x.detach().__array__(), "__array__()"),
    "format": (lambda x: f"{x[0]:.2f}", "__format__()"),
    "repr": (lambda x: repr(x.detach()), "__repr__()"),
    "data_ptr": (lambda x: x.data_ptr(), "data_ptr()"),
    "untyped_storage": (lambda x: x.untyped_storage(), "untyped_storage()"),
    "dlpack": (lambda x: x.detach().__dlpack__(), "__dlpack__()"),
    "pickle": (lambda x: pickle.dumps(x.detach()), "untyped_storage()"),
    "storage": (lambda x: x.storage(), "storage()"),
}


@pytest.mark.parametrize("name", READS)
def test_reading_a_value_is_an_event_that_loses_the_list_of_calls(name: str) -> None:
    function, event = READS[name]
    events = seen(function).events
    assert events
    assert {(one.name, one.lost) for one in events} == {(event, True)}


@pytest.mark.filterwarnings("ignore:TypedStorage")
@pytest.mark.parametrize("name", EXPORTS)
def test_handing_values_to_others_is_an_event(name: str) -> None:
    function, event = EXPORTS[name]
    events = seen(function).events
    assert event in [one.name for one in events]
    assert all(one.lost for one in events)


def test_an_operation_of_a_stranger_reads() -> None:
    with torch.library._scoped_library("hirescam_test", "FRAGMENT") as library:
        library.define("double(Tensor x) -> Tensor")
        library.impl("double", lambda x: 2 * x, "CompositeExplicitAutograd")
        double = torch.ops.hirescam_test.double
        assert [(e.name, e.lost) for e in seen(lambda x: double(x.detach())).events] == [("double()", True)]
        assert seen(lambda x: double(HELD)).events == []


BEHIND: dict[str, tuple[Callable[[Tensor], Any], str, bool]] = {
    "in place on a detached alias": (
        lambda x: x.detach().mul_(2), "mul_() on detached values", False,
    ),
    "in place on data": (lambda x: x.data.clamp_(max=0), "clamp_() on detached values", False),
    "in place on a view of data": (
        lambda x: _set(x.data, 0, 1.0), "__setitem__() on detached values", False,
    ),
    "in place on an alias of what came of it": (
        lambda x: (x * 2).detach().zero_(), "zero_() on detached values", False,
    ),
    "with functions disabled": (
        lambda x: _disabled(lambda: x.detach().mul_(2)),
        "mul_() in scripted code, or with torch functions disabled on detached values", False,
    ),
    "an exchange of data": (lambda x: _exchange(x * 1, x.detach().relu()), "data on detached values", True),
    "an exchange of data by a constant": (
        lambda x: _exchange(x * 1, HELD), "data on detached values", True,
    ),
}  # fmt: skip


def _exchange(tensor: Tensor, value: Tensor) -> Tensor:
    tensor.data = value
    return tensor


@pytest.mark.parametrize("name", BEHIND)
def test_writing_behind_the_back_of_the_tape_is_an_event(name: str) -> None:
    function, event, lost = BEHIND[name]
    assert [(one.name, one.lost) for one in seen(function).events] == [(event, lost)]


def test_what_is_on_the_tape_but_not_what_it_was_is_hidden() -> None:
    found = seen(lambda x: _disabled(lambda: _exchange(x * 1, HELD)))
    assert kind(found) == "exchanged"
    found = seen(lambda x: _disabled(lambda: _exchange(x * 1, HELD)) * 2)
    assert [(event.name, event.lost) for event in found.events] == [(UNSEEN, True)]


# The clock, the module, the names -------------------------------------------------------------


def test_an_event_knows_when_and_where() -> None:
    values = Provenance([], lambda: "a.b")
    assert (values.tick(), values.tick()) == (1, 2)
    values.event("x()", lost=False)
    values.event("y()", lost=True)
    assert [(e.name, e.module, e.time, e.lost) for e in values.events] == [
        ("x()", "a.b", 3, False), ("y()", "a.b", 4, True),
    ]  # fmt: skip
    assert values.tick() == 5


def test_a_source_that_is_not_on_the_tape_is_hidden_from_the_start() -> None:
    values, image = Provenance({number for number, _ in storages_of(IMAGE)}, lambda: ""), IMAGE
    assert not values.hidden(image)
    values.follow(image)
    assert values.hidden(image)
    assert not values.on_tape(image)
    assert values.name_of(image) == "images()"


def test_a_later_source_makes_the_earlier_graph_a_constant_of_no_tape() -> None:
    earlier = IMAGE.clone().requires_grad_() * 1
    values = Provenance([], lambda: "")
    values.follow(earlier)
    made = earlier * 2
    assert values.on_tape(made)
    leaf = made.detach().requires_grad_()
    source = leaf * 1
    values.follow(source)
    assert values.on_tape(source * 3)
    assert not values.on_tape(made)


def test_a_copy_of_ours_keeps_the_name() -> None:
    found = seen(lambda x: x.detach())
    copy, other = torch.zeros(2), torch.zeros(2)
    found.values.copied(found.result, copy)
    found.values.copied(torch.ones(2), other)
    assert found.values.name_of(copy) == "detach()"
    assert found.values.name_of(other) == UNSEEN


def test_the_number_of_a_storage_is_not_used_again() -> None:
    """A tensor from nowhere must not take the place, and the good name, of a constant that is gone."""

    def run(x: Tensor) -> int:
        found = 0
        for _ in range(20):
            constant = torch.tensor([1.0, 2.0])
            del constant
            with torch._C._DisableTorchDispatch():
                strange = torch.ones(2)
            found += values[0].hidden(strange)
            del strange
        return found

    values: list[Provenance] = []
    found = follow(lambda x, watch: values.append(watch.provenance) or run(x), with_watch=True)
    assert found.result == 20


def test_what_is_held_is_constant_whatever_is_computed() -> None:
    values = Provenance([], lambda: "")
    source = IMAGE.clone().requires_grad_() * 1
    values.follow(source)
    square = torch.ops.aten.mul.Tensor
    with torch.no_grad():
        with values.holding():
            assert not values.depends(values.operation(square, (source, source), {}))
        assert values.depends(values.operation(square, (source, source), {}))
    with pytest.raises(KeyError):
        _fail_inside(values)
    with torch.no_grad():
        assert values.depends(values.operation(square, (source, source), {}))


def _fail_inside(values: Provenance) -> None:
    with values.holding():
        raise KeyError


def test_tensors_are_found_in_containers_and_slices() -> None:
    a, b, c, d = (torch.tensor(i) for i in range(4))
    assert [int(t) for t in tensors_in(([a, {"x": (b, None)}], slice(c, 5, d), "text"))] == [0, 1, 2, 3]
    assert tensors_in(slice(0, None)) == []


def test_what_an_operation_writes_is_read_from_its_schema() -> None:
    a, b = torch.zeros(2), torch.ones(2)
    aten = torch.ops.aten
    assert written(aten.mul.Tensor, (a, b), {}) == []
    assert [t is a for t in written(aten.mul_.Tensor, (a, b), {})] == [True]
    assert [t is b for t in written(aten.mul.out, (a, a), {"out": b})] == [True]
    assert [t is a for t in written(aten._foreach_add_.List, ([a], [b]), {})] == [True]
