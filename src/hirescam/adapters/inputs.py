"""Input-level methods of captum and zennit, each a few lines: what is theirs stays there.

Every function gets a network of scores, the images and the column to explain for each image, and returns
``(b, c, *image space)``. Its keyword arguments are the method's options.
"""

import copy
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hirescam.adapters.attribution import InputAttribution
from hirescam.adapters.network import Scores, package, twin
from hirescam.errors import InputError, LayerError, ModelError
from hirescam.passes.borrow import as_call, check_model, session, unwrap
from hirescam.passes.outputs import OutputSelector, check_finite, logits_of
from hirescam.passes.targets import Target, bind, is_indexed
from hirescam.verbs import certify

Method = Callable[..., Tensor]

_FAILURES = (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, IndexError)


def saliency(network: Scores, images: Tensor, column: Tensor) -> Tensor:
    """Gradient of the score by the input, with its sign."""
    found: Tensor = _captum("saliency").Saliency(network).attribute(images, target=column, abs=False)
    return found


def gradient_x_input(network: Scores, images: Tensor, column: Tensor) -> Tensor:
    """Gradient times input: HiResCAM's formula at the input."""
    found: Tensor = _captum("gradient_x_input").InputXGradient(network).attribute(images, target=column)
    return found


def integrated_gradients(network: Scores, images: Tensor, column: Tensor, *, steps: int = 50) -> Tensor:
    """Gradients integrated from an input of zeros, times the input."""
    method = _captum("integrated_gradients").IntegratedGradients(network)
    found: Tensor = method.attribute(
        images, target=column, n_steps=steps, internal_batch_size=max(len(images), 16)
    )
    return found


def smoothgrad(
    network: Scores,
    images: Tensor,
    column: Tensor,
    *,
    samples: int = 16,
    noise: float = 0.15,
    seed: int = 0,
) -> Tensor:
    """Gradient averaged over noisy copies of the input; noise is in units of the preprocessed input."""
    attr = _captum("smoothgrad")
    method = attr.NoiseTunnel(attr.Saliency(network))
    device = [images.device] if images.is_cuda else []
    with torch.random.fork_rng(devices=device):
        torch.manual_seed(seed)
        found: Tensor = method.attribute(
            images, target=column, abs=False, nt_type="smoothgrad", nt_samples=samples, stdevs=noise
        )
    return found


def guided_backprop(network: Scores, images: Tensor, column: Tensor) -> Tensor:
    """Gradient with what is negative dropped at every ReLU. It hardly depends on the class."""
    _check_guided(network, "guided_backprop")
    found: Tensor = _captum("guided_backprop").GuidedBackprop(network).attribute(images, target=column)
    return found


def guided_gradcam(
    network: Scores, images: Tensor, column: Tensor, *, layer: str | None = None, resample: str = "nearest"
) -> Tensor:
    """Guided backpropagation times the positive part of Grad-CAM at a layer; None is hirescam's choice."""
    _check_guided(network, "guided_gradcam")
    name = _layer(network, images) if layer is None else layer
    try:
        module = network.network.get_submodule(name)
    except AttributeError:
        raise LayerError(
            f"layer={name!r} is not a module, which method='guided_gradcam' needs: name one with layer=..."
        ) from None
    method = _captum("guided_gradcam").GuidedGradCam(network, module)
    found: Tensor = method.attribute(images, target=column, interpolate_mode=resample)
    return found


def _layer(network: Scores, images: Tensor) -> str:
    return certify(network.network, images.detach(), output=network.output).layer


def deeplift(network: Scores, images: Tensor, column: Tensor) -> Tensor:
    """Differences from an input of zeros, passed back by the rescale rule; each module may run once only."""
    found: Tensor = _captum("deeplift").DeepLift(network).attribute(images, target=column)
    return found


