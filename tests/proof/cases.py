"""Calls of torch, each with what it is: the cases that prove the table of operations.

A case names a function of torch (every namespace that has it is tried), or gives one. Its tensors are
written as axes, sized when the case is built, so that the same case runs with other sizes and dtypes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from hirescam.proof.ops import Kind

Function = Callable[..., Any]
Sizes = dict[str, int]
SIZES: Sizes = {"b": 2, "c": 4, "h": 6, "w": 6, "d": 4, "i": 3, "j": 4, "k": 5, "l": 8} | {
    str(size): size for size in range(1, 10)
}


@dataclass(frozen=True)
class In:
    """A tensor that may depend on the image."""

    axes: str
    dtype: torch.dtype = torch.float64

    def build(self, sizes: Sizes, dtype: torch.dtype) -> Tensor:
        dtype = dtype if self.dtype is torch.float64 else self.dtype
        return torch.randn([sizes[axis] for axis in self.axes], dtype=dtype)


@dataclass(frozen=True)
class Given:
    """A constant that follows the sizes: an index, a mask, a divisor."""

    make: Callable[[Sizes], Any]


@dataclass(frozen=True, eq=False)
class Case:
    """One call of torch.

    Attributes:
        name: the case in a report.
        function: the bare name of a torch function, or a function.
        args: its arguments, with `In` and `Given` at their places, also inside lists.
        options: its keyword arguments.
        kind: what it is in the inputs of any one group of ``alone``; in others `Kind.OTHER`.
        alone: groups of the inputs, as in ``"01|2"``; all of them where empty.
        also: groups with another kind, which come first.
    """

    name: str
    function: str | Function
    args: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    kind: Kind = Kind.AFFINE
    alone: str = ""
    also: tuple[tuple[str, Kind], ...] = ()

    def expected(self, dependent: tuple[int, ...]) -> Kind:
        """What the call is in these of its inputs."""
        groups = (*self.also, *((group, self.kind) for group in self.alone.split("|")))
        fitting = (kind for group, kind in groups if not group or set(dependent) <= set(map(int, group)))
        return next(fitting, Kind.OTHER)

    def functions(self, form: str = "{}") -> dict[str, Function]:
        """The function under every name that torch has for it, in one form: ``{}_`` is in place."""
        if not isinstance(self.function, str):
            return {self.name: self.function}
        names = [form.format(name) for name in (self.function, *SYNONYMS.get(self.function, ()))]
        found = {f"{space.__name__}.{name}": getattr(space, name, None) for name in names for space in SPACES}
        return {name: function for name, function in found.items() if callable(function)}

    def build(
        self, sizes: Sizes = SIZES, dtype: torch.dtype = torch.float64
    ) -> tuple[tuple[Tensor, ...], Callable[[Function], Function]]:
        """Random inputs, and what makes a function of them alone out of one of all arguments."""
        leaves, shape = pytree.tree_flatten((self.args, self.options))
        leaves = [leaf.make(sizes) if isinstance(leaf, Given) else leaf for leaf in leaves]
        slots = [number for number, leaf in enumerate(leaves) if isinstance(leaf, In)]
        inputs = tuple(leaves[slot].build(sizes, dtype) for slot in slots)

        def of_inputs(function: Function) -> Function:
            def bound(*tensors: Tensor) -> Any:
                filled = list(leaves)
                for slot, tensor in zip(slots, tensors, strict=True):
                    filled[slot] = tensor
                args, options = pytree.tree_unflatten(filled, shape)
                return function(*args, **options)

            return bound

        return inputs, of_inputs

    @property
    def written(self) -> bool:
        """Whether its first argument is an input, so that it can be written into."""
        return isinstance(self.args[0], In)


SPACES = (
    torch,
    torch.Tensor,
    F,
    torch.special,
    torch.linalg,
    torch.fft,
    torch.sparse,
    torch._C._nn,
    torch.ops.aten,
)
SYNONYMS = {
    "abs": ("absolute", "__abs__"),
    "add": ("__add__", "__radd__"),
    "cat": ("concat", "concatenate"),
    "clamp": ("clip",),
    "div": ("divide", "true_divide", "__truediv__"),
    "matmul": ("__matmul__",),
    "movedim": ("moveaxis",),
    "mul": ("multiply", "__mul__", "__rmul__"),
    "neg": ("negative", "__neg__"),
    "outer": ("ger",),
    "pow": ("__pow__",),
    "remainder": ("__mod__",),
    "rsub": ("__rsub__",),
    "sub": ("subtract", "__sub__"),
    "transpose": ("swapaxes", "swapdims"),
    "trunc": ("fix",),
    "vstack": ("row_stack",),
}

X, S, M, V, SQUARE = In("bchw"), In("bcl"), In("ij"), In("l"), In("jj")
VOLUME, COMPLEX = In("bcdhw"), In("bchw", torch.complex128)


def reverse(axis: str) -> Given:
    """Indices along one axis, each once."""
    return Given(lambda s: torch.arange(s[axis]).flip(0))


def along(axis: str, axes: str = "bchw", modulus: int | None = None) -> Given:
    """For every place an index along one axis: each once, or one of a few that many places share."""

    def make(s: Sizes) -> Tensor:
        index = torch.arange(s[axis]).flip(0) % (modulus or s[axis])
        return index.view([s[a] if a == axis else 1 for a in axes]).expand([s[a] for a in axes])

    return Given(make)


def checkers(axes: str = "bchw") -> Given:
    """True at every other place."""

    def make(s: Sizes) -> Tensor:
        shape = torch.Size([s[axis] for axis in axes])
        return torch.arange(shape.numel()).view(shape) % 2 == 0

    return Given(make)


def constant(axes: str) -> Given:
    """A constant without zeros."""

    def make(s: Sizes) -> Tensor:
        shape = torch.Size([s[axis] for axis in axes])
        return torch.linspace(0.5, 1.5, shape.numel(), dtype=torch.float64).view(shape)

    return Given(make)


def halves(axis: str) -> Given:
    """Lengths of two segments of one axis."""
    return Given(lambda s: torch.tensor([s[axis] // 2, s[axis] - s[axis] // 2]))


def first(function: Function) -> Function:
    """The first of several results."""
    return lambda *args: function(*args)[0]


def writing(write: Function) -> Function:
    """A function that writes into a copy of its first argument."""

    def written(x: Tensor, *others: Any) -> Tensor:
        copy = x.clone()
        write(copy, *others)
        return copy

    return written


def setitem(place: Any) -> Function:
    """``x[place] = value``."""
    return writing(lambda x, value: x.__setitem__(place, value))


def spectrogram(x: Tensor, window: Tensor) -> Tensor:
    """The short-time Fourier transform of everything in a row."""
    return torch.stft(x.flatten(), len(window), window=window, return_complex=True)


def hooked(x: Tensor) -> Tensor:
    """A module with a backward hook, around which torch puts nodes of its own."""
    module = nn.Identity()
    module.register_full_backward_hook(lambda *args: None)
    return 2 * module(x)


class BackwardHookFunction(torch.autograd.Function):
    """A custom function under the name of one of torch's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Doubled(torch.autograd.Function):
    """A custom function that happens to be linear."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


def call(function: str | Function, *args: Any, alone: str = "", name: str = "", **options: Any) -> Case:
    """An affine call."""
    told = [name or (function if isinstance(function, str) else getattr(function, "__name__", ""))]
    told += [arg.axes if isinstance(arg, In) else str(arg) for arg in args if isinstance(arg, In | str | int)]
    told += [f"{key}={value}" for key, value in options.items() if isinstance(value, str | float | int)]
    return Case(" ".join(told), function, args, options, alone=alone)


def of_kind(kind: Kind, *cases: Case) -> list[Case]:
    """The same calls, said to be of another kind."""
    return [replace(case, kind=kind) for case in cases]


AFFINE = [
    # arithmetic
    call("add", X, X),
    call("add", X, 2.0),
    call("sub", X, X),
    call("sub", X, X, alpha=0.5),
    call("rsub", X, X),
    call("neg", X),
    call("positive", X),
    call("sum", X),
    call("sum", X, (2, 3)),
    call("mean", X),
    call("mean", X, (2, 3)),
    call("nansum", X),
    call("nanmean", X, 1),
    call("cumsum", X, 1),
    call("trace", M),
    call("nan_to_num", X),
    call("deg2rad", X),
    call("rad2deg", X),
    call("diff", X),
    call("trapezoid", X),
    call("cumulative_trapezoid", X),
    call("gradient", V),
    call("lerp", X, X, 0.3),
    call("lerp", X, X, X, alone="01|2"),
    call("addcdiv", X, X, X, alone="01"),
    call("div", X, X, alone="0"),
    call("div", X, 2.0),
    call("div", X, 2.0, rounding_mode=None),
    call("ldexp", X, X, alone="0"),
    call("addcmul", X, X, X, alone="01|02", value=0.5),
    # products
    call("mul", X, X, alone="0|1"),
    call("mul", X, 3.0),
    call("mm", M, In("jk"), alone="0|1"),
    call("bmm", In("bij"), In("bjk"), alone="0|1"),
    call("mv", M, In("j"), alone="0|1"),
    call("dot", V, V, alone="0|1"),
    call("vdot", V, V, alone="0|1"),
    call("vecdot", V, V, alone="0|1"),
    call("inner", V, V, alone="0|1"),
    call("outer", V, V, alone="0|1"),
    call("kron", M, SQUARE, alone="0|1"),
    call("cross", In("b3"), In("b3"), alone="0|1", dim=1),
    call("matmul", M, In("jk"), alone="0|1"),
    call("matmul", In("bij"), In("jk"), alone="0|1"),
    call("tensordot", M, In("jk"), 1, alone="0|1"),
    call("einsum", "bchw,c->bhw", X, In("c"), alone="0|1"),
    call("einsum", "ij,jk,k->i", M, In("jk"), In("k"), alone="0|1|2"),
    call("multi_dot", [M, In("jk"), In("k")], alone="0|1|2"),
    call("addmm", In("ik"), M, In("jk"), alone="01|02", beta=0.5),
    call("addmv", In("i"), M, In("j"), alone="01|02"),
    call("addr", M, In("i"), In("j"), alone="01|02"),
    call("addbmm", In("ik"), In("bij"), In("bjk"), alone="01|02"),
    call("baddbmm", In("bik"), In("bij"), In("bjk"), alone="01|02"),
    call(
        lambda y, a, x: torch.sparse.addmm(y, a, x), In("ik"), M, In("jk"), alone="01|02", name="sparse.addmm"
    ),
    call(lambda a, x: torch.sparse.mm(a.to_sparse(), x), constant("ij"), In("jk"), name="sparse.mm"),
    # layers
    call("linear", M, In("kj"), In("k"), alone="02|12"),
    call("linear", In("bij"), In("kj"), alone="0|1"),
    call("conv1d", S, In("kc3"), In("k"), alone="02|12"),
    call("conv2d", X, In("kc33"), In("k"), alone="02|12"),
    call("conv2d", X, In("c133"), groups=Given(lambda s: s["c"]), alone="0|1", name="depthwise conv2d"),
    call("conv3d", VOLUME, In("kc222"), alone="0|1"),
    call("conv_transpose1d", S, In("ck3"), alone="0|1"),
    call("conv_transpose2d", X, In("ck33"), In("k"), alone="02|12"),
    call("conv_transpose3d", VOLUME, In("ck222"), alone="0|1"),
    call("conv_tbc", In("lbc"), In("3ck"), In("k"), alone="02|12"),
    call("bilinear", In("bi"), In("bj"), In("kij"), In("k"), alone="03|13|23"),
    call("batch_norm", X, constant("c"), constant("c"), In("c"), In("c"), alone="02|12"),
    call(
        first(torch.ops.aten._native_batch_norm_legit.default),
        *(X, In("c"), In("c"), constant("c"), constant("c"), False, 0.1, 1e-5),
        alone="02|12",
        name="_native_batch_norm_legit",
    ),
    call(
        first(torch.ops.aten._native_batch_norm_legit_no_training.default),
        *(X, In("c"), In("c"), constant("c"), constant("c"), 0.1, 1e-5),
        alone="02|12",
        name="_native_batch_norm_legit_no_training",
    ),
    call(
        lambda x, mean, var: F.instance_norm(x, mean, var, use_input_stats=False),
        *(X, constant("c"), constant("c")),
        name="instance_norm with running statistics",
    ),
    call("avg_pool1d", S, 2),
    call("avg_pool2d", X, 2),
    call("avg_pool3d", VOLUME, 2),
    call("adaptive_avg_pool1d", S, 3),
    call("adaptive_avg_pool2d", X, 1),
    call("adaptive_avg_pool2d", X, 3),
    call("adaptive_avg_pool3d", VOLUME, 2),
    call("dropout", X, training=False),
    call("alpha_dropout", X, training=False),
    call("feature_dropout", X, 0.5, False),
    call(hooked, X),
    call(lambda x: checkpoint(lambda y: 2 * y + 1, x, use_reentrant=False), X, name="checkpoint"),
    # places and values as they are
    call("reshape", X, (-1,)),
    call("flatten", X, 1),
    call("ravel", X),
    call("unflatten", X, 1, (2, -1)),
    call("view_as", X, constant("bchw")),
    call(lambda x: x.transpose(1, 3).flatten(1), X, name="reshape of a transpose"),
    call("transpose", X, 1, 2),
    call("movedim", X, 1, -1),
    call("permute", X, (0, 2, 3, 1)),
    call("t", M),
    call("adjoint", X),
    call("unsqueeze", X, 0),
    call("squeeze", In("b1hw")),
    call("squeeze", In("b1hw"), 1),
    call("squeeze", In("b11w"), (1, 2)),
    call("expand", In("b1hw"), (-1, 5, -1, -1)),
    call("expand_as", In("b1hw"), constant("bchw")),
    call("broadcast_to", In("1"), (3, 4)),
    call("repeat", X, (1, 2, 1, 1)),
    call("tile", X, (1, 2, 1, 1)),
    call("repeat_interleave", X, 2, 1),
    call("sum_to_size", X, (1,)),
    call("atleast_3d", V),
    call("clone", X),
    call("contiguous", X),
    call("to", X, torch.complex128),
    call("type_as", X, constant("1")),
    call(torch.ops.aten.alias, X),
    call(torch.ops.aten._unsafe_view, X, (-1,)),
    call(torch.ops.aten._reshape_alias, In("6"), (2, 3), (3, 1)),
    call("as_strided", V, (3, 2), (2, 1)),
    call("flip", X, (2, 3)),
    call("fliplr", X),
    call("flipud", X),
    call("roll", X, 1, 2),
    call("rot90", X, 1, (2, 3)),
    call(torch.Tensor.unfold, S, 2, 3, 1, name="unfold an axis"),
    call(F.unfold, X, 2),
    call(F.fold, In("b85"), (2, 6), 2),
    call("pixel_shuffle", X, 2),
    call("pixel_unshuffle", In("bc66"), 2),
    call("channel_shuffle", X, 2),
    # parts
    call("select", X, 1, 0),
    call("narrow", X, 1, 1, 2),
    call("narrow_copy", X, 1, 1, 2),
    call(lambda x: x[:, 1:, ::2, -1], X, name="slices"),
    call(lambda x, at: x[:, at], X, reverse("c"), name="index"),
    call(lambda x, at: x[at], X, checkers(), name="mask"),
    call(
        lambda x, at: torch.ops.aten._unsafe_index.Tensor(x, [None, at]),
        X,
        reverse("c"),
        name="_unsafe_index",
    ),
    call("index_select", X, 1, reverse("c")),
    call("gather", X, 1, along("c", modulus=2)),
    call("take", X, reverse("l")),
    call("take_along_dim", X, along("c"), 1),
    call("diagonal", X, 0, 2, 3),
    call("diag", M),
    call("split", X, 2, 1),
    call("split", X, Given(lambda s: (1, s["c"] - 1)), 1),
    call("split_with_sizes", X, Given(lambda s: (1, s["c"] - 1)), 1),
    call("tensor_split", X, 3, 1),
    call("hsplit", In("b6hw"), 2),
    call("chunk", X, 2, 1),
    call("unsafe_split", X, 2, 1),
    call("unsafe_chunk", X, 2, 1),
    call("unsafe_split_with_sizes", X, Given(lambda s: (1, s["c"] - 1)), 1),
    call("unbind", X, 1),
    call("masked_select", X, checkers()),
    call("tril", M),
    call("triu", M),
    # put together and written into each other
    call("cat", [X, X], 1),
    call("stack", [X, X]),
    call("hstack", [X, X]),
    call("vstack", [X, X]),
    call("dstack", [X, X]),
    call("column_stack", [M, M]),
    call("block_diag", M, M),
    call("diag_embed", M),
    call("diagflat", V),
    call("where", checkers(), X, X),
    call("masked_fill", X, checkers(), 0.5),
    call("masked_fill", X, checkers(), In("")),
    call("masked_scatter", X, checkers(), X),
    call("fill", X, 2.0),
    call("fill", X, In("")),
    call(writing(torch.Tensor.zero_), X, name="zero_"),
    call("put", X, reverse("l"), V),
    call("put", X, reverse("l"), V, accumulate=True),
    call("index_add", X, 1, reverse("c"), X),
    call("index_copy", X, 1, reverse("c"), X),
    call("index_fill", X, 1, reverse("3"), 0.5),
    call("index_fill", X, 1, reverse("3"), In("")),
    call("index_put", V, (reverse("j"),), In("j")),
    call("index_put", V, (reverse("j"),), In("j"), accumulate=True),
    call("scatter", X, 1, along("c"), X),
    call("scatter", X, 1, along("c"), 0.5),
    call("scatter_add", X, 1, along("c", modulus=2), X),
    call("select_scatter", X, In("bhw"), 1, 0),
    call("slice_scatter", X, In("b2hw"), 1, 1, 3),
    call("diagonal_scatter", SQUARE, In("j")),
    call("scatter_reduce", X, 1, along("c", modulus=2), X, "sum"),
    call("scatter_reduce", X, 1, along("c", modulus=2), X, "mean", include_self=False),
    call("index_reduce", X, 1, reverse("c"), X, "mean"),
    call("segment_reduce", V, "sum", lengths=halves("l")),
    call("segment_reduce", V, "mean", lengths=halves("l")),
    call(setitem((slice(None), 0)), X, In("bhw"), name="setitem"),
    call(setitem(0), X, 2.0, name="setitem number"),
    call(setitem(...), X, X, name="setitem everywhere"),
    call(lambda x, at: setitem(at)(x, 0.0), X, checkers(), name="setitem mask"),
    call(lambda x, y, at: setitem(at)(x, y), V, In("j"), reverse("j"), name="setitem index"),
    call(writing(torch.Tensor.copy_), X, X, name="copy_"),
    call(lambda x: torch.empty_like(x).copy_(x), X, name="copy_ into new"),
    call(writing(lambda x: x[:, :1].zero_()), X, name="zero_ on a view"),
    call(writing(lambda x: x[:, :1].fill_(2)), X, name="fill_ on a view"),
    call(writing(lambda x, y: x[:, :1].copy_(y)), X, In("b1hw"), name="copy_ on a view"),
    call(writing(lambda x, y: x[:, :1].div_(y)), X, In("b1hw"), alone="0", name="div_ on a view"),
    call(writing(lambda x, y: x[:, :1].mul_(y)), X, In("b1hw"), alone="0|1", name="mul_ on a view"),
    # padding and resampling
    call("pad", S, (1, 2)),
    call("pad", X, (1, 2, 0, 1), value=0.5),
    call("pad", X, (-1, 0)),
    *(
        call("pad", given, width, mode=mode)
        for mode in ("reflect", "replicate", "circular")
        for given, width in ((S, (1, 2)), (X, (1, 2, 0, 1)), (VOLUME, (1, 2, 0, 1, 1, 1)))
    ),
    *(
        call("interpolate", given, scale_factor=factor, mode=mode)
        for factor in (2, 0.5)
        for given, own in ((S, ("linear",)), (X, ("bilinear", "bicubic")), (VOLUME, ("trilinear",)))
        for mode in ("nearest", "nearest-exact", "area", *own)
    ),
    *(
        call("interpolate", X, scale_factor=0.5, mode=mode, antialias=True)
        for mode in ("bilinear", "bicubic", "lanczos")
    ),
    *(
        call("grid_sample", X, In("bhw2"), mode=mode, padding_mode=edge, align_corners=False, alone="0")
        for mode in ("bilinear", "bicubic")
        for edge in ("zeros", "border", "reflection")
    ),
    call("grid_sample", VOLUME, In("bdhw3"), align_corners=False, alone="0"),
    call("affine_grid", In("b23"), Given(lambda s: (s["b"], 1, 4, 5)), align_corners=False),
    # complex numbers and Fourier transforms
    *(
        call(name, given)
        for given in (X, COMPLEX)
        for name in ("fft", "ifft", "fft2", "ifft2", "fftn", "ifftn", "fftshift", "ifftshift")
    ),
    *(call(name, X) for name in ("rfft", "rfft2", "rfftn", "ihfft", "ihfft2")),
    *(call(name, COMPLEX) for name in ("irfft", "irfft2", "irfftn", "hfft", "hfft2")),
    call(lambda x, window: spectrogram(x, window), X, constant("8"), name="stft"),
    call(lambda x, w: torch.istft(spectrogram(x, w), 8, window=w), X, constant("8"), name="istft"),
    call("complex", X, X),
    *(
        call(name, COMPLEX)
        for name in ("view_as_real", "real", "imag", "conj", "conj_physical", "sum", "neg")
    ),
    call("view_as_complex", In("bc2")),
    call(lambda x: x.conj().imag.clone(), COMPLEX, name="imag of conj"),
    call("mul", COMPLEX, 1j),
    call("mul", COMPLEX, COMPLEX, alone="0|1"),
    call("vdot", In("l", torch.complex128), In("l", torch.complex128), alone="0|1"),
]

PIECEWISE = of_kind(
    Kind.PIECEWISE,
    call("relu", X),
    call("relu6", X),
    call("leaky_relu", X, 0.1),
    call("hardtanh", X),
    call("threshold", X, 0.1, 2.0),
    call("hardshrink", X),
    call("softshrink", X),
    call("hardsigmoid", X),
    call("rrelu", X),
    replace(call("prelu", X, In("c"), alone="0"), also=(("1", Kind.AFFINE),)),
    call("abs", X),
    call("l1_loss", X, X, reduction="none"),
    call("clamp", X, -0.5, 1.0),
    call("clamp", X, 0.1),
    call("clamp", X, X, X),
    call("clamp", X, None, X),
    call("clamp_min", X, 0.1),
    call("clamp_min", X, X),
    call("clamp_max", X, 0.1),
    call("clamp_max", X, X),
    call("maximum", X, X),
    call("minimum", X, X),
    call("fmax", X, X),
    call("fmin", X, X),
    call("max", X),
    call("max", X, 1),
    call("max", X, X),
    call("min", X),
    call("min", X, 1),
    call("min", X, X),
    call("amax", X, 1),
    call("amin", X, 1),
    call("aminmax", X),
    call("sort", X, 1),
    call("sort", X, dim=1, stable=True),
    call("msort", X),
    call("topk", X, 2, 1),
    call("kthvalue", X, 2, 1),
    call("median", X),
    call("median", X, 1),
    call("nanmedian", X),
    call("nanmedian", X, 1),
    call("mode", X, 1),
    call("cummax", X, 1),
    call("cummin", X, 1),
    *(
        call(name, X, 0.3, 1, interpolation=between)
        for name in ("quantile", "nanquantile")
        for between in ("linear", "lower", "midpoint")
    ),
    call("max_pool1d", S, 2),
    call("max_pool2d", X, 3, 1, 1),
    call("max_pool2d_with_indices", X, 2),
    call("max_pool3d", VOLUME, 2),
    call("adaptive_max_pool1d", S, 2),
    call("adaptive_max_pool2d", X, 2),
    call("adaptive_max_pool3d", VOLUME, 2),
    call(F.fractional_max_pool2d, X, 2, 3, _random_samples=constant("bc2")),
    call(F.fractional_max_pool3d, VOLUME, 2, 2, _random_samples=constant("bc3")),
    *(call("scatter_reduce", X, 1, along("c", modulus=2), X, reduce) for reduce in ("amax", "amin")),
    *(call("index_reduce", X, 1, reverse("c"), X, reduce) for reduce in ("amax", "amin")),
    *(call("segment_reduce", V, reduce, lengths=halves("l")) for reduce in ("max", "min")),
    call(writing(lambda x: x[:, :1].relu_()), X, name="relu_ on a view"),
    call(writing(lambda x: x[:, :1].clamp_(min=0)), X, name="clamp_ on a view"),
)

OTHER = of_kind(
    Kind.OTHER,
    *(
        call(name, X)
        for name in (
            *(
                "exp",
                "expm1",
                "sin",
                "tanh",
                "erf",
                "sigmoid",
                "logsigmoid",
                "atan",
                "square",
                "sinc",
                "sinh",
            ),
            *(
                "silu",
                "gelu",
                "elu",
                "celu",
                "selu",
                "mish",
                "softplus",
                "hardswish",
                "softsign",
                "tanhshrink",
            ),
            *("floor", "ceil", "round", "trunc", "frac", "sign", "sgn"),
            *("prod", "var", "std", "var_mean", "std_mean", "norm", "reciprocal"),
        )
    ),
    *(call(name, X, 1) for name in ("softmax", "log_softmax", "logsumexp", "logcumsumexp", "cumprod", "glu")),
    call("pow", X, 2),
    call("pow", 2.0, X),
    call("mul", X, X),
    call("div", X, X),
    *(call("div", X, X, rounding_mode=mode) for mode in ("floor", "trunc")),
    *(call("div", X, 0.5, rounding_mode=mode) for mode in ("floor", "trunc")),
    call(writing(lambda x: x[:, :1].div_(0.5, rounding_mode="floor")), X, name="div_ on a view, rounded"),
    call(writing(lambda x: x[:, :1].sigmoid_()), X, name="sigmoid_ on a view"),
    call("remainder", X, 0.5),
    call("fmod", X, 0.5),
    call("atan2", X, X),
    call("hypot", X, X),
    call("logaddexp", X, X),
    call("polar", X, X),
    *(call(name, COMPLEX) for name in ("abs", "angle", "sgn")),
    call(lambda x: torch.fft.rfft2(x).abs(), X, name="modulus of a spectrum"),
    call("vector_norm", X, 3),
    call("cdist", In("bij"), In("bkj")),
    call("pdist", M),
    call("cosine_similarity", X, X),
    call("mse_loss", X, X, reduction="none"),
    call("smooth_l1_loss", X, X, reduction="none"),
    call("renorm", X, 2, 1, 0.5),
    call("lp_pool2d", X, 2, 2),
    call("local_response_norm", X, 2),
    call("scatter_reduce", X, 1, along("c", modulus=2), X, "prod"),
    call("index_reduce", X, 1, reverse("c"), X, "prod"),
    call("batch_norm", X, None, None, training=True),
    call(
        first(torch.ops.aten._native_batch_norm_legit.default),
        *(X, None, None, constant("c"), constant("c"), True, 0.1, 1e-5),
        name="_native_batch_norm_legit, training",
    ),
    call("rrelu", X, training=True),
    call("segment_reduce", V, "prod", lengths=halves("l")),
    call("layer_norm", X, Given(lambda s: (s["w"],))),
    call("group_norm", X, 2),
    call("instance_norm", X),
    call("normalize", X),
    call("rms_norm", X, Given(lambda s: (s["w"],))),
    call("scaled_dot_product_attention", In("bij"), In("bkj"), In("bkj")),
    call("det", SQUARE),
    call("inv", SQUARE),
    call("matrix_exp", SQUARE),
    call("fake_quantize_per_tensor_affine", X, 0.1, 0, -128, 127),
    call(lambda x: x.to(torch.float8_e4m3fn).double(), X, name="float8"),
    call(
        lambda x: torch.empty_like(x, dtype=torch.float8_e4m3fn).copy_(x).double(),
        X,
        name="copy_ into float8",
    ),
    call(
        "as_strided_scatter", V, In("3"), (3,), (1,)
    ),  # affine, but torch's gradient is that of the complement
    call("embedding", reverse("i"), M, max_norm=0.5),
    call(BackwardHookFunction.apply, X, name="custom function, cubic"),
)

# Affine or piecewise linear, and yet not in the table: rare, or not told apart from what is not.
REFUSED = [
    call("norm", X, 1),
    call("copysign", X, X),
    call("pow", X, 1),
    call("embedding", reverse("i"), M),
    call(
        "max_unpool2d", X, Given(lambda s: torch.arange(36).view(1, 1, 6, 6).expand(s["b"], s["c"], 6, 6)), 1
    ),
    call("solve", constant("jj"), SQUARE),
    call(Doubled.apply, X, name="custom function, linear"),
]

# Each normalises its first input; the weight may not depend on the image, the bias may.
LAST = Given(lambda s: (s["h"], s["w"]))
NORMALISERS = [
    call("layer_norm", X, LAST, In("hw"), In("hw"), 0.1),
    call("layer_norm", X, LAST),
    call("layer_norm", X, normalized_shape=LAST, weight=In("hw"), bias=In("hw")),
    call("native_layer_norm", X, LAST, In("hw"), In("hw"), 0.1),
    call("native_layer_norm", X, LAST, None, None, 0.1),
    call("group_norm", X, 2, In("c"), In("c"), 0.1),
    call("group_norm", X, 2),
    call("group_norm", S, 2, weight=In("c"), bias=In("c")),
    call(
        "native_group_norm",
        *(X, In("c"), In("c"), *(Given(size) for size in (lambda s: s["b"], lambda s: s["c"])), 36, 2, 0.1),
    ),
    call(F.instance_norm, X, None, None, In("c"), In("c"), True, 0.1, 0.1),
    call(F.instance_norm, S),
    call(F.instance_norm, X, weight=In("c"), bias=In("c")),
    call(torch.instance_norm, X, In("c"), In("c"), None, None, True, 0.1, 0.1, True),
    call("rms_norm", X, LAST, In("hw"), 0.1),
    call("rms_norm", X, LAST),
    call("_fused_rms_norm", X, LAST, In("hw"), 0.1),
    call("_fused_rms_norm", X, LAST, None, None),
    call("normalize", X),
    call("normalize", X, 1, -1),
    call("normalize", X, dim=(1, 2), eps=2.0),
    call("normalize", COMPLEX),
]
