"""Train small networks on the spot, the same way each time, without a step of the global generator.

Plain gradient descent with momentum, not Adam. Softmax does not see a number that is added to all logits, and
plain descent leaves their sum as it was, since the gradients of the classes' weights add up to zero. Adam
rescales each of them by itself and lets all classes' weights drift down together: nothing changes in the
answers, but the maps of single logits then show the drift.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from hirescam.networks.weights import blank
from hirescam.passes.borrow import session

NetworkT = TypeVar("NetworkT", bound=nn.Module)
Loss = Callable[[Tensor, Tensor], Tensor]

RATE = 0.05

_BATCH = 64
_MOMENTUM = 0.9


def initialised(build: Callable[[], NetworkT], generator: torch.Generator) -> NetworkT:
    """Build a network whose weights are drawn from a generator (He et al. 2015) and whose biases are zero."""
    with session(grad=True):
        model = blank(build)
        for name, value in model.named_parameters():
            if name.endswith("weight"):
                nn.init.kaiming_uniform_(value, nonlinearity="relu", generator=generator)
            else:
                nn.init.zeros_(value)
        return model


def fit(
    model: nn.Module,
    passes: Iterable[tuple[Tensor, Tensor]],
    generator: torch.Generator,
    *,
    rate: float = RATE,
    loss: Loss = nn.functional.cross_entropy,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Train a network in place and leave it in evaluation mode, without gradients.

    Args:
        model: the network.
        passes: images and labels of one pass after the other.
        generator: draws the order of the images.
        rate: of learning.
        loss: of outputs and labels.
        after_step: called before the first step and after each, to keep parameters as they must be.
    """
    optimiser = torch.optim.SGD(model.parameters(), lr=rate, momentum=_MOMENTUM, nesterov=True)
    with session(grad=True):
        model.train()
        after_step()
        for images, labels in passes:
            for batch in _batches(len(labels), generator):
                optimiser.zero_grad()
                torch.autograd.backward(loss(model(images[batch]), labels[batch]))
                optimiser.step()
                after_step()
        optimiser.zero_grad(set_to_none=True)
    model.eval()


def _batches(count: int, generator: torch.Generator) -> Iterator[Tensor]:
    order = torch.randperm(count, generator=generator)
    return (order[start : start + _BATCH] for start in range(0, count, _BATCH))
