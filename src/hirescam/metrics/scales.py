"""Maps on a scale from 0 to 1, for metrics that cut them at levels.

`share_of_max` keeps the sign: what speaks against the class is 0. `stretched` is what much published code
does: it moves the zero, so that a map which only speaks against the class looks like one that speaks for it.
"""

from torch import Tensor


def share_of_max(maps: Tensor) -> Tensor:
    """Return max(0, M) / max M in [0, 1]; zeros for a map without a positive value."""
    top = maps.flatten(1).amax(1).reshape(-1, *[1] * (maps.ndim - 1))
    return (maps / top.where(top > 0, 1)).clamp(0, 1)


def stretched(maps: Tensor) -> Tensor:
    """Return (M − min M) / (max M − min M) in [0, 1]; zeros for a constant map."""
    flat = maps.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    found = (flat - low) / (high - low).where(high > low, 1)
    return found.reshape(maps.shape)
