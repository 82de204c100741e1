"""Affine steps: arithmetic, shapes, linear maps, spectra, constructors, readouts."""

from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from fuzz.node import Entry, Kind, Named, Node, anything, even, flat, maps, planes, roomy, wide

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
ADAPTIVE = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
SMOOTH = {1: "linear", 2: "bilinear", 3: "trilinear"}


def space(x: Tensor) -> tuple[int, ...]:
    """The axes after the second."""
    return tuple(range(2, x.ndim))


def lively(norm: nn.Module) -> nn.Module:
    """A batch norm with statistics that do something."""
    for tensor in (norm.running_mean, norm.weight, norm.bias):
        nn.init.uniform_(tensor, -1, 1)
    nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return norm


def batch_norm(x: Tensor, own: Node) -> nn.Module:
    return own.part("norm", lambda: lively(NORM[max(1, x.ndim - 2)](x.shape[1])))


def order(x: Tensor, own: Node, axis: int = 1) -> Tensor:
    """A fixed shuffle of the entries of an axis."""
    return own.constant("order", lambda: torch.randperm(x.shape[axis]))


def lora(x: Tensor, own: Node) -> Tensor:
    n = x.shape[-1]
    return F.linear(x, own.matrix("w", n, n) + own.matrix("up", n, 2) @ own.matrix("down", 2, n))


def functional(x: Tensor, own: Node) -> Tensor:
    linear = own.part("linear", lambda: nn.Linear(x.shape[-1], x.shape[-1]))
    doubled = {name: weight * 2 for name, weight in linear.named_parameters()}
    return torch.func.functional_call(linear, doubled, (x,))


def sampled(x: Tensor, own: Node) -> Tensor:
    grid = own.constant("grid", lambda: torch.rand(1, 3, 3, 2, dtype=torch.float64) * 1.6 - 0.8)
    return F.grid_sample(x, grid.expand(len(x), -1, -1, -1), align_corners=False)


def filtered(x: Tensor, own: Node) -> Tensor:
    spectrum = torch.fft.rfft(x, dim=-1)
    return torch.fft.irfft(spectrum * own.weight("w", spectrum.shape[-1]), n=x.shape[-1], dim=-1)


def loop(x: Tensor) -> Tensor:
    return torch.stack([x[:, k] * (k + 1) for k in range(x.shape[1])], 1)


def unfolded(x: Tensor) -> Tensor:
    return F.fold(F.unfold(x, 2), x.shape[2:], 2)


def norms_weight(x: Tensor, own: Node) -> Tensor:
    return own.part("linear", lambda: parametrizations.weight_norm(nn.Linear(x.shape[-1], 5)))(x)


def complex_product(x: Tensor, own: Node) -> Tensor:
    turned = torch.complex(x, 2 * x) * torch.complex(own.per_channel(x, "re"), own.per_channel(x, "im"))
    return torch.view_as_real(turned).flatten(-2)


