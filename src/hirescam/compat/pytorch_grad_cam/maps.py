"""What pytorch-grad-cam does before it sums the channels, on hirescam's traces.

A script may pass a function that reshapes a layer's output, and may ask for the first principal component
of the channels' terms instead of their sum (``eigen_smooth``).
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from hirescam.errors import InputError
from hirescam.passes.layout import simple
from hirescam.passes.trace import Trace, widen
from hirescam.rulebook import get

Reshape = Callable[[Tensor], Tensor]
"""From a layer's own output to ``(b, k, *space)``, by choosing and ordering its values."""

Function = Callable[[Trace], Tensor]
"""What computes a map ``(b, t, *space)``, such as a rule."""

Terms = Callable[[Function, Trace], Tensor]
"""What splits a map into the terms ``(b, t, k, *space)`` that its function sums."""


def channels_apart(function: Function, trace: Trace) -> Tensor:
    """Terms of a function that treats every channel by itself: its maps of one channel each."""
    batch, channels = trace.activations.shape[:2]
    one = replace(
        trace,
        activations=trace.activations.flatten(0, 1).unsqueeze(1),
        gradients=trace.gradients.transpose(1, 2).flatten(0, 1).unsqueeze(2),
    )
    maps: Tensor = function(one).unflatten(0, (batch, channels))
    return maps.transpose(1, 2)


def weights_times(function: Function, trace: Trace) -> Tensor:
    """Terms of a function that sums the channels by weights that cost runs of the network.

    The weights are numbers, off the tape, so they are the map's derivative by the activations.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = trace.activations.detach().clone().requires_grad_()
        maps = function(replace(trace, activations=leaf, curvature=lambda d: trace.curvature(d.detach())))
        rows = [torch.autograd.grad(row.sum(), leaf, retain_graph=True)[0] for row in maps.unbind(1)]
        return torch.stack(rows, dim=1) * leaf.detach().unsqueeze(1)


def smoothed(function: Function, terms: Terms) -> Function:
    """Replace the sum of the terms by their first principal component."""
    component = get("eigen_gradcam").function

    def function_smoothed(trace: Trace) -> Tensor:
        products = terms(function, trace)
        return component(replace(trace, activations=torch.ones_like(trace.activations), gradients=products))

    return function_smoothed


def after(transform: Reshape, function: Function) -> Function:
    """Let a function see the layer's output as a transform shows it."""
    return lambda trace: function(reshaped(trace, transform))


def reshaped(trace: Trace, transform: Reshape) -> Trace:
    """The same trace with the layer's output as a transform shows it.

    Values that the transform leaves out, such as a class token's, stay as they are when others change.
    """

    def show(values: Tensor) -> Tensor:
        return widen(transform(trace.layout.write(values)))

    def shown(values: Tensor) -> Tensor:
        found: Tensor = show(values.flatten(0, 1)).unflatten(0, values.shape[:2])
        return found

    def curvature(directions: Tensor) -> Tensor:
        along = _placed(directions.transpose(0, 1), trace, transform).transpose(0, 1)
        return shown(trace.curvature(along))

    activations = show(trace.activations)
    return replace(
        trace,
        activations=activations,
        gradients=shown(trace.gradients),
        layout=simple(tuple(activations.shape), 1),
        output=activations,
        rescore=lambda many: trace.rescore(_placed(many, trace, transform)),
        retrace=lambda images: reshaped(trace.retrace(images), transform),
        curvature=curvature,
    )


def _placed(many: Tensor, trace: Trace, transform: Reshape) -> Tensor:
    """Put reshaped values ``(n, b, k, *s)`` back in place: ``(n, b, k, *space)`` as the trace has them."""
    output = trace.output
    cells = torch.arange(output.numel(), device=output.device).reshape(output.shape)
    try:
        places = transform(cells).flatten()
    except (RuntimeError, TypeError) as error:
        raise InputError(
            "reshape_transform must only choose and order values for this method, which changes them one "
            f"by one; on integers it failed: {error}"
        ) from error
    full = output.flatten().repeat(len(many), 1)
    full[:, places] = many.detach().flatten(1).to(full.dtype)
    return widen(trace.layout.read(full.reshape(len(many), *output.shape), leading=1))
