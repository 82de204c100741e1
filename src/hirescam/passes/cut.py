"""Cut one forward pass in two at a layer: no graph before it, tape and list of calls after it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hirescam.errors import LayerError
from hirescam.passes import taps
from hirescam.passes.borrow import Call, eager, session
from hirescam.passes.head import Head, tensors_in, without_inference
from hirescam.passes.held import HELD
from hirescam.passes.taps import Anchor, Tap
from hirescam.passes.targets import OutputSelector, Target, logits_of


@dataclass(frozen=True)
class Request:
    """Which layer and which score a trace is about.

    Attributes:
        tap: the layer.
        target: what is explained.
        output: how to find the logits in the model's output.
        grid: how locations are arranged, where that cannot be seen from the shape.
        hold: treat the divisors of normalisers as constants.
        differentiable: keep the graph through the whole network, for maps in a loss.
        anchor: where to begin to look for the layer, if it is a call; None looks from the start.
        progress: told (done, total) while many passes run.
    """

    tap: Tap
    target: Target = None
    output: OutputSelector = None
    grid: tuple[int, ...] | None = None
    hold: bool = False
    differentiable: bool = False
    anchor: Anchor | None = None
    progress: Callable[[int, int], None] | None = None

    @property
    def watched(self) -> str | None:
        """Path of the module whose outputs have to be seen; None where there is none."""
        if self.tap.function is None:
            return self.tap.module
        return self.anchor.module if self.anchor else None

    def begins(self, seen: Tap) -> bool:
        """Whether the call that is the layer comes after this module output."""
        at = self.anchor
        return at is not None and (at.module, at.number) == (seen.module, seen.number)


class Cut:
    """Watches one forward pass for the tap and takes over from there."""

    def __init__(self, model: nn.Module, request: Request, replacement: Tensor | None = None) -> None:
        self._model = model
        self._request = request
        self._replacement = replacement
        self._counts = taps.Counts(model)
        self._calls = taps.Calls(self._on_call)
        self._leaf: Tensor | None = None
        self._head: Head | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Watch while the block runs the model."""
        watched = _watched(self._model, self._request)
        with taps.module_outputs(watched, self._on_output), self._calls as calls:
            if not watched:
                calls.start()
            yield

    def result(self) -> tuple[Tensor, Head]:
        """The layer's output as a leaf, and the calls after it.

        Raises:
            LayerError: the layer was not met, or met several times without saying which.
        """
        tap = self._request.tap
        calls = self._counts.of(tap)
        if self._leaf is None or self._head is None:
            raise LayerError(
                f"layer={tap.name!r} was not called in this forward pass"
                + (f" that often (calls: {calls})" if calls else "")
                + ": choose one that is, see hirescam.layers(model, images)"
            )
        if tap.number is None and calls > 1:
            raise LayerError(
                f"layer={tap.name!r} is called {calls} times in one forward pass: say which call, "
                f"{tap.name + '#1'!r} to {f'{tap.name}#{calls}'!r}"
            )
        return self._leaf, self._head

    def _on_output(self, path: str, output: Any) -> Any:
        seen, request = self._counts.module(path), self._request
        if request.tap.function is None:
            return self._take(output) if _is(request.tap, seen) else None
        if request.anchor is not None and request.begins(seen):
            self._counts.start(request.tap, request.anchor.before)
            self._calls.start()
        return None

    def _on_call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = taps.function_name(func)
        if self._head is None:
            result = func(*args, **kwargs)
        elif name == "_set_grad_enabled":
            return None
        else:
            args, kwargs = without_inference(args, kwargs)
            if self._request.hold and name in HELD:
                with torch.no_grad():
                    func = HELD[name](*args, **kwargs)
                args, kwargs = (args[0] if args else kwargs["input"],), {}
            result = self._head.call(name, func, args, kwargs)
        if taps.tap_name(name) == self._request.tap.function:
            seen = self._counts.function(func)
            return self._take(result) if _is(self._request.tap, seen) else result
        return result

    def _take(self, output: Any) -> Any:
        found = tensors_in(output)[:1]
        if not found or not found[0].is_floating_point():
            raise LayerError(
                f"layer={self._request.tap.name!r} returned {type(output).__name__} without a float "
                "tensor: choose a layer whose output is one"
            )
        leaf = self._leaf_from(found[0])
        with torch.inference_mode(False), torch.enable_grad():
            fed = leaf.clone()
        self._leaf, self._head = leaf, Head(fed)
        self._calls.start()
        if self._replacement is None:
            torch._C._set_grad_enabled(True)
        return pytree.tree_map(lambda item: fed if item is found[0] else item, output)

    def _leaf_from(self, tensor: Tensor) -> Tensor:
        with torch.inference_mode(False):
            if self._replacement is not None:
                return self._replacement
            if self._request.differentiable:
                return tensor if tensor.requires_grad else tensor.detach().requires_grad_()
            plain = tensor.clone() if tensor.is_inference() else tensor.detach()
            return plain.requires_grad_()


