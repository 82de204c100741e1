"""Three derivations of one map on real architectures: closed form, gradient of the head, whole autograd.

The last shares nothing with the library: the network as it is, its whole graph, the definition of HiResCAM.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from hirescam import Explainer
from test_architectures import CASES, batch, build

TARGET = 3
BOUND = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Largest difference allowed, as a share of the map's largest value. In bfloat16 the gradients themselves
have eight bits; the sums are float32."""


def widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def layer_norm(x: Tensor, shape, weight=None, bias=None, eps: float = 1e-5) -> Tensor:
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    normal = centred / (centred.square().mean(axes, keepdim=True) + eps).sqrt().detach()
    normal = normal if weight is None else normal * weight
    return normal if bias is None else normal + bias


def group_norm(x: Tensor, groups: int, weight=None, bias=None, eps: float = 1e-5) -> Tensor:
    apart = x.unflatten(1, (groups, -1))
    normal = layer_norm(apart, apart.shape[2:], eps=eps).flatten(1, 2)
    each = (1, -1, *[1] * (x.ndim - 2))
    return normal * weight.reshape(each) + bias.reshape(each)


@contextmanager
def held_divisors() -> Iterator[None]:
    """Normalisers whose divisor is a constant, written from their definition."""
    functional = "torch.nn.functional."
    with mock.patch(functional + "layer_norm", layer_norm), mock.patch(functional + "group_norm", group_norm):
        yield


@contextmanager
def recorded(model: nn.Module, layer: str, found: list[Tensor]) -> Iterator[None]:
    """Keep the layer's output; the only call among the layers is DenseNet's last relu."""
    if not layer.endswith("()"):
        hook = model.get_submodule(layer).register_forward_hook(lambda m, a, output: found.append(output))
        try:
            yield
        finally:
            hook.remove()
        return
    relu = torch.nn.functional.relu

    def noted(x: Tensor, inplace: bool = False) -> Tensor:
        result = relu(x)
        found[:] = [result]
        return result

    with mock.patch("torch.nn.functional.relu", noted):
        yield


def whole_autograd(model: nn.Module, layer: str, x: Tensor, space: torch.Size) -> Tensor:
    """Σ_k ∂score/∂A[k] · A[k] from the graph of the whole network."""
    found: list[Tensor] = []
    with recorded(model, layer, found):
        score = model(x)[:, TARGET].sum()
    (gradient,) = torch.autograd.grad(score, found[-1])
    product = widened(gradient) * widened(found[-1].detach())
    channels_last = product.shape[1:-1].numel() == space.numel()
    return product.sum(-1 if channels_last else 1).reshape(-1, *space)


def with_weights_in_the_head(model: nn.Module) -> nn.Module:
    """torchvision's ViT starts with a head of zeros, whose map would be zero whatever one does."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    for module in last:
        if not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)
    return model


@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize(
    ("spec", "shape", "guarantee", "layer"), [c[:4] for c in CASES], ids=[c[0] for c in CASES]
)
def test_three_derivations_agree(
    spec: str, shape: tuple[int, ...], guarantee: str, layer: str, dtype: torch.dtype
) -> None:
    model, x = with_weights_in_the_head(build(spec)).to(dtype), batch(shape).to(dtype)
    explainer = Explainer(model, layer=layer)
    answer = explainer(x, target=TARGET)
    assert answer.certificate.guarantee == guarantee
    head_only = explainer(x, target=lambda output: output[:, TARGET])
    with held_divisors() if guarantee == "conditional" else mock.patch.dict({}):
        whole = whole_autograd(model, layer, x, answer.raw.shape[2:])
    largest = whole.abs().max()
    for name, raw in (("closed form", answer.raw[:, 0]), ("head only", head_only.raw[:, 0])):
        gap = float((raw - whole).abs().max() / largest)
        assert gap <= BOUND[dtype], f"{name} differs from whole autograd by {gap:.1e}"
