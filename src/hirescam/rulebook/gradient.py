"""Rules that weight activations by gradients.

A are activations and G gradients of the score with respect to A, indexed by b (image), t (target),
k (channel) and s (location, any number of axes). Every function returns the signed map ``(b, t, *s)``
in units of the score.
"""

import torch
from torch import Tensor

from hirescam.errors import RuleError
from hirescam.rulebook.registry import GRADIENTS, Map, rule
from hirescam.trace import Trace

_CONSTANT = 1e-3


def combine(weights: Tensor, activations: Tensor) -> Map:
    """Σ_k W[b, t, k, *s] · A[b, k, *s]; the only place where channels are summed."""
    with torch.autocast(weights.device.type, enabled=False):  # sums stay in full precision
        return torch.einsum("btk...,bk...->bt...", weights, activations)


def over_space(weights: Tensor) -> Tensor:
    """Mean of ``(b, t, k, *s)`` over the locations, kept as axes of size one."""
    return weights.mean(dim=tuple(range(3, weights.ndim)), keepdim=True)


@rule(needs=GRADIENTS, cite="draelos2020", exact_for="affine", holds=True)
def hirescam(trace: Trace) -> Map:
    """Show how much each location added to or took from the score.

    raw[b, t, s] = Σ_k G[b, t, k, s] · A[b, k, s]

    For a head that is affine in A, raw[s] is what the score loses when location s is removed, and the
    map adds up to the score less the head's bias (arXiv 2011.08891).
    """
    return combine(trace.gradients, trace.activations)


@rule(needs=GRADIENTS, cite="selvaraju2017", exact_for="pooled affine")
def gradcam(trace: Trace) -> Map:
    """Weight each channel by its mean gradient over the locations.

    raw[b, t, s] = Σ_k mean_s'(G[b, t, k, s']) · A[b, k, s]

    Signed: the ReLU of the paper (arXiv 1610.02391, equation 2) is a view, ``sign="positive"``. Equal to
    HiResCAM where the gradient does not vary over space, as after global average pooling.
    """
    return combine(over_space(trace.gradients), trace.activations)


@rule(needs=GRADIENTS, cite="zhou2016", holds=True)
def cam(trace: Trace) -> Map:
    """Weight each channel by the class's weight in the last layer, for heads that are pooled and linear.

    raw[b, t, s] = Σ_k w[t, k] · A[b, k, s],   w[t, k] = Σ_s G[b, t, k, s]

    Defined where global average pooling and one linear layer follow (arXiv 1512.04150, equation 2); it is
    then HiResCAM times the number of locations, so its mean, not its sum, is the score less the bias.

    Raises:
        RuleError: the gradient varies over space, so the head is not pooled and linear.
    """
    mean = over_space(trace.gradients)
    spread = (trace.gradients - mean).abs().amax()
    if bool(spread > _CONSTANT * trace.gradients.abs().amax()):
        raise RuleError(
            "rule='cam' is defined only where the head is global average pooling and one linear layer, "
            "and this head treats locations differently: use rule='hirescam'"
        )
    locations = trace.activations[0, 0].numel()
    return combine(mean * locations, trace.activations)
