"""Rules that weight activations by gradients.

A are activations and G gradients of the score with respect to A, indexed by b (image), t (target),
k (channel) and s (location, any number of axes). Every function returns the signed map ``(b, t, *s)``
in units of the score.
"""

import torch
from torch import Tensor

from hirescam.errors import RuleError
from hirescam.passes.trace import Trace
from hirescam.rulebook.registry import GRADIENTS, HEAD, NETWORK, Map, rule

_CONSTANT = 1e-4


def combine(weights: Tensor, activations: Tensor) -> Map:
    """Σ_k W[b, t, k, *s] · A[b, k, *s]; the only place where channels are summed."""
    with torch.autocast(weights.device.type, enabled=False):  # sums stay in full precision
        return torch.einsum("btk...,bk...->bt...", weights, activations)


def over_space(weights: Tensor) -> Tensor:
    """Mean of ``(b, t, k, *s)`` over the locations, kept as axes of size one."""
    return weights.mean(dim=tuple(range(3, weights.ndim)), keepdim=True)


def constant_over_space(weights: Tensor) -> bool:
    """Whether ``(b, t, k, *s)`` is the same at every location, but for rounding."""
    spread = (weights - over_space(weights)).abs().amax()
    return bool(spread <= _CONSTANT * weights.abs().amax())


def total(tensor: Tensor) -> Tensor:
    """Sum of ``(b, t, k, *s)`` over the locations, kept as axes of size one."""
    return tensor.sum(dim=tuple(range(3, tensor.ndim)), keepdim=True)


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide; where the denominator is zero the result is zero, never infinite."""
    nothing = denominator == 0
    return torch.where(nothing, 0, numerator / torch.where(nothing, 1, denominator))


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
    if not constant_over_space(trace.gradients):
        raise RuleError(
            "rule='cam' is defined only where the head is global average pooling and one linear layer, "
            "and this head treats locations differently: use rule='hirescam'"
        )
    return combine(total(trace.gradients), trace.activations)


@rule(needs=GRADIENTS, cite="chattopadhay2018")
def gradcam_pp(trace: Trace) -> Map:
    """Weight each channel by its positive gradients, those of scattered evidence counting more.

    raw[b, t, s] = Σ_k w[b, t, k] · A[b, k, s]
    w[b, t, k] = Σ_s α[b, t, k, s] · max(G[b, t, k, s], 0)
    α = G² / (2 G² + G³ Σ_s' A[b, k, s']) = 1 / (2 + G Σ_s' A[b, k, s'])

    Grad-CAM++ (arXiv 1710.11063, equation 19) for the score Y = exp(logit), whose common factor
    exp(logit) is left out. The ReLU on the gradient belongs to the definition; the one on the map is a view.
    A weight whose denominator is zero is zero. No small constant is added, so tiny gradients keep their
    meaning. Not linear in the gradient, so neither law holds on any head.
    """
    sums = total(trace.activations.unsqueeze(1))
    weights = ratio(trace.gradients.relu(), 2 + sums * trace.gradients)
    return combine(total(weights), trace.activations)


@rule(needs=NETWORK, cite="omeiza2019")
def smooth_gradcam_pp(trace: Trace, *, samples: int = 4, noise: float = 0.3, seed: int = 0) -> Map:
    """Grad-CAM++ with the gradients averaged over noisy copies of the image.

    raw[b, t, s] = Σ_k w[b, t, k] · A[b, k, s]
    w[b, t, k] = Σ_s α[b, t, k, s] · max(D1[b, t, k, s], 0),   Dp = mean over the copies of Gᵖ
    α = D2 / (2 D2 + D3 Σ_s' A[b, k, s'])

    Smooth Grad-CAM++ (arXiv 1908.01224), where the paper prints D1 as the numerator of α; with D2, one copy
    and no noise it is Grad-CAM++. A is the clean image's. The noise is the same for every image of a batch,
    so that a map does not depend on its neighbours.

    Args:
        trace: what is explained.
        samples: how many noisy copies.
        noise: standard deviation of the noise, in the units of the preprocessed image.
        seed: of a generator of its own; the global one is left alone.
    """
    generator = torch.Generator().manual_seed(seed)
    powers = [torch.zeros_like(trace.gradients) for _ in range(3)]
    for _ in range(samples):
        offset = noise * torch.randn(trace.images.shape[1:], generator=generator).to(trace.images)
        gradients = trace.retrace(trace.images + offset).gradients
        powers = [mean + gradients**power / samples for power, mean in enumerate(powers, start=1)]
    first, second, third = powers
    sums = total(trace.activations.unsqueeze(1))
    alpha = ratio(second, 2 * second + third * sums)
    return combine(total(alpha * first.relu()), trace.activations)


@rule(needs=GRADIENTS, cite="fu2020", exact_for="pooled affine", complete_for="affine")
def xgradcam(trace: Trace) -> Map:
    """Weight each channel by its gradients, averaged where the channel is active.

    raw[b, t, s] = Σ_k w[b, t, k] · A[b, k, s]
    w[b, t, k] = Σ_s G[b, t, k, s] · A[b, k, s] / Σ_s A[b, k, s]

    Its sum is HiResCAM's, so it is complete on every affine head; but each channel's part is spread over the
    channel's own shape, so the location law holds only after global pooling (arXiv 2008.02312). The weight
    of a channel whose activations sum to zero is zero; unless such a channel is zero everywhere, what it
    adds to the score is then missing.
    """
    activations = trace.activations.unsqueeze(1)
    weights = ratio(total(trace.gradients * activations), total(activations))
    return combine(weights, trace.activations)


@rule(needs=GRADIENTS, cite="jiang2021")
def layercam(trace: Trace) -> Map:
    """Keep the locations whose gradient is positive, channel by channel.

    raw[b, t, s] = Σ_k max(G[b, t, k, s], 0) · A[b, k, s]

    LayerCAM (Jiang et al., IEEE TIP 2021). The ReLU on the gradient belongs to the definition and drops the
    evidence against the class, so neither law holds; where no gradient is negative it is HiResCAM.
    """
    return combine(trace.gradients.relu(), trace.activations)


@rule(needs=GRADIENTS, cite="zeng2022")
def abscam(trace: Trace) -> Map:
    """Weight each channel by its mean gradient magnitude over the locations.

    raw[b, t, s] = Σ_k mean_s'(|G[b, t, k, s']|) · A[b, k, s]

    The initial map of Abs-CAM (Zeng et al., arXiv 2207.03648), without its second phase, which masks the
    image with it. A channel that speaks against the class counts as one that speaks for it, so neither law
    holds.
    """
    return combine(over_space(trace.gradients.abs()), trace.activations)


@rule(needs=GRADIENTS, cite="pillai2021")
def elementwise(trace: Trace) -> Map:
    """Drop every negative product before the channels are summed, which is not HiResCAM.

    raw[b, t, s] = Σ_k max(G[b, t, k, s] · A[b, k, s], 0)

    HiResCAM sums first: evidence against the class in one channel cancels evidence for it in another. With
    the ReLU inside the sum nothing cancels, the map is never negative, adds up to at least HiResCAM's total
    and follows neither law on any head. It is here because other libraries offer it and others take it for
    HiResCAM; it goes back to Pillai & Pirsiavash (AAAI 2021).
    """
    return (trace.gradients * trace.activations.unsqueeze(1)).relu().sum(dim=2)


@rule(needs=GRADIENTS, cite="rebuffi2020")
def normgrad(trace: Trace) -> Map:
    """Multiply the size of the gradient by the size of the activations, location by location.

    raw[b, t, s] = ‖G[b, t, :, s]‖ · ‖A[b, :, s]‖

    NormGrad for a virtual 1×1 convolution (arXiv 2004.02866): the norm of what a location adds to that
    convolution's weight gradient. Never negative: it says how much a location matters, not in which
    direction. By Cauchy and Schwarz no value of HiResCAM's map is larger.
    """
    sizes = trace.activations.norm(dim=1).unsqueeze(1)
    found: Tensor = trace.gradients.norm(dim=2) * sizes
    return found


@rule(needs=HEAD, cite="cai2025", exact_for="pooled affine")
def shapleycam(trace: Trace) -> Map:
    """Grad-CAM with a second-order correction from the curvature of the head.

    raw[b, t, s] = Σ_k mean_s'(G − ½ H·A)[b, t, k, s'] · A[b, k, s],   H·A = Hessian of the score times A

    The utility of a channel in a second-order expansion of the score at A (ShapleyCAM, arXiv 2501.06261).
    Where the head is piecewise linear H is zero and this is Grad-CAM; the Hessian is never formed.
    """
    along = trace.activations.unsqueeze(1).expand_as(trace.gradients)
    corrected = trace.gradients - 0.5 * trace.curvature(along)
    return combine(over_space(corrected), trace.activations)
