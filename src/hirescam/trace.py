"""One forward pass -> a frozen Trace: activations, gradients, scores, and a way to re-score.

The backbone runs without a graph. At the tap its output becomes a leaf, and from there on every call is
on the autograd tape and in the list of calls (`hirescam.head.Head`), so that a gradient needs the head
alone and so does scoring other activations.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hirescam import taps, targets
from hirescam.borrow import Call, eager, session
from hirescam.errors import LayerError
from hirescam.graph import without_inference
from hirescam.head import Head, batched, chunks, tensors_in
from hirescam.layout import Layout, infer
from hirescam.normalisers import HELD
from hirescam.taps import Tap
from hirescam.targets import OutputSelector, Target

_RESCORE_BYTES = 64 * 2**20
_GRADIENT_BYTES = 512 * 2**20
_IMAGES_TOGETHER = 16


@dataclass(frozen=True, eq=False)
class Trace:
    """What a rule may know: one layer of one forward pass.

    Attributes:
        activations: ``(b, k, *space)``, in float32 or float64.
        gradients: ``(b, t, k, *space)``, of each score with respect to the activations.
        score: ``(b, t)``.
        index: ``(b, t)`` class indices, -1 where a score is not a class's.
        logits: ``(b, c)`` or ``(b, c, *output space)``.
        layout: where channels and locations are in the layer's own output.
        output: the layer's own output, in its own shape.
        rescore: maps other activations ``(n, b, k, *space)`` to scores ``(n, b, t)``; runs only the head
            where `head_replayed`.
        head_replayed: whether ``rescore`` runs the head alone; otherwise it runs the whole network.
        held: whether the divisors of normalisers were held.
        images: ``(b, c, *image space)``, what went in.
        score_images: maps other images ``(n, b, c, *image space)`` to scores ``(n, b, t)`` by running the
            whole network without a graph.
        retrace: maps other images ``(b, c, *image space)`` to their trace, for the same scores.
        curvature: maps directions ``(b, t, k, *space)`` to the Hessian of each score times its direction,
            in the same shape (zeros where the head is affine).
    """

    activations: Tensor
    gradients: Tensor
    score: Tensor
    index: Tensor
    logits: Tensor
    layout: Layout
    output: Tensor
    rescore: Callable[[Tensor], Tensor]
    head_replayed: bool
    held: bool
    images: Tensor
    score_images: Callable[[Tensor], Tensor]
    retrace: Callable[[Tensor], "Trace"]
    curvature: Callable[[Tensor], Tensor]


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
        progress: told (done, total) while many passes run.
    """

    tap: Tap
    target: Target = None
    output: OutputSelector = None
    grid: tuple[int, ...] | None = None
    hold: bool = False
    differentiable: bool = False
    progress: Callable[[int, int], None] | None = None


