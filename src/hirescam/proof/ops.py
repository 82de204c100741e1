"""Operations of the autograd graph: what each does to the guarantee.

An op on the way from the score back to the image is

* affine, where it is linear in what depends on the image, plus a constant;
* normalising, where it is affine once its divisor is held (layer, group, instance, RMS and L2 norm);
* piecewise linear (ReLU, max-pool);
* other: everything else, and everything unknown.
"""

import re
from dataclasses import dataclass
from enum import IntEnum

from torch.autograd.graph import Node


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


_LINEAR = frozenset(
    """Add Sub Rsub Cat Stack Sum Mean Neg View UnsafeView ReshapeAlias Reshape Transpose T Permute Unsqueeze
    Squeeze Select Slice Index Gather IndexSelect Narrow Split SplitWithSizes UnsafeSplit Unbind Expand Repeat
    RepeatInterleave Clone ToCopy Copy Alias AsStrided Flip Roll ConstantPadNd ReflectionPad1D
    ReflectionPad2D ReflectionPad3D ReplicationPad1D ReplicationPad2D ReplicationPad3D UpsampleNearest1D
    UpsampleNearest2D UpsampleNearest3D UpsampleNearestExact1D UpsampleNearestExact2D
    UpsampleNearestExact3D UpsampleLinear1D UpsampleBilinear2D UpsampleBicubic2D UpsampleTrilinear3D
    UpsampleBilinear2DAa UpsampleBicubic2DAa AvgPool2D AvgPool3D AdaptiveAvgPool2D AdaptiveAvgPool3D
    MkldnnAdaptiveAvgPool2D PixelShuffle PixelUnshuffle Im2Col Col2Im Cumsum Diagonal Trace Tril Triu
    MaskedFill MaskedScatter Where IndexAdd IndexPut IndexFill Scatter ScatterAdd SelectScatter SliceScatter
    DiagonalScatter FftR2C FftC2C FftC2R ViewAsReal ViewAsComplex Real Imag NativeChannelShuffle Fill
    Zero Nansum""".split()  # noqa: SIM905
)
# Linear in each operand alone: affine where just one of these inputs depends on the layer.
_BILINEAR: dict[str, tuple[int, ...]] = {
    "Mul": (0, 1), "Mm": (0, 1), "Bmm": (0, 1), "Mv": (0, 1), "Dot": (0, 1), "Linear": (0, 1),
    "Convolution": (0, 1), "ConvolutionOverrideable": (0, 1), "MkldnnConvolution": (0, 1),
    "MkldnnLinear": (0, 1), "ThnnConv2D": (0, 1), "CudnnConvolution": (0, 1), "MiopenConvolution": (0, 1),
    "Addmm": (1, 2), "Addmv": (1, 2), "Addbmm": (1, 2), "Baddbmm": (1, 2), "Addr": (1, 2),
    "Addcmul": (1, 2), "Kron": (0, 1), "Bilinear": (0, 1, 2),
}  # fmt: skip
# Affine in the first input while the others do not depend on the layer.
_FIRST_ONLY = frozenset({"Div", "GridSampler2D", "GridSampler3D", "NativeBatchNorm", "CudnnBatchNorm",
                         "MiopenBatchNorm"})  # fmt: skip
_PIECEWISE = frozenset(
    """Relu LeakyRelu Hardtanh Threshold Clamp ClampMin ClampMax MaxPool1D MaxPool2DWithIndices
    MaxPool3DWithIndices AdaptiveMaxPool2D AdaptiveMaxPool3D MkldnnMaxPool2D MkldnnMaxPool3D
    FractionalMaxPool2D FractionalMaxPool3D Maximum Minimum Max Min Amax Amin Abs Topk Sort Median
    Nanmedian Kthvalue Hardshrink Softshrink Hardsigmoid RreluWithNoise""".split()  # noqa: SIM905
)
_PIECEWISE_FIRST_ONLY = frozenset({"Prelu", "PreluKernel"})
_NORMALISING = frozenset({"NativeLayerNorm", "NativeGroupNorm", "FusedRmsNorm", "RmsNorm"})

_READABLE = {
    "Addmm": "linear", "Mm": "linear", "UnsafeView": "reshape", "View": "reshape", "ReshapeAlias": "reshape",
    "Convolution": "conv", "NativeBatchNorm": "batch_norm", "NativeLayerNorm": "layer_norm",
    "NativeGroupNorm": "group_norm", "MaxPool2DWithIndices": "max_pool2d", "T": "transpose",
    "MaxPool3DWithIndices": "max_pool3d", "ToCopy": "to", "Copy": "copy",
}  # fmt: skip
_NATIVE = re.compile(r"^(?P<name>[A-Z]\w*?)Backward(?:s|\d+)$")


def native_name(node: Node) -> str:
    """``Relu`` for the node of a built-in op; ``""`` for a Python-defined or special one."""
    match = _NATIVE.match(node.name())
    return match["name"] if match else ""


def readable(node: Node) -> str:
    """A name that people know: ``linear``, ``mean``, ``softmax``."""
    name = native_name(node)
    if not name:
        return node.name().rpartition("::")[2].removesuffix("Backward")
    return _READABLE.get(name) or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def kind_of(node: Node, dependent: tuple[int, ...]) -> Kind:
    """Classify one node of the graph.

    Args:
        node: the node.
        dependent: which of its inputs depend on the image.
    """
    name = native_name(node)
    if name in _LINEAR:
        return Kind.AFFINE
    if name in _BILINEAR:
        factors = sum(slot in _BILINEAR[name] for slot in dependent)
        return Kind.AFFINE if factors <= 1 else Kind.OTHER
    if name in _FIRST_ONLY and getattr(node, "_saved_training", False):
        return Kind.OTHER
    if name in _FIRST_ONLY:
        return Kind.AFFINE if dependent == (0,) else Kind.OTHER
    if name in _PIECEWISE:
        return Kind.PIECEWISE
    if name in _PIECEWISE_FIRST_ONLY and dependent == (0,):
        return Kind.PIECEWISE
    return Kind.NORMALISING if name in _NORMALISING and dependent == (0,) else Kind.OTHER
