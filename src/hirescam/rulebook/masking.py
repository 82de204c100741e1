"""Rules that show the network the image through masks, a block of them at a time.

A mask is a map of the layer, resampled to the image and stretched from 0 to 1. All targets are read from
the same runs of the network.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hirescam.errors import LayerError
from hirescam.passes.head import chunks
from hirescam.passes.trace import Trace
from hirescam.rulebook.ablation import MOST_BYTES
from hirescam.rulebook.gradient import combine, over_space, ratio
from hirescam.rulebook.registry import NETWORK, Map, rule

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def on_image(trace: Trace, maps: Tensor) -> Tensor:
    """Resample maps ``(b, n, *s)`` to the image: ``(b, n, *image space)``, from 0 to 1 each."""
    layout = trace.layout
    if layout.prefix:
        maps = maps[..., layout.prefix :].unflatten(-1, layout.grid)
    size = trace.images.shape[2:]
    if layout.beyond:
        raise LayerError(
            "this rule masks the input, and the map has axes that the input has not (the network makes them, "
            "such as frequencies): use another rule"
        )
    return stretched(F.interpolate(maps, size, mode=_LINEAR[len(size)], align_corners=False))


def stretched(maps: Tensor) -> Tensor:
    """From 0 to 1 over the space of ``(b, n, *s)``; a constant map becomes zero."""
    axes = tuple(range(2, maps.ndim))
    low, high = maps.amin(axes, keepdim=True), maps.amax(axes, keepdim=True)
    return ratio(maps - low, high - low)


def scores_through(trace: Trace, maps: Tensor, show: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Scores ``(b, t, n)`` of the image seen through each of the maps ``(b, n, *s)``.

    Args:
        trace: what is explained.
        maps: the masks at the layer's resolution.
        show: from masks ``(b, n, 1, *image space)`` to images ``(b, n, c, *image space)``; None multiplies.
    """
    images = trace.images.unsqueeze(1)
    scores = []
    for part in chunks(maps.shape[1], MOST_BYTES // max(1, images.nbytes)):
        masks = on_image(trace, maps[:, part].detach()).to(images).unsqueeze(2)
        seen = images * masks if show is None else show(masks)
        scores.append(trace.score_images(seen.transpose(0, 1)))
    return torch.cat(scores).movedim(0, -1)


def weigh(scores: Tensor, activations: Tensor) -> Map:
    """Sum the channels ``(b, k, *s)`` by the softmax of their scores ``(b, t, k)``."""
    ones = [1] * (activations.ndim - 2)
    weights = scores.softmax(-1).to(activations)
    return combine(weights.reshape(*weights.shape, *ones), activations)


@rule(needs=NETWORK, cite="wang2020")
def scorecam(trace: Trace) -> Map:
    """Weight each channel by the score of the image seen through it.

    raw[b, t, s] = Σ_k w[b, t, k] · A[b, k, s],   w = softmax over k of score(image · mask_k)
    mask_k = A[b, k] resampled to the image, from 0 to 1

    Score-CAM (arXiv 1910.01279). The baseline that the paper subtracts from every score does not change the
    softmax. A channel that is constant gives a black image. One run of the network for each
    channel.
    """
    return weigh(scores_through(trace, trace.activations), trace.activations)


@rule(needs=NETWORK, cite="tabayashi2020")
def faster_scorecam(trace: Trace, *, channels: int = 10) -> Map:
    """Score-CAM with the few channels that vary most over space.

    raw[b, t, s] = Σ_{k in top} w[b, t, k] · A[b, k, s],   w = softmax over the top k of score(image · mask_k)

    Faster-Score-CAM (Tabayashi, 2020): most channels of a deep layer hardly vary and cost a run each.

    Args:
        trace: what is explained.
        channels: how many channels to keep, for each image those with the largest variance over s.
    """
    activations = trace.activations
    spread = activations.flatten(2).var(-1, correction=0)
    top = spread.topk(min(channels, spread.shape[1]), dim=1).indices
    kept = torch.stack([maps[index] for maps, index in zip(activations, top, strict=True)])
    return weigh(scores_through(trace, kept), kept)


@rule(needs=NETWORK, cite="wang2020sscam")
def ss_cam(trace: Trace, *, samples: int = 8, noise: float = 2.0, seed: int = 0) -> Map:
    """Score-CAM with the score averaged over noisy masks.

    raw[b, t, s] = Σ_k w[b, t, k] · A[b, k, s],   w = softmax over k of mean_i score(image · (mask_k + δ_i))

    SS-CAM (arXiv 2006.14255), in the form with noise on the activations; δ_i ~ N(0, noise²) over the image's
    space. The same δ_i serve every channel and image, so that channels differ by their masks alone and a
    map does not depend on its neighbours in the batch.

    Args:
        trace: what is explained.
        samples: how many noisy masks for each channel.
        noise: standard deviation of the noise, where a mask goes from 0 to 1.
        seed: of a generator of its own; the global one is left alone.
    """
    generator = torch.Generator().manual_seed(seed)
    images = trace.images.unsqueeze(1)
    scores = torch.zeros((), device=images.device)
    for _ in range(samples):
        offset = noise * torch.randn(images.shape[3:], generator=generator).to(images)
        scores = scores + scores_through(trace, trace.activations, _through(images, 1.0, offset)) / samples
    return weigh(scores, trace.activations)


@rule(needs=NETWORK, cite="naidu2020iscam")
def is_cam(trace: Trace, *, steps: int = 10) -> Map:
    """Score-CAM with the score integrated from a black image to the masked one.

    raw[b, t, s] = Σ_k w[b, t, k] · A[b, k, s],   w = softmax over k of mean_i score(i/n · image · mask_k),
    i = 1 … n

    IS-CAM (arXiv 2010.03023), read as an integral along a straight line.

    Args:
        trace: what is explained.
        steps: n, how many points on the line.
    """
    images = trace.images.unsqueeze(1)
    scores = torch.zeros((), device=images.device)
    for step in range(1, steps + 1):
        show = _through(images, step / steps, torch.zeros(()).to(images))
        scores = scores + scores_through(trace, trace.activations, show) / steps
    return weigh(scores, trace.activations)


def _through(images: Tensor, factor: float, offset: Tensor) -> Callable[[Tensor], Tensor]:
    """Show the image through factor · mask + offset."""
    return lambda masks: images * (factor * masks + offset)


@rule(needs=NETWORK, cite="zhang2021")
def group(trace: Trace, *, groups: int = 32, keep: float = 0.3) -> Map:
    """Group the channels of Grad-CAM and weight each group by what it adds to a faded image.

    raw[b, t, s] = Σ_l (score(mask_l · image + (1 − mask_l) · faded) − score(faded)) · mask_l[s]
    mask_l = positive part of Grad-CAM over the channels of group l, its largest values only, from 0 to 1

    Group-CAM (arXiv 2103.13859) with consecutive channels as groups. The faded image is the image's mean
    colour, in place of the paper's wide blur, and the score is the target, not its softmax. The order of the
    channels matters. One run of the network for each group and target.

    Args:
        trace: what is explained.
        groups: how many groups.
        keep: share of the locations that a mask keeps.
    """
    weights, activations = over_space(trace.gradients).detach(), trace.activations.detach()
    parts = (weights * activations.unsqueeze(1)).chunk(groups, dim=2)
    masks = torch.stack([part.sum(2).relu() for part in parts], dim=2)
    threshold = masks.flatten(3).quantile(1 - keep, dim=-1)
    strong = masks > threshold.reshape(*threshold.shape, *[1] * (masks.ndim - 3))
    masks = torch.where(strong, masks, 0)
    return torch.stack([_gained(trace, masks[:, t], t) for t in range(masks.shape[1])], dim=1)


def _gained(trace: Trace, masks: Tensor, target: int) -> Tensor:
    """Sum the masks ``(b, l, *s)`` by what the image seen through them adds to a score of the faded one."""
    images = trace.images.unsqueeze(1)
    faded = images.mean(tuple(range(3, images.ndim)), keepdim=True).expand_as(images)
    nothing = trace.score_images(faded.transpose(0, 1))[0, :, target]
    scores = scores_through(trace, masks, lambda shown: images * shown + faded * (1 - shown))[:, target]
    return torch.einsum("bl,bl...->b...", scores - nothing.unsqueeze(-1), stretched(masks))
