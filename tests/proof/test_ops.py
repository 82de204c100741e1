"""Every row of the table of operations, shown by brute force on what torch really runs."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

import hirescam
from hirescam.passes.held import HELD, normalisation
from hirescam.proof.ops import TABLE, Entry, Kind, kind_of, kind_of_write, readable
from proof.brute import Bound, Met, affinity_error, claimed, flat, subsets, truth
from proof.cases import (
    AFFINE,
    NORMALISERS,
    OTHER,
    PIECEWISE,
    REFUSED,
    SIZES,
    Case,
    Function,
    In,
    writing,
)
from toys import SIDE, After, images, ready

LINEAR = [*AFFINE, *PIECEWISE]
REFUSALS = (TypeError, RuntimeError, ValueError, IndexError, NotImplementedError, AttributeError)
pytestmark = [
    pytest.mark.filterwarnings("ignore:index_reduce"),
    pytest.mark.filterwarnings("ignore:The reduce argument of torch.scatter"),
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),
]


def every(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


@cache
def plain(case: Case) -> Function:
    """The function under the first of its names that takes the arguments."""
    inputs, of_inputs = case.build()
    for function in case.functions().values():
        try:
            of_inputs(function)(*inputs)
        except REFUSALS:
            continue
        return function
    raise AssertionError(f"torch has no function for {case.name}")


def bare(case: Case) -> str:
    name = case.function if isinstance(case.function, str) else getattr(case.function, "__name__", "")
    return "" if name == "<lambda>" else name


def bounds(case: Case, function: Function) -> list[Bound]:
    """The call as a function of each set of its inputs."""
    inputs, of_inputs = case.build()
    return [Bound(of_inputs(function), inputs, dependent) for dependent in subsets(len(inputs))]


def first(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def node_of(tensor: Tensor) -> Node:
    assert tensor.grad_fn is not None
    return tensor.grad_fn


# --- the rows ----------------------------------------------------------------------------------


@every(LINEAR)
def test_a_row_says_what_brute_force_shows(case: Case) -> None:
    for bound in bounds(case, plain(case)):
        kind, _ = claimed(bound, bare(case))
        assert kind == case.expected(bound.dependent), bound.dependent
        assert kind == truth(bound), bound.dependent


@every(OTHER)
def test_what_is_neither_is_other(case: Case) -> None:
    found = bounds(case, plain(case))
    assert truth(found[-1]) is Kind.OTHER
    assert claimed(found[-1], bare(case))[0] is Kind.OTHER
    assert all(claimed(bound, bare(case))[0] >= truth(bound) for bound in found[:-1])


@every(REFUSED)
def test_what_the_table_does_not_know_is_other_although_it_need_not_be(case: Case) -> None:
    bound = bounds(case, plain(case))[-1]
    assert truth(bound) < Kind.OTHER
    assert claimed(bound, bare(case))[0] is Kind.OTHER


@every(NORMALISERS)
def test_a_normaliser_is_affine_once_it_is_held_and_not_before(case: Case) -> None:
    inputs, of_inputs = case.build()
    calls = of_inputs(lambda *args, **options: normalisation(bare(case), args, options))
    names = {id(value): name for name, value in calls(*inputs).arguments.items()}
    for dependent in subsets(len(inputs)):
        bound = Bound(lambda *tensors: first(of_inputs(plain(case))(*tensors)), inputs, dependent)
        marked = {id(inputs[slot]) for slot in dependent}
        holds = calls(*inputs).normalises(lambda tensor, marked=marked: id(tensor) in marked)
        kind, _ = claimed(bound, bare(case), held=holds)
        assert (kind is Kind.NORMALISING) == ({names[one] for one in marked} == {"input"})
        if kind is Kind.NORMALISING:
            held = replace(bound, function=lambda x, *others: first(calls(*inputs).hold()(x)))
            assert truth(held) is Kind.AFFINE
        else:
            assert kind >= truth(bound)
        if 0 in dependent:
            assert truth(bound) is claimed(bound, bare(case))[0] is Kind.OTHER


OF_NORMALISERS = {
    "NativeLayerNorm": lambda x: F.layer_norm(x, [4], torch.ones(4)),
    "NativeGroupNorm": lambda x: F.group_norm(x, 3, torch.ones(3)),
    "NativeBatchNorm": lambda x: F.batch_norm(x, None, None, torch.ones(3), training=True),
    "Pow": lambda x: x**2,
    "Rsqrt": lambda x: x.rsqrt(),
    "Mul": lambda x: x * x,
    "LinalgVectorNorm": lambda x: torch.linalg.vector_norm(x),
    "ClampMin": lambda x: x.clamp_min(0.1),
    "Div": lambda x: x / x,
    "Silu": F.silu,
}


@pytest.mark.parametrize("name", OF_NORMALISERS)
def test_in_a_call_that_is_held_only_its_own_nodes_are_normalising(name: str) -> None:
    """What a call that nobody saw has made may be taken for a part of the next one that was seen."""
    node = node_of(OF_NORMALISERS[name](torch.rand(2, 3, 4, requires_grad=True)))
    every_input = tuple(slot for slot, (parent, _) in enumerate(node.next_functions) if parent)
    for call in HELD:
        rows = [row for row in TABLE if row.name == name and call in row.within]
        kind = kind_of(node, every_input, call, held=True)
        assert kind is (Kind.NORMALISING if rows else max(Kind.NORMALISING, kind_of(node, every_input)))
        assert kind_of(node, every_input, call) >= kind_of(node, every_input)
        if name.startswith("Native") and rows:
            assert kind_of(node, (0, 1), call, held=True) is Kind.OTHER  # the weight depends on the image
            assert kind_of(node, (0, 2), call, held=True) is Kind.OTHER
    assert name == "Silu" or any(row.name == name and row.within & set(HELD) for row in TABLE)


def test_an_affine_node_of_a_call_that_is_held_is_a_part_of_it() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    assert kind_of(node_of(x + 1), (0,), "rms_norm", held=True) is Kind.NORMALISING
    assert kind_of(node_of(x + 1), (0,), "rms_norm") is Kind.AFFINE


# --- the table as a whole ----------------------------------------------------------------------


def met() -> set[Met]:
    """Every node that the cases make, as it was judged."""
    found: set[Met] = set()
    for case in LINEAR:
        for bound in bounds(case, plain(case)):
            found |= claimed(bound, bare(case))[1]
    for case in NORMALISERS:
        for bound in bounds(case, lambda *args, case=case, **options: first(plain(case)(*args, **options))):
            found |= claimed(bound, bare(case), held=True)[1]
    return found


def shows(one: Met, row: Entry) -> bool:
    """Whether a node was judged by this row."""
    return one.name == row.name and one.kind is row.kind and (not row.within or one.call in row.within)


def test_every_row_is_met_in_all_the_inputs_that_it_speaks_of() -> None:
    found = met()
    for row in TABLE:
        seen = [one for one in found if shows(one, row)]
        if row.name not in ELSEWHERE:
            assert seen, f"no case makes a node of {row}"
            assert row.within <= {one.call for one in seen if one.call} | {""}, row
        for group in row.inputs if seen else ():
            assert any(set(one.dependent) == group for one in seen), f"no case depends on {group} of {row}"
        if seen and not row.inputs:
            assert any(len(one.dependent) == one.edges > 0 for one in seen), row


def test_no_two_rows_say_the_same() -> None:
    keys = [(row.name, row.kind, call, row.when) for row in TABLE for call in row.within or [""]]
    assert len(keys) == len(set(keys))


# What a CPU cannot run: its op in derivatives.yaml, what stands there, and the row that it is like.
ELSEWHERE = {
    "CudnnBatchNorm": ("cudnn_batch_norm", "Tensor input, Tensor weight, Tensor? bias", "NativeBatchNorm"),
    "MiopenBatchNorm": ("miopen_batch_norm", "Tensor input, Tensor weight, Tensor? bias", "NativeBatchNorm"),
    "FusedRmsNorm": (
        "_fused_rms_norm",
        "Tensor input, int[] normalized_shape, Tensor? weight",
        "NativeLayerNorm",
    ),
    "CudnnGridSampler": ("cudnn_grid_sampler", "Tensor self, Tensor grid", "GridSampler2D"),
    "Linear": ("linear", "Tensor input, Tensor weight, Tensor? bias", "Convolution"),
    "MaxPool2D": ("max_pool2d", "Tensor self", "MaxPool2DWithIndices"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_a_cpu_cannot_run_is_like_what_it_can(name: str) -> None:
    op, arguments, twin = ELSEWHERE[name]
    derivatives = (files("torchgen") / "packaged/autograd/derivatives.yaml").read_text()
    found = re.search(rf"^- name: {op}\((.*)\n((?:  .*\n)+)", derivatives, re.MULTILINE)
    assert found is not None
    signature, formulas = found.groups()
    assert signature.startswith(arguments)
    inputs = ", ".join(re.findall(r"Tensor\?? (\w+)", arguments))
    assert f"  {inputs}: " in formulas  # its inputs in the graph, in this order
    rows, twins = ([row for row in TABLE if row.name == of] for of in (name, twin))
    assert "bool training" in signature or not any(row.when for row in rows)
    assert [replace(row, name="", within=set(), readable="") for row in rows] == [
        replace(row, name="", within=set(), readable="") for row in twins
    ]


# --- under every name that torch has for it ----------------------------------------------------


def same(one: Any, other: Any) -> bool:
    first, second = flat(one), flat(other)
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-9, atol=1e-12)


def in_place(function: Function) -> Function:
    """Write into a copy of the first argument."""

    def written(x: Tensor, *args: Any, **options: Any) -> Tensor:
        copy = x.clone()
        function(copy, *args, **options)
        return copy

    return written


def in_view(function: Function) -> Function:
    """Write into a part of something larger."""

    def written(x: Tensor, *args: Any, **options: Any) -> Tensor:
        both = torch.stack([x, 2 * x])
        function(both[0], *args, **options)
        return both

    return written


@cache
def aliases(case: Case) -> dict[str, Function]:
    """What computes the same under another name, in place, or in place on a view of something larger."""
    inputs, of_inputs = case.build()
    inputs = tuple(tensor.requires_grad_() for tensor in inputs)
    expected = of_inputs(plain(case))(*inputs)
    found: dict[str, Function] = {}

    def keep(name: str, function: Function, part: Function = lambda result: result) -> None:
        with suppress(*REFUSALS):
            if same(part(of_inputs(function)(*inputs)), expected):
                found[name] = function

    for name, function in (case.functions() | case.functions("{}_copy")).items():
        keep(name, function)
    for name, function in writers(case).items():
        keep(name, in_place(function))
        keep(f"{name} on a view", in_view(function), part=lambda both: both[0])
    return found


def writers(case: Case) -> dict[str, Function]:
    """The forms of the op that write into their first argument."""
    if not (isinstance(case.function, str) and isinstance(case.args[0], In)):
        return {}
    return case.functions("{}_") | case.functions("__i{}__")


@every(LINEAR)
def test_every_name_of_an_op_gets_the_same_verdict(case: Case) -> None:
    for name, function in aliases(case).items():
        for bound in bounds(case, function):
            assert claimed(bound, bare(case))[0] == case.expected(bound.dependent), (name, bound.dependent)


@every(OTHER)
def test_no_name_of_an_op_that_is_neither_gets_a_better_verdict(case: Case) -> None:
    for name, function in aliases(case).items():
        assert claimed(bounds(case, function)[-1], bare(case))[0] is Kind.OTHER, name


def test_the_names_that_people_use_are_among_those_that_were_tried() -> None:
    tried = {name for case in [*LINEAR, *OTHER] for name in aliases(case)}
    people = """
    torch.add Tensor.add Tensor.__radd__ Tensor.add_ Tensor.__iadd__ torch.subtract Tensor.__sub__
    Tensor.__mul__ Tensor.mul_ torch.multiply torch.true_divide Tensor.__truediv__ Tensor.div_
    torch.concat torch.relu torch.nn.functional.relu Tensor.relu_ Tensor.clamp_ torch.clip
    Tensor.masked_fill_ torch.moveaxis torch.swapaxes torch.linalg.matmul Tensor.__matmul__
    Tensor.index_add_ torch.absolute Tensor.fill_ torch.special.expm1 Tensor.lerp_ Tensor.addmm_
    torch.nn.functional.softmax Tensor.baddbmm_
    """.split()  # noqa: SIM905
    written = [name for name in people if name.endswith("_") and not name.endswith("__")]
    assert {*people, *(f"{name} on a view" for name in written)} <= tried


# --- writes through a view ---------------------------------------------------------------------

# Only where torch tells the op of a write: their rows depend on arguments, or their names are not the op's.
NEEDS_THE_OP = """
__idiv__ absolute_ clip_ div_ divide_ feature_dropout_ index_reduce_ multiply_ negative_ relu6_ rrelu_
scatter_reduce_ subtract_ swapaxes_ swapdims_ true_divide_
""".split()  # noqa: SIM905


def test_a_write_through_a_view_is_judged_by_the_function_where_torch_does_not_tell_the_op() -> None:
    weaker = set()
    for case in LINEAR:
        for name in writers(case).keys() & aliases(case).keys():
            function = name.rpartition(".")[2]
            for bound in bounds(case, plain(case)):
                kind = kind_of_write(function, bound.dependent)
                assert kind >= case.expected(bound.dependent), (name, bound.dependent)
                weaker |= {function} if kind > case.expected(bound.dependent) else set()
    assert sorted(weaker) == NEEDS_THE_OP


@pytest.mark.parametrize("case", [case for case in OTHER if writers(case)], ids=lambda case: case.name)
def test_a_write_that_is_neither_is_other_by_its_function_too(case: Case) -> None:
    every_input = bounds(case, plain(case))[-1].dependent
    for name in writers(case).keys() & aliases(case).keys():
        assert kind_of_write(name.rpartition(".")[2], every_input) is Kind.OTHER, name


class Untold:
    """A write through a view as older versions of torch show it."""

    next_functions = ()
    _input_metadata = ()

    def name(self) -> str:
        return "torch::autograd::CopySlices"


def test_older_versions_of_torch_do_not_tell_which_op_wrote() -> None:
    x = torch.randn(2, 3, requires_grad=True).clone()
    x[:, :1].relu_()
    node = node_of(x)
    assert kind_of(node, (0,), "relu_") is kind_of(node, (0,), "nobody") is Kind.PIECEWISE
    assert kind_of(Untold(), (0,), "relu_") is Kind.PIECEWISE
    assert kind_of(Untold(), (0, 1), "__setitem__") is kind_of(Untold(), (0,), "zero_") is Kind.AFFINE
    assert kind_of(Untold(), (0, 1), "pad") is Kind.AFFINE  # circular padding copies into views
    assert kind_of(Untold(), (0,), "sigmoid_") is kind_of(Untold(), (0,), "") is Kind.OTHER
    assert readable(node, "relu_") == "relu_ on a view"
    assert readable(node) == "write on a view"


# --- what is no row ----------------------------------------------------------------------------


def test_ops_without_a_derivative_are_other() -> None:
    x = torch.randn(4, dtype=torch.float64)
    index = torch.tensor([0, 0, 1, 1])
    for function in (lambda x: x // 0.3, lambda x: torch.scatter(x, 0, index, x, reduce="add")):
        assert claimed(Bound(function, (x,), (0,)))[0] is Kind.OTHER


def test_a_checkpoint_that_hides_its_ops_is_other() -> None:
    hidden = checkpoint(lambda y: 2 * y, torch.randn(2, 3, requires_grad=True), use_reentrant=True)
    assert kind_of(node_of(hidden), (0,)) is Kind.OTHER
    assert readable(node_of(hidden)) == "CheckpointFunction"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_cast_is_affine_to_the_precision_of_what_it_casts_to(dtype: torch.dtype) -> None:
    bound = Bound(lambda x: x.to(dtype), (torch.randn(50, dtype=torch.float64),), (0,))
    assert claimed(bound)[0] is Kind.AFFINE
    assert 0 < affinity_error(bound) < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bits_are_too_coarse(dtype: torch.dtype) -> None:
    x = torch.randn(50, requires_grad=True)
    assert kind_of(node_of(x.to(dtype)), (0,)) is Kind.OTHER


NAMES = {
    "linear": lambda x: F.linear(x.flatten(1), torch.ones(3, 144), torch.ones(3)),
    "conv": lambda x: F.conv2d(x, torch.ones(3, 4, 1, 1)),
    "batch_norm": nn.BatchNorm2d(4).eval(),
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "layer_norm": lambda x: F.layer_norm(x, [6]),
    "group_norm": lambda x: F.group_norm(x, 2),
    "grid_sample": lambda x: F.grid_sample(x, torch.zeros(2, 3, 3, 2), align_corners=False),
    "prelu": nn.PReLU(),
    "reshape": lambda x: x.view(-1),
    "to": lambda x: x.double(),
    "pad": lambda x: F.pad(x, (1, 1)),
    "upsample_nearest2_d": lambda x: F.interpolate(x, scale_factor=2),
    "log_softmax": lambda x: x.log_softmax(1),
}


def test_what_a_call_hides_is_called_by_its_name() -> None:
    x = torch.randn(2, 6, requires_grad=True)
    assert readable(node_of(torch.rms_norm(x, [6])), "rms_norm") == "rms_norm"
    assert readable(node_of(2 * x), "rms") == "mul"


@pytest.mark.parametrize("name", NAMES)
def test_people_know_the_names(name: str) -> None:
    function = NAMES[name]
    assert readable(node_of(function(torch.randn(2, 4, 6, 6, requires_grad=True)))) == name


# --- other sizes and dtypes, other ops ---------------------------------------------------------

small = st.integers(4, 7)
other_sizes = st.fixed_dictionaries(
    {"b": st.integers(1, 3), "c": st.sampled_from([4, 8]), **dict.fromkeys("hwdijkl", small)}
)


@given(
    case=st.sampled_from(LINEAR),
    sizes=other_sizes,
    dtype=st.sampled_from([torch.float64, torch.float32, torch.complex128]),
    data=st.data(),
)
def test_no_verdict_is_stronger_than_the_truth(
    case: Case, sizes: dict, dtype: torch.dtype, data: Any
) -> None:
    try:
        inputs, of_inputs = case.build({**SIZES, **sizes}, dtype)
        dependent = data.draw(st.sampled_from(subsets(len(inputs))))
        bound = Bound(of_inputs(plain(case)), inputs, dependent)
        kind, _ = claimed(bound, bare(case))
    except REFUSALS:
        assume(False)
    if dtype is torch.float32:
        assert kind >= case.expected(dependent)
    else:
        assert kind >= truth(bound)


def as_bounds(op: Any, sample: Any) -> Iterator[Bound]:
    """A sample of torch's own tests as a function of each float input, and of all."""
    leaves, shape = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
    slots = [slot for slot, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and is_plain(leaf)]

    def of_inputs(function: Function) -> Function:
        def bound(*tensors: Tensor) -> Any:
            filled = list(leaves)
            for slot, tensor in zip(slots, tensors, strict=True):
                filled[slot] = tensor
            first_one, args, options = pytree.tree_unflatten(filled, shape)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                return function(first_one, *args, **options)

        return bound

    inputs = tuple(leaves[slot] for slot in slots)
    written = [in_place(op.inplace_variant)] if op.inplace_variant and slots[:1] == [0] else []
    for function in [op.op, *written]:
        for dependent in {*((slot,) for slot in range(len(slots))), tuple(range(len(slots)))}:
            yield Bound(of_inputs(function), inputs, dependent)


