"""Order the pixels of a map, ties at random and yet repeatably."""

import torch
from torch import Tensor


def most_relevant_first(maps: Tensor, *, seed: int) -> Tensor:
    """Return the places of pixels from the largest value to the smallest.

    Maps that went through a ReLU are mostly ties. Which of them comes first is drawn from the seed, in the
    same way for every map, so that a map's order does not depend on the batch that it is in.

    Args:
        maps: ``(n, *size)``.
        seed: of the order among ties.

    Returns:
        ``(n, pixels)`` int64, each row a permutation.
    """
    flat = maps.flatten(1)
    shuffle = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(seed)).to(flat.device)
    return shuffle[flat[:, shuffle].argsort(stable=True, dim=1, descending=True)]


def ranks(maps: Tensor, *, seed: int) -> Tensor:
    """Return how many pixels come before each one, ``(n, *size)``: 0 for the most relevant."""
    order = most_relevant_first(maps, seed=seed)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).reshape(maps.shape)
