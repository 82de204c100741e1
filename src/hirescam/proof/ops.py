"""One table of operations: what each does to the guarantee, in which of its inputs.

An op on the way from the score back to the image is

* affine, where it is linear in what depends on the image, plus a constant;
* normalising, where it is affine once its divisor is held (layer, group, instance, RMS and L2 norm);
* piecewise linear: finitely many affine pieces, on each of which the gradient is the slope (ReLU, max-pool);
* other: everything else, and everything that the table does not know.

``tests/proof/test_ops.py`` proves every row by brute force, and fails for a row that it meets in no case.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, partial

import torch
from torch.autograd.graph import Node
from torch.nn.modules._functions import BackwardHookFunction


class Kind(IntEnum):
    """What an op does to the guarantee, weakest last."""

    AFFINE = 0
    NORMALISING = 1
    PIECEWISE = 2
    OTHER = 3


@dataclass(frozen=True)
class Op:
    """One operation between a layer and the score, and the module that ran it."""

    name: str
    kind: Kind
    module: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.module})" if self.module else self.name


@dataclass(frozen=True)
class Entry:
    """One row of the table.

    Attributes:
        name: the autograd node, without ``Backward0``.
        kind: what the op is in those of its inputs that depend on the image, while the others do not.
        inputs: sets of inputs; the kind holds jointly in those of any one set. Empty: in all of them.
        when: an argument of the op and the values of it for which this holds.
        within: only in calls of these torch functions, and there instead of the rows without this.
        readable: what people call it, where that is not its name.
    """

    name: str
    kind: Kind
    inputs: tuple[frozenset[int], ...] = ()
    when: tuple[str, tuple[object, ...]] | None = None
    within: frozenset[str] = frozenset()
    readable: str = ""

    def covers(self, dependent: Collection[int], argument: Callable[[str], object]) -> bool:
        """Whether the row says something of an op in these inputs, with these arguments."""
        if self.when is not None and argument(self.when[0]) not in self.when[1]:
            return False
        return not self.inputs or any(group.issuperset(dependent) for group in self.inputs)


def _rows(
    kind: Kind,
    inputs: str,
    names: str,
    *,
    when: tuple[str, tuple[object, ...]] | None = None,
    within: str = "",
) -> Iterator[Entry]:
    """Rows that differ in their names; ``"01|2"`` is inputs 0 and 1 together, or 2 alone."""
    groups = () if inputs == "all" else tuple(frozenset(map(int, group)) for group in inputs.split("|"))
    for name in names.split():
        node, _, readable = name.partition("=")
        yield Entry(node, kind, groups, when, frozenset(within.split()), readable)


_A, _N, _P = Kind.AFFINE, Kind.NORMALISING, Kind.PIECEWISE
_EXACT_DIVISION = ("rounding_mode", (None,))
_EVALUATION = ("training", (False,))
_SUMS = ("reduce", ("sum", "mean"))
_EXTREMES = ("reduce", ("amax", "amin", "max", "min"))

TABLE: tuple[Entry, ...] = (
    # arithmetic
    *_rows(_A, "all", "Add Sub Rsub Neg Sum Mean Nansum Cumsum Trace NanToNum Deg2Rad Rad2Deg"),
    *_rows(_A, "all", "Complex Conj ConjPhysical NegView ViewAsReal ViewAsComplex FftR2C FftC2C FftC2R"),
    *_rows(_A, "0|1", "Mul Mm=linear Bmm Mv Dot Vdot LinalgCross=cross"),
    *_rows(_A, "01|02", "Addmm=linear Addmv Addbmm Baddbmm Addr Addcmul SparseAddmm=sparse_mm"),
    *_rows(_A, "01|2", "Lerp"),
    *_rows(_A, "01", "Addcdiv"),
    *_rows(_A, "0", "Div", when=_EXACT_DIVISION),
    *_rows(_A, "0", "Ldexp"),
    # layers
    *_rows(_A, "02|12", "Convolution=conv ConvTbc"),
    *_rows(_A, "0|1|2", "Trilinear=bilinear"),
    *_rows(_A, "02|12", "NativeBatchNorm=batch_norm NativeBatchNormLegit=batch_norm", when=_EVALUATION),
    *_rows(_A, "02|12", "NativeBatchNormLegitNoTraining=batch_norm"),
    *_rows(_A, "all", "AvgPool2D AvgPool3D AdaptiveAvgPool2D AdaptiveAvgPool3D"),
    # places and values as they are
    *_rows(_A, "all", "View=reshape UnsafeView=reshape ReshapeAlias=reshape Transpose T=transpose Permute"),
    *_rows(_A, "all", "Unsqueeze Squeeze Expand Repeat Clone ToCopy=to Copy Alias AsStrided Flip Roll Rot90"),
    *_rows(_A, "all", "Unfold UnfoldBackward=fold Im2Col=unfold Col2Im=fold"),
    *_rows(_A, "all", "PixelShuffle PixelUnshuffle ChannelShuffle"),
    *_rows(_A, "all", "Select Slice Index UnsafeIndex=index IndexSelect MaskedSelect Gather Take Diagonal"),
    *_rows(_A, "all", "Split SplitWithSizes=split UnsafeSplit=split UnsafeSplitWithSizes=split Unbind"),
    *_rows(_A, "all", "NarrowCopy=narrow Tril Triu"),
    # values put together and written into each other
    *_rows(_A, "all", "Cat Stack BlockDiag DiagEmbed Where MaskedFill MaskedScatter Fill Zero Put"),
    *_rows(_A, "all", "IndexAdd IndexCopy IndexFill IndexPut Scatter ScatterAdd"),
    *_rows(_A, "all", "SelectScatter SliceScatter DiagonalScatter"),
    *_rows(_A, "all", "ScatterReduce IndexReduce SegmentReduce", when=_SUMS),
    # padding and resampling
    *_rows(_A, "all", "ConstantPadNd=pad ReflectionPad1D ReflectionPad2D ReflectionPad3D"),
    *_rows(_A, "all", "ReplicationPad1D ReplicationPad2D ReplicationPad3D"),
    *_rows(_A, "all", "UpsampleNearest1D UpsampleNearest2D UpsampleNearest3D UpsampleNearestExact1D"),
    *_rows(_A, "all", "UpsampleNearestExact2D UpsampleNearestExact3D UpsampleLinear1D UpsampleBilinear2D"),
    *_rows(_A, "all", "UpsampleBicubic2D UpsampleTrilinear3D UpsampleBilinear2DAa UpsampleBicubic2DAa"),
    *_rows(_A, "all", "UpsampleLanczos2DAa"),
    *_rows(_A, "0", "GridSampler2D=grid_sample GridSampler3D=grid_sample"),
    *_rows(_A, "all", "AffineGridGenerator=affine_grid"),
    # kinks
    *_rows(_P, "all", "Relu LeakyRelu Hardtanh Threshold Hardshrink Softshrink Hardsigmoid"),
    *_rows(_P, "all", "RreluWithNoise=rrelu", when=_EVALUATION),
    *_rows(_P, "0", "PreluKernel=prelu"),
    *_rows(_A, "1", "PreluKernel=prelu"),
    *_rows(_P, "all", "Abs", when=("complex", (False,))),
    *_rows(_P, "all", "Clamp ClampMin ClampMax Maximum Minimum Fmax Fmin Max Min Amax Amin Aminmax"),
    *_rows(_P, "all", "Sort Topk Kthvalue Median Nanmedian Mode Cummax Cummin"),
    *_rows(_P, "all", "MaxPool2DWithIndices=max_pool2d MaxPool3DWithIndices=max_pool3d AdaptiveMaxPool2D"),
    *_rows(_P, "all", "AdaptiveMaxPool3D FractionalMaxPool2D FractionalMaxPool3D"),
    *_rows(_P, "all", "ScatterReduce IndexReduce SegmentReduce", when=_EXTREMES),
    # in calls that pick values by an order that the graph does not show
    *_rows(_P, "all", "Gather", within="quantile nanquantile"),
    # normalisers, in calls that can be held
    *_rows(_N, "0", "NativeLayerNorm=layer_norm", within="layer_norm native_layer_norm"),
    *_rows(_N, "0", "NativeGroupNorm=group_norm", within="group_norm native_group_norm"),
    *_rows(_N, "0", "NativeBatchNorm=batch_norm", within="instance_norm"),
    *_rows(_N, "all", "Pow Rsqrt Mul", within="rms_norm _fused_rms_norm"),
    *_rows(_N, "all", "LinalgVectorNorm ClampMin Div", within="normalize"),
    # what a CPU never runs, each like a row above: norms and sampling on graphics cards, layers on Apple's
    *_rows(_A, "02|12", "CudnnBatchNorm=batch_norm MiopenBatchNorm=batch_norm", when=_EVALUATION),
    *_rows(_N, "0", "CudnnBatchNorm=batch_norm MiopenBatchNorm=batch_norm", within="instance_norm"),
    *_rows(_N, "0", "FusedRmsNorm=rms_norm", within="rms_norm _fused_rms_norm"),
    *_rows(_A, "0", "CudnnGridSampler=grid_sample"),
    *_rows(_A, "02|12", "Linear"),
    *_rows(_P, "all", "MaxPool2D"),
)


def _by_name() -> dict[str, list[Entry]]:
    rows: dict[str, list[Entry]] = {}
    for entry in TABLE:
        rows.setdefault(entry.name, []).append(entry)
    return rows


_BY_NAME = _by_name()
_NATIVE = re.compile(r"^(?:torch::autograd::)?(?P<name>[A-Z]\w*?)Backward(?:s|\d+)(?:_copy)?$")
# Functions that write into views under another name than that of the op.
_WRITES = {"__setitem__": "Copy", "pad": "Copy"}


def native_name(node: Node) -> str:
    """``Relu`` for the node of a built-in op; ``""`` for a Python-defined or special one."""
    return _native(node.name())


@cache
def _native(name: str) -> str:
    match = _NATIVE.match(name)
    return match["name"] if match else ""


def readable(node: Node, function: str = "") -> str:
    """A name that people know: ``linear``, ``mean``, ``softmax``.

    Args:
        node: the node.
        function: the bare name of the torch function that made it, where that was seen.
    """
    if _is_write(node):
        return f"{function or 'write'} on a view"
    name = native_name(node)
    if not name:
        return node.name().rpartition("::")[2].removesuffix("Backward")
    rows = _BY_NAME.get(name, ())
    if any(function in row.within for row in rows):
        return function
    known = next((row.readable for row in rows if row.readable), "")
    return known or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def kind_of(node: Node, dependent: tuple[int, ...], function: str = "", *, held: bool = False) -> Kind:
    """Classify one node of the graph.

    Args:
        node: the node.
        dependent: which of its inputs depend on the image.
        function: the bare name of the torch function that made it, where that was seen.
        held: whether that was a call of a normaliser that can be held (`hirescam.passes.held`).
    """
    if _is_coarse(node):
        return Kind.OTHER
    if getattr(node, "_forward_cls", None) is BackwardHookFunction:
        return Kind.AFFINE  # what a module with backward hooks puts around itself: it hands its inputs on
    if _is_write(node):
        written = getattr(node, "_wrapped_node", None)  # older versions of torch do not tell
        return kind_of_write(function, dependent) if written is None else kind_of(written, dependent)
    rows = [row for row in _BY_NAME.get(native_name(node), ()) if held or row.kind is not Kind.NORMALISING]
    rows = [row for row in rows if function in row.within] or [row for row in rows if not row.within]
    kind = _strongest(rows, dependent, partial(_saved, node))
    return max(kind, Kind.NORMALISING) if held else kind


def kind_of_write(function: str, dependent: tuple[int, ...]) -> Kind:
    """Classify a write through a view by the torch function that wrote: its node hides the op.

    Args:
        function: the bare name of the function: ``relu_``, ``__setitem__``.
        dependent: which inputs of the node depend on the image: 0 is the base, the others what was written.
    """
    name = re.sub(r"^__i|_+$", "", function)
    name = _WRITES.get(function) or "".join(part.title() for part in name.split("_"))
    rows = (row for row in _BY_NAME.get(name, ()) if not row.within)
    known = {"complex": False}  # no op that the table asks this of can be written into complex numbers
    return _strongest(rows, dependent, lambda argument: known.get(argument, _UNKNOWN))


_UNKNOWN = object()


def _strongest(rows: Iterable[Entry], dependent: tuple[int, ...], argument: Callable[[str], object]) -> Kind:
    return min((row.kind for row in rows if row.covers(dependent, argument)), default=Kind.OTHER)


def _saved(node: Node, argument: str) -> object:
    """An argument of the op, which its node keeps for the backward pass."""
    if argument == "complex":
        parent, number = node.next_functions[0]
        return parent is None or parent._input_metadata[number].dtype.is_complex
    return getattr(node, f"_saved_{argument}", None)


def _is_write(node: Node) -> bool:
    """Whether something was written into a view of the value."""
    return node.name() == "torch::autograd::CopySlices"


def _is_coarse(node: Node) -> bool:
    """Whether a result is in eight bits, where rounding is no longer small."""
    return any(
        isinstance(item.dtype, torch.dtype) and item.dtype.itemsize == 1 for item in node._input_metadata
    )
