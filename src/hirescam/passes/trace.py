"""One forward pass -> a frozen Trace: activations, gradients, scores, and a way to re-score.

The backbone runs without a graph. At the tap its output becomes a leaf, and from there on every call is
on the autograd tape and in the list of calls (`hirescam.passes.head.Head`), so that a gradient needs the head
alone and so does scoring other activations.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hirescam.errors import HirescamError, LayerError
from hirescam.passes import targets
from hirescam.passes.borrow import Call, eager, session
from hirescam.passes.cut import Cut, Site, run_from
from hirescam.passes.head import batched, chunks
from hirescam.passes.layout import Layout
from hirescam.passes.outputs import check_finite, logits_of
from hirescam.passes.precision import precision_of
from hirescam.passes.taps import Tap
from hirescam.passes.targets import Target

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
        regrade: maps other activations ``(b, k, *space)`` to the gradients there ``(b, t, k, *space)``.
        head_replayed: whether ``rescore`` runs the head alone; otherwise it runs the whole network.
        held: whether the divisors of normalisers were held.
        precision: the dtype that rounds like the arithmetic of the head; its factors may be rounded more than
            its tensors are.
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
    regrade: Callable[[Tensor], Tensor]
    head_replayed: bool
    held: bool
    precision: torch.dtype
    images: Tensor
    score_images: Callable[[Tensor], Tensor]
    retrace: Callable[[Tensor], "Trace"]
    curvature: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Wish:
    """What is wanted of one pass.

    Attributes:
        target: what is explained.
        hold: treat the divisors of normalisers as constants.
        differentiable: keep the graph through the whole model, for maps in a loss.
    """

    target: Target = None
    hold: bool = False
    differentiable: bool = False


@dataclass(frozen=True, eq=False)
class Pass:
    """A finished forward pass, from which traces of some of its scores can be taken.

    Its fields are what the pass was (``site``, ``call``, ``wish``) and what it left: ``cut`` with the layer's
    output as a leaf and the list of calls after it, the target settled for this batch, ``logits`` and
    ``score``, on the tape of the head, and the ``precision`` of the head's arithmetic.
    """

    site: Site
    call: Call
    wish: Wish
    cut: Cut
    bound: targets.Bound
    layout: Layout
    logits: Tensor
    score: Tensor
    precision: torch.dtype

    def trace(self, scores: slice = slice(None)) -> Trace:
        """Take the gradients of some scores, by a backward pass through the head alone."""
        return Trace(
            activations=self.activations,
            gradients=self._gradients(scores, 1.0),
            score=widen(self.kept(self.score[:, scores])),
            index=self.bound.index[:, scores],
            logits=self.kept(self.logits),
            layout=self.layout,
            output=self.leaf.detach(),
            rescore=lambda activations: self._rescore(activations)[..., scores],
            regrade=lambda activations: self._regrade(scores, activations),
            head_replayed=self.cut.head.replayable,
            held=self.wish.hold,
            precision=self.precision,
            images=self.call.images.detach(),
            score_images=lambda images: self._score_images(images)[..., scores],
            retrace=lambda images: self._again(images).trace(scores),
            curvature=lambda directions: self._curvature(scores, directions),
        )

    @property
    def leaf(self) -> Tensor:
        """The layer's output, in its own shape, where gradients are taken."""
        return self.cut.leaf

    @property
    def activations(self) -> Tensor:
        """``(b, k, *space)``."""
        return widen(self.kept(self.layout.read(self.leaf)))

    def kept(self, tensor: Tensor) -> Tensor:
        """Off the tape, unless the maps are to be differentiated."""
        return tensor if self.wish.differentiable else tensor.detach()

    def connected(self, gradients: Tensor) -> Tensor:
        """Which locations the scores are connected to at all, whatever the weights: ``(*space)``, bool.

        Those that have a gradient are. Where some have none, NaN is sent backwards: it reaches every location
        that is not cut off, and a weight of zero does not stop it.

        Args:
            gradients: ``(b, t, k, *space)``, of this pass.
        """
        found = (gradients != 0).flatten(0, 2).any(0)
        if bool(found.all()):
            return found
        return found | self._gradients(slice(0, 1), float("nan")).isnan().flatten(0, 2).any(0)

    def answers(self, wish: Wish) -> bool:
        """Whether a wish differs from this pass's at most in a target that names classes."""
        kept = self.wish.differentiable or wish.differentiable  # a graph for the caller is made for it alone
        seen = wish.target is self.wish.target or not callable(
            wish.target
        )  # functions are watched as they run
        return not kept and self.wish.hold == wish.hold and seen

    def about(self, wish: Wish) -> "Pass":
        """The same forward pass, asked for the scores of another wish that it `answers`."""
        with session(grad=True):
            bound = targets.bind(wish.target, self.logits)
            return replace(self, wish=wish, bound=bound, score=bound.score(self.logits))

    def chunks(self, most_bytes: int = _GRADIENT_BYTES) -> Iterator[slice]:
        """Cut the scores so that the gradients of one part stay under a memory bound."""
        return chunks(self.score.shape[1], most_bytes // max(1, self.leaf.nbytes))

    def jacobian(self, classes: list[int]) -> Tensor:
        """``(m, k, *space)``: gradients of some logits of the first image, which an exact head shares."""
        with session(grad=True):
            picked = self.logits[:, classes]
            return _canonical(_gradients(picked, self), self.layout)[0]

    def _gradients(self, scores: slice, seed: float) -> Tensor:
        with session(grad=True):
            found = _gradients(self.score[:, scores] * seed, self)
            return _canonical(found, self.layout)

    def _curvature(self, scores: slice, directions: Tensor) -> Tensor:
        with session(grad=True):
            return _curvature(self.score[:, scores], self.leaf, directions, self.layout)

    def _rescore(self, activations: Tensor) -> Tensor:
        with session(grad=False):
            many = self.layout.write(activations, leading=1).to(self.leaf.dtype)
            if not self.cut.head.replayable:
                return widen(torch.stack([self._rerun(item) for item in many]))
            parts = []
            for part in chunks(len(many), _RESCORE_BYTES // max(1, self.leaf.nbytes)):
                parts.append(batched(self._replay, many[part]))
                _report(self.site, part.stop, len(many))
            return widen(torch.cat(parts))

    def _regrade(self, scores: slice, activations: Tensor) -> Tensor:
        if not self.cut.head.replayable:
            raise LayerError(
                f"the head of layer={self.site.tap.name!r} looks at values, so it cannot be run alone on "
                "other activations: choose a layer nearer to the score"
            )
        with session(grad=True):
            leaf = self.layout.write(activations).to(self.leaf.dtype)
            leaf = leaf.detach().requires_grad_()
            score = self._replay(leaf)[:, scores]
            return _canonical(_gradients_at(score, leaf, self), self.layout)

    def _replay(self, activations: Tensor) -> Tensor:
        return self.bound.score(self.cut.head.run(activations))

    def _rerun(self, activations: Tensor) -> Tensor:
        return self.bound.score(run_from(self.site, self.call, activations, self.cut.divisors))

    def _score_images(self, images: Tensor) -> Tensor:
        with session(grad=False):
            parts = _many_images(self.site, self.call, images)
            return widen(torch.stack([self.bound.score(logits) for logits in parts]))

    def _again(self, images: Tensor) -> "Pass":
        target = self.wish.target
        same = self.bound.index if targets.is_indexed(target) else target
        if isinstance(target, targets.Finer):  # which would pick its classes again
            same = self.bound.score
        return forward(self.site, self.call.replace(images), replace(self.wish, target=same))


def forward(site: Site, call: Call, wish: Wish = Wish()) -> Pass:
    """Run the model once, up to the layer without a graph and from there on the tape.

    Raises:
        LayerError: the layer was not called, was called several times, has no locations, or the score does
            not depend on it.
        TargetError: the target does not fit the output.
        ModelError: the model failed, or its output overflowed.
    """
    with session(grad=wish.differentiable), eager(site.model):
        cut = Cut(site, call, wish.target, hold=wish.hold, differentiable=wish.differentiable)
        with cut.active():
            logits = site.logits(call.run(site.model), call)
            cut.finish(logits)
            watched = targets.called(wish.target, logits) if callable(wish.target) else None
        check_finite(logits)
        with torch.enable_grad():
            bound = targets.bind(wish.target, logits)
            score = bound.score(logits) if watched is None else targets.two_axes(watched)
        if not cut.watch.provenance.on_tape(score):
            raise LayerError(_disconnected(site.tap))
        cut.watch.finish(score if callable(wish.target) else logits)
    layout = _layout(cut.leaf, call, site)
    precision = precision_of(cut.leaf, logits, convolves=cut.head.convolves)
    return Pass(site, call, wish, cut, bound, layout, logits, score, precision)


def _report(site: Site, done: int, total: int) -> None:
    if site.progress is not None and total > 1:
        site.progress(done, total)


def _many_images(site: Site, call: Call, images: Tensor) -> Iterator[Tensor]:
    """Logits of ``n`` batches of images, several batches in one pass where the images are all there is."""
    count, batch = images.shape[:2]
    together = max(1, _IMAGES_TOGETHER // batch) if call.key is None else 1
    for part in chunks(count, together):
        stacked = images[part].flatten(0, 1)
        logits = logits_of(call.replace(stacked).run(site.model), site.output, len(stacked))
        _report(site, part.stop, count)
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


def widen(tensor: Tensor) -> Tensor:
    """Half precision carries activations, not sums."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _layout(leaf: Tensor, call: Call, site: Site) -> Layout:
    layout = site.layout
    if layout is None or not layout.fits(tuple(leaf.shape), len(call.images)):
        raise LayerError(
            f"layer={site.tap.name!r} gives shape {tuple(leaf.shape)} for images of shape {call.given}, in "
            "which no grid of locations can be found: say how its positions are arranged with "
            "Explainer(model, grid=(rows, columns)), or choose another layer"
        )
    return layout


def _gradients(score: Tensor, finished: Pass) -> Tensor:
    return _gradients_at(score, finished.leaf, finished)


def _gradients_at(score: Tensor, leaf: Tensor, finished: Pass) -> Tensor:
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
            create_graph=finished.wish.differentiable,
            allow_unused=True,
            is_grads_batched=vectorised,
        )
        if found is None:
            raise LayerError(_disconnected(finished.site.tap))
        return found

    try:
        if count == 1:
            return grad(chosen[0], False).unsqueeze(0)
        with suppress(RuntimeError):  # an op without a batching rule
            return grad(chosen, True)
        return torch.stack([grad(outputs, False) for outputs in chosen])
    except HirescamError:
        raise
    except Exception as error:  # autograd's, or of a hook of the model's own
        raise LayerError(_no_gradient(finished.site.tap, error)) from error


def _no_gradient(tap: Tap, error: Exception) -> str:
    reason = str(error).strip().split("\n")[0]
    return (
        f"the gradient at layer={tap.name!r} cannot be taken, because PyTorch says: {reason} Choose a layer "
        "after that part, see hirescam.layers(model, images)"
    )


def _disconnected(tap: Tap) -> str:
    return (
        f"the score does not depend on layer={tap.name!r} in a way that autograd can follow: its output "
        "is not used, is detached, or goes through an op without a gradient (quantised layers, "
        "inference_mode inside forward); choose another layer, see hirescam.layers(model, images)"
    )


def _canonical(gradients: Tensor, layout: Layout) -> Tensor:
    """From ``(t, b, ...)`` in the layer's own shape to ``(b, t, k, *space)``."""
    return layout.read(widen(gradients), leading=1).transpose(0, 1)
