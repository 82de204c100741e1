"""One forward pass of a small model, put together by hand."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from hirescam.passes.borrow import Call, as_call
from hirescam.passes.cut import Site, look
from hirescam.passes.layout import simple
from hirescam.passes.taps import Place, parse
from hirescam.passes.targets import Target
from hirescam.passes.trace import Pass, Wish, forward


def site(model: nn.Module, layer: str = "features", **fields: object) -> Site:
    return Site(model, Place(parse(layer)), **fields)


def laid_out(site: Site, call: Call) -> Site:
    """The same layer, whose output has the batch first and the channels second."""
    output, _ = look(site, call, inference=False)
    return replace(site, layout=simple(tuple(output.shape), 1), geometry="operations")


def call(images: object) -> Call:
    return as_call(images)


def run(
    model: nn.Module, images: object, layer: str = "features", target: Target = None, **wish: bool
) -> Pass:
    given = call(images)
    return forward(laid_out(site(model, layer), given), given, Wish(target, **wish))


def close(one: Tensor, other: Tensor) -> None:
    """Equal but for rounding in float64."""
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