def run_from(model: nn.Module, call: Call, request: Request, activations: Tensor) -> Any:
    """Run the whole model with the layer's output replaced (in the layer's own shape)."""
    with session(grad=False), eager(model):
        cut = Cut(model, request, replacement=activations)
        with cut.active():
            output = call.run(model)
        cut.result()
        return output


def look(model: nn.Module, call: Call, request: Request, *, inference: bool = True) -> tuple[Tensor, Tensor]:
    """Run the model as it is and copy the layer's output on the way.

    Args:
        model: the eager network.
        call: its inputs.
        request: names the layer.
        inference: run under ``inference_mode``; an exporter that is tracing must not.

    Returns:
        The layer's output in its own shape, and the logits.
    """
    tap, counts, found = request.tap, taps.Counts(model), list[Tensor]()

    def note(seen: Tap, output: Any) -> None:
        if _is(tap, seen):
            found.extend(tensor.clone() for tensor in tensors_in(output)[:1])

    def on_call(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        if taps.tap_name(taps.function_name(func)) == tap.function:
            note(counts.function(func), result)
        return result

    watched = _watched(model, request)
    with torch.inference_mode(inference), eager(model), taps.Calls(on_call) as calls:

        def on_output(path: str, output: Any) -> None:
            seen = counts.module(path)
            if tap.function is None:
                note(seen, output)
            elif request.anchor is not None and request.begins(seen):
                counts.start(tap, request.anchor.before)
                calls.start()

        if not watched:
            calls.start()
        with taps.module_outputs(watched, on_output):
            output = call.run(model)
        logits = logits_of(output, request.output, call.images.shape[0])
    if not found:
        raise LayerError(f"layer={tap.name!r} was not called in this forward pass")
    return found[0], logits.clone()


def _watched(model: nn.Module, request: Request) -> list[tuple[str, nn.Module]]:
    path = request.watched
    return [] if path is None else [(path, model.get_submodule(path))]


def _is(wanted: Tap, seen: Tap) -> bool:
    """Whether a numbered sighting is the wanted tap; without a number the first call is meant."""
    number = wanted.number or 1
    return (wanted.module, wanted.function, number) == (seen.module, seen.function, seen.number)


def output_at(model: nn.Module, call: Call, request: Request, images: Tensor) -> Tensor:
    """Run the model on other images and return the layer's own output."""
    with session(grad=False):
        if call.key is None:
            return _output_at(model, call.replace(images), request)
        batch = call.images.shape[0]
        rows = [image.expand(batch, *image.shape) for image in images]
        return torch.cat([_output_at(model, call.replace(row), request)[:1] for row in rows])


def _output_at(model: nn.Module, call: Call, request: Request) -> Tensor:
    cut = Cut(model, request)
    with cut.active():
        call.run(model)
    return cut.result()[0].detach()