ARITHMETIC: dict[str, Entry] = {
    "scale": (anything, lambda x, own, env: x * own.per_channel(x)),
    "scale and shift": (anything, lambda x, own, env: own.per_channel(x) * x + own.per_channel(x, "b")),
    "divide": (anything, lambda x, own, env: x / own.per_channel(x)),
    "scale each entry": (anything, lambda x, own, env: x * own.weight("w", *x.shape[1:])),
    "numbers": (anything, lambda x, own, env: (2 * x - 0.5) / 1.5),
    "subtract from": (anything, lambda x, own, env: own.per_channel(x) - x),
    "rsub": (anything, lambda x, own, env: torch.rsub(x, 1.0)),
    "negative": (anything, lambda x, own, env: -x),
    "alpha": (anything, lambda x, own, env: torch.add(own.per_channel(x), x, alpha=2)),
    "addcmul": (anything, lambda x, own, env: torch.addcmul(own.per_channel(x), x, own.per_channel(x, "b"))),
    "addcdiv": (anything, lambda x, own, env: torch.addcdiv(x, x, own.per_channel(x), value=0.5)),
    "lerp": (anything, lambda x, own, env: torch.lerp(x, own.per_channel(x).expand_as(x), 0.3)),
    "lerp by a tensor": (
        anything,
        lambda x, own, env: torch.lerp(own.per_channel(x).expand_as(x), x, own.per_channel(x, "by")),
    ),
    "where": (anything, lambda x, own, env: torch.where(own.half(x), x, 2 * x)),
    "masked_fill": (anything, lambda x, own, env: x.masked_fill(own.half(x), 0.5)),
    "pattern to features": (anything, lambda x, own, env: own.half(x).to(x) * x),
    "type_as": (anything, lambda x, own, env: x * own.half(x).type_as(x)),
    "number of a buffer": (
        anything,
        lambda x, own, env: x * float(own.constant("level", lambda: torch.tensor(1.7, dtype=x.dtype))),
    ),
    "sum()": (anything, lambda x, own, env: sum([x, 0.5 * x])),
    "centre": (anything, lambda x, own, env: x - x.mean(1, keepdim=True)),
    "add sums": (maps, lambda x, own, env: x + x.sum(-1, keepdim=True) / x.shape[-1]),
    "cumsum": (anything, lambda x, own, env: x.cumsum(-1) / 2),
    "diff": (wide, lambda x, own, env: torch.diff(x, dim=-1)),
    "gradient": (wide, lambda x, own, env: torch.gradient(x, dim=-1)[0]),
    "batch norm": (roomy, lambda x, own, env: batch_norm(x, own)(x)),
    "batch norm of vectors": (flat, lambda x, own, env: batch_norm(x, own)(x)),
    "dropout": (anything, lambda x, own, env: own.part("drop", lambda: nn.Dropout(0.5))(x)),
    "clone": (anything, lambda x, own, env: x.clone()),
}