def is_plain(tensor: Tensor) -> bool:
    return (
        (tensor.is_floating_point() or tensor.is_complex())
        and tensor.layout is torch.strided
        and 0 < tensor.numel() < 500
    )


COARSER = {"bfloat16", "half", "float", "chalf", "cfloat"}  # casts are affine but for rounding, see above


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(900)
def test_no_op_that_torch_tests_gets_a_verdict_stronger_than_the_truth() -> None:
    """On torch's own samples: 600 functions, in place too, real and complex."""
    op_db = pytest.importorskip("torch.testing._internal.common_methods_invocations").op_db
    wrong, judged = [], set()
    for op in op_db:
        if op.name in COARSER or not op.supports_autograd:
            continue
        for dtype in op.dtypes & {torch.float64, torch.complex128}:
            for sample in islice(op.sample_inputs("cpu", dtype), 2):
                for bound in as_bounds(op, sample):
                    with suppress(*REFUSALS):
                        kind, nodes = claimed(bound, op.name.rpartition(".")[2])
                        if kind < Kind.OTHER and nodes and kind < truth(bound):
                            wrong.append((op.formatted_name, str(dtype), bound.dependent, kind.name))
                        judged.add(op.formatted_name)
    assert not wrong
    assert len(judged) > 400


# --- in a certificate --------------------------------------------------------------------------


def certify(model: nn.Module, layer: str | None = None) -> hirescam.Certificate:
    return hirescam.certify(ready(model), images(), layer)


EXACT: dict[str, Callable[[Tensor], Tensor]] = {
    "scale": lambda x: x * 3 - 1,
    "mean removed": lambda x: x - x.mean((2, 3), keepdim=True),
    "average pool": lambda x: F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear"),
    "pad and crop": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")[..., 1:-1, 1:-1],
    "split and join": lambda x: torch.cat(x.chunk(3, 1)[::-1], 1),
    "roll, flip, transpose": lambda x: x.roll(1, 2).flip(3).transpose(2, 3),
    "shortcut within the head": lambda x: x + 0.5 * x.flip(2),
    "einsum": lambda x: torch.einsum("bchw,c->bchw", x, torch.linspace(1, 2, 6, dtype=x.dtype)),
    "eval batch norm": ready(nn.BatchNorm2d(6)),
    "eval dropout": ready(nn.Dropout(0.5)),
    "depthwise convolution": ready(nn.Conv2d(6, 6, 3, padding=1, groups=6)),
    "fft there and back": lambda x: torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[2:]),
    "cumulative sum": lambda x: x.cumsum(-1),
    "unfold": lambda x: F.fold(F.unfold(x, 2, stride=2), (SIDE, SIDE), 2, stride=2),
    "mixture": lambda x: torch.lerp(x, x.flip(2), 0.3),
    "channel shuffle": lambda x: torch.channel_shuffle(x, 2),
    "circular pad": lambda x: F.pad(x, (1, 1, 1, 1), mode="circular")[..., :-2, :-2],
    "border set to zero in place": writing(lambda x: x[..., 0].zero_()),
    "border scaled in place": writing(lambda x: x[..., 0].div_(2)),
    "checkpoint": lambda x: checkpoint(lambda y: 2 * y, x, use_reentrant=False),
}
LOCAL: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky relu": lambda x: F.leaky_relu(x, 0.1),
    "relu6": F.relu6,
    "max pool": lambda x: F.interpolate(F.max_pool2d(x, 2), scale_factor=2),
    "abs": torch.abs,
    "clamp": lambda x: x.clamp(-1, 1),
    "maximum": lambda x: torch.maximum(x, x.flip(2)),
    "prelu": ready(nn.PReLU()),
    "relu of a view in place": writing(lambda x: x[:, :3].relu_()),
}
NONE: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
    "softmax": lambda x: x.softmax(1),
    "square": lambda x: x * x,
    "power": lambda x: x**3,
    "gate": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "self-division": lambda x: x / (1 + x.mean((2, 3), keepdim=True) ** 2),
    "instance norm and relu": lambda x: F.relu(F.instance_norm(x)),
    "hand-written norm": lambda x: x / (x.var((2, 3), keepdim=True) + 1).sqrt(),
    "sigmoid of a view in place": writing(lambda x: x[:, :3].sigmoid_()),
    "rounding division": lambda x: torch.div(x * 10, 2, rounding_mode="floor"),
    "rounding division of a view in place": writing(lambda x: x[:, :3].div_(0.1, rounding_mode="trunc")),
    "modulus of a spectrum": lambda x: F.pad(torch.fft.rfft2(x).abs(), (0, 3)),
    "mask from the values": lambda x: x * (x > 0),
    "rounding": lambda x: x.round(),
    "argmax index": lambda x: x * x.flatten(2).argmax(-1)[..., None, None],
}


