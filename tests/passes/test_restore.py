"""A model comes back as it was, whatever its forward pass writes to."""

import random
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hirescam.passes.restore import Contents, Drawn, Slot, Written, restored, unchanged


class Keeps(nn.Module):
    """Writes to itself in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("assigned", torch.ones(2))
        self.register_buffer("written", torch.ones(2))
        self.register_buffer("taped", torch.ones(2))
        self.register_buffer("left", torch.ones(2))
        self.register_buffer("empty", None)
        self.count, self.gone = 0, "here"

        self.plain, self.listed, self.table = torch.ones(2), [torch.ones(2)], {"a": 1, "b": 2}
        self.view = torch.ones(3)[1:]

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.assigned = self.assigned + 1
        self.written.add_(1)
        self.taped.mul_(x)
        self.empty = torch.zeros(1)
        self.count += 1
        self.new = [x]
        self.plain.mul_(x)
        self.view.mul_(x)
        self.listed[0].mul_(x)
        self.listed.append(x)
        self.table["a"] = x
        self.table["c"] = self.table.pop("b")
        if hasattr(self, "gone"):
            del self.gone
        return x


def snapshot(model: nn.Module) -> dict[str, Any]:
    part = model[0]
    return {name: getattr(part, name, "absent") for name in (*part._buffers, "count", "gone", "new")}


def run_and_fail(model: nn.Module) -> None:
    model(torch.ones(2))
    raise RuntimeError("mine")


def test_a_model_comes_back_as_it_was() -> None:
    model = nn.Sequential(Keeps())
    before = snapshot(model)
    with unchanged(model) as places:
        model(torch.full((2,), 3.0, requires_grad=True))
        assert all(snapshot(model)[name] is not before[name] for name in ("assigned", "count", "gone", "new"))
        assert places == []
    after = snapshot(model)
    assert all(after[name] is before[name] for name in before)
    for name in ("assigned", "written", "taped", "left"):
        assert after[name].tolist() == [1, 1]
        assert after[name].is_leaf
        assert not after[name].requires_grad
    part = model[0]
    for tensor in (part.plain, part.view, *part.listed):
        assert tensor.tolist() == [1, 1]
        assert tensor.is_leaf
        assert not tensor.requires_grad
    assert len(part.listed) == 1
    assert part.table == {"a": 1, "b": 2}
    names = sorted(place.name for place in places if isinstance(place, Slot))
    assert names == ["a", "assigned", "b", "c", "count", "empty", "gone", "new"]
    assert [place.owner for place in places if isinstance(place, Contents)] == [part.listed]
    values = {id(place.tensor) for place in places if isinstance(place, Written)}
    assert values == {id(t) for t in (part.written, part.taped, part.plain, part.view, *part.listed)}
    owners = {place.name: place.owner for place in places if isinstance(place, Slot)}
    assert owners["count"] is part.__dict__
    assert owners["assigned"] is part._buffers
    assert owners["a"] is part.table


def test_a_model_comes_back_even_after_an_error() -> None:
    model = nn.Sequential(Keeps())
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="mine"), unchanged(model):
        run_and_fail(model)
    assert all(value is before[name] for name, value in snapshot(model).items())


def test_a_write_that_ends_in_the_same_values_is_one() -> None:
    """The next pass may write others."""
    model = nn.Sequential(Keeps())
    with unchanged(model) as places:
        model[0].left.mul_(1)
    assert places == [Written(model[0].left)]


def test_a_write_through_data_is_undone() -> None:
    model = nn.Sequential(Keeps())
    with unchanged(model) as places:
        model[0].left.data.mul_(5)
    assert model[0].left.tolist() == [1, 1]
    assert places == [Written(model[0].left)]


def test_buffers_of_inference_mode_come_back() -> None:
    with torch.inference_mode():
        model = nn.Sequential(Keeps())
    with unchanged(model), torch.inference_mode():
        model[0].written.add_(1)
    assert model[0].written.tolist() == [1, 1]
    with restored([Written(model[0].written)]), torch.inference_mode():
        model[0].written.add_(1)
    assert model[0].written.tolist() == [1, 1]


@pytest.mark.filterwarnings("ignore")
def test_scripted_parts_are_left_alone() -> None:
    model = nn.Sequential(torch.jit.script(nn.BatchNorm1d(2)))
    with unchanged(model) as places:
        pass
    assert places == []


def test_known_places_are_put_back() -> None:
    model = nn.Sequential(Keeps())
    with unchanged(model) as places:
        model(torch.full((2,), 3.0, requires_grad=True))
    before = snapshot(model)
    with restored(places):
        model(torch.full((2,), 3.0, requires_grad=True))
    after = snapshot(model)
    assert all(after[name] is before[name] for name in before)
    assert [after[name].tolist() for name in ("assigned", "written", "taped")] == [[1, 1]] * 3
    assert after["taped"].is_leaf
    with pytest.raises(RuntimeError, match="mine"), restored(places):
        run_and_fail(model)
    assert all(value is before[name] for name, value in snapshot(model).items())
    assert model[0].written.tolist() == [1, 1]


def test_what_was_not_written_to_is_not_written_back() -> None:
    model = nn.Sequential(Keeps())
    places = [Written(model[0].written), Slot(model[0].__dict__, "count")]
    version = model[0].written._version
    with restored(places):
        pass
    assert model[0].written._version == version


def test_a_slot_is_a_name_in_one_place() -> None:
    owner: dict[str, object] = {}
    assert Slot(owner, "a") == Slot(owner, "a")
    assert hash(Slot(owner, "a")) == hash(Slot(owner, "a"))
    assert Slot(owner, "a") != Slot(owner, "b")
    assert Slot(owner, "a") != Slot({}, "a")  # however alike


def test_alike_is_not_the_same_place() -> None:
    numbers: list[int] = []
    assert Contents(numbers) == Contents(numbers)
    assert hash(Contents(numbers)) == hash(Contents(numbers))
    assert Contents(numbers) != Contents([])
    tensor = torch.ones(2)
    assert Written(tensor) == Written(tensor)
    assert hash(Written(tensor)) == hash(Written(tensor))
    assert Written(tensor) != Written(torch.ones(2))
    dice, others = (Drawn(random.Random(1), tuple, list) for _ in range(2))
    assert dice == replace(dice, read=list)
    assert hash(dice) == hash(replace(dice, read=list))
    assert dice != others
    assert dice != Contents(numbers)


def test_a_view_that_something_refers_to_weakly_still_gets_its_values_back() -> None:
    model = nn.Sequential(Keeps())
    seen = weakref.ref(model[0].view)
    with unchanged(model):
        model(torch.full((2,), 3.0, requires_grad=True))
    assert seen() is model[0].view
    assert model[0].view.tolist() == [1, 1]


def test_a_tensor_that_was_on_a_tape_before_stays_on_it() -> None:
    model = nn.Sequential(Keeps())
    model[0].plain = torch.ones(2, requires_grad=True) * 2
    tape = model[0].plain.grad_fn
    with unchanged(model) as places, torch.no_grad():
        model[0].plain.mul_(3)
    assert places == [Written(model[0].plain)]
    assert model[0].plain.tolist() == [2, 2]
    assert model[0].plain.grad_fn is tape


def test_long_containers_are_left_alone() -> None:
    model = nn.Sequential(Keeps())
    model[0].listed = list(range(2000))
    with unchanged(model) as places:
        model[0].listed.append(1)
    assert places == []


def test_tensors_without_values_that_can_be_compared_are_left_alone() -> None:
    model = nn.Sequential(Keeps())
    model[0].plain = torch.eye(2).to_sparse()
    model[0].register_buffer("left", torch.empty(2, device="meta"))
    with unchanged(model) as places:
        model[0].written.add_(1)
    assert places == [Written(model[0].written)]
    with restored([Written(model[0].plain), Written(model[0].left)]):
        pass


def test_a_list_in_itself_has_an_end() -> None:
    model = nn.Sequential(Keeps())
    model[0].listed.append(model[0].listed)
    before = list(model[0].listed)
    with unchanged(model):
        model[0].listed.append(1)
    assert len(model[0].listed) == len(before)


def test_what_is_in_a_tuple_comes_back() -> None:
    model, generator = nn.Sequential(Keeps()), torch.Generator().manual_seed(1)
    model[0].pair = (torch.ones(2), ({}, generator))
    state = generator.get_state()
    with unchanged(model) as places:
        model[0].pair[0].zero_()
        model[0].pair[1][0]["a"] = 1
        torch.rand(1, generator=generator)
    assert len(places) == 3
    assert model[0].pair[0].tolist() == [1, 1]
    assert model[0].pair[1][0] == {}
    assert torch.equal(generator.get_state(), state)
    with restored(places):
        torch.rand(1, generator=generator)
    assert torch.equal(generator.get_state(), state)


def test_containers_in_containers_come_back() -> None:
    model = nn.Sequential(Keeps())
    model[0].table = {"a": ([1],)}
    with unchanged(model) as places:
        model[0].table["a"][0].append(2)
    assert places == [Contents(model[0].table["a"][0])]
    assert model[0].table == {"a": ([1],)}
