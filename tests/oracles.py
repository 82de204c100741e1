"""Slow, independent derivations: loops written from the formulas, and brute-force ablation.

The oracle of a rule has the rule's name and options. It takes what it needs, by these names: ``gradients``
``(b, t, k, *s)``, ``activations`` ``(b, k, *s)``, ``images``, ``classes`` (the targets), ``model``,
``features`` (from images to activations) and ``rest`` (from activations to logits). Oracles
of rules that perturb call the model themselves, one image at a time.
"""

from collections.abc import Callable, Sequence
from itertools import permutations, product
from math import factorial

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


def gradcam_pp(gradients: Tensor, activations: Tensor) -> Tensor:
    """Equations 5, 7 and 19 of Chattopadhay et al., as printed: α = G² / (2G² + Σ_ab A_ab · G³)."""
    g, a = gradients.numpy(), activations.numpy()
    out = np.zeros((*g.shape[:2], *g.shape[3:]))
    for b, t, k in product(*map(range, g.shape[:3])):
        weight = 0.0
        for s in np.ndindex(*g.shape[3:]):
            here = g[(b, t, k, *s)]
            alpha = here**2 / (2 * here**2 + a[b, k].sum() * here**3)
            weight += alpha * max(here, 0.0)
        out[b, t] += weight * a[b, k]
    return torch.from_numpy(out)


def smooth_gradcam_pp(
    activations: Tensor, images: Tensor, classes: Sequence[int], features: nn.Module, rest: Callable,
    *, samples: int = 4, noise: float = 0.3, seed: int = 0,
) -> Tensor:  # fmt: skip
    """Omeiza et al., section 3.4, image by image, with gradients of its own."""
    out = np.zeros((len(images), len(classes), *activations.shape[2:]))
    for b, t in product(range(len(images)), range(len(classes))):
        generator = torch.Generator().manual_seed(seed)
        found = []
        for _ in range(samples):
            copy = images[b] + noise * torch.randn(images.shape[1:], generator=generator).double()
            layer = features(copy[None]).detach().requires_grad_()
            rest(layer)[0, classes[t]].backward()
            found.append(layer.grad[0].numpy())
        first, second, third = (np.mean([g**power for g in found], axis=0) for power in (1, 2, 3))
        for k, channel in enumerate(activations[b].numpy()):
            alpha = second[k] / (2 * second[k] + channel.sum() * third[k])
            out[b, t] += (alpha * np.maximum(first[k], 0)).sum() * channel
    return torch.from_numpy(out)


def xgradcam(gradients: Tensor, activations: Tensor) -> Tensor:
    """Fu et al.: w_k = Σ_s A_k(s) / Σ_s' A_k(s') · G_k(s)."""
    g, a = gradients.numpy(), activations.numpy()
    out = np.zeros((*g.shape[:2], *g.shape[3:]))
    for b, t, k in product(*map(range, g.shape[:3])):
        cells = list(np.ndindex(*g.shape[3:]))
        weight = sum(a[(b, k, *s)] / a[b, k].sum() * g[(b, t, k, *s)] for s in cells)
        for s in cells:
            out[(b, t, *s)] += weight * a[(b, k, *s)]
    return torch.from_numpy(out)


def layercam(gradients: Tensor, activations: Tensor) -> Tensor:
    """Jiang et al.: a weight for every location, the gradient where it is positive."""
    g, a = gradients.numpy(), activations.numpy()
    out = np.zeros((*g.shape[:2], *g.shape[3:]))
    for b, t, k in product(*map(range, g.shape[:3])):
        for s in np.ndindex(*g.shape[3:]):
            if g[(b, t, k, *s)] > 0:
                out[(b, t, *s)] += g[(b, t, k, *s)] * a[(b, k, *s)]
    return torch.from_numpy(out)


def abscam(gradients: Tensor, activations: Tensor) -> Tensor:
    """Zeng et al., first phase: Grad-CAM with every gradient made positive."""
    g, a = gradients.numpy(), activations.numpy()
    out = np.zeros((*g.shape[:2], *g.shape[3:]))
    for b, t, k in product(*map(range, g.shape[:3])):
        places = list(np.ndindex(*g.shape[3:]))
        alpha = sum(abs(g[(b, t, k, *s)]) for s in places) / len(places)
        for s in places:
            out[(b, t, *s)] += alpha * a[(b, k, *s)]
    return torch.from_numpy(out)


def elementwise(gradients: Tensor, activations: Tensor) -> Tensor:
    """The products of HiResCAM, of which only the positive ones are summed."""
    g, a = gradients.numpy(), activations.numpy()
    out = np.zeros((*g.shape[:2], *g.shape[3:]))
    for b, t, k in product(*map(range, g.shape[:3])):
        for s in np.ndindex(*g.shape[3:]):
            out[(b, t, *s)] += max(g[(b, t, k, *s)] * a[(b, k, *s)], 0.0)
    return torch.from_numpy(out)


def normgrad(gradients: Tensor, activations: Tensor) -> Tensor:
    """Rebuffi et al.: the Frobenius norm of the outer product of gradient and activation at a location."""
    g, a = gradients.numpy(), activations.numpy()
    out = np.zeros((*g.shape[:2], *g.shape[3:]))
    for b, t in product(*map(range, g.shape[:2])):
        for s in np.ndindex(*g.shape[3:]):
            where = (slice(None), *s)
            out[(b, t, *s)] = np.linalg.norm(np.outer(g[b, t][where], a[b][where]))
    return torch.from_numpy(out)


def shapleycam(activations: Tensor, classes: Sequence[int], rest: Callable) -> Tensor:
    """Cai: Grad-CAM with G − ½ H·A for G, where the whole Hessian is formed."""
    out = torch.zeros(len(activations), len(classes), *activations.shape[2:], dtype=activations.dtype)
    for b, t in product(range(len(activations)), range(len(classes))):
        shape, flat = activations[b].shape, activations[b].flatten()

        def score(layer: Tensor, c: int = classes[t], shape: torch.Size = shape) -> Tensor:
            return rest(layer.reshape(1, *shape))[0, c]

        gradient = torch.autograd.functional.jacobian(score, flat)
        hessian = torch.autograd.functional.hessian(score, flat)
        corrected = (gradient - hessian @ flat / 2).reshape(shape)
        for k in range(shape[0]):
            out[b, t] += corrected[k].mean() * activations[b, k]
    return out


def strongest(matrix: np.ndarray) -> np.ndarray:
    """Rows along the first principal axis, which is the limit of (MᵀM)ⁿ by repeated squaring."""
    power = matrix.T @ matrix
    for _ in range(60):
        power = power @ power
        power /= np.linalg.norm(power)
    axis = power[:, np.argmax(np.diag(power))]
    return matrix @ (axis / np.linalg.norm(axis))


def as_rows(channels: np.ndarray, centred: bool) -> np.ndarray:
    matrix = channels.reshape(len(channels), -1).T
    return matrix - matrix.mean(axis=0) if centred else matrix


def towards(component: np.ndarray, other: np.ndarray) -> np.ndarray:
    return component if component @ other >= 0 else -component


def eigencam(activations: Tensor, classes: Sequence[int], *, centred: bool = False) -> Tensor:
    """Muhammad & Yeasin: the activations along their first right singular vector."""
    maps = []
    for channels in activations.numpy():
        matrix = as_rows(channels, centred)
        found = towards(strongest(matrix), matrix.sum(axis=1))
        maps.append([found.reshape(channels.shape[1:])] * len(classes))
    return torch.from_numpy(np.array(maps))


def eigen_gradcam(gradients: Tensor, activations: Tensor, *, centred: bool = True) -> Tensor:
    out = np.zeros((*gradients.shape[:2], *gradients.shape[3:]))
    for b, t in product(*map(range, gradients.shape[:2])):
        matrix = as_rows((gradients[b, t] * activations[b]).numpy(), centred)
        out[b, t] = towards(strongest(matrix), matrix.sum(axis=1)).reshape(out.shape[2:])
    return torch.from_numpy(out)


def seg_eigencam(gradients: Tensor, activations: Tensor) -> Tensor:
    """Chung & Ying, equations 10 to 13."""
    out = np.zeros((*gradients.shape[:2], *gradients.shape[3:]))
    for b, t in product(*map(range, gradients.shape[:2])):
        matrix = as_rows((gradients[b, t].abs() * activations[b]).numpy(), True)
        found = towards(strongest(matrix), matrix.sum(axis=1))
        found = -found if abs(found.min()) > (1 + 1e-5) * abs(found.max()) else found
        out[b, t] = found.reshape(out.shape[2:])
    return torch.from_numpy(out)


def kpca_cam(
    activations: Tensor, classes: Sequence[int], *, kernel: str = "sigmoid", gamma: float | None = None
) -> Tensor:
    """Schölkopf's algorithm: centre the kernel with I − 1/n on both sides, take the largest eigenvalue."""
    maps = []
    for channels in activations.numpy():
        points = as_rows(channels, True)
        scale = 1 / len(channels) if gamma is None else gamma
        gram = np.zeros((len(points), len(points)))
        for i, j in product(range(len(points)), repeat=2):
            apart = ((points[i] - points[j]) ** 2).sum()
            inner = points[i] @ points[j]
            gram[i, j] = np.exp(-scale * apart) if kernel == "rbf" else np.tanh(scale * inner + 1)
        centre = np.eye(len(points)) - 1 / len(points)
        values, vectors = np.linalg.eig(centre @ gram @ centre)
        best = np.argmax(values.real)
        found = np.sqrt(values[best].real) * vectors[:, best].real
        maps.append([towards(found, points.sum(axis=1)).reshape(channels.shape[1:])] * len(classes))
    return torch.from_numpy(np.array(maps))


def fem(activations: Tensor, classes: Sequence[int], *, sigmas: float = 2.0) -> Tensor:
    """Fuad et al.: binary maps by the k-sigma rule, weighted by the channels' means."""
    maps = []
    for channels in activations.numpy():
        found = np.zeros(channels.shape[1:])
        for channel in channels:
            threshold = channel.mean() + sigmas * np.sqrt(((channel - channel.mean()) ** 2).mean())
            for s in np.ndindex(*channel.shape):
                found[s] += channel.mean() if channel[s] > threshold else 0
        maps.append([found] * len(classes))
    return torch.from_numpy(np.array(maps))


def mean_activation(activations: Tensor, classes: Sequence[int]) -> Tensor:
    maps = [[sum(channels) / len(channels)] * len(classes) for channels in activations.numpy()]
    return torch.from_numpy(np.array(maps))


def random(activations: Tensor, classes: Sequence[int], *, seed: int = 0) -> Tensor:
    draws = torch.rand(activations.shape[1], generator=torch.Generator().manual_seed(seed))
    out = torch.zeros_like(activations[:, 0])
    for k, draw in enumerate(draws):
        out += (2 * draw - 1) * activations[:, k]
    return torch.stack([out] * len(classes), dim=1)


def ablationcam(
    activations: Tensor, classes: Sequence[int], rest: Callable, *, relative: bool = True
) -> Tensor:
    """Desai & Ramaswamy: w_k = (y − y_k) / y, one run of the head for each channel."""
    out = torch.zeros(len(activations), len(classes), *activations.shape[2:], dtype=activations.dtype)
    for b, k in product(*map(range, activations.shape[:2])):
        without = activations[b : b + 1].clone()
        without[0, k] = 0
        before, after = rest(activations[b : b + 1])[0].detach(), rest(without)[0].detach()
        for t, c in enumerate(classes):
            drop = before[c] - after[c]
            out[b, t] += (drop / before[c] if relative else drop) * activations[b, k]
    return out


def reciprocam(activations: Tensor, classes: Sequence[int], rest: Callable, *, blur: bool = False) -> Tensor:
    """Byun & Lee: the score of the features at one location, or of its neighbourhood through a Gaussian."""
    out = torch.zeros(len(activations), len(classes), *activations.shape[2:], dtype=activations.dtype)
    for b, s in product(range(len(activations)), list(np.ndindex(*activations.shape[2:]))):
        alone = torch.zeros_like(activations[b : b + 1])
        for u in np.ndindex(*activations.shape[2:]):
            far = [abs(i - j) for i, j in zip(s, u, strict=True)]
            share = np.prod([{0: 0.5, 1: 0.25}.get(f, 0.0) for f in far]) if blur else float(s == u)
            alone[(0, slice(None), *u)] = share * activations[(b, slice(None), *u)]
        gained = (rest(alone) - rest(torch.zeros_like(alone)))[0].detach()
        out[(b, slice(None), *s)] = gained[list(classes)]
    return out


def removal(activations: Tensor, classes: Sequence[int], rest: Callable) -> Tensor:
    out = torch.zeros(len(activations), len(classes), *activations.shape[2:], dtype=activations.dtype)
    for b, s in product(range(len(activations)), list(np.ndindex(*activations.shape[2:]))):
        without = activations[b : b + 1].clone()
        without[(0, slice(None), *s)] = 0
        lost = (rest(activations[b : b + 1]) - rest(without))[0].detach()
        out[(b, slice(None), *s)] = lost[list(classes)]
    return out


def shapley(
    activations: Tensor, classes: Sequence[int], rest: Callable, *, samples: int = 4, seed: int = 0
) -> Tensor:
    """Castro et al.: walk through each order, and give every location what the score gains when it comes."""
    generator = torch.Generator().manual_seed(seed)
    cells = list(np.ndindex(*activations.shape[2:]))
    orders = [torch.randperm(len(cells), generator=generator).tolist() for _ in range(samples)]
    out = torch.zeros(len(activations), len(classes), *activations.shape[2:], dtype=activations.dtype)
    for b, order in product(range(len(activations)), orders):
        present = torch.zeros_like(activations[b : b + 1])
        before = rest(present)[0].detach()
        for cell in order:
            present[(0, slice(None), *cells[cell])] = activations[(b, slice(None), *cells[cell])]
            after = rest(present)[0].detach()
            out[(b, slice(None), *cells[cell])] += (after - before)[list(classes)] / samples
            before = after
    return out


def shapley_values(value: Callable[[frozenset[int]], float], players: int) -> list[float]:
    """Shapley values by their definition, over every order."""
    shares = [0.0] * players
    for order in permutations(range(players)):
        for i, player in enumerate(order):
            shares[player] += value(frozenset(order[: i + 1])) - value(frozenset(order[:i]))
    return [share / factorial(players) for share in shares]


def resampled(map_: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Linear along each axis in turn, between centres of cells, constant beyond the outermost ones."""
    for axis, wanted in enumerate(size):
        there = map_.shape[axis]
        at = (np.arange(wanted) + 0.5) * there / wanted - 0.5
        map_ = np.apply_along_axis(lambda line, at=at: np.interp(at, np.arange(len(line)), line), axis, map_)
    return map_


def unit(map_: np.ndarray) -> np.ndarray:
    low, high = map_.min(), map_.max()
    return (map_ - low) / (high - low) if high > low else np.zeros_like(map_)


def softmax(scores: Sequence[float]) -> np.ndarray:
    exponentials = np.exp(np.array(scores) - max(scores))
    return exponentials / exponentials.sum()


def score_weighted(
    activations: Tensor, images: Tensor, classes: Sequence[int], model: Callable,
    alter: Callable[[np.ndarray], list[np.ndarray]], channels: int | None = None,
) -> Tensor:  # fmt: skip
    """Wang et al.: a run of the network for each channel; ``alter`` gives the masks to average over."""
    out = np.zeros((len(images), len(classes), *activations.shape[2:]))
    for b, layer in enumerate(activations.numpy()):
        best = sorted(range(len(layer)), key=lambda k, layer=layer: -layer[k].var())[:channels]
        found = []
        for k in best:
            masks = alter(unit(resampled(layer[k], images.shape[2:])))
            runs = [model(images[b : b + 1] * torch.from_numpy(mask)).detach()[0] for mask in masks]
            found.append(torch.stack(runs).mean(0)[list(classes)].tolist())
        for t in range(len(classes)):
            weights = softmax([scores[t] for scores in found])
            out[b, t] = sum(weight * layer[k] for weight, k in zip(weights, best, strict=True))
    return torch.from_numpy(out)


def scorecam(activations: Tensor, images: Tensor, classes: Sequence[int], model: Callable) -> Tensor:
    return score_weighted(activations, images, classes, model, lambda mask: [mask])


def faster_scorecam(
    activations: Tensor, images: Tensor, classes: Sequence[int], model: Callable, *, channels: int = 10
) -> Tensor:
    return score_weighted(activations, images, classes, model, lambda mask: [mask], channels)


def ss_cam(
    activations: Tensor, images: Tensor, classes: Sequence[int], model: Callable,
    *, samples: int = 8, noise: float = 2.0, seed: int = 0,
) -> Tensor:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.randn(images.shape[2:], generator=generator).double() for _ in range(samples)]
    added = [noise * draw.numpy() for draw in draws]
    return score_weighted(activations, images, classes, model, lambda mask: [mask + n for n in added])


def is_cam(
    activations: Tensor, images: Tensor, classes: Sequence[int], model: Callable, *, steps: int = 10
) -> Tensor:
    def path(mask: np.ndarray) -> list[np.ndarray]:
        return [mask * i / steps for i in range(1, steps + 1)]

    return score_weighted(activations, images, classes, model, path)


def group(
    gradients: Tensor, activations: Tensor, images: Tensor, classes: Sequence[int], model: Callable,
    *, groups: int = 32, keep: float = 0.3,
) -> Tensor:  # fmt: skip
    """Zhang et al., as their code reads, with the mean colour for the blur and logits for probabilities."""
    out = np.zeros((len(images), len(classes), *activations.shape[2:]))
    size = -(-activations.shape[1] // groups)
    for (b, image), (t, c) in product(enumerate(images), enumerate(classes)):
        faded = torch.stack([torch.full_like(channel, float(channel.mean())) for channel in image])
        baseline = float(model(faded[None])[0, c].detach())
        for start in range(0, activations.shape[1], size):
            mask = np.zeros(activations.shape[2:])
            for k in range(start, min(start + size, activations.shape[1])):
                mask += float(gradients[b, t, k].mean()) * activations[b, k].numpy()
            mask = np.maximum(mask, 0)
            mask[mask <= np.percentile(mask, 100 * (1 - keep))] = 0
            shown = torch.from_numpy(unit(resampled(mask, image.shape[1:])))
            seen = image * shown + faded * (1 - shown)
            out[b, t] += (float(model(seen[None])[0, c].detach()) - baseline) * unit(mask)
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
