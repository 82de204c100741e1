"""Whether a model is still what it was, and giving it back as it was."""

import types
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hirescam.passes.restore import Slot, Written
from hirescam.passes.state import Ends, State, storages_of, tensors_inside
from toys import FlattenNet, PooledNet, images, ready


class Model(FlattenNet):
    """With a buffer, a plain attribute, and containers of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(3))
        self.factor, self.nothing = 2.0, None
        self.pairs = [(torch.zeros(1), torch.zeros(2)), {"deep": torch.zeros(3)}]


def add_one(model: Model) -> None:
    with torch.no_grad():
        model.head.weight.add_(1)


def as_inference(model: Model) -> None:
    with torch.inference_mode():
        model.head.weight.add_(1)


def patch_instance(model: Model) -> None:
    model.head.forward = types.MethodType(lambda self, x: x, model.head)


VALUES: dict[str, Callable[[Model], Any]] = {
    "a parameter in place": add_one,
    "a parameter, in inference mode": as_inference,
    "a buffer in place": lambda m: m.scale.mul_(2),
    "other weights": lambda m: m.load_state_dict(m.state_dict()),
    "an optimiser's step": lambda m: _step(m),
}
HOOKS: dict[str, Callable[[Model], Any]] = {
    "forward": lambda m: m.head.register_forward_hook(print),
    "forward, with kwargs": lambda m: m.head.register_forward_hook(print, with_kwargs=True),
    "forward, on the model": lambda m: m.register_forward_hook(print),
    "forward pre": lambda m: m.features[0].register_forward_pre_hook(print),
    "backward": lambda m: m.features[0].register_full_backward_hook(print),
    "backward pre": lambda m: m.features[0].register_full_backward_pre_hook(print),
}
OTHER: dict[str, Callable[[Model], Any]] = {
    "a module appended": lambda m: m.features.append(nn.ReLU()),
    "a module swapped": lambda m: m.features.__setitem__(1, nn.ReLU()),
    "a module added": lambda m: m.add_module("new", nn.ReLU()),
    "a module gone": lambda m: m.features.__delitem__(1),
    "a module for none": lambda m: setattr(m, "nothing", nn.ReLU()),
    "a parameter replaced": lambda m: setattr(m.head, "bias", nn.Parameter(m.head.bias.detach())),
    "a parameter gone": lambda m: setattr(m.head, "bias", None),
    "a parameter added": lambda m: m.head.register_parameter("more", nn.Parameter(torch.zeros(1))),
    "a buffer replaced": lambda m: setattr(m, "scale", m.scale.clone()),
    "a buffer in a module that had none": lambda m: m.features[1].register_buffer("new", torch.zeros(1)),
    "a buffer gone": lambda m: delattr(m, "scale"),
    "an attribute changed": lambda m: setattr(m, "factor", 3.0),
    "an attribute added": lambda m: setattr(m.features[1], "factor", 3.0),
    "an attribute gone": lambda m: delattr(m, "factor"),
    "the training flag": lambda m: m.features[1].train(),
    "forward patched": patch_instance,
    "the class of a module": lambda m: setattr(m.features[1], "__class__", nn.ReLU6),
    "another list of tensors": lambda m: setattr(m, "pairs", [(torch.zeros(1), torch.zeros(2))]),
    "an option of a convolution": lambda m: setattr(m.features[0], "stride", (2, 2)),
}


def _step(model: Model) -> None:
    model.head(torch.ones(1, 384, dtype=torch.float64)).sum().backward()
    torch.optim.SGD(model.head.parameters(), lr=0.1).step()


def pairs(*tables: dict[str, Any]) -> list[str]:
    return [name for table in tables for name in table]


@pytest.mark.parametrize("name", pairs(VALUES, OTHER, HOOKS))
def test_every_change_is_seen(name: str) -> None:
    model = ready(Model())
    state = State(model)
    assert state.same
    assert state.only_values
    (VALUES | OTHER | HOOKS)[name](model)
    assert not state.same
    assert state.only_values is (name in VALUES)
    assert not state.same  # asking changes nothing
    assert State(model).same


@pytest.mark.parametrize(
    "register",
    [
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_forward_pre_hook,
        nn.modules.module.register_module_full_backward_hook,
    ],
)
def test_hooks_on_all_modules_are_seen(register: Callable[[Any], Any]) -> None:
    state = State(ready(Model()))
    handle = register(lambda *_: None)
    try:
        assert not state.same
        assert not state.only_values
    finally:
        handle.remove()
    assert state.same


def test_a_class_that_is_patched_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Base(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    class Derived(Base):
        pass

    state = State(nn.Sequential(nn.Sequential(Derived())))
    monkeypatch.setattr(nn.Flatten, "forward", lambda self, x: x)
    assert state.same  # a class that is not in the model
    monkeypatch.setattr(Base, "forward", lambda self, x: -x)
    assert not state.same
    monkeypatch.undo()
    assert state.same
    monkeypatch.setattr(Derived, "forward", lambda self, x: -x, raising=False)
    assert not state.same


def test_attributes_that_do_not_compare_are_a_change() -> None:
    model = ready(Model())
    model.table = np.zeros(2)
    state = State(model)
    assert state.same  # the very same object
    model.table = np.zeros(2)
    assert not state.same
    model.table = model.weight_of_another = torch.zeros(2)
    state = State(model)
    model.table = torch.zeros(2)
    assert not state.same


def test_running_the_model_is_no_change() -> None:
    model = ready(PooledNet())
    state = State(model)
    model(images(2))
    with torch.inference_mode():
        model(images(2))
    assert state.same


def test_a_change_through_data_is_not_seen_here() -> None:
    model = ready(Model())
    state = State(model)
    model.head.weight.data.neg_()
    assert state.same


def test_weights_made_in_inference_mode_have_no_versions() -> None:
    with torch.inference_mode():
        model = ready(Model())
    state = State(model)
    assert state.same
    with torch.inference_mode():
        model.head.weight.neg_()
    assert state.same
    model.head.weight = nn.Parameter(torch.zeros(5, 384))
    assert not state.same


def test_what_the_model_itself_writes_to_is_free() -> None:
    model = ready(Model())
    places = [
        Slot(model._buffers, "scale"),
        Written(model.scale),
        Slot(model.__dict__, "count"),
        Slot({}, "of no model"),
    ]
    state = State(model, places)
    model.scale.add_(1)
    assert state.same
    model.scale = model.scale + 1
    model.count = 1
    assert state.same
    model.count += 1
    assert state.same
    del model.count
    assert state.same
    model.factor = 3.0
    assert not state.same
    model.factor = 2.0
    assert state.same
    add_one(model)
    assert not state.same


def test_all_that_the_model_holds() -> None:
    model = ready(Model())
    model.features[1].extra = torch.zeros(4)
    model.deepest = [[[torch.zeros(5)]]]
    model.too_deep = [[[[torch.zeros(6)]]]]
    model.too_many = [torch.zeros(7)] * 1001
    held = State(model).held
    named = [*model.parameters(), *model.buffers()]
    assert {id(tensor) for tensor in named} <= {id(tensor) for tensor in held}
    others = [tensor for tensor in held if not any(tensor is one for one in named)]
    assert sorted(len(tensor) for tensor in others) == [1, 2, 3, 4, 5]
    assert {id(tensor) for tensor in State(model).tensors} == {id(tensor) for tensor in named}


class Gate:
    """A callable that is no module, with a tensor of its own."""

    def __init__(self) -> None:
        self.weight = torch.zeros(3)

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.weight


GLOBAL = torch.zeros(8)


def holders() -> dict[str, Any]:
    """Values that lead to one tensor, and values that lead to none."""
    one = torch.zeros(2)

    def default(x: Tensor, scale: Tensor = one) -> Tensor:
        return x * scale

    def keyword(x: Tensor, *, scale: Tensor = one) -> Tensor:
        return x * scale

    return {
        "a closure": lambda x: x * one, "a default": default, "a keyword's default": keyword,
        "a global": lambda x: x * GLOBAL, "a callable": Gate(), "a method": Gate().__call__,
        "a partial": partial(torch.mul, one), "a partial's keyword": partial(torch.mul, other=one),
        "data alone": types.SimpleNamespace(weight=one), "a module": nn.Linear(1, 1), "a class": Gate,
    }  # fmt: skip


@pytest.mark.parametrize("name", holders())
def test_tensors_are_found_where_functions_keep_them(name: str) -> None:
    found = list(tensors_inside(holders()[name]))
    assert len(found) == (0 if name == "a class" else 2 if name == "a module" else 1)


class Helper:
    def __init__(self, weight: Tensor) -> None:
        self.weight = weight


FAR = torch.ones(2)


class Keeps(nn.Module):
    """Keeps tensors where they are easily overlooked."""

    of_the_class = torch.ones(1)

    def __init__(self) -> None:
        super().__init__()
        self.helper, self.listed = Helper(torch.ones(3)), [nn.Linear(1, 1, bias=False)]

    def used_by_forward(self) -> Tensor:
        return FAR

    @staticmethod
    def table() -> Tensor:
        return FAR


def test_tensors_of_classes_methods_helpers_and_listed_modules() -> None:
    model = Keeps()
    held = {id(tensor) for tensor in State(model).held}
    wanted = [model.of_the_class, FAR, model.helper.weight, model.listed[0].weight]
    assert {id(tensor) for tensor in wanted} <= held
    state = State(model)
    assert state.same
    model.helper.weight.add_(1)
    assert not state.same


def test_long_dicts_are_data() -> None:
    assert len(list(tensors_inside({i: torch.ones(1) for i in range(1000)}))) == 1000
    assert not list(tensors_inside({i: torch.ones(1) for i in range(1001)}))
    assert not list(tensors_inside(torch))


# Storages -------------------------------------------------------------------------------------


def test_the_storages_of_all_that_the_model_holds() -> None:
    model = ready(Model())
    state = State(model)
    found = state.storages()
    assert found.keys() == {number for tensor in state.held for number, _ in storages_of(tensor)}
    assert len(found) == len(state.held)
    assert state.storages() is found
    old, new = model.head.weight.data, torch.zeros_like(model.head.weight)
    model.head.weight.data = new
    assert state.storages().keys() - found.keys() == {new.untyped_storage()._cdata}
    assert found.keys() - state.storages().keys() == {old.untyped_storage()._cdata}


LAYOUTS: dict[str, tuple[Callable[[Tensor], Tensor], list[str]]] = {
    "coo": (Tensor.to_sparse_coo, ["_indices", "_values"]),
    "csr": (Tensor.to_sparse_csr, ["crow_indices", "col_indices", "values"]),
    "csc": (Tensor.to_sparse_csc, ["ccol_indices", "row_indices", "values"]),
    "bsr": (lambda x: x.to_sparse_bsr((1, 1)), ["crow_indices", "col_indices", "values"]),
    "bsc": (lambda x: x.to_sparse_bsc((1, 1)), ["ccol_indices", "row_indices", "values"]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_sparse_tensor_lies_in_all_its_parts(layout: str) -> None:
    make, parts = LAYOUTS[layout]
    tensor = make(torch.eye(3))
    expected = [getattr(tensor, part)().untyped_storage()._cdata for part in parts]
    assert [number for number, _ in storages_of(tensor)] == expected


def test_a_tensor_under_a_transformation_lies_where_it_is() -> None:
    seen = []
    tensor = torch.ones(2, 3)
    torch.vmap(lambda row: seen.append(storages_of(row)) or row)(tensor)
    assert [number for number, _ in seen[0]] == [tensor.untyped_storage()._cdata]
    assert storages_of(torch.ones(2).to_mkldnn()) == []


# Where values end -----------------------------------------------------------------------------


def test_a_change_through_data_is_seen_at_the_ends() -> None:
    for place in (0, -1):
        tensor = torch.arange(12.0).reshape(3, 4)
        ends = Ends([torch.ones(2), tensor])
        assert ends.same
        tensor.data.view(-1)[place] = 7
        assert not ends.same
    for place in (0, 5, 600, -1):  # some between
        tensor = torch.arange(6400.0).reshape(64, 100)
        ends = Ends([tensor])
        tensor.data.view(-1)[place] = 7000
        assert ends.same == (place == 5)


def test_other_memory_is_seen() -> None:
    tensor = torch.ones(3)
    ends = Ends([tensor])
    tensor.data = torch.ones(3)
    assert not ends.same


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12.0).reshape(3, 4).T,
        torch.arange(24.0).reshape(2, 3, 4)[1:, :2, 1:],
        torch.arange(6.0).reshape(2, 3, 1, 1).to(memory_format=torch.channels_last),
        torch.tensor(3.0),
        torch.ones(1).expand(4),
        torch.arange(8).bfloat16(),
        torch.arange(8) > 3,
    ],
    ids=["transposed", "a view with an offset", "channels last", "one number", "expanded", "half", "bool"],
)
def test_the_ends_are_the_ends_whatever_the_strides(tensor: Tensor) -> None:
    found = Ends([tensor])
    assert found.same
    (values,) = found._views.values()
    flat = tensor.flatten()
    assert torch.equal(values[0], torch.stack([flat[0], flat[-1]]))
    tensor.view(-1)[0:1] if tensor.is_contiguous() else tensor
    with torch.no_grad():
        tensor[(-1,) * tensor.ndim] = 0 if tensor.flatten()[-1] else 1
    assert not found.same


def test_nan_and_minus_zero_are_values_too() -> None:
    tensor = torch.tensor([torch.nan, 0.0])
    ends = Ends([tensor])
    assert ends.same
    tensor.data[1] = -0.0
    assert not ends.same


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_tensors_without_ends() -> None:
    sparse, empty = torch.eye(2).to_sparse(), torch.zeros(0)
    quantised = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)
    assert Ends([sparse, empty, quantised]).same
    assert Ends([]).same
    assert Ends([torch.ones(2), torch.ones(3).double(), torch.ones(2).int()]).same
