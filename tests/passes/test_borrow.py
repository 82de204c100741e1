"""Wrappers, modes, grad modes and calls: what goes in is checked, what is lent comes back."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from hirescam import InputError, ModelError
from hirescam.passes import borrow
from hirescam.passes.borrow import (
    as_call,
    check_model,
    eager,
    first_not_finite,
    parts,
    possible_calls,
    session,
)
from toys import FlattenNet, images, ready


def ddp(module: nn.Module) -> nn.Module:
    """A wrapper without the process group that its constructor asks for."""
    made = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(made)
    made.module = module
    return made


# Wrappers and modes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda m: m,
        nn.DataParallel,
        ddp,
        lambda m: torch.compile(m, backend="eager"),
        lambda m: torch.compile(nn.DataParallel(m), backend="eager"),
        lambda m: nn.DataParallel(torch.compile(ddp(m), backend="eager")),
    ],
)
def test_every_wrapper_comes_off(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = FlattenNet()
    assert borrow.unwrap(wrap(model)) is model


def test_only_modules_are_models() -> None:
    with pytest.raises(InputError, match=r"model must be a torch\.nn\.Module, got type"):
        borrow.unwrap(FlattenNet)


MINDFUL = [
    nn.BatchNorm2d(2), nn.InstanceNorm2d(2), nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), nn.RReLU(),
    nn.MultiheadAttention(4, 2), nn.TransformerEncoderLayer(4, 2), nn.TransformerDecoderLayer(4, 2),
    nn.LSTM(2, 2), FlattenNet(),
]  # fmt: skip


@pytest.mark.parametrize("part", MINDFUL, ids=lambda part: type(part).__name__)
def test_a_part_in_training_mode_is_named(part: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Sequential(part.eval())).eval()
    check_model(model)
    part.training = True
    with pytest.raises(ModelError, match=r"but its part '1\.0' is in training mode: call model\.eval\(\)"):
        check_model(model)


def test_parts_of_torch_that_compute_the_same_may_be_in_training_mode() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Linear(2, 2)))
    model.training = False
    assert all(part.training for part in parts(model) if part is not model)
    check_model(model)


def test_a_model_in_training_mode_is_refused_whatever_it_is() -> None:
    with pytest.raises(ModelError, match="but the model is in training mode"):
        check_model(nn.Sequential(nn.Flatten()))


@pytest.mark.filterwarnings("ignore")
def test_an_exported_model_has_no_mode() -> None:
    """Its flag says training, and its ``eval()`` refuses."""
    plain = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Flatten()).eval()
    exported = torch.export.export(plain, (torch.zeros(1, 2, 3, 3),)).module()
    assert exported.training
    check_model(exported)
    around = nn.Sequential(exported)
    around.training = False
    check_model(around)


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_model_is_refused() -> None:
    with pytest.raises(ModelError, match=r"^model is a TorchScript module.*pass the original Python network"):
        check_model(torch.jit.script(nn.Sequential(nn.Flatten()).eval()))


def test_parts_are_the_modules() -> None:
    model = FlattenNet()
    model.shared, model.nothing = model.features, None
    model.register_module("gone", None)
    assert {id(part) for part in parts(model)} == {id(module) for module in model.modules()}
    assert parts(model)[0] is model


# Tensors --------------------------------------------------------------------------------------


def test_a_version_counts_writes() -> None:
    tensor = torch.zeros(2)
    before = borrow.version_of(tensor)
    tensor.add_(1)
    assert borrow.version_of(tensor) == before + 1
    with torch.inference_mode():
        tensor = torch.zeros(2)
    assert borrow.version_of(tensor) == 0


def test_large_finite_images_are_no_infinite_ones() -> None:
    huge = torch.full((2, 1, 2, 2), 3e38)
    assert first_not_finite(huge) is None
    assert as_call(huge).images is huge
    huge[1, 0, 0, 0] = -torch.inf
    assert first_not_finite(huge) == 1
    assert first_not_finite(torch.tensor([[1.0], [torch.nan]])) == 1


def test_the_first_row_that_is_not_finite_is_named() -> None:
    batch = torch.zeros(4, 2, 2, requires_grad=True)
    assert first_not_finite(batch) is None
    spoilt = batch.detach().clone()
    spoilt[3, 0, 0], spoilt[2, 1, 1] = torch.nan, torch.inf
    assert first_not_finite(spoilt) == 2
    spoilt[2, 1, 1], spoilt[3, 1, 0] = torch.inf, -torch.inf
    assert first_not_finite(spoilt) == 2


# Sessions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_a_session_sets_the_grad_mode_and_gives_it_back(wanted: bool, outer: bool, inference: bool) -> None:
    with torch.inference_mode(inference), torch.set_grad_enabled(outer):
        with session(grad=wanted):
            assert torch.is_grad_enabled() is wanted
            assert not torch.is_inference_mode_enabled()
        with pytest.raises(KeyError), session(grad=wanted):
            raise KeyError
        assert torch.is_grad_enabled() is outer
        assert torch.is_inference_mode_enabled() is inference


def test_a_session_knows_no_casts_of_earlier_passes() -> None:
    """A cast that nobody saw being made would be a tensor of unknown origin after the layer."""
    weight, x = torch.ones(3, 3, requires_grad=True), torch.ones(1, 3)

    def casts() -> int:
        with torch.profiler.profile() as found:
            x @ weight
        return sum(event.count for event in found.key_averages() if event.key == "aten::_to_copy")

    with torch.autocast("cpu", dtype=torch.bfloat16):
        both, kept = casts(), casts()
        assert kept < both  # else there would be nothing to forget
        with session(grad=True):
            assert casts() == both


@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_compiled_parts_run_as_python(how: str) -> None:
    seen: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        return lambda *args: seen.append(1) or graph(*args)

    part: nn.Module = nn.Sequential(nn.Flatten())
    if how == "wrapped":
        part = torch.compile(part, backend=backend)
    else:
        part.compile(backend=backend)
    model, x = nn.Sequential(nn.Sequential(part)).eval(), torch.ones(1, 2)
    model(x)
    assert len(seen) == 1  # else there would be nothing to switch off
    with eager(model):
        model(x)
    assert len(seen) == 1
    model(x)
    assert len(seen) == 2


# Calls ----------------------------------------------------------------------------------------


class Takes(nn.Module):
    """Returns what it was called with."""

    def forward(self, *args: object, **kwargs: object) -> tuple[object, object]:
        return args, kwargs


def test_one_tensor() -> None:
    x, other = images(3), images(1)
    made = as_call(x)
    assert made.images is x
    assert made.given == (3, 2, 8, 8)
    assert made.others() == []
    assert made.run(Takes()) == ((x,), {})
    assert made.replace(other).images is other
    assert made.replace(other).given == made.given
    assert torch.equal(made.select([2, 0]).images, x[[2, 0]])
    assert torch.equal(made.first(2).images, x[:2])
    assert made.first(3) is made
    assert made.first(4) is made


@pytest.mark.parametrize("named", [True, False])
def test_several_inputs(named: bool) -> None:
    x, row, mask, other = images(3), torch.zeros(3, 4), torch.ones(3, 1, 8, dtype=torch.bool), images(1)
    items = {"row": row, "mask": mask, "x": x, "more": [3, {"deep": torch.zeros(1)}]}
    made = as_call(items if named else tuple(items.values()))
    assert made.key == ("x" if named else 2)
    assert made.images is x
    assert [tensor.shape for tensor in made.others()] == [(3, 4), (3, 1, 8), (1,)]
    again = made.replace(other)
    assert again.images is other
    assert made.images is x
    args, kwargs = again.run(Takes())
    given = [*args, *kwargs.values()]
    assert (len(args), len(kwargs)) == ((0, 4) if named else (4, 0))
    assert [one is two for one, two in zip(given, (row, mask, other, items["more"]), strict=True)] == [
        True
    ] * 4
    assert made.select([0]) is made
    assert made.first(1) is made


def test_the_only_one_of_the_inputs_that_can_be_an_image_is_the_image() -> None:
    one = images(1)
    assert as_call((torch.zeros(1, 4), one)).key == 1
    assert as_call({"n": torch.zeros(1, 4, 4, dtype=torch.int64), "a": one}).key == "a"


def test_an_image_is_not_guessed_among_several() -> None:
    one, two = images(1), images(1)
    with pytest.raises(
        InputError, match=r"2 inputs that could be the image \(1 of .*say .* input=1, or name"
    ):
        as_call((torch.zeros(1, 4), one, two))
    assert as_call((torch.zeros(1, 4), one, two), input=2).key == 2
    assert as_call({"a": one, "b": two}, input="b").own is two
    assert [made.key for made in possible_calls({"a": one, "b": two, "c": None})] == ["a", "b"]
    with pytest.raises(
        InputError, match="input='c' is not one of the tensors in images: use one of 'a', 'b'"
    ):
        as_call({"a": one, "b": two}, input="c")
    with pytest.raises(InputError, match="input=1 names one of several inputs, and images is one tensor"):
        as_call(one, input=1)


def test_double_precision_is_for_floats_alone() -> None:
    made = as_call({"x": images(1, dtype=torch.float32), "n": torch.zeros(2, dtype=torch.int64), "f": 2.0})
    inputs = made.in_double().inputs
    assert (inputs["x"].dtype, inputs["n"].dtype, inputs["f"]) == (torch.float64, torch.int64, 2.0)
    assert as_call(images(1, dtype=torch.float32)).in_double().images.dtype == torch.float64


class Fails(nn.Module):
    def __init__(self, error: Exception, part: nn.Module) -> None:
        super().__init__()
        self.error, self.part = error, part

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, TypeError, IndexError, AssertionError])
def test_an_error_of_the_model_is_told_with_the_shapes_that_went_in(kind: type[Exception]) -> None:
    made = as_call(images(1, dtype=torch.float32)).replace(images(3, dtype=torch.float32))
    with pytest.raises(ModelError) as caught:
        made.run(Fails(kind("no good\nat all"), nn.Conv2d(1, 1, 1)))
    assert str(caught.value) == (
        "the model failed on images of shape (1, 2, 8, 8) (float32): no good. "
        "Check that model(images) runs by itself with these images"
    )
    assert isinstance(caught.value.__cause__, kind)


def test_images_on_another_device_than_the_model() -> None:
    made = as_call(images(1, dtype=torch.float32))
    away = replace(made, inputs=torch.zeros(1, 2, 8, 8, device="meta"))
    with pytest.raises(ModelError, match=r"Images on meta, the model on cpu: use images.to\('cpu'\)$"):
        away.run(Fails(RuntimeError("no"), nn.Linear(1, 1)))
    with pytest.raises(ModelError, match="Check that"):  # nowhere
        away.run(Fails(RuntimeError("no"), nn.Identity()))


@pytest.mark.parametrize("conv", [nn.Conv1d(1, 1, 1), nn.Conv2d(1, 1, 1), nn.Conv3d(1, 1, 1)])
def test_a_missing_batch_axis_is_guessed_from_the_convolution(conv: nn.Module) -> None:
    ndim = len(conv.kernel_size)
    for axes in (3, 4, 5):
        with pytest.raises(ModelError) as caught:
            as_call(torch.zeros([1] * axes)).run(Fails(RuntimeError("no"), conv))
        assert ("images.unsqueeze(0)" in str(caught.value)) == (axes == ndim + 1)


@pytest.mark.parametrize(
    "error", [KeyError("mine"), OSError("mine"), StopIteration(), ZeroDivisionError("mine")]
)
def test_errors_that_say_little_are_told_with_their_names(error: Exception) -> None:
    with pytest.raises(ModelError, match=rf"\(float64\): {type(error).__name__}.*\. Check that") as caught:
        as_call(images(1)).run(Fails(error, nn.Identity()))
    assert caught.value.__cause__ is error


def test_our_own_errors_and_interrupts_pass() -> None:
    with pytest.raises(InputError, match=r"^mine$"):
        as_call(images(1)).run(Fails(InputError("mine"), nn.Identity()))
    with pytest.raises(KeyboardInterrupt):
        as_call(images(1)).run(Fails(KeyboardInterrupt(), nn.Identity()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.ones(1, 3, 4, 4).to_sparse(), "images is stored as torch.sparse_coo, expected a dense tensor"),
        (torch.ones(1, 3, 4, 4, device="meta"), "images has no values, expected a dense tensor"),
        (
            torch.ones(1, 3, 4, 4).to(torch.float8_e4m3fn),
            "images must be float16, .*, got torch.float8_e4m3fn",
        ),
    ],
)
def test_images_that_cannot_be_looked_at(image: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_call(image)


# What comes from the caller -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[1.0]], "has no float tensor .* among its 1 entries"),
        ("cat.jpg", r"must be a float tensor \(b, c, \*space\), got str: convert it first"),
        (torch.zeros(2, 2), r"one to three space axes, got \(2, 2\): add the missing axes"),
        (
            torch.zeros(1, 2, 3, 4, 5, 6),
            r"one to three space axes, got \(1, 2, 3, 4, 5, 6\): say what they are with axes=",
        ),
        (torch.zeros(2, 2, 8, 8, dtype=torch.int64), r"got torch.int64 of shape \(2, 2, 8, 8\)"),
        ({"a": torch.zeros(3), "b": torch.zeros(1, 1, 1).int()}, "has no float tensor .* its 2 entries"),
        (torch.zeros(2, 0, 3), r"images is empty, its shape is \(2, 0, 3\)"),
        (torch.tensor([[[0.0]], [[torch.nan]]]), r"images\[1\] has values that are NaN or infinite"),
        ((torch.full((1, 1, 1), torch.inf),), r"images\[0\] has values that are NaN or infinite"),
    ],
)
def test_images_that_cannot_be_are_refused(given: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_call(given)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_one_to_three_space_axes(ndim: int) -> None:
    assert as_call(torch.zeros(1, 1, *[2] * ndim)).given == (1, 1, *[2] * ndim)


def test_inference_tensors_are_copied() -> None:
    with torch.inference_mode():
        x = images(1)
    row = torch.zeros(1, 3)
    assert not as_call(x).images.is_inference()
    assert not as_call((row, x)).images.is_inference()
    assert as_call((row, x)).inputs[0] is row
    assert torch.equal(as_call(x).images, x)


def test_a_list_is_called_like_a_tuple() -> None:
    x, row = images(1), torch.zeros(1, 3)
    args, kwargs = as_call([row, x]).run(Takes())
    assert (args[0] is row, args[1] is x, len(args), kwargs) == (True, True, 2, {})
    assert as_call([x]).run(ready(FlattenNet())).shape == (1, 5)


def test_one_image_has_its_own_part_of_the_other_inputs() -> None:
    x, row, table, ages = torch.rand(3, 2, 4, 4), torch.rand(3, 5), torch.rand(4, 3), torch.rand(3)
    made = as_call({"image": x, "more": [row, table, torch.tensor(2.0), ages], "name": "n"}).alone(1)
    assert torch.equal(made.inputs["more"][3], ages[1:2])
    assert torch.equal(made.images, x[1:2])
    assert torch.equal(made.inputs["more"][0], row[1:2])
    assert torch.equal(made.inputs["more"][1], table)
    assert (float(made.inputs["more"][2]), made.inputs["name"]) == (2, "n")
    assert torch.equal(as_call(x).alone(2).images, x[2:])
