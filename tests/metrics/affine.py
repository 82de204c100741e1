"""A model whose probability is affine in the image, so that everything about it has a closed form."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Affine:
    """Two classes: p = offset + Σ weights · image, and 1 − p. It counts what it is shown."""

    weights: Tensor
    offset: float = 0.0
    batches: list[int] = field(default_factory=list)

    def __call__(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        first = self.offset + (images * self.weights).flatten(1).sum(1)
        return torch.stack([first, 1 - first], 1)

    def contributions(self, images: Tensor) -> Tensor:
        """What each pixel adds, channels together: ``(n, *size)``."""
        return (images * self.weights).sum(1)


def affine(images: Tensor, *, offset: float = 0.05) -> Affine:
    """One with weights of both signs for which every part of the images has a probability."""
    weights = torch.randn(images.shape[1:], dtype=images.dtype)
    size = (images * weights).abs().flatten(1).sum(1).max()
    return Affine(weights * 0.45 / size, 0.5 + offset)


def first_class(images: Tensor) -> Tensor:
    return torch.zeros(len(images), dtype=torch.int64)


def row(*values: float) -> Tensor:
    """One signal of one channel, or one map of it after ``[0]``."""
    return torch.tensor([[values]], dtype=torch.float64)
