"""Steps that look elsewhere: at the image, other images, random numbers, state; casts; what ends a head."""

import random
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fuzz.affine import space
from fuzz.node import Entry, Named, Node, anything, flat


def of_early(x: Tensor, own: Node, early: Tensor) -> Tensor:
    """A vector of channels out of the feature from before the layer."""
    pooled = early.mean(tuple(range(2, early.ndim))) @ own.matrix("side", early.shape[1], x.shape[1])
    return pooled.view(len(x), -1, *[1] * (x.ndim - 2))


def mean_of(image: Tensor, x: Tensor) -> Tensor:
    return image.mean(tuple(range(1, image.ndim))).view(-1, *[1] * (x.ndim - 1))


def no_grad_mean(image: Tensor, x: Tensor) -> Tensor:
    with torch.no_grad():
        return mean_of(image, x)


def corner(image: Tensor, x: Tensor) -> Tensor:
    return image[..., :2].flatten(1).mean(1).view(-1, *[1] * (x.ndim - 1))


AROUND: dict[str, Entry] = {
    "add the image's mean": (anything, lambda x, own, env: x + mean_of(env.image, x)),
    "add the image's mean, detached": (anything, lambda x, own, env: x + mean_of(env.image.detach(), x)),
    "add the image's mean, no_grad": (anything, lambda x, own, env: x + no_grad_mean(env.image, x)),
    "add the image's mean, a number": (anything, lambda x, own, env: x + float(env.image.mean())),
    "add a corner of the image": (anything, lambda x, own, env: x + corner(env.image, x)),
    "multiply by the image's mean": (anything, lambda x, own, env: x * (1 + mean_of(env.image, x))),
    "multiply by a number of the image": (anything, lambda x, own, env: x * (1 + float(env.image.std()))),
    "gate on the image's mean": (
        anything,
        lambda x, own, env: x * (12 * (mean_of(env.image, x) - 0.4)).sigmoid(),
    ),
    "branch on the image's mean": (anything, lambda x, own, env: x if float(env.image.mean()) > 0 else x * 2),
    "add an early feature": (anything, lambda x, own, env: x + of_early(x, own, env.early)),
    "add an early feature, detached": (
        anything,
        lambda x, own, env: x + of_early(x, own, env.early.detach()),
    ),
    "multiply by an early feature": (anything, lambda x, own, env: x * of_early(x, own, env.early).sigmoid()),
    "join an early feature": (flat, lambda x, own, env: torch.cat([x, env.early.mean(space(env.early))], 1)),
}


@dataclass(frozen=True, repr=False)
class Around(Named):
    """Uses the image or a feature from before the layer."""

    TABLE: ClassVar[dict[str, Entry]] = AROUND


def by_groups(x: Tensor) -> Tensor:
    if len(x) % 2:
        return x
    pairs = x.view(-1, 2, *x.shape[1:])
    return pairs.mean(1, keepdim=True).expand_as(pairs).clone().reshape(x.shape)


COUPLED: dict[str, Entry] = {
    "less the batch's mean": (anything, lambda x, own, env: x - x.mean(0, keepdim=True)),
    "less half of the batch's mean, detached": (anything, lambda x, own, env: x - 0.5 * x.detach().mean(0)),
    "mean of pairs": (anything, lambda x, own, env: by_groups(x)),
    "add the next image": (anything, lambda x, own, env: x + 0.1 * x.roll(1, 0)),
    "add the first image": (anything, lambda x, own, env: x + 0.1 * x[:1]),
    "gate on the batch": (anything, lambda x, own, env: x * x.mean().sigmoid()),
    "divide by the size of the batch": (anything, lambda x, own, env: x / len(x)),
    "another way for many images": (anything, lambda x, own, env: x * 2 if len(x) > 2 else x),
    "number in the batch": (
        anything,
        lambda x, own, env: x * torch.arange(1, len(x) + 1).to(x).view(-1, *[1] * (x.ndim - 1)),
    ),
    "largest of the batch": (anything, lambda x, own, env: torch.maximum(x, x.amax(0, keepdim=True) - 0.2)),
    "cumsum over the batch": (anything, lambda x, own, env: x.cumsum(0)),
}


@dataclass(frozen=True, repr=False)
class Coupled(Named):
    """Lets the images of a batch influence each other."""

    TABLE: ClassVar[dict[str, Entry]] = COUPLED


def seeded_noise(x: Tensor) -> Tensor:
    return torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(x)