@dataclass(frozen=True, eq=False)
class Pass:
    """A finished forward pass, from which traces of some of its scores can be taken.

    Its fields are what the pass was (``model``, ``call``, ``request``) and what it left: the layer's output
    as a ``leaf``, the list of calls after it, the target settled for this batch, and ``logits`` and
    ``score``, on the tape of the head.
    """

    model: nn.Module
    call: Call
    request: Request
    leaf: Tensor
    head: Head
    bound: targets.Bound
    layout: Layout
    logits: Tensor
    score: Tensor

    def trace(self, scores: slice = slice(None)) -> Trace:
        """Take the gradients of some scores, by a backward pass through the head alone."""
        return Trace(
            activations=self.activations,
            gradients=self._gradients(scores, 1.0),
            score=_widen(self.kept(self.score[:, scores])),
            index=self.bound.index[:, scores],
            logits=self.kept(self.logits),
            layout=self.layout,
            output=self.leaf.detach(),
            rescore=lambda activations: self._rescore(activations)[..., scores],
            head_replayed=self.head.replayable,
            held=self.request.hold,
            images=self.call.images.detach(),
            score_images=lambda images: self._score_images(images)[..., scores],
            retrace=lambda images: self._again(images).trace(scores),
            curvature=lambda directions: self._curvature(scores, directions),
        )

    @property
    def activations(self) -> Tensor:
        """``(b, k, *space)``."""
        return _widen(self.kept(self.layout.read(self.leaf)))

    def kept(self, tensor: Tensor) -> Tensor:
        """Off the tape, unless the maps are to be differentiated."""
        return tensor if self.request.differentiable else tensor.detach()

    def connected(self) -> Tensor:
        """Which locations the scores are connected to at all, whatever the weights: ``(*space)``, bool.

        NaN sent backwards reaches every location that is not cut off; a weight of zero does not stop it.
        """
        gradients = self._gradients(slice(0, 1), float("nan"))
        return (gradients.isnan() | (gradients != 0)).flatten(0, 2).any(0)

    def chunks(self, most_bytes: int = _GRADIENT_BYTES) -> Iterator[slice]:
        """Cut the scores so that the gradients of one part stay under a memory bound."""
        return chunks(self.score.shape[1], most_bytes // max(1, self.leaf.nbytes))

    def _gradients(self, scores: slice, seed: float) -> Tensor:
        with session(grad=True):
            found = _gradients(self.score[:, scores] * seed, self.leaf, self.request)
            return _canonical(found, self.layout)

    def _curvature(self, scores: slice, directions: Tensor) -> Tensor:
        with session(grad=True):
            return _curvature(self.score[:, scores], self.leaf, directions, self.layout)

    def _rescore(self, activations: Tensor) -> Tensor:
        with session(grad=False):
            many = self.layout.write(activations.flatten(0, 1), tuple(self.leaf.shape))
            many = many.unflatten(0, activations.shape[:2]).to(self.leaf.dtype)
            if not self.head.replayable:
                return _widen(torch.stack([self._rerun(item) for item in many]))
            parts = []
            for part in chunks(len(many), _RESCORE_BYTES // max(1, self.leaf.nbytes)):
                parts.append(batched(self._replay, many[part]))
                _report(self.request, part.stop, len(many))
            return _widen(torch.cat(parts))

    def _replay(self, activations: Tensor) -> Tensor:
        return self.bound.score(self.head.run(activations))

    def _rerun(self, activations: Tensor) -> Tensor:
        output = run_from(self.model, self.call, self.request, activations)
        return self.bound.score(self._logits_of(output))

    def _score_images(self, images: Tensor) -> Tensor:
        with session(grad=False):
            parts = _many_images(self.model, self.call, self.request, images)
            return _widen(torch.stack([self.bound.score(logits) for logits in parts]))

    def _again(self, images: Tensor) -> "Pass":
        indexed = targets.is_indexed(self.request.target)
        same = self.bound.index if indexed else self.request.target
        return forward(self.model, self.call.replace(images), replace(self.request, target=same))

    def _logits_of(self, output: Any) -> Tensor:
        return targets.logits_of(output, self.request.output, self.call.images.shape[0])


def trace(model: nn.Module, call: Call, request: Request) -> Trace:
    """Run the model once and take the layer's activations and the gradients of every score."""
    return forward(model, call, request).trace()


def forward(model: nn.Module, call: Call, request: Request) -> Pass:
    """Run the model once, up to the layer without a graph and from there on the tape.

    Raises:
        LayerError: the layer was not called, was called several times, has no locations, or the score does
            not depend on it.
        TargetError: the target does not fit the output.
        ModelError: the model failed, or its output overflowed.
    """
    with session(grad=request.differentiable), eager(model):
        cut = _Cut(model, request)
        with cut.active():
            output = call.run(model)
            leaf, head = cut.result()
            logits = targets.logits_of(output, request.output, call.images.shape[0])
        head.finish(logits)
        targets.check_finite(logits)
        with torch.enable_grad():
            bound = targets.bind(request.target, logits)
            score = bound.score(logits)
        if not score.requires_grad:
            raise LayerError(_disconnected(request.tap))
    layout = _layout(leaf, call.images, request)
    return Pass(model, call, request, leaf, head, bound, layout, logits, score)


def _report(request: Request, done: int, total: int) -> None:
    if request.progress is not None and total > 1:
        request.progress(done, total)


def _many_images(model: nn.Module, call: Call, request: Request, images: Tensor) -> Iterator[Tensor]:
    """Logits of ``n`` batches of images, several batches in one pass where the images are all there is."""
    count, batch = images.shape[:2]
    together = max(1, _IMAGES_TOGETHER // batch) if call.key is None else 1
    for part in chunks(count, together):
        stacked = images[part].flatten(0, 1)
        logits = targets.logits_of(call.replace(stacked).run(model), request.output, len(stacked))
        _report(request, part.stop, count)
        yield from logits.unflatten(0, (-1, batch))


def _curvature(score: Tensor, leaf: Tensor, directions: Tensor, layout: Layout) -> Tensor:
    """Hessian times direction for each score: the gradient of ⟨gradient, direction⟩."""
    rows = []
    for t in range(score.shape[1]):
        (gradient,) = torch.autograd.grad(score[:, t].sum(), leaf, create_graph=True)
        along = (layout.read(gradient) * directions[:, t].to(gradient.dtype)).sum()
        rows.append(_gradient_or_zero(along, leaf))
    return _canonical(torch.stack(rows), layout)


def _gradient_or_zero(scalar: Tensor, leaf: Tensor) -> Tensor:
    """Zero where the scalar is a constant, as the gradient of an affine head is."""
    if not scalar.requires_grad:
        return torch.zeros_like(leaf)
    found: Tensor | None = torch.autograd.grad(scalar, leaf, retain_graph=True, allow_unused=True)[0]
    return torch.zeros_like(leaf) if found is None else found.detach()


def run_from(model: nn.Module, call: Call, request: Request, activations: Tensor) -> Any:
    """Run the whole model with the layer's output replaced (in the layer's own shape)."""
    with session(grad=False), eager(model):
        cut = _Cut(model, request, replacement=activations)
        with cut.active():
            output = call.run(model)
        cut.result()
        return output


def output_at(model: nn.Module, call: Call, request: Request, images: Tensor) -> Tensor:
    """Run the model on other images and return the layer's own output."""
    with session(grad=False):
        if call.key is None:
            return _output_at(model, call.replace(images), request)
        batch = call.images.shape[0]
        rows = [image.expand(batch, *image.shape) for image in images]
        return torch.cat([_output_at(model, call.replace(row), request)[:1] for row in rows])


def _output_at(model: nn.Module, call: Call, request: Request) -> Tensor:
    cut = _Cut(model, request)
    with cut.active():
        call.run(model)
    return cut.result()[0].detach()


def _widen(tensor: Tensor) -> Tensor:
    """Half precision carries activations, not sums."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _layout(leaf: Tensor, images: Tensor, request: Request) -> Layout:
    layout = infer(tuple(leaf.shape), tuple(images.shape[2:]), grid=request.grid)
    if layout is None or leaf.shape[0] != images.shape[0]:
        raise LayerError(
            f"layer={request.tap.name!r} gives shape {tuple(leaf.shape)} for images of shape "
            f"{tuple(images.shape)}, in which no grid of locations can be found: say how its "
            "positions are arranged with Explainer(model, grid=(rows, columns)), or choose another layer"
        )
    return layout


def _gradients(score: Tensor, leaf: Tensor, request: Request) -> Tensor:
    """Gradients ``(t, b, ...)`` of every score, in one backward pass through the head where possible."""
    count = score.shape[1]
    chosen = torch.eye(count, dtype=score.dtype, device=score.device)
    chosen = chosen[:, None, :].expand(count, *score.shape)

    def grad(outputs: Tensor, vectorised: bool) -> Tensor:
        (found,) = torch.autograd.grad(
            score,
            leaf,
            outputs,
            retain_graph=True,
            create_graph=request.differentiable,
            allow_unused=True,
            is_grads_batched=vectorised,
        )
        if found is None:
            raise LayerError(_disconnected(request.tap))
        return found

    if count == 1:
        return grad(chosen[0], False).unsqueeze(0)
    try:
        return grad(chosen, True)
    except RuntimeError:
        return torch.stack([grad(outputs, False) for outputs in chosen])


def _disconnected(tap: Tap) -> str:
    return (
        f"the score does not depend on layer={tap.name!r} in a way that autograd can follow: its output "
        "is not used, is detached, or goes through an op without a gradient (quantised layers, "
        "inference_mode inside forward); choose another layer, see hirescam.layers(model, images)"
    )


def _canonical(gradients: Tensor, layout: Layout) -> Tensor:
    """From ``(t, b, ...)`` in the layer's own shape to ``(b, t, k, *space)``."""
    count, batch = gradients.shape[:2]
    read: Tensor = layout.read(_widen(gradients).flatten(0, 1)).unflatten(0, (count, batch))
    return read.transpose(0, 1)


class _Cut:
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
        tap = self._request.tap
        module = [] if tap.function else [(tap.module, self._model.get_submodule(tap.module))]
        with taps.module_outputs(module, self._on_output), self._calls as calls:
            if tap.function:
                calls.start()
            yield

    def result(self) -> tuple[Tensor, Head]:
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
        seen = self._counts.module(path)
        return self._take(output) if self._matches(seen) else None

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
            return self._take(result) if self._matches(seen) else result
        return result

    def _matches(self, seen: Tap) -> bool:
        wanted = self._request.tap
        number = wanted.number or 1
        return (wanted.module, wanted.function, number) == (seen.module, seen.function, seen.number)

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
