"""Rules that know the activations only, so that every target has the same map."""

import torch

from hirescam.passes.trace import Trace
from hirescam.rulebook.gradient import combine
from hirescam.rulebook.principal import for_every_target
from hirescam.rulebook.registry import ACTIVATIONS, Map, rule


@rule(needs=ACTIVATIONS, cite="fuad2020")
def fem(trace: Trace, *, sigmas: float = 2.0) -> Map:
    """Count the channels that are unusually strong at a location, each by its mean.

    raw[b, t, s] = Σ_k μ[k] · [A[b, k, s] > μ[k] + sigmas · σ[k]],   μ, σ = mean and deviation over s

    Feature-based Explanation Method (Fuad et al., IPTA 2020). A channel that is constant marks nothing.
    The same for every target.

    Args:
        trace: what is explained.
        sigmas: how many standard deviations above its mean a value is strong.
    """
    flat = trace.activations.flatten(2)
    mean, deviation = flat.mean(-1, keepdim=True), flat.std(-1, correction=0, keepdim=True)
    varies = flat.amax(-1, keepdim=True) > flat.amin(-1, keepdim=True)
    strong = (flat > mean + sigmas * deviation) & varies
    return for_every_target(trace, (mean * strong).sum(1))


@rule(needs=ACTIVATIONS, cite="zagoruyko2017")
def mean_activation(trace: Trace) -> Map:
    """Average the channels: the plainest map there is, whatever the class.

    raw[b, t, s] = mean_k A[b, k, s]

    The activation-based attention of arXiv 1612.03928 with its sign kept. The same for every target.
    """
    return for_every_target(trace, trace.activations.mean(1))


@rule(needs=ACTIVATIONS, cite="adebayo2018")
def random(trace: Trace, *, seed: int = 0) -> Map:
    """Weight the channels at random: what a map looks like that knows nothing of the score.

    raw[b, t, s] = Σ_k w[k] · A[b, k, s],   w uniform in [−1, 1), the same for every image and target

    A baseline, in the spirit of arXiv 1810.03292: a method worth having must differ from it.

    Args:
        trace: what is explained.
        seed: of a generator of its own; the global one is left alone.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = 2 * torch.rand(trace.activations.shape[1], generator=generator) - 1
    weights = draws.to(trace.activations).reshape(1, 1, -1, *[1] * (trace.activations.ndim - 2))
    return combine(weights.expand(*trace.gradients.shape[:2], *weights.shape[2:]), trace.activations)