@pytest.mark.parametrize("name", EXACT)
def test_affine_ops_are_exact(name: str) -> None:
    certificate = certify(After(EXACT[name]), "conv")
    assert certificate.guarantee == "exact", str(certificate)


@pytest.mark.parametrize("name", LOCAL)
def test_piecewise_linear_ops_are_local(name: str) -> None:
    certificate = certify(After(LOCAL[name]), "conv")
    assert certificate.guarantee == "local", str(certificate)
    assert len(certificate.breaks) == 1
    assert "fully connected layer" in certificate.advice


def test_a_quantile_looks_for_missing_values_in_a_way_that_the_graph_does_not_show() -> None:
    certificate = certify(After(lambda x: x - x.quantile(0.3, 1, keepdim=True)), "conv")
    assert certificate.guarantee == "none"
    assert "quantile()" in certificate.breaks


@pytest.mark.parametrize("name", NONE)
def test_everything_else_is_none(name: str) -> None:
    certificate = certify(After(NONE[name]), "conv")
    assert certificate.guarantee == "none", str(certificate)
    assert certificate.breaks
    assert "choose a layer nearer to the score" in certificate.advice
    assert "tokens" not in certificate.advice


def test_a_custom_op_is_other_by_name() -> None:
    class Halve(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x / 2

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return grad / 2

    certificate = certify(After(Halve.apply), "conv")
    assert certificate.guarantee == "none"
    assert "Halve" in certificate.breaks


def test_a_lying_custom_op_named_like_a_known_one_is_other() -> None:
    class Add(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x**2

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return grad

    assert certify(After(Add.apply), "conv").guarantee == "none"
