"""A count of features becomes a size, and the size divides: nothing is read, yet nothing is affine."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torchvision.ops import nms

from attacks.table import WEAKER, Kind, Net, add


def boxes(h: Tensor) -> Tensor:
    """A box ``(x, y, x, y)`` for each location, as wide as its feature is large."""
    at = torch.arange(16.0).to(h)
    widths = 40 * h.detach().mean(0).flatten()
    return torch.stack([at, 0 * at, at + widths, 0 * at + 1], 1)


Count = Callable[[Tensor, Tensor], int]
COUNTS: dict[str, tuple[str, Count]] = {
    "len_of_where": ("`len(torch.where(m)[0])`", lambda h, m: len(torch.where(m)[0])),
    "rows_of_argwhere": ("`torch.argwhere(m).shape[0]`", lambda h, m: torch.argwhere(m).shape[0]),
    "size_of_nonzero": ("`m.nonzero().size(0)`", lambda h, m: m.nonzero().size(0)),
    "numel_of_a_choice": ("`h[m].numel()`", lambda h, m: h[:, m].numel() // 8),
    "masked_select": ("`torch.masked_select(h, m).numel()`", lambda h, m: h.masked_select(m).numel() // 8),
    "unique_consecutive": (
        "`len(torch.unique_consecutive(m))`", lambda h, m: len(torch.unique_consecutive(m.flatten()))
    ),
    "bincount": (
        "`len(torch.bincount(rounded))`",
        lambda h, m: len(torch.bincount((1000 * h.detach().mean(0)).long().flatten())),
    ),
    "repeat_interleave": (
        "`ones.repeat_interleave(m).numel()`",
        lambda h, m: torch.ones(16).repeat_interleave(m.flatten().long()).numel(),
    ),
    "entries_of_a_sparse_tensor": (
        "`(h * m).to_sparse().values().numel()`",
        lambda h, m: (h.detach().mean(0) * m).to_sparse().values().numel(),
    ),
    "split_by_a_count": (
        "`len(h.tensor_split(m.sum())[0])`",
        lambda h, m: h.detach().flatten(1).T.tensor_split(m.sum()[None])[0].shape[0],
    ),
    "kept_boxes": (
        "the number of boxes that `torchvision.ops.nms` keeps",
        lambda h, m: len(nms(boxes(h), h.detach().mean(0).flatten(), 0.3)),
    ),
}  # fmt: skip


def divided(count: Count, net: Net, a: Tensor) -> Tensor:
    """Each image's sum over its locations, divided by a count of its own features."""
    return net.fc(torch.stack([h.sum((1, 2)) / max(count(h, h.mean(0) > net.median), 1) for h in a]))


for _name, (_tried, _count) in COUNTS.items():
    add(_name, Kind.SIZES, f"{_tried} divides", WEAKER, build=partial(Net, partial(divided, _count)))
