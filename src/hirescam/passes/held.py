"""Normalisers as the affine maps that they are once their divisor is held at one input.

Each takes the arguments of the torch functions of its name and returns a function of the input alone:
centring stays (it is linear), the divisor is a constant. Half precision is computed in float32 and rounded
once, as torch does.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Held = Callable[[Tensor], Any]
"""From the input to what the normaliser returns: a tensor, or a tuple where its namesake returns one."""


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Held:
    """(x − mean(x)) / σ₀ · weight + bias, over the last axes."""
    held = native_layer_norm(input, normalized_shape, weight, bias, eps)
    return lambda x: held(x)[0]


def native_layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> Held:
    """The same with the mean, and 1 / σ₀ as a constant."""
    axes = tuple(range(-len(normalized_shape), 0))
    divisor = _deviation(input, axes, eps)

    def held(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = _wide(x).mean(axes, keepdim=True)
        return _affine((_wide(x) - mean) / divisor, weight, bias).to(x.dtype), mean, 1 / divisor

    return held


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Held:
    """(x − mean(x)) / σ₀ · weight + bias, over each group of channels and all locations."""
    batch, channels = input.shape[:2]
    sizes = (batch, channels, input[0, 0].numel(), num_groups)
    held = native_group_norm(input, weight, bias, *sizes, eps)
    return lambda x: held(x)[0]


def native_group_norm(  # noqa: PLR0913 - the signature of its namesake
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    N: int,
    C: int,
    HxW: int,
    group: int,
    eps: float,
) -> Held:
    """The same with the mean, and 1 / σ₀ as a constant."""
    divisor = _deviation(input.reshape(N, group, -1), (-1,), eps)

    def held(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        groups = _wide(x).reshape(N, group, -1)
        mean = groups.mean(-1, keepdim=True)
        channels = ((groups - mean) / divisor).reshape(N, C, HxW)
        normalised = _affine(channels, *_per_channel(channels, weight, bias)).reshape(x.shape)
        return normalised.to(x.dtype), mean.squeeze(-1), 1 / divisor.squeeze(-1)

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
        divisor = _deviation(input, axes, eps)
        mean = None
    else:
        mean, variance = _per_channel(input, _wide(running_mean), _wide(running_var))
        divisor = (variance + eps).sqrt()

    def held(x: Tensor) -> Tensor:
        wide = _wide(x)
        centred = wide - (wide.mean(axes, keepdim=True) if mean is None else mean)
        return _affine(centred / divisor, *_per_channel(x, weight, bias)).to(x.dtype)

    return held


def native_instance_norm(  # noqa: PLR0913 - the signature of its namesake
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Held:
    """The same in the order of ``torch.instance_norm``, which has no defaults."""
    return instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Held:
    """x / rms₀ · weight, over the last axes."""
    held = fused_rms_norm(input, normalized_shape, weight, eps)
    return lambda x: held(x)[0]


def fused_rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, eps: float | None
) -> Held:
    """The same, and 1 / rms₀ as a constant."""
    axes, wide = tuple(range(-len(normalized_shape), 0)), _wide(input)
    epsilon = torch.finfo(wide.dtype).eps if eps is None else eps
    divisor = (wide.square().mean(axes, keepdim=True) + epsilon).sqrt()
    return lambda x: (_affine(_wide(x) / divisor, weight, None).to(x.dtype), 1 / divisor)


def normalize(
    input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Tensor | None = None
) -> Held:
    """x / max(‖x₀‖, eps), along one axis."""
    divisor = input.norm(p, dim, keepdim=True).clamp_min(eps)
    return lambda x: x / divisor


HELD: dict[str, tuple[Callable[..., Held], ...]] = {
    "layer_norm": (layer_norm,),
    "native_layer_norm": (native_layer_norm,),
    "group_norm": (group_norm,),
    "native_group_norm": (native_group_norm,),
    "instance_norm": (instance_norm, native_instance_norm),
    "rms_norm": (rms_norm,),
    "_fused_rms_norm": (fused_rms_norm,),
    "normalize": (normalize,),
}
"""By the bare name of the torch function; where two share a name, the first that takes the arguments."""


@dataclass(frozen=True, eq=False)
class Normalisation:
    """One call of a normaliser that can be held.

    Attributes:
        arguments: all arguments by name, those that were left out included.
    """

    arguments: dict[str, Any]
    _function: Callable[..., Held]

    @property
    def input(self) -> Tensor:
        """What is normalised."""
        tensor: Tensor = self.arguments["input"]
        return tensor

    def hold(self) -> Held:
        """The affine map that it is with its divisor held at this input."""
        with torch.no_grad():
            return self._function(**self.arguments)

    def normalises(self, depends: Callable[[Tensor], bool]) -> bool:
        """Whether holding it leaves an affine map of all that depends on the image, which is its input alone.

        With statistics that are not the input's own it is affine as it stands.
        """
        others = (value for name, value in self.arguments.items() if name != "input")
        own = self.arguments.get("use_input_stats", True)
        return own and not any(isinstance(value, Tensor) and depends(value) for value in others)


def normalisation(function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Normalisation | None:
    """Recognise a call of a normaliser by the function's bare name; None for any other call."""
    for candidate in HELD.get(function, ()):
        try:
            bound = inspect.signature(candidate).bind(*args, **kwargs)
        except TypeError:
            continue
        bound.apply_defaults()
        return Normalisation(bound.arguments, candidate)
    return None


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _deviation(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    return (_wide(x).var(axes, unbiased=False, keepdim=True) + eps).sqrt()


def _per_channel(x: Tensor, *parameters: Tensor | None) -> list[Any]:
    shape = (1, -1, *[1] * (x.ndim - 2))
    return [None if parameter is None else parameter.view(shape) for parameter in parameters]


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias
