"""FullGrad: the whole network at once, the image's own share and that of every bias.

For a network of linear maps, biases and ReLU the score splits without remainder into

    score = Σ_p x[p] · ∂score/∂x[p]  +  Σ_layers Σ_{k, s} b[k] · ∂score/∂z[k, s]

where z is the output of a layer with the bias b (arXiv 1905.00780, equation 3). The map adds, at the image's
resolution, the magnitudes of all these shares.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hirescam.errors import ModelError
from hirescam.passes import taps, targets
from hirescam.passes.borrow import Inputs, as_call, check_model, eager, session, unwrap
from hirescam.passes.outputs import OutputSelector, logits_of
from hirescam.passes.targets import Target
from hirescam.views import resize


@dataclass(frozen=True, eq=False)
class FullGrad:
    """Shares of the whole network.

    Attributes:
        values: ``(b, t, *image space)``, the map: magnitudes of all shares, resampled and summed.
        image: ``(b, t, c, *image space)``, x · ∂score/∂x, signed.
        biases: for each layer with a bias its shares ``(b, t, k, *space)``, signed.
        score: ``(b, t)``.
        target: ``(b, t)`` class indices.
        completeness_error: largest |score − sum of all shares| relative to |score|; zero to rounding for
            networks of linear maps, biases, ReLU and max pooling.
    """

    values: Tensor
    image: Tensor
    biases: dict[str, Tensor]
    score: Tensor
    target: Tensor
    completeness_error: float


def fullgrad(
    model: nn.Module,
    images: Inputs,
    *,
    target: Target = None,
    output: OutputSelector = None,
    magnitudes: bool = True,
) -> FullGrad:
    """Explain the whole network by input-gradient and bias-gradients.

    Args:
        model: a network in evaluation mode.
        images: float tensor ``(b, c, *space)``.
        target: what to explain; None is the predicted class of each image.
        output: how to find the logits.
        magnitudes: sum absolute shares, as in the paper; False keeps signs, so that the map is the share of
            each place in a decomposition of the score (the resampling aside).

    Returns:
        The map at the image's resolution and all shares behind it.
    """
    model = unwrap(model)
    check_model(model)
    call = as_call(images)
    with session(grad=True):
        leaf = call.images.detach().clone().requires_grad_()
        seen: dict[str, Tensor] = {}
        modules = [(name, module) for name, module in model.named_modules() if _bias(module) is not None]

        def note(path: str, result: Any) -> Any:
            if path in seen:
                raise ModelError(f"FullGrad needs every layer to be called once, {path!r} is called again")
            # The layer's own output, safe from what is done to it in place afterwards.
            seen[path] = result
            return result.clone()

        with taps.module_outputs(modules, note), eager(model):
            result = call.replace(leaf.clone()).run(model)
        logits = logits_of(result, output, leaf.shape[0])
        bound = targets.bind(target, logits)
        score = bound.score(logits)
        gradients = list(_gradients(score, [leaf, *seen.values()]))
    image = torch.stack([row[0] for row in gradients], 1) * call.images.unsqueeze(1)
    biases = {
        name: torch.stack([row[1 + i] for row in gradients], 1) * _shaped(model, name, seen[name])
        for i, name in enumerate(seen)
    }
    total = image.flatten(2).sum(2) + sum(share.flatten(2).sum(2) for share in biases.values())
    score = score.detach()
    error = float(((score - total).abs() / score.abs().clamp_min(1e-30)).max())
    values = _map(image, biases, magnitudes)
    return FullGrad(values, image, biases, score, bound.index, error)


def _gradients(score: Tensor, inputs: list[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    for t in range(score.shape[1]):
        yield torch.autograd.grad(
            score[:, t].sum(), inputs, retain_graph=True, allow_unused=True, materialize_grads=True
        )


def _bias(module: nn.Module) -> Tensor | None:
    """The constant that a layer adds to a linear map of its input."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return _batch_norm_bias(module)
    linear = (nn.Linear, nn.modules.conv._ConvNd)
    bias: Tensor | None = module.bias if isinstance(module, linear) else None
    return None if bias is None else bias.detach()


def _batch_norm_bias(module: nn.modules.batchnorm._BatchNorm) -> Tensor | None:
    """β − γ·μ/σ of batch normalisation with fixed statistics."""
    if module.running_mean is None or module.running_var is None:
        return None
    shift = -module.running_mean / (module.running_var + module.eps).sqrt()
    if module.affine:
        shift = shift * module.weight.detach() + module.bias.detach()
    return shift


def _shaped(model: nn.Module, name: str, output: Tensor) -> Tensor:
    """A layer's bias against its gradients ``(b, t, k, *space)``."""
    module = model.get_submodule(name)
    bias = _bias(module)
    assert bias is not None
    if isinstance(module, nn.Linear):
        return bias
    return bias.view(1, 1, -1, *[1] * (output.ndim - 2))


def _map(image: Tensor, biases: dict[str, Tensor], magnitudes: bool) -> Tensor:
    size = tuple(image.shape[3:])
    shown = torch.abs if magnitudes else torch.positive
    total: Tensor = shown(image).sum(2)
    for share in biases.values():
        if share.ndim == image.ndim:  # a layer with locations; fully connected layers have none
            cells = shown(share).sum(2)
            spread = resize(cells, size, "bilinear")
            total = total + spread * (cells[0, 0].numel() / spread[0, 0].numel())
    return total.detach()
