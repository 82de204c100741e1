"""The friendly verbs, each one call: explain, certify, layers."""

from torch import nn

from hirescam.explainer import Explainer, LayerName
from hirescam.explanation import Explanation
from hirescam.passes.borrow import Inputs
from hirescam.passes.outputs import OutputSelector
from hirescam.passes.targets import Target
from hirescam.proof.certificate import Certificate
from hirescam.proof.selection import Layer
from hirescam.rulebook import Rule


def explain(  # noqa: PLR0913 - the constructor's and the call's arguments, in one place
    model: nn.Module,
    images: Inputs,
    *,
    target: Target = None,
    layer: LayerName = None,
    rule: str | Rule = "hirescam",
    output: OutputSelector = None,
    grid: tuple[int, ...] | None = None,
    axes: str | None = None,
    input: int | str | None = None,
    differentiable: bool = False,
    audit: float = 0.0,
) -> Explanation:
    """Explain a batch of images with one call; keep an `Explainer` for more than one.

    Args:
        model: any ``torch.nn.Module`` in evaluation mode.
        images: float tensor ``(b, c, *space)``, preprocessed.
        target: what to explain; None is the predicted class of each image.
        layer: name or module; None chooses the strongest guarantee.
        rule: name of a rule.
        output: how to find the logits in what the model returns.
        grid: how locations lie on the image, where operations do not show it.
        axes: what the axes of the images are, such as ``"bhwc"``, see `Explainer`.
        input: which of several inputs is explained.
        differentiable: keep the graph, so that the maps can stand in a loss.
        audit: check this share of the pictures in the real model, see `Explainer`.

    Example:
        >>> import torch, hirescam
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        ...                       nn.Linear(4, 2)).eval()
        >>> result = hirescam.explain(model, torch.rand(1, 1, 16), target=1)
        >>> bool((result.raw.sum(-1) + result.offset - result.logits[:, 1:]).abs().max() < 1e-6)
        True
    """
    explainer = Explainer(model, layer=layer, output=output, grid=grid, axes=axes, input=input, audit=audit)
    return explainer(images, target=target, rule=rule, differentiable=differentiable)


def certify(  # noqa: PLR0913 - the same
    model: nn.Module,
    images: Inputs,
    layer: LayerName = None,
    *,
    target: Target = None,
    output: OutputSelector = None,
    grid: tuple[int, ...] | None = None,
    axes: str | None = None,
    input: int | str | None = None,
) -> Certificate:
    """Say what is guaranteed about HiResCAM at one layer of a model.

    Args:
        model: any ``torch.nn.Module`` in evaluation mode.
        images: a few typical images ``(b, c, *space)``; the graph is read from a pass over them.
        layer: name or module; None certifies the layer that would be chosen.
        target: what is explained; matters only for functions and regions.
        output: how to find the logits in what the model returns.
        grid: how locations lie on the image, where operations do not show it.
        axes: what the axes of the images are, such as ``"bhwc"``, see `Explainer`.
        input: which of several inputs is explained.
    """
    return Explainer(model, layer=layer, output=output, grid=grid, axes=axes, input=input).certify(
        images, target=target
    )


def layers(
    model: nn.Module,
    images: Inputs,
    *,
    output: OutputSelector = None,
    grid: tuple[int, ...] | None = None,
    axes: str | None = None,
    input: int | str | None = None,
) -> list[Layer]:
    """List every place where the model can be explained, with its guarantee and the automatic choice."""
    return Explainer(model, output=output, grid=grid, axes=axes, input=input).layers(images)
