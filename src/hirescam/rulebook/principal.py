"""Rules that project a matrix (locations × channels) on its strongest component.

An eigenvector's sign is arbitrary, and depends on the build of the linear algebra. Here every component is
turned so that it goes with the sum over the channels.
"""

import torch
from torch import Tensor

from hirescam.errors import RuleError
from hirescam.passes.trace import Trace
from hirescam.rulebook.registry import ACTIVATIONS, GRADIENTS, Map, rule

_KERNELS = ("sigmoid", "rbf")
_TIE = 1 + 1e-5  # where both ends are equally far from zero, rounding must not choose


def rows(tensor: Tensor, *, centred: bool) -> Tensor:
    """From ``(..., k, locations)`` to ``(..., locations, k)``, each channel less its mean if so wished."""
    matrix = tensor.transpose(-1, -2)
    return matrix - matrix.mean(dim=-2, keepdim=True) if centred else matrix


def strongest(matrix: Tensor) -> Tensor:
    """Coordinates of the rows along the first right singular vector: ``(..., locations)``, either sign."""
    left, sizes, _ = torch.linalg.svd(matrix, full_matrices=False)
    component: Tensor = left[..., 0] * sizes[..., :1]
    return component


def turned(component: Tensor, towards: Tensor) -> Tensor:
    """The component with the sign that makes its product with another map positive."""
    against = (component * towards).sum(dim=-1, keepdim=True) < 0
    return torch.where(against, -component, component)


def for_every_target(trace: Trace, maps: Tensor) -> Map:
    """Repeat ``(b, locations or *s)``, which knows nothing of the score, for every target."""
    space = trace.activations.shape[2:]
    batch, count = trace.gradients.shape[:2]
    return maps.reshape(batch, 1, *space).repeat(1, count, *[1] * len(space))


@rule(needs=ACTIVATIONS, cite="muhammad2020")
def eigencam(trace: Trace, *, centred: bool = False) -> Map:
    """Show the strongest pattern in the activations, whatever the class.

    raw[b, t, s] = Σ_k A[b, k, s] · v[b, k],   v = first right singular vector of A as (locations × channels)

    Eigen-CAM (arXiv 2008.00299). After a ReLU all of A, and therefore the map, has one sign, which is taken
    as positive. The same for every target.

    Args:
        trace: what is explained.
        centred: subtract each channel's mean first, as pytorch-grad-cam does; the paper does not.
    """
    matrix = rows(trace.activations.flatten(2), centred=centred)
    return for_every_target(trace, turned(strongest(matrix), matrix.sum(-1)))


@rule(needs=GRADIENTS, cite="gildenblat2021")
def eigen_gradcam(trace: Trace, *, centred: bool = True) -> Map:
    """Show the strongest pattern in gradient times activation.

    raw[b, t, s] = Σ_k M[s, k] · v[k],   M[s, k] = G[b, t, k, s] · A[b, k, s] less its mean over s,
    v = first right singular vector of M

    A method of pytorch-grad-cam without a paper of its own: Eigen-CAM on the terms that HiResCAM sums.

    Args:
        trace: what is explained.
        centred: subtract each channel's mean first.
    """
    products = trace.gradients * trace.activations.unsqueeze(1)
    matrix = rows(products.flatten(3), centred=centred)
    component = turned(strongest(matrix), matrix.sum(-1))
    return component.reshape(*component.shape[:2], *products.shape[3:])


@rule(needs=GRADIENTS, cite="chung2025")
def seg_eigencam(trace: Trace) -> Map:
    """Show the strongest pattern in the activations weighted by the size of the gradients.

    raw[b, t, s] = Σ_k M[s, k] · v[k],   M[s, k] = |G[b, t, k, s]| · A[b, k, s] less its mean over s,
    v = first right singular vector of M, turned so that the map's largest value in size is positive

    Seg-Eigen-CAM (Chung & Ying, Applied Sciences 15(13) 7562, equations 10 to 13), made for `Region` targets.
    """
    products = trace.gradients.abs() * trace.activations.unsqueeze(1)
    matrix = rows(products.flatten(3), centred=True)
    component = turned(strongest(matrix), matrix.sum(-1))
    low, high = -component.amin(-1, keepdim=True), component.amax(-1, keepdim=True)
    component = torch.where(low > high * _TIE, -component, component)
    return component.reshape(*component.shape[:2], *products.shape[3:])


@rule(needs=ACTIVATIONS, cite="karmani2024")
def kpca_cam(trace: Trace, *, kernel: str = "sigmoid", gamma: float | None = None) -> Map:
    """Show the strongest pattern in the activations by kernel principal components, whatever the class.

    raw[b, t, s] = √λ · u[s],   λ, u = largest eigenvalue and its vector of the doubly centred
    K[s, s'] = tanh(γ x_s · x_s' + 1) or exp(−γ |x_s − x_s'|²),   x_s = A[b, :, s] less its mean over s

    KPCA-CAM (arXiv 2410.00267). Needs the square of the number of locations in memory. The same for every
    target.

    Args:
        trace: what is explained.
        kernel: ``"sigmoid"`` or ``"rbf"``.
        gamma: γ; None is one divided by the number of channels.
    """
    if kernel not in _KERNELS:
        raise RuleError(f"kernel={kernel!r} is unknown: use {' or '.join(map(repr, _KERNELS))}")
    points = rows(trace.activations.flatten(2), centred=True)
    scale = 1 / points.shape[-1] if gamma is None else gamma
    if kernel == "rbf":
        gram = (-scale * torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist") ** 2).exp()
    else:
        gram = torch.tanh(scale * points @ points.transpose(-1, -2) + 1)
    gram = gram - gram.mean(-1, keepdim=True)
    values, vectors = torch.linalg.eigh(gram - gram.mean(-2, keepdim=True))
    component = values[..., -1:].clamp_min(0).sqrt() * vectors[..., -1]
    return for_every_target(trace, turned(component, points.sum(-1)))