def reseeding(x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return x * torch.rand(x.shape[1:], dtype=torch.float64).to(x)


RANDOM: dict[str, Entry] = {
    "dropout that is on": (anything, lambda x, own, env: F.dropout(x, 0.3, training=True)),
    "noise": (anything, lambda x, own, env: x + 0.1 * torch.randn_like(x)),
    "random scale": (anything, lambda x, own, env: x * (1 + torch.rand(1, dtype=x.dtype))),
    "random order": (anything, lambda x, own, env: x[:, torch.randperm(x.shape[1])]),
    "python's random": (anything, lambda x, own, env: x * (1 + random.random())),
    "noise of its own generator": (anything, lambda x, own, env: x + seeded_noise(x)),
    "a generator set anew": (anything, lambda x, own, env: reseeding(x)),
}


@dataclass(frozen=True, repr=False)
class Random(Named):
    """Draws random numbers."""

    TABLE: ClassVar[dict[str, Entry]] = RANDOM


def kept_average(x: Tensor, own: Node, used: bool) -> Tensor:
    size = tuple(range(1, x.ndim))
    average = own.constant("average", lambda: torch.zeros((), dtype=x.dtype))
    with torch.no_grad():
        own.average = 0.9 * average + 0.1 * x.mean(size).mean()
    return x - average if used else x


def scratch(x: Tensor, own: Node) -> Tensor:
    slot = own.constant("slot", lambda: torch.zeros_like(x))
    slot.copy_(x)
    return slot * 2


def counted(x: Tensor, own: Node, used: bool) -> Tensor:
    own.calls = getattr(own, "calls", 0) + 1
    return x * own.calls if used else x


def first_seen(x: Tensor, own: Node) -> Tensor:
    return x - own.value("seen", lambda: x.detach().mean(0)).to(x)


STATE: dict[str, Entry] = {
    "keep an average": (anything, lambda x, own, env: kept_average(x, own, used=False)),
    "use the average of earlier calls": (anything, lambda x, own, env: kept_average(x, own, used=True)),
    "copy into a buffer": (anything, lambda x, own, env: scratch(x, own)),
    "count calls": (anything, lambda x, own, env: counted(x, own, used=False)),
    "use the count of calls": (anything, lambda x, own, env: counted(x, own, used=True)),
    "less what was seen first": (anything, lambda x, own, env: first_seen(x, own)),
}


@dataclass(frozen=True, repr=False)
class Stateful(Named):
    """Keeps something from one call to the next."""

    TABLE: ClassVar[dict[str, Entry]] = STATE


def under_autocast(x: Tensor, own: Node) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return F.linear(x.float(), own.matrix("w", 4, x.shape[-1]).float()).to(x.dtype)


ROUNDED: dict[str, tuple[torch.dtype, Entry]] = {
    "float32": (torch.float32, (anything, lambda x, own, env: (x.float() * 2).to(x.dtype))),
    "bfloat16": (torch.bfloat16, (anything, lambda x, own, env: (x.bfloat16() * 2).to(x.dtype))),
    "float16": (torch.float16, (anything, lambda x, own, env: x.half().to(x.dtype))),
    "autocast": (torch.bfloat16, (anything, lambda x, own, env: under_autocast(x, own))),
}


@dataclass(frozen=True, repr=False)
class Rounded(Named):
    """Goes through a lower precision."""

    TABLE: ClassVar[dict[str, Entry]] = {name: entry for name, (_, entry) in ROUNDED.items()}

    @property
    def precision(self) -> torch.dtype:
        return ROUNDED[self.op][0]


ENDS: dict[str, Entry] = {
    "softmax": (flat, lambda x, own, env: x.softmax(1)),
    "sigmoid": (flat, lambda x, own, env: x.sigmoid()),
    "log_softmax": (flat, lambda x, own, env: F.log_softmax(x, 1)),
    "softmax, sharp": (flat, lambda x, own, env: (12 * x).softmax(1)),
    "capped": (flat, lambda x, own, env: 3 * (x / 3).tanh()),
    "largest only": (flat, lambda x, own, env: torch.where(x == x.amax(1, keepdim=True), x, 0.1 * x)),
    "divided by the spread": (flat, lambda x, own, env: x / x.detach().std(1, keepdim=True)),
}


@dataclass(frozen=True, repr=False)
class End(Named):
    """What a head may do to its scores."""

    TABLE: ClassVar[dict[str, Entry]] = ENDS