def occlusion(
    network: Scores, images: Tensor, column: Tensor, *, window: int = 0, stride: int = 0, value: float = 0.0
) -> Tensor:
    """What the score loses when a window of the image is grey, averaged over the windows at each pixel.

    A window of 0 is an eighth of the shorter side; a stride of 0 is half a window.
    """
    side = window or max(1, min(images.shape[2:]) // 8)
    step = stride or max(1, side // 2)
    ndim = images.ndim - 2
    found: Tensor = (
        _captum("occlusion")
        .Occlusion(network)
        .attribute(
            images,
            sliding_window_shapes=(images.shape[1], *[side] * ndim),
            strides=(images.shape[1], *[step] * ndim),
            baselines=value,
            target=column,
        )
    )
    return found


def lrp(
    network: Scores, images: Tensor, column: Tensor, *, composite: str = "epsilon_plus", epsilon: float = 1e-6
) -> Tensor:
    """Layer-wise relevance propagation by zennit, batch norms merged into the layer before.

    ``composite`` is ``"epsilon"``, for the epsilon rule everywhere, or a name in zennit's COMPOSITES.
    """
    composites = package("zennit.composites", "lrp")
    merge = package("zennit.canonizers", "lrp").SequentialMergeBatchNorm()
    rules = _composite(composites, composite, epsilon, merge)
    with rules.context(copy.deepcopy(network)) as prepared:  # zennit writes into batch norms
        scores = prepared(images)
        chosen = torch.zeros_like(scores).scatter(1, column[:, None], 1)
        (found,) = torch.autograd.grad(scores, images, chosen * scores.detach())
    return found


def _composite(composites: Any, name: str, epsilon: float, merge: Any) -> Any:
    if name == "epsilon":
        types = package("zennit.types", "lrp")
        rule = package("zennit.rules", "lrp").Epsilon(epsilon=epsilon)
        layers = [*composites.layer_map_base(), (types.Convolution, rule), (nn.Linear, rule)]
        return composites.LayerMapComposite(layer_map=layers, canonizers=[merge])
    if name not in composites.COMPOSITES:
        there = ", ".join(["epsilon", *sorted(composites.COMPOSITES)])
        raise InputError(f"composite={name!r} is unknown: use one of {there}")
    return composites.COMPOSITES[name](epsilon=epsilon, canonizers=[merge])


_METHODS: dict[str, Method] = {
    function.__name__: function
    for function in (
        saliency,
        gradient_x_input,
        integrated_gradients,
        smoothgrad,
        guided_backprop,
        guided_gradcam,
        deeplift,
        occlusion,
        lrp,
    )
}


def input_methods() -> dict[str, str]:
    """Name every input-level method with what it does, whether or not its package is installed.

    Example:
        >>> from hirescam.adapters import input_methods
        >>> input_methods()["gradient_x_input"]
        "Gradient times input: HiResCAM's formula at the input."
    """
    return {name: (inspect.getdoc(function) or "").split("\n")[0] for name, function in _METHODS.items()}


def explain_input(
    model: nn.Module,
    images: Tensor,
    method: str = "integrated_gradients",
    *,
    target: Target = None,
    output: OutputSelector = None,
    summed: bool = True,
    **options: Any,
) -> InputAttribution:
    """Explain the pixels of a batch of images by a method of captum or zennit.

    The package works on a copy of the modules that shares the weights, so nothing is left on the model.

    Args:
        model: any ``torch.nn.Module`` in evaluation mode.
        images: float tensor ``(b, c, *space)``, preprocessed.
        method: see `input_methods`; captum and zennit are in the extra ``adapters``.
        target: what to explain, as for `hirescam.explain`.
        output: how to find the logits in what the model returns.
        summed: sum over the input's channels.
        options: of the method.

    Raises:
        HirescamError: an argument cannot be used, the package is missing, or it fails on this model.
    """
    function = _method(method, options)
    network = unwrap(model)
    check_model(network)
    given = as_call(images).images.detach()
    with session(grad=False):
        logits = logits_of(network(given), output, len(given))
        check_finite(logits)
        bound = bind(target, logits)
        score, baseline = bound.score(logits), bound.score(_logits(network, torch.zeros_like(given), output))
    if is_indexed(target):
        scores, columns = Scores(twin(network), output, len(given)), bound.index
    else:
        scores = Scores(twin(network), output, len(given), bound.score)
        columns = torch.arange(score.numel(), device=given.device).reshape(score.shape)
    each = [_run(method, function, scores, given, column, options) for column in columns.unbind(1)]
    values = torch.stack(each, dim=1)
    return InputAttribution(
        values=values.sum(2) if summed else values,
        score=score,
        baseline_score=baseline,
        target=bound.index,
        logits=logits,
        method=method,
        summed=summed,
        model=type(network).__name__,
    )


def _logits(network: nn.Module, images: Tensor, output: OutputSelector) -> Tensor:
    return logits_of(network(images), output, len(images))


def _method(name: str, options: dict[str, Any]) -> Method:
    if name not in _METHODS:
        raise InputError(f"method={name!r} is unknown: use one of {', '.join(_METHODS)}")
    there = list(inspect.signature(_METHODS[name]).parameters)[3:]
    unknown = [option for option in options if option not in there]
    if unknown:
        raise InputError(
            f"method={name!r} has no option {unknown[0]!r}: its options are {', '.join(there) or 'none'}"
        )
    return _METHODS[name]


def _run(
    name: str, function: Method, network: Scores, images: Tensor, column: Tensor, options: dict[str, Any]
) -> Tensor:
    try:
        with session(grad=True), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about hooks that are theirs, on a copy that is ours
            return function(network, images.clone().requires_grad_(), column, **options).detach()
    except (InputError, LayerError, ModelError):
        raise
    except _FAILURES as error:
        raise ModelError(
            f"method={name!r} fails on this model: {str(error).strip() or type(error).__name__}. Other "
            f"methods are {', '.join(other for other in _METHODS if other != name)}"
        ) from error


def _captum(method: str) -> Any:
    return package("captum.attr", method)


def _check_guided(network: Scores, method: str) -> None:
    if not any(isinstance(module, nn.ReLU) for module in network.modules()):
        raise ModelError(
            f"method={method!r} changes ReLU modules and this model has none (a function such as F.relu is "
            "not seen), so it would be the plain gradient: use 'saliency'"
        )
