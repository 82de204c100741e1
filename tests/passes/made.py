"""One forward pass of a small model, put together by hand."""

import torch
from torch import Tensor, nn

from hirescam.passes.borrow import Call, as_call
from hirescam.passes.cut import Site
from hirescam.passes.taps import Place, parse
from hirescam.passes.targets import Target
from hirescam.passes.trace import Pass, Wish, forward


def site(model: nn.Module, layer: str = "features", **fields: object) -> Site:
    return Site(model, Place(parse(layer)), **fields)


def call(images: object) -> Call:
    return as_call(images)


def run(
    model: nn.Module, images: object, layer: str = "features", target: Target = None, **wish: bool
) -> Pass:
    return forward(site(model, layer), call(images), Wish(target, **wish))


def close(one: Tensor, other: Tensor) -> None:
    """Equal but for rounding in float64."""
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
