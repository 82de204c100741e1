"""Names of layers, hooks and modes: what is seen of a forward pass, in which order, and what stays behind."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode  # noqa: TID251 - the modes of a stranger
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: TID251

from hirescam import LayerError, ModelError
from hirescam.passes import taps
from hirescam.passes.taps import Counts, Modes, Place, Tap, Watcher, module_outputs, parse
from toys import FlattenNet, FunctionalNet, Shared, images, ready


@contextmanager
def nothing_left() -> Iterator[None]:
    """No mode of ours may survive its block."""
    before = torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()
    try:
        yield
    finally:
        assert (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()) == before


# Names ----------------------------------------------------------------------------------------

NAMES = {
    "layer4": Tap("layer4"),
    "layer4.2#3": Tap("layer4.2", None, 3),
    "layer4.2.add()": Tap("layer4.2", "add"),
    "relu()": Tap("", "relu"),
    "relu()#12": Tap("", "relu", 12),
    "": Tap(""),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_read_as_it_is_written(name: str) -> None:
    assert parse(name) == NAMES[name]
    assert NAMES[name].name == name


def test_what_is_no_name_is_refused() -> None:
    with pytest.raises(LayerError, match=r"layer='a\\nb' is not a layer name"):
        parse("a\nb")


def test_a_layer_is_found_by_name_module_or_tap() -> None:
    model = FlattenNet()
    for layer in ("features.0", model.features[0], Tap("features.0")):
        assert taps.find(model, layer) == Tap("features.0")
    assert taps.find(model, "module.features#2") == Tap("features", None, 2)
    assert taps.find(model, "module.features.relu()#1") == Tap("features", "relu", 1)
    assert taps.find(model, "relu()") == Tap("", "relu")


def test_the_names_of_a_wrapper_are_its_own_where_it_has_them() -> None:
    model = nn.Sequential()
    model.add_module("module", FlattenNet())
    assert taps.find(model, "module.head") == Tap("module.head")


def test_a_shared_module_has_all_its_names() -> None:
    model = Shared()
    model.second = model.relu
    assert taps.find(model, "second") == Tap("second")
    assert taps.find(model, model.second) == Tap("relu")
    assert taps.paths(model)[id(model.relu)] == "relu"


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("feature", r"layer='feature' is not in this FlattenNet: did you mean 'features'"),
        ("xyz", r"layer='xyz' is not in this FlattenNet: see hirescam\.layers"),
        ("", r"layer='' is not in this FlattenNet"),
        ("module.body", r"layer='body' is not in"),
        (nn.ReLU(), "layer is a ReLU that is not a part of this FlattenNet"),
        (3, "layer=3 is of type int: pass a module of the model, or the name of a layer"),
        (Tap("nowhere", "relu"), r"layer='nowhere\.relu\(\)' is not in"),
    ],
)
def test_a_layer_that_is_not_there_is_refused(layer: Any, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        taps.find(FlattenNet(), layer)


def test_the_model_itself_is_no_layer() -> None:
    model = FlattenNet()
    with pytest.raises(LayerError, match="layer is a FlattenNet that is not a part"):
        taps.find(model, model)


# Outputs of modules ---------------------------------------------------------------------------


def test_outputs_are_reported_and_may_be_replaced() -> None:
    model, x, seen = ready(FlattenNet()), images(1), []
    modules = [(name, part) for name, part in model.named_modules() if name in ("features.0", "features")]

    def on_output(path: str, output: Tensor) -> Tensor | None:
        seen.append((path, tuple(output.shape)))
        return output * 0 if path == "features" else None

    with module_outputs(modules, on_output):
        replaced = model(x)
    assert seen == [("features.0", (1, 6, 8, 8)), ("features", (1, 6, 8, 8))]
    assert torch.equal(replaced, model.head.bias.expand(1, -1))
    assert torch.equal(model(x), model.head(model.features(x).flatten(1)))


def test_hooks_go_even_after_an_error() -> None:
    model = FlattenNet()
    block = module_outputs([("head", model.head)], lambda *_: None)
    block.__enter__()
    assert model.head._forward_hooks
    assert block.__exit__(KeyError, KeyError(), None) is not True
    assert not model.head._forward_hooks


def test_other_threads_are_not_reported() -> None:
    model, x, seen = ready(FlattenNet()), images(1), []
    with module_outputs([("head", model.head)], lambda path, output: seen.append(path) or output * 0):
        answers: list[Tensor] = []
        thread = threading.Thread(target=lambda: answers.append(model(x)))
        thread.start()
        thread.join()
    assert seen == []
    assert answers[0].abs().max() > 0


@pytest.mark.filterwarnings("ignore")
def test_scripted_modules_take_no_hooks_and_no_harm() -> None:
    model, seen = nn.Sequential(torch.jit.script(nn.ReLU()), nn.Identity()), []
    with module_outputs(list(model.named_children()), lambda path, output: seen.append(path)):
        model(torch.ones(1))
    assert seen == ["1"]


def test_what_a_hook_calls_is_not_the_models() -> None:
    model, seen = ready(FlattenNet()), []
    with (
        Modes(lambda func, args, kwargs: seen.append(taps.function_name(func)) or func(*args, **kwargs)) as m,
        module_outputs([("features", model.features)], lambda path, output: output.sigmoid()),
    ):
        m.start_functions()
        model(images(1))
    assert "sigmoid" not in seen
    assert "conv2d" in seen


# Modes ----------------------------------------------------------------------------------------


class Noted:
    """Modes that write down what they are shown."""

    def __init__(self) -> None:
        self.functions: list[str] = []
        self.operations: list[str] = []
        self.modes = Modes(self._function, self._operation)

    def _function(self, func: Any, args: Any, kwargs: Any) -> Any:
        self.functions.append(taps.function_name(func))
        return func(*args, **kwargs)

    def _operation(self, op: Any, args: Any, kwargs: Any) -> Any:
        self.operations.append(taps.function_name(op))
        return op(*args, **kwargs)


def test_observation_starts_when_it_is_wanted() -> None:
    x, noted = torch.ones(2), Noted()
    with nothing_left(), noted.modes as modes:
        x.exp()
        modes.start_functions()
        modes.start_functions()
        x.sin()
        modes.start_operations()
        x.cos()
    x.tan()
    assert noted.functions == ["sin", "cos"]
    assert noted.operations == ["cos"]


def test_a_block_can_be_entered_again() -> None:
    noted = Noted()
    for _ in range(2):
        with nothing_left(), noted.modes as modes:
            modes.start_operations()
            torch.ones(2).exp()
    assert noted.operations.count("exp") == 2


def test_what_autograd_asks_under_its_lock_is_not_shown() -> None:
    """Whoever is shown a call may ask for a ``grad_fn``, and would wait for ever."""
    noted = Noted()
    with noted.modes as modes:
        modes.start_functions()
        z = torch.fft.fft(torch.ones(3, requires_grad=True) * 1)
        z.imag = 2 * z.imag.clone()
    assert z.requires_grad
    assert "clone" in noted.functions
    assert not any("hook" in name for name in noted.functions)


def test_without_a_handler_there_are_no_operations() -> None:
    with Modes(lambda func, args, kwargs: func(*args, **kwargs)) as modes:
        modes.start_operations()
        assert torch._C._len_torch_dispatch_stack() == 0


def test_modes_go_even_after_an_error() -> None:
    def fail(modes: Modes) -> None:
        modes.start_functions()
        modes.start_operations()
        raise KeyError

    with nothing_left(), pytest.raises(KeyError), Noted().modes as modes:
        fail(modes)


def test_operations_are_seen_below_everything() -> None:
    noted = Noted()
    with noted.modes as modes:
        modes.start_operations()
        with torch._C.DisableTorchFunction(), torch.inference_mode():
            torch.ones(2).exp()
    assert "exp" in noted.operations


def test_what_looks_at_an_operation_is_not_shown() -> None:
    seen: list[str] = []

    def on_operation(op: Any, args: Any, kwargs: Any) -> Any:
        torch.ones(1).sigmoid()
        return op(*args, **kwargs)

    def on_function(func: Any, args: Any, kwargs: Any) -> Any:
        seen.append(taps.function_name(func))
        return func(*args, **kwargs)

    with Modes(on_function, on_operation) as modes:
        modes.start_functions()
        modes.start_operations()
        torch.zeros(1)
    assert "sigmoid" not in seen


class Functions(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **kwargs or {})


class Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("start", ["start_functions", "start_operations"])
@pytest.mark.parametrize("foreign", [Functions, Operations])
def test_a_mode_of_the_models_own_would_be_torn(foreign: Callable[[], Any], start: str) -> None:
    same = (foreign is Functions) == (start == "start_functions")
    with nothing_left():
        with Noted().modes as modes, foreign():
            if same:
                with pytest.raises(ModelError, match="inside a torch mode of its own"):
                    getattr(modes, start)()
        with foreign(), Noted().modes as modes:
            getattr(modes, start)()


def test_function_names() -> None:
    assert taps.function_name(F.relu) == "relu"
    assert taps.function_name(Tensor.add_) == "add_"
    assert taps.function_name(Tensor.shape.__get__) == "shape"
    assert taps.function_name(Tensor.data.__set__) == "data ="
    assert taps.function_name(torch.ops.aten.add.Tensor) == "add"
    assert taps.function_name(object()) == ""

    def odd() -> None: ...

    odd.__name__ = "v1.5"
    assert taps.function_name(odd) == "v1.5"
    assert [taps.tap_name(name) for name in ("relu", "__getitem__", "__x", "x__", "add_")] == [
        "relu", "getitem", "__x", "x__", "add_",
    ]  # fmt: skip


# Who is running -------------------------------------------------------------------------------


class Asks(nn.Module):
    def __init__(self, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.inner, self.said = inner, []

    def forward(self, x: Tensor) -> Tensor:
        self.said.append(taps.caller())
        if self.inner is not None:
            self.inner(x)
        self.said.append((lambda: taps.caller())())
        return x


def test_the_module_that_is_running_is_the_innermost() -> None:
    inner = Asks()
    outer = Asks(inner)
    assert taps.caller() is None
    nn.Sequential(outer)(torch.ones(1))
    assert [one is outer for one in outer.said] == [True, True]
    assert [one is inner for one in inner.said] == [True, True]


def test_calls_are_numbered_by_module_and_function() -> None:
    model = Shared()
    counts = Counts(model)
    assert [counts.module("relu").number for _ in range(2)] == [1, 2]
    assert counts.module("head") == Tap("head", None, 1)
    assert counts.function(F.relu) == Tap("", "relu", 1)  # outside any module
    assert counts.function(Tensor.__getitem__) == Tap("", "getitem", 1)
    assert counts.function(F.relu) == Tap("", "relu", 2)
    assert counts.of(Tap("relu", None, 7)) == 2
    assert counts.of(Tap("relu", "relu")) == 0
    counts.start(Tap("", "relu"), 5)
    assert counts.function(F.relu).number == 6
    assert counts.path(model.again) == "again"
    assert counts.path(nn.ReLU()) == counts.path(None) == counts.path(model) == ""


# Waiting for one layer ------------------------------------------------------------------------


def watched(model: nn.Module, place: Place, x: Tensor, **options: Any) -> list[Tensor]:
    """What was handed over."""
    found: list[Tensor] = []
    watcher = Watcher(model, place, lambda output: found.append(output.clone()), **options)
    with nothing_left(), watcher.active():
        model(x)
    return found


def outputs(model: Shared, x: Tensor) -> list[Tensor]:
    first = model.relu(model.first(x))
    second = model.relu(model.again(first))
    return [first, second, model.relu(model.again(second))]


def test_a_module_is_met_once_and_by_its_number() -> None:
    model, x = ready(Shared()), images(1)
    expected = outputs(model, x)
    for number in (1, 2, 3):
        (found,) = watched(model, Place(Tap("relu", None, number)), x)
        assert torch.equal(found, expected[number - 1])
    (first,) = watched(model, Place(Tap("first")), x)
    assert torch.equal(first, model.first(x))


@pytest.mark.parametrize(
    ("tap", "message"),
    [
        (
            Tap("relu"),
            r"layer='relu' is called 3 times in one forward pass: say which call, 'relu#1' to 'relu#3'",
        ),
        (Tap("relu", None, 4), r"layer='relu#4' was not called .* that often \(calls: 3\): choose"),
        (Tap("spare"), r"layer='spare' was not called in this forward pass: choose"),
        (Tap("", "flatten", 2), r"layer='flatten\(\)#2' was not called .* that often \(calls: 1\)"),
        (Tap("", "softmax"), r"layer='softmax\(\)' was not called in this forward pass: choose"),
    ],
)
def test_a_layer_that_is_not_met_is_told(tap: Tap, message: str) -> None:
    model = Shared()
    model.spare = nn.ReLU()
    with pytest.raises(LayerError, match=message):
        watched(ready(model), Place(tap), images(1))


def test_functions_are_told_apart_by_name_and_number() -> None:
    model, x = ready(FunctionalNet()), images(1)
    first = F.relu(model.conv1(x))
    second = F.relu(model.conv2(first))
    for number, expected in ((1, first), (2, second)):
        (found,) = watched(model, Place(Tap("", "relu", number)), x)
        assert torch.equal(found, expected)
    with pytest.raises(LayerError, match=r"'relu\(\)' is called 2 times .* 'relu\(\)#1' to 'relu\(\)#2'"):
        watched(model, Place(Tap("", "relu")), x)


def test_a_function_is_looked_for_after_the_last_module_before_it() -> None:
    model, x = ready(FunctionalNet()), images(1)
    second = F.relu(model.conv2(F.relu(model.conv1(x))))
    (found,) = watched(model, Place(Tap("", "relu", 2), "conv2", 1, 1), x)
    assert torch.equal(found, second)
    (found,) = watched(model, Place(Tap("", "relu", 1), "conv2", 1), x)  # counted from there
    assert torch.equal(found, second)
    with pytest.raises(LayerError, match=r"'relu\(\)#2' was not called"):
        watched(model, Place(Tap("", "relu", 2), "conv2", 2, 1), x)
    with pytest.raises(LayerError, match=r"'relu\(\)#2' was not called"):
        watched(model, Place(Tap("", "relu", 2), "conv2", 1, 0), x)


def test_nothing_is_shown_before_the_layer() -> None:
    model, x, noted = ready(FunctionalNet()), images(1), Noted()
    options = {"on_function": noted._function, "on_operation": noted._operation}
    watched(model, Place(Tap("conv2")), x, **options)
    assert noted.functions[0] == "relu"
    assert noted.functions.count("relu") == 1
    assert "convolution" not in noted.operations
    assert "addmm" in noted.operations

    noted.functions.clear()
    noted.operations.clear()
    watched(model, Place(Tap("", "relu", 1)), x, **options)
    assert noted.functions.count("conv2d") == 1  # the second; the first ran before
    assert noted.operations.count("convolution") == 1

    noted.functions.clear()
    noted.operations.clear()
    for place in (Place(Tap("conv2"), all=True), Place(Tap("", "relu", 2), "conv2", 1, 1, all=True)):
        watched(model, place, x, **options)
    assert noted.functions.count("conv2d") == noted.operations.count("convolution") == 4


def test_without_interest_in_what_follows_nothing_is_observed() -> None:
    model, depths = ready(FlattenNet()), []

    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            depths.append(torch._C._len_torch_function_stack())
            return x

    model.head = nn.Sequential(Looks(), model.head)
    watched(model, Place(Tap("features")), images(1))
    assert depths == [0]


@pytest.mark.parametrize("tap", [Tap("features"), Tap("", "flatten")])
def test_what_is_handed_over_may_be_replaced(tap: Tap) -> None:
    model, x, seen = ready(FlattenNet()), images(1), []
    shown = {"on_function": lambda func, args, kwargs: seen.append(func) or func(*args, **kwargs)}
    plain = model(x)
    for options in ({}, shown):
        with Watcher(model, Place(tap), lambda output: output * 0, **options).active():
            replaced = model(x)
        assert torch.equal(replaced, model.head.bias.expand(1, -1))
        with Watcher(model, Place(tap), lambda output: None, **options).active():
            assert torch.equal(model(x), plain)
    assert seen


def test_a_layer_inside_a_mode_of_the_models_own() -> None:
    class Inside(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            with torch.device("cpu"):
                return super().forward(x)

    model, x = ready(Inside()), images(1)
    assert len(watched(model, Place(Tap("features")), x)) == 1  # nothing has to be observed
    with pytest.raises(ModelError, match="choose a layer outside it"):
        watched(model, Place(Tap("features")), x, on_function=Noted()._function)
