"""Normalisers as the affine maps that they are once their divisor is held at one input.

Each function takes the arguments of its namesake in ``torch.nn.functional`` and returns a function of the
input alone: centring stays (it is linear), the divisor is a constant.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Held = Callable[[Tensor], Tensor]


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Held:
    """(x − mean(x)) / σ₀ · weight + bias, over the last axes."""
    axes = tuple(range(-len(normalized_shape), 0))
    divisor = (input.var(axes, unbiased=False, keepdim=True) + eps).sqrt()
    return lambda x: _affine((x - x.mean(axes, keepdim=True)) / divisor, weight, bias)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Held:
    """(x − mean(x)) / σ₀ · weight + bias, over each group of channels and all locations."""
    grouped = input.reshape(input.shape[0], num_groups, -1)
    divisor = (grouped.var(-1, unbiased=False, keepdim=True) + eps).sqrt()

    def held(x: Tensor) -> Tensor:
        groups = x.reshape(x.shape[0], num_groups, -1)
        normalised = (groups - groups.mean(-1, keepdim=True)) / divisor
        return _affine(normalised.reshape(x.shape), *_per_channel(x, weight, bias))

    return held


def instance_norm(  # noqa: PLR0913 - the signature of its namesake
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Held:
    """(x − mean(x)) / σ₀ · weight + bias, over the locations of each channel."""
    axes = tuple(range(2, input.ndim))
    if use_input_stats or running_var is None or running_mean is None:
        divisor = (input.var(axes, unbiased=False, keepdim=True) + eps).sqrt()
        return lambda x: _affine((x - x.mean(axes, keepdim=True)) / divisor, *_per_channel(x, weight, bias))
    shape = (1, -1, *[1] * (input.ndim - 2))
    mean, fixed = running_mean.view(shape), (running_var.view(shape) + eps).sqrt()
    return lambda x: _affine((x - mean) / fixed, *_per_channel(x, weight, bias))


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Held:
    """x / rms₀ · weight, over the last axes."""
    axes = tuple(range(-len(normalized_shape), 0))
    epsilon = torch.finfo(input.dtype).eps if eps is None else eps
    divisor = (input.square().mean(axes, keepdim=True) + epsilon).sqrt()
    return lambda x: _affine(x / divisor, weight, None)


def normalize(
    input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Tensor | None = None
) -> Held:
    """x / max(‖x₀‖, eps), along one axis."""
    divisor = input.norm(p, dim, keepdim=True).clamp_min(eps)
    return lambda x: x / divisor


HELD: dict[str, Callable[..., Held]] = {
    "layer_norm": layer_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
    "rms_norm": rms_norm,
    "normalize": normalize,
}
"""By the name of the function in ``torch.nn.functional``."""


def _per_channel(
    x: Tensor, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    shape = (1, -1, *[1] * (x.ndim - 2))
    return (
        None if weight is None else weight.view(shape),
        None if bias is None else bias.view(shape),
    )


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias
