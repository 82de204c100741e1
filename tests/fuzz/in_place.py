"""Affine steps that write into their input or into a tensor of their own."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fuzz.affine import order
from fuzz.node import Entry, Kind, Named, anything, maps, wide


def assigned(x: Tensor, where: object, value: object) -> Tensor:
    x[where] = value
    return x


def written(buffer: Tensor, where: object, x: Tensor) -> Tensor:
    buffer[where].copy_(x)
    return buffer


def through_view(x: Tensor, change: str) -> Tensor:
    view = x[:, : max(1, x.shape[1] // 2)]
    {"mul_": lambda: view.mul_(2), "zero_": view.zero_, "fill_": lambda: view.fill_(0.5)}[change]()
    return x


def accumulated(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    for k in range(x.shape[1]):
        out[:, k] += x[:, k] * (k + 1) / x.shape[1]
    return out


def halves(x: Tensor) -> Tensor:
    x[..., 1:] += x[..., :-1].clone()
    return x


def rows_swapped(x: Tensor) -> Tensor:
    x[:, [0, -1]] = x[:, [-1, 0]]
    return x


IN_PLACE: dict[str, Entry] = {
    "mul_": (anything, lambda x, own, env: x.mul_(own.per_channel(x))),
    "add_": (anything, lambda x, own, env: x.add_(own.per_channel(x), alpha=0.5)),
    "sub_": (anything, lambda x, own, env: x.sub_(0.5)),
    "div_": (anything, lambda x, own, env: x.div_(own.per_channel(x))),
    "neg_": (anything, lambda x, own, env: x.neg_()),
    "lerp_": (anything, lambda x, own, env: x.lerp_(own.per_channel(x).expand_as(x), 0.3)),
    "addcmul_": (anything, lambda x, own, env: x.addcmul_(own.per_channel(x), own.per_channel(x, "b"))),
    "masked_fill_": (anything, lambda x, own, env: x.masked_fill_(own.half(x), 0.0)),
    "cumsum_": (anything, lambda x, own, env: x.cumsum_(-1)),
    "index_add_": (anything, lambda x, own, env: x.index_add_(1, order(x, own), x.clone())),
    "index_fill_": (anything, lambda x, own, env: x.index_fill_(1, order(x, own)[:2], 0.5)),
    "setitem with a number": (anything, lambda x, own, env: assigned(x, (slice(None), 0), 0.0)),
    "setitem with a part": (anything, lambda x, own, env: assigned(x, (slice(None), 0), 2 * x[:, -1])),
    "setitem by a pattern": (anything, lambda x, own, env: assigned(x, (slice(None), own.half(x)), 0.25)),
    "swap rows": (anything, lambda x, own, env: rows_swapped(x)),
    "add a neighbour": (wide, lambda x, own, env: halves(x)),
    "mul_ on a view": (anything, lambda x, own, env: through_view(x, "mul_")),
    "zero_ on a view": (anything, lambda x, own, env: through_view(x, "zero_")),
    "fill_ on a view": (anything, lambda x, own, env: through_view(x, "fill_")),
    "copy_ into a new tensor": (anything, lambda x, own, env: torch.empty_like(x).copy_(x)),
    "copy_ into part of a canvas": (
        lambda x: x.shape[-1] <= 6,
        lambda x, own, env: written(x.new_zeros(*x.shape[:-1], 7), (..., slice(x.shape[-1])), x),
    ),
    "setitem into a canvas": (
        lambda x: x.shape[-1] <= 6,
        lambda x, own, env: assigned(x.new_ones(*x.shape[:-1], 7), (..., slice(x.shape[-1])), x),
    ),
    "accumulate": (anything, lambda x, own, env: accumulated(x)),
    "transpose_": (maps, lambda x, own, env: x.clone().transpose_(1, -1)),
}


@dataclass(frozen=True, repr=False)
class InPlace(Named):
    """Affine, by writing into its input or into a tensor of its own."""

    TABLE: ClassVar[dict[str, Entry]] = IN_PLACE
    IS: ClassVar[Kind] = Kind.AFFINE