SHAPES: dict[str, Entry] = {
    "flatten": (maps, lambda x, own, env: x.flatten(1)),
    "tokens": (maps, lambda x, own, env: x.flatten(2).transpose(1, 2)),
    "channels last": (maps, lambda x, own, env: x.movedim(1, -1)),
    "permute and back": (planes, lambda x, own, env: (x.permute(0, 2, 3, 1) * 2).permute(0, 3, 1, 2)),
    "reshape": (anything, lambda x, own, env: x.reshape(len(x), -1, x.shape[-1])),
    "view": (maps, lambda x, own, env: x.contiguous().view(len(x), x.shape[1], -1)),
    "unflatten": (even, lambda x, own, env: (2 * x.unflatten(1, (2, -1))).flatten(1, 2)),
    "unsqueeze": (anything, lambda x, own, env: x.unsqueeze(2).squeeze(2)),
    "flip": (anything, lambda x, own, env: x.flip(-1)),
    "roll": (anything, lambda x, own, env: x.roll(1, -1)),
    "rot90": (planes, lambda x, own, env: torch.rot90(x, 1, (2, 3))),
    "split and join": (even, lambda x, own, env: torch.cat(x.chunk(2, 1)[::-1], 1)),
    "unbind and stack": (maps, lambda x, own, env: torch.stack(x.unbind(1)[::-1], 1)),
    "join with itself": (anything, lambda x, own, env: torch.cat([x, 2 * x], 1)),
    "stack and sum": (anything, lambda x, own, env: torch.stack([x, 2 * x]).sum(0)),
    "loop over channels": (anything, lambda x, own, env: loop(x)),
    "slice": (wide, lambda x, own, env: x[..., 1:]),
    "slice of channels": (even, lambda x, own, env: x[:, ::2]),
    "narrow": (even, lambda x, own, env: x.narrow(1, 1, x.shape[1] // 2)),
    "slice with bounds from a buffer": (
        wide,
        lambda x, own, env: x[..., : own.constant("bound", lambda: torch.tensor(2))],
    ),
    "index_select": (anything, lambda x, own, env: x.index_select(1, order(x, own))),
    "index": (anything, lambda x, own, env: x[:, order(x, own)]),
    "index by a bool buffer": (
        anything,
        lambda x, own, env: x[:, own.constant("keep", lambda: torch.arange(x.shape[1]) % 3 < 2)],
    ),
    "gather": (
        anything,
        lambda x, own, env: x.gather(1, order(x, own).view(1, -1, *[1] * (x.ndim - 2)).expand_as(x)),
    ),
    "take_along_dim": (
        anything,
        lambda x, own, env: x.take_along_dim(order(x, own, -1).expand_as(x), -1),
    ),
    "scatter": (
        anything,
        lambda x, own, env: torch.zeros_like(x).scatter(-1, order(x, own, -1).expand_as(x), x),
    ),
    "scatter_add": (
        anything,
        lambda x, own, env: torch.ones_like(x).scatter_add(-1, (order(x, own, -1) // 2).expand_as(x), x),
    ),
    "index_add": (anything, lambda x, own, env: torch.zeros_like(x).index_add(1, order(x, own) // 2, x)),
    "slice_scatter": (even, lambda x, own, env: torch.slice_scatter(x, 2 * x[:, :1], 1, 0, 1)),
    "select_scatter": (anything, lambda x, own, env: torch.select_scatter(x, 2 * x[:, 0], 1, 0)),
    "repeat": (flat, lambda x, own, env: x.repeat(1, 2)),
    "repeat_interleave": (anything, lambda x, own, env: x.repeat_interleave(2, 1)),
    "expand": (maps, lambda x, own, env: x.mean(-1, keepdim=True).expand_as(x) + x),
    "pixel_shuffle": (
        lambda x: x.ndim == 4 and x.shape[1] % 4 == 0,
        lambda x, own, env: F.pixel_shuffle(x, 2),
    ),
    "pixel_unshuffle": (
        lambda x: x.ndim == 4 and x.shape[2] % 2 == x.shape[3] % 2 == 0,
        lambda x, own, env: F.pixel_unshuffle(x, 2),
    ),
    "channel_shuffle": (
        lambda x: x.ndim == 4 and x.shape[1] % 2 == 0,
        lambda x, own, env: torch.channel_shuffle(x, 2),
    ),
    "unfold and fold": (lambda x: planes(x) and roomy(x), lambda x, own, env: unfolded(x)),
    "windows": (wide, lambda x, own, env: x.unfold(-1, 2, 1).mean(-1)),
    "tril": (planes, lambda x, own, env: x.tril()),
    "select": (planes, lambda x, own, env: x.select(-1, 1 if x.shape[-1] > 1 else 0)),
    "mean over an axis": (planes, lambda x, own, env: x.mean(-1)),
    "sum over channels": (planes, lambda x, own, env: x.sum(1) / 3),
    "pad with a number": (wide, lambda x, own, env: F.pad(x, (1, 1), value=0.5)),
    "pad, reflected": (
        lambda x: 3 <= x.ndim <= 5 and wide(x),
        lambda x, own, env: F.pad(x, (1, 1, *[0] * (2 * (x.ndim - 3))), mode="reflect"),
    ),
    "pad, replicated": (
        lambda x: 3 <= x.ndim <= 5,
        lambda x, own, env: F.pad(x, (1, 1, *[0] * (2 * (x.ndim - 3))), mode="replicate"),
    ),
    "pad, circular": (
        lambda x: 3 <= x.ndim <= 5,
        lambda x, own, env: F.pad(x, (1, 1, *[0] * (2 * (x.ndim - 3))), mode="circular"),
    ),
}

LINEAR: dict[str, Entry] = {
    "linear": (
        anything,
        lambda x, own, env: own.part("linear", lambda: nn.Linear(x.shape[-1], x.shape[-1]))(x),
    ),
    "F.linear": (anything, lambda x, own, env: F.linear(x, own.matrix("w", 5, x.shape[-1]))),
    "matmul": (anything, lambda x, own, env: x @ own.matrix("w", x.shape[-1], x.shape[-1])),
    "matmul from the left": (maps, lambda x, own, env: own.matrix("w", 4, x.shape[-2]) @ x),
    "bmm": (
        lambda x: x.ndim == 3,
        lambda x, own, env: torch.bmm(x, own.matrix("w", x.shape[-1], 4).expand(len(x), -1, -1)),
    ),
    "addmm": (flat, lambda x, own, env: torch.addmm(own.weight("b", 5), x, own.matrix("w", x.shape[1], 5))),
    "einsum": (
        anything,
        lambda x, own, env: torch.einsum("bc...,cd->bd...", x, own.matrix("w", x.shape[1], 6)),
    ),
    "tensordot": (anything, lambda x, own, env: torch.tensordot(x, own.matrix("w", x.shape[-1], 4), 1)),
    "weights through softmax": (
        anything,
        lambda x, own, env: x @ own.matrix("w", x.shape[-1], x.shape[-1]).softmax(-1),
    ),
    "low-rank update": (anything, lambda x, own, env: lora(x, own)),
    "weight norm": (anything, lambda x, own, env: norms_weight(x, own)),
    "functional_call": (anything, lambda x, own, env: functional(x, own)),
    "F.bilinear with a constant": (
        flat,
        lambda x, own, env: F.bilinear(
            x, own.weight("a", 3).expand(len(x), -1), own.matrix("w", 4, x.shape[1], 3)
        ),
    ),
    "conv": (
        roomy,
        lambda x, own, env: own.part("conv", lambda: CONV[x.ndim - 2](x.shape[1], 6, 3, padding=1))(x),
    ),
    "conv of size 1": (
        lambda x: 3 <= x.ndim <= 5,
        lambda x, own, env: CONVOLVE[x.ndim - 2](x, own.matrix("w", 6, x.shape[1], *[1] * (x.ndim - 2))),
    ),
    "conv of each channel": (
        roomy,
        lambda x, own, env: CONVOLVE[x.ndim - 2](
            x, own.matrix("w", x.shape[1], 1, *[3] * (x.ndim - 2)), padding=1, groups=x.shape[1]
        ),
    ),
    "transposed conv": (
        roomy,
        lambda x, own, env: own.part("conv", lambda: TRANSPOSED[x.ndim - 2](x.shape[1], 3, 2, stride=2))(x),
    ),
    "avg_pool": (roomy, lambda x, own, env: POOL[x.ndim - 2](x, 2)),
    "adaptive pool": (roomy, lambda x, own, env: own.part("pool", lambda: ADAPTIVE[x.ndim - 2](2))(x)),
    "interpolate": (roomy, lambda x, own, env: F.interpolate(x, scale_factor=2)),
    "interpolate, smooth": (roomy, lambda x, own, env: F.interpolate(x, size=3, mode=SMOOTH[x.ndim - 2])),
    "interpolate, bicubic": (planes, lambda x, own, env: F.interpolate(x, size=(3, 3), mode="bicubic")),
    "grid_sample": (planes, lambda x, own, env: sampled(x, own)),
}

SPECTRAL: dict[str, Entry] = {
    "real part": (anything, lambda x, own, env: torch.fft.rfft(x, dim=-1).real),
    "imaginary part": (wide, lambda x, own, env: torch.fft.fft(x, dim=-1).imag),
    "both parts": (anything, lambda x, own, env: torch.view_as_real(torch.fft.rfft(x, dim=-1)).flatten(-2)),
    "filter": (wide, lambda x, own, env: filtered(x, own)),
    "plane and back": (planes, lambda x, own, env: torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[2:])),
    "complex product": (anything, lambda x, own, env: complex_product(x, own)),
    "conjugate": (anything, lambda x, own, env: 2 * torch.complex(x, x).conj().imag),
}

CONSTRUCTED: dict[str, Entry] = {
    "zeros_like": (anything, lambda x, own, env: x + torch.zeros_like(x)),
    "ones_like": (anything, lambda x, own, env: torch.ones_like(x) * 2 - x),
    "full_like": (anything, lambda x, own, env: x * torch.full_like(x, 1.5)),
    "new_zeros": (anything, lambda x, own, env: torch.cat([x, x.new_zeros(x[:, :1].shape)], 1)),
    "new_tensor": (anything, lambda x, own, env: x * x.new_tensor([2.0])),
    "arange": (anything, lambda x, own, env: x * torch.arange(x.shape[-1], device=x.device).to(x)),
    "linspace": (anything, lambda x, own, env: x * torch.linspace(0.5, 1.5, x.shape[-1], dtype=x.dtype)),
    "eye": (anything, lambda x, own, env: x @ torch.eye(x.shape[-1], dtype=x.dtype).flip(0)),
    "literal": (anything, lambda x, own, env: x * torch.tensor([1.5], dtype=x.dtype)),
    "empty and filled": (anything, lambda x, own, env: x + torch.empty_like(x).fill_(0.5)),
    "window": (anything, lambda x, own, env: x * torch.hann_window(x.shape[-1] + 2, dtype=x.dtype)[1:-1]),
    "one_hot": (anything, lambda x, own, env: x @ F.one_hot(order(x, own, -1)).to(x)),
    "literal list of a buffer": (
        anything,
        lambda x, own, env: x * torch.tensor(own.constant("c", lambda: torch.ones(1) * 1.5).tolist()).to(x),
    ),
    "size of the image": (anything, lambda x, own, env: x / env.image.shape[-1]),
    "zeros like the image": (anything, lambda x, own, env: x + torch.zeros_like(env.image).sum()),
    "dtype of the image": (anything, lambda x, own, env: x.to(env.image.dtype)),
}


@dataclass(frozen=True, repr=False)
class Affine(Named):
    """Affine, whatever wrote it."""

    TABLE: ClassVar[dict[str, Entry]] = ARITHMETIC | SHAPES | LINEAR | SPECTRAL | CONSTRUCTED
    IS: ClassVar[Kind] = Kind.AFFINE


# --- from features to scores -------------------------------------------------------------------


def last_linear(x: Tensor, own: Node) -> Tensor:
    return own.part("linear", lambda: nn.Linear(x.shape[-1], 4))(x)


def read_convolved(x: Tensor, own: Node) -> Tensor:
    return own.part("conv", lambda: CONV[x.ndim - 2](x.shape[1], 4, 1))(x).mean(space(x))


def read_pooled(x: Tensor, own: Node) -> Tensor:
    return last_linear(own.part("pool", lambda: ADAPTIVE[x.ndim - 2](1))(x).flatten(1), own)


def read_channels(x: Tensor, own: Node) -> Tensor:
    return reduce(
        torch.add, [x[:, k].flatten(1) @ own.matrix(f"w{k}", x[0, 0].numel(), 4) for k in range(x.shape[1])]
    )


READOUT: dict[str, Entry] = {
    "flatten": (anything, lambda x, own, env: last_linear(x.flatten(1), own)),
    "mean": (maps, lambda x, own, env: last_linear(x.mean(space(x)), own)),
    "sum": (maps, lambda x, own, env: last_linear(x.sum(space(x)) / 4, own)),
    "pool": (roomy, lambda x, own, env: read_pooled(x, own)),
    "conv": (roomy, lambda x, own, env: read_convolved(x, own)),
    "tokens": (maps, lambda x, own, env: last_linear(x.flatten(2).transpose(1, 2), own).mean(1)),
    "channel by channel": (maps, lambda x, own, env: read_channels(x, own)),
    "one location": (maps, lambda x, own, env: last_linear(x.flatten(2)[..., 0], own)),
}


@dataclass(frozen=True, repr=False)
class Readout(Named):
    """From features to four scores, affine."""

    TABLE: ClassVar[dict[str, Entry]] = READOUT
    IS: ClassVar[Kind] = Kind.AFFINE
