"""Steps that are not affine and say so in the graph: piecewise linear, normalising, products, curves."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fuzz.node import Entry, Kind, Named, Node, Step, anything, even, flat, maps, planes, roomy

MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def relu_on_view(x: Tensor) -> Tensor:
    x[:, : max(1, x.shape[1] // 2)].relu_()
    return x


PIECEWISE: dict[str, Entry] = {
    "relu": (anything, lambda x, own, env: F.relu(x - own.typical(x))),
    "relu module": (anything, lambda x, own, env: own.part("relu", nn.ReLU)(x * own.per_channel(x))),
    "relu in place": (anything, lambda x, own, env: F.relu(x.mul_(own.per_channel(x)), inplace=True)),
    "relu of a view": (anything, lambda x, own, env: relu_on_view(x - own.typical(x))),
    "leaky_relu": (anything, lambda x, own, env: F.leaky_relu(x - own.typical(x), 0.1)),
    "prelu": (anything, lambda x, own, env: own.part("prelu", nn.PReLU)(x - own.typical(x))),
    "clamp": (anything, lambda x, own, env: x.clamp(own.typical(x) - 0.1, own.typical(x) + 0.1)),
    "clamp far away": (anything, lambda x, own, env: x.clamp(-30, 30)),
    "clamp_": (anything, lambda x, own, env: x.clamp_(max=own.typical(x))),
    "relu6": (anything, lambda x, own, env: F.relu6(x * 3)),
    "hardtanh": (anything, lambda x, own, env: F.hardtanh(x)),
    "threshold": (anything, lambda x, own, env: F.threshold(x, own.typical(x), 0.0)),
    "softshrink": (anything, lambda x, own, env: F.softshrink(x, 0.2)),
    "abs": (anything, lambda x, own, env: (x - own.typical(x)).abs()),
    "relu plus and minus": (
        anything,
        lambda x, own, env: F.relu(x - own.typical(x)) - F.relu(own.typical(x) - x),
    ),
    "maximum": (anything, lambda x, own, env: torch.maximum(x, x.roll(1, -1))),
    "minimum with a constant": (anything, lambda x, own, env: torch.minimum(x, own.per_channel(x))),
    "amax": (maps, lambda x, own, env: x.amax(-1)),
    "max": (maps, lambda x, own, env: x.max(-1).values),
    "max_pool": (roomy, lambda x, own, env: MAX_POOL[x.ndim - 2](x, 2)),
    "sort": (anything, lambda x, own, env: x.sort(-1).values),
    "topk": (anything, lambda x, own, env: x.topk(max(1, x.shape[-1] // 2), -1).values),
    "median": (anything, lambda x, own, env: x - x.median(-1, keepdim=True).values),
    "where positive": (anything, lambda x, own, env: torch.where(x > own.typical(x), x, 0.1 * x)),
    "times a comparison": (anything, lambda x, own, env: x * (x > own.typical(x))),
    "norm 1": (maps, lambda x, own, env: (x - own.typical(x)).norm(1, dim=-1)),
    "sign": (anything, lambda x, own, env: x + (x - own.typical(x)).sign()),
}


@dataclass(frozen=True, repr=False)
class Piecewise(Named):
    """Piecewise linear."""

    TABLE: ClassVar[dict[str, Entry]] = PIECEWISE


# --- normalisers -------------------------------------------------------------------------------

EPS = 1e-5
SMALLEST = 1e-3  # torch's 1e-12 lets features that are zero turn rounding into numbers


class Normaliser(NamedTuple):
    """A normaliser, and the affine map that it is once its divisor is held.

    Attributes:
        fits: the features that it takes.
        run: what a model calls.
        grouped: the features as ``(b, groups, members)`` or the like, with the members last.
        size: from the members to what they are divided by.
        centred: whether their mean is taken off first.
        after: weight and bias, in the shape of the features.
    """

    fits: Callable[[Tensor], bool]
    run: Callable[[Tensor, Node], Tensor]
    grouped: Callable[[Tensor], Tensor]
    size: Callable[[Tensor], Tensor]
    centred: bool = True
    after: Callable[[Tensor, Tensor, Node], Tensor] = lambda x, shaped, own: shaped


def deviation(members: Tensor) -> Tensor:
    return (members.var(-1, unbiased=False, keepdim=True) + EPS).sqrt()


def root_mean_square(members: Tensor) -> Tensor:
    return (members.square().mean(-1, keepdim=True) + EPS).sqrt()


def length(p: float) -> Callable[[Tensor], Tensor]:
    return lambda members: members.norm(p, -1, keepdim=True).clamp_min(SMALLEST)


def last(name: str, own: Node, x: Tensor) -> Tensor:
    return own.weight(name, x.shape[-1])


def affine_last(x: Tensor, shaped: Tensor, own: Node) -> Tensor:
    return shaped * last("w", own, x) + last("b", own, x)


def affine_channels(x: Tensor, shaped: Tensor, own: Node) -> Tensor:
    return shaped * own.per_channel(x, "w") + own.per_channel(x, "b")


def affine_group(x: Tensor, own: Node) -> tuple[Tensor, Tensor]:
    return own.weight("w", x.shape[1], *[1] * (x.ndim - 2)), own.weight("b", x.shape[1], *[1] * (x.ndim - 2))


def first_axis(x: Tensor) -> Tensor:
    return x.movedim(1, -1)


def everything(x: Tensor) -> Tensor:
    return x.flatten(1).unsqueeze(1)


def by_group(x: Tensor) -> Tensor:
    return x.reshape(len(x), 2, -1)


def by_channel(x: Tensor) -> Tensor:
    return x.flatten(2)


def group_norm(x: Tensor, own: Node) -> Tensor:
    weight, bias = affine_group(x, own)
    return F.group_norm(x, 2, weight.flatten(), bias.flatten(), EPS)


def channel_norm(x: Tensor, own: Node) -> Tensor:
    weight, bias = affine_group(x, own)
    shaped = F.layer_norm(x.movedim(1, -1), x.shape[1:2], weight.flatten(), bias.flatten(), EPS)
    return shaped.movedim(-1, 1)


def module_norm(x: Tensor, own: Node) -> Tensor:
    norm = own.part("norm", lambda: nn.LayerNorm(x.shape[-1], eps=EPS))
    return norm(x)


def affine_module(x: Tensor, shaped: Tensor, own: Node) -> Tensor:
    norm = own.get_submodule("norm")
    return shaped * norm.weight + norm.bias


NORMALISERS: dict[str, Normaliser] = {
    "layer_norm": Normaliser(
        lambda x: x.shape[-1] > 2,
        lambda x, own: F.layer_norm(x, x.shape[-1:], last("w", own, x), last("b", own, x), EPS),
        lambda x: x, deviation, True, affine_last,
    ),
    "nn.LayerNorm": Normaliser(
        lambda x: x.shape[-1] > 2, module_norm, lambda x: x, deviation, True, affine_module
    ),
    "native_layer_norm": Normaliser(
        lambda x: x.shape[-1] > 2,
        lambda x, own: torch.native_layer_norm(x, x.shape[-1:], last("w", own, x), last("b", own, x), EPS)[0],
        lambda x: x, deviation, True, affine_last,
    ),
    "layer_norm of the map": Normaliser(
        anything, lambda x, own: F.layer_norm(x, x.shape[1:], eps=EPS), everything, deviation
    ),
    "layer_norm of channels": Normaliser(
        anything, channel_norm, first_axis, deviation, True, affine_channels
    ),
    "group_norm": Normaliser(even, group_norm, by_group, deviation, True, affine_channels),
    "instance_norm": Normaliser(
        lambda x: 3 <= x.ndim <= 5 and math.prod(x.shape[2:]) > 1,
        lambda x, own: F.instance_norm(x, eps=EPS), by_channel, deviation,
    ),
    "nn.InstanceNorm": Normaliser(
        lambda x: 3 <= x.ndim <= 5 and math.prod(x.shape[2:]) > 1,
        lambda x, own: own.part("norm", lambda: INSTANCE[x.ndim - 2](x.shape[1], eps=EPS))(x),
        by_channel, deviation,
    ),
    "rms_norm": Normaliser(
        lambda x: x.shape[-1] > 2,
        lambda x, own: F.rms_norm(x, x.shape[-1:], last("w", own, x), EPS),
        lambda x: x, root_mean_square, False, lambda x, shaped, own: shaped * last("w", own, x),
    ),
    "normalize": Normaliser(
        anything, lambda x, own: F.normalize(x, dim=1, eps=SMALLEST), first_axis, length(2), False
    ),
    "normalize by sums": Normaliser(
        anything, lambda x, own: F.normalize(x, p=1.0, dim=-1, eps=SMALLEST), lambda x: x, length(1), False
    ),
    "bias, then layer_norm": Normaliser(
        lambda x: x.shape[-1] > 2,
        lambda x, own: F.layer_norm(x + last("w", own, x), x.shape[-1:], eps=EPS),
        lambda x: x, deviation,
    ),
}  # fmt: skip


@dataclass(frozen=True, repr=False)
class Normalise(Step):
    """Affine once the divisor is held."""

    op: str

    @property
    def kind(self) -> Kind:
        return Kind.NORMALISING

    def fits(self, x: Tensor) -> bool:
        return NORMALISERS[self.op].fits(x)

    def run(self, x: Tensor, own: Node, env: object) -> Tensor:
        return NORMALISERS[self.op].run(x, own)

    def divisor(self, x: Tensor, own: Node) -> Tensor:
        """What the members of each group are divided by."""
        normaliser = NORMALISERS[self.op]
        return normaliser.size(normaliser.grouped(self._shifted(x, own)))

    def held(self, x: Tensor, own: Node, divisor: Tensor) -> Tensor:
        """The same step with this divisor."""
        normaliser = NORMALISERS[self.op]
        members = normaliser.grouped(self._shifted(x, own))
        centre = members.mean(-1, keepdim=True) if normaliser.centred else 0
        divided = (members - centre) / divisor
        shaped = divided.movedim(-1, 1) if normaliser.grouped is first_axis else divided.reshape(x.shape)
        return normaliser.after(x, shaped, own)

    def _shifted(self, x: Tensor, own: Node) -> Tensor:
        return x + last("w", own, x) if self.op.startswith("bias") else x

    @classmethod
    def every(cls) -> list[Step]:
        """All of them."""
        return [cls(op) for op in NORMALISERS]


# --- products and curves -----------------------------------------------------------------------


def attention(x: Tensor, own: Node) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    scores = tokens @ own.matrix("w", x.shape[1], x.shape[1]) @ tokens.transpose(1, 2)
    return (scores.softmax(-1) @ tokens).transpose(1, 2).reshape(x.shape)


def scaled_attention(x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    return F.scaled_dot_product_attention(tokens, tokens, tokens).transpose(1, 2).reshape(x.shape)


def batch_statistics(x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, training=True)


def pooled_by_scores(x: Tensor, own: Node) -> Tensor:
    columns = x.flatten(2)
    return columns * torch.einsum("bcn,c->bn", columns, own.weight("w", x.shape[1])).softmax(-1)[:, None]


CURVES: dict[str, Entry] = {
    "square": (anything, lambda x, own, env: x * x),
    "power": (anything, lambda x, own, env: x.pow(2)),
    "product with a neighbour": (anything, lambda x, own, env: x * x.roll(1, -1)),
    "product with its mean": (anything, lambda x, own, env: x * x.mean(1, keepdim=True)),
    "mul_ by its mean": (anything, lambda x, own, env: x.mul_(x.mean(1, keepdim=True))),
    "divide by its size": (anything, lambda x, own, env: x / (1 + x.abs().mean(1, keepdim=True))),
    "its own norm": (anything, lambda x, own, env: x / (x.var(1, keepdim=True, unbiased=False) + 0.1).sqrt()),
    "bilinear": (flat, lambda x, own, env: F.bilinear(x, x, own.matrix("w", 4, x.shape[1], x.shape[1]))),
    "gram": (maps, lambda x, own, env: x.flatten(2) @ x.flatten(2).transpose(1, 2) / 8),
    "einsum with itself": (anything, lambda x, own, env: torch.einsum("bc...,bd...->bcd...", x, x).mean(2)),
    "attention": (maps, lambda x, own, env: attention(x, own)),
    "attention, one call": (maps, lambda x, own, env: scaled_attention(x)),
    "attention pooling": (maps, lambda x, own, env: pooled_by_scores(x, own)),
    "silu": (anything, lambda x, own, env: F.silu(x)),
    "gelu": (anything, lambda x, own, env: F.gelu(x)),
    "sigmoid": (anything, lambda x, own, env: x.sigmoid()),
    "tanh_": (anything, lambda x, own, env: x.tanh_()),
    "exp": (anything, lambda x, own, env: (x / 8).exp()),
    "softplus": (anything, lambda x, own, env: F.softplus(x)),
    "elu": (anything, lambda x, own, env: F.elu(x - own.typical(x))),
    "hardswish": (anything, lambda x, own, env: F.hardswish(x)),
    "sqrt": (anything, lambda x, own, env: (x.abs() + 0.1).sqrt()),
    "log1p": (anything, lambda x, own, env: x.abs().log1p()),
    "softmax": (anything, lambda x, own, env: x.softmax(1)),
    "logsumexp": (maps, lambda x, own, env: x.logsumexp(-1)),
    "std": (maps, lambda x, own, env: x.std(-1, unbiased=False)),
    "norm": (maps, lambda x, own, env: x.norm(dim=-1)),
    "local_response_norm": (maps, lambda x, own, env: F.local_response_norm(x, 3)),
    "cosine_similarity": (maps, lambda x, own, env: F.cosine_similarity(x, own.per_channel(x), dim=1)),
    "round": (anything, lambda x, own, env: (x * 4).round()),
    "floor": (anything, lambda x, own, env: x + (x * 4).floor()),
    "rounding division": (anything, lambda x, own, env: torch.div(x * 4, 0.7, rounding_mode="floor")),
    "truncating division": (anything, lambda x, own, env: torch.div(x * 4, 0.7, rounding_mode="trunc")),
    "remainder": (anything, lambda x, own, env: torch.remainder(x, 0.7)),
    "modulus": (anything, lambda x, own, env: torch.fft.rfft(x, dim=-1).abs()),
    "angle": (anything, lambda x, own, env: torch.complex(x, 1 - x).angle()),
    "lerp by itself": (anything, lambda x, own, env: torch.lerp(x, own.per_channel(x).expand_as(x), x)),
    "weights from features": (
        planes,
        lambda x, own, env: F.conv2d(x, own.matrix("w", 4, x.shape[1], 1, 1) * x.mean()),
    ),
    "grid from features": (
        planes,
        lambda x, own, env: F.grid_sample(x, x[:, :2].movedim(1, -1).tanh(), align_corners=False),
    ),
    "batch statistics": (lambda x: maps(x) and len(x) > 1, lambda x, own, env: batch_statistics(x)),
}


@dataclass(frozen=True, repr=False)
class Curved(Named):
    """Not affine, by a product or a curve."""

    TABLE: ClassVar[dict[str, Entry]] = CURVES
