"""Slow, independent derivations: loops written from the formulas, and brute-force ablation."""

from itertools import product

import numpy as np
import torch
from torch import Tensor, nn


def hirescam(gradients: Tensor, activations: Tensor) -> Tensor:
    """Σ_k G[b, t, k, s] · A[b, k, s], one product at a time."""
    g, a = gradients.numpy(), activations.numpy()
    out = np.zeros((*g.shape[:2], *g.shape[3:]))
    for b, t, k in product(*map(range, g.shape[:3])):
        for s in np.ndindex(*g.shape[3:]):
            out[(b, t, *s)] += g[(b, t, k, *s)] * a[(b, k, *s)]
    return torch.from_numpy(out)


def gradcam(gradients: Tensor, activations: Tensor) -> Tensor:
    """Σ_k α[k] · A[b, k, s] with α[k] = 1/Z Σ_s G[b, t, k, s] (Selvaraju et al., equations 1 and 2)."""
    g, a = gradients.numpy(), activations.numpy()
    out = np.zeros((*g.shape[:2], *g.shape[3:]))
    for b, t, k in product(*map(range, g.shape[:3])):
        alpha = sum(g[(b, t, k, *s)] for s in np.ndindex(*g.shape[3:])) / np.prod(g.shape[3:])
        for s in np.ndindex(*g.shape[3:]):
            out[(b, t, *s)] += alpha * a[(b, k, *s)]
    return torch.from_numpy(out)


def cam(gradients: Tensor, activations: Tensor) -> Tensor:
    """Σ_k w[k] · A[b, k, s], where pooling makes w[k] the sum of the gradients over space."""
    g, a = gradients.numpy(), activations.numpy()
    out = np.zeros((*g.shape[:2], *g.shape[3:]))
    for b, t, k in product(*map(range, g.shape[:3])):
        weight = sum(g[(b, t, k, *s)] for s in np.ndindex(*g.shape[3:]))
        for s in np.ndindex(*g.shape[3:]):
            out[(b, t, *s)] += weight * a[(b, k, *s)]
    return torch.from_numpy(out)


def ablation(features: nn.Module, rest: nn.Module, images: Tensor, target: int) -> Tensor:
    """What the score loses when one location of the features is set to zero, by running the rest."""
    with torch.no_grad():
        activations = features(images)
        score = rest(activations)[:, target]
        out = torch.zeros(len(images), *activations.shape[2:], dtype=activations.dtype)
        for s in np.ndindex(*activations.shape[2:]):
            without = activations.clone()
            without[(slice(None), slice(None), *s)] = 0
            out[(slice(None), *s)] = score - rest(without)[:, target]
    return out


def flatten_head_map(weight: Tensor, activations: Tensor, target: int) -> Tensor:
    """For a flatten head: w[c, k, s] · A[k, s], summed over k, straight from the weights."""
    w = weight[target].reshape(activations.shape[1:])
    return (w * activations).sum(1)
