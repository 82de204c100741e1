"""Cut one forward pass in two at a layer: no graph before it, tape and list of calls after it."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn import functional as F

from hirescam.errors import LayerError
from hirescam.passes import taps
from hirescam.passes.borrow import Call, eager, session
from hirescam.passes.head import Head
from hirescam.passes.held import normalisation
from hirescam.passes.layout import Layout
from hirescam.passes.outputs import OutputSelector, logits_of
from hirescam.passes.provenance import exchanged, tensors_in
from hirescam.passes.state import State, tensors_inside
from hirescam.passes.taps import Place, Tap
from hirescam.passes.targets import Target
from hirescam.passes.watch import Watch

Function = Callable[..., Any]


@dataclass(frozen=True)
class Site:
    """One layer of one model, and how to read what the model returns.

    Attributes:
        model: the eager model.
        place: where the layer is in a forward pass.
        output: how to find the logits in the model's output.
        progress: told (done, total) while many passes run.
        state: what the model consists of, where that is known already.
        layout: how to read the layer's output for images of this size; None is not known.
        geometry: how that is known.
    """

    model: nn.Module
    place: Place
    output: OutputSelector = None
    progress: Callable[[int, int], None] | None = None
    state: State | None = None
    layout: Layout | None = None
    geometry: str = ""

    @property
    def tap(self) -> Tap:
        """The layer."""
        return self.place.tap

    def logits(self, output: Any, call: Call) -> Tensor:
        """Find the logits in what the model returned for a call."""
        return logits_of(output, self.output, call.images.shape[0])

    def watch(self, call: Call, target: Target) -> Watch:
        """What follows a pass: the model's own tensors, the other inputs and the target's are constants."""
        return watch_of(self.state or State(self.model), call, self.output, target)


def watch_of(state: State, call: Call, output: OutputSelector, target: Target) -> Watch:
    """A watch on a pass of a model, with all that was there before it: nothing else is a constant."""
    functions = [one for one in (output, target) if callable(one)]
    return Watch(state, [*call.others(), *tensors_inside(functions)])


class Cut:
    """Watches one forward pass for the layer and takes over from there.

    Args:
        site: the layer.
        call: the inputs.
        target: what is explained.
        hold: treat the divisors of normalisers as constants.
        differentiable: keep the graph through the whole model.
    """

    def __init__(self, site: Site, call: Call, target: Target, *, hold: bool, differentiable: bool) -> None:
        self.watch = site.watch(call, target)
        self._site, self._call, self._hold, self._differentiable = site, call, hold, differentiable
        self._leaf: Tensor | None = None
        self._entry: tuple[Node, int] | None = None
        self._head: Head | None = None
        self.divisors: list[Function] = []

    @contextmanager
    def active(self) -> Iterator[None]:
        """Watch while the block runs the model."""
        if self._site.place.all:
            self.watch.follow(self._call.own)
        watcher = taps.Watcher(
            self._site.model, self._site.place, self._take, self._function, self.watch.operation
        )
        with watcher.active():
            yield

    @property
    def leaf(self) -> Tensor:
        """The layer's output, where gradients are taken."""
        assert self._leaf is not None
        return self._leaf

    @property
    def entry(self) -> tuple[Node, int]:
        """Where the copy of the leaf that the model went on with stands in the graph: its node and output."""
        assert self._entry is not None
        return self._entry

    @property
    def head(self) -> Head:
        """The calls after the layer."""
        assert self._head is not None
        return self._head

    def finish(self, logits: Tensor) -> None:
        """Say what came out; that the layer was not met is told at the end of the block."""
        if self._head is not None:
            self._head.finish(logits)

    def _function(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = taps.function_name(func)
        if self._head is None:
            return self.watch.function(name, func, args, kwargs)
        if self.watch.sets_grad_mode(name, args):
            return None
        args, kwargs = self.watch.plain(args, kwargs)
        if self._hold and (normaliser := normalisation(name, args, kwargs)):
            with self.watch.holding():
                func = normaliser.hold()
            self.divisors.append(func)
            name, args, kwargs = f"held_{name}", (normaliser.input,), {}
        elif func is F.batch_norm:
            func = _batch_norm
        return self._head.call(name, func, args, kwargs)

    def _take(self, output: Any) -> Any:
        tensor = _only_float(self._site.tap, output)
        leaf = self._leaf_from(tensor)
        with torch.inference_mode(False), torch.enable_grad():
            fed = leaf.clone()
        assert fed.grad_fn is not None
        self._leaf, self._entry, self._head = leaf, (fed.grad_fn, fed.output_nr), Head(self.watch, fed)
        self.watch.follow(fed)
        torch._C._set_grad_enabled(True)
        return exchanged(output, tensor, fed)

    def _leaf_from(self, tensor: Tensor) -> Tensor:
        with torch.inference_mode(False):
            if self._differentiable:
                # a copy, because hooks of the model's on the tensor itself would change its gradient
                return tensor.clone() if tensor.requires_grad else tensor.detach().requires_grad_()
            plain = tensor.clone() if tensor.is_inference() else tensor.detach()
            return plain.requires_grad_()


def run_from(site: Site, call: Call, activations: Tensor, divisors: list[Function] | None = None) -> Tensor:
    """Logits of the whole model with the layer's output replaced (in the layer's own shape).

    Args:
        site: the layer.
        call: the inputs.
        activations: what the model goes on with.
        divisors: the held normalisers of another pass, in the order in which they were met.

    Raises:
        LayerError: the layer was not met, or other normalisers were.
    """
    waiting = list(divisors or [])

    def exchange(output: Any) -> Any:
        tensor = _only_float(site.tap, output)
        return exchanged(output, tensor, activations.clone())

    def on_function(func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        normaliser = normalisation(taps.function_name(func), args, kwargs)
        if normaliser is None:
            return func(*args, **kwargs)
        if not waiting:
            raise LayerError(f"layer={site.tap.name!r} is followed by other normalisers than before")
        return waiting.pop(0)(normaliser.input)

    place = dataclasses.replace(site.place, all=False)
    watcher = taps.Watcher(site.model, place, exchange, on_function if waiting else None)
    with session(grad=False), eager(site.model), watcher.active():
        logits = site.logits(call.run(site.model), call)
    return logits


def look(site: Site, call: Call, *, inference: bool = True) -> tuple[Tensor, Tensor]:
    """Run the model as it is and copy the layer's output on the way.

    Args:
        site: the layer.
        call: the inputs.
        inference: run under ``inference_mode``; an exporter that is tracing must not.

    Returns:
        The layer's output in its own shape, and the logits.
    """
    found: list[Tensor] = []
    watcher = taps.Watcher(
        site.model, site.place, lambda output: found.append(_only_float(site.tap, output).clone())
    )
    with torch.inference_mode(inference), eager(site.model):
        with watcher.active():
            output = call.run(site.model)
        logits = site.logits(output, call)
    return found[0], logits.clone()


def output_at(site: Site, call: Call, images: Tensor) -> Tensor:
    """Run the model on other images ``(n, c, *space)`` and return the layer's output ``(n, k, *space)``."""
    assert site.layout is not None
    with session(grad=False):
        if call.key is None:
            return site.layout.read(look(site, call.replace(images), inference=False)[0])
        batch = call.images.shape[0]
        rows = [image.expand(batch, *image.shape) for image in images]
        outputs = [look(site, call.replace(row), inference=False)[0] for row in rows]
        return torch.cat([site.layout.read(output)[:1] for output in outputs])


def _only_float(tap: Tap, output: Any) -> Tensor:
    found = tensors_in(output)[:1]
    if not found or not found[0].is_floating_point():
        raise LayerError(
            f"layer={tap.name!r} returned {type(output).__name__} without a float tensor: choose a layer "
            "whose output is one"
        )
    return found[0]


def _batch_norm(  # noqa: PLR0913 - the signature of its namesake
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch normalisation in evaluation mode as scale and shift, for single images on a CPU.

    There PyTorch 2.14 gives a wrong gradient when the gradient arrives with its channels last.
    """
    single = len(input) == 1 and input.device.type == "cpu"
    if (
        training
        or not single
        or running_mean is None
        or running_var is None
        or input.dtype != running_var.dtype
    ):
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    shape = (1, -1, *[1] * (input.ndim - 2))
    scale = (running_var + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -running_mean * scale
    shift = shift if bias is None else shift + bias
    return input * scale.view(shape) + shift.view(shape)
