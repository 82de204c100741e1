"""Questions to the model itself: what does it answer when a layer's output is replaced?

Structure is read from what was seen; a probe does not care what was seen. The real model runs, backbone and
all, with the layer's output replaced by activations X, whose score the gradient G at the activations A
predicts

    f(X) = f(A) + Σ G · (X − A)

for any X where the head is affine (mixtures, larger ones, one location removed, nothing at all), and for
small steps from A whatever the head is. With other images and the layer held, the score must stay where it
is. All questions go into one batch where that can be, so that images which influence each other give
themselves away.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import torch
from torch import Tensor

from hirescam.errors import HirescamError
from hirescam.passes.borrow import session
from hirescam.passes.cut import run_from
from hirescam.passes.targets import Target
from hirescam.passes.trace import Pass, Trace, widen
from hirescam.proof.laws import Laws, judged, rounding_of, tolerance_of
from hirescam.rulebook.gradient import hirescam as hirescam_rule
from hirescam.rulebook.registry import Map

_TINY = 1e-30
_MIX = 0.3
_LARGER = 8.0
_STEP = 2.0**-6
_STEP_IN_HALF = 2.0**-4  # which rounds off a good part of a smaller one
_SMALLER = {torch.float64: 2.0**-24, torch.float32: 2.0**-11}  # half precision has no room for one
_WRONG_GRADIENT = 0.1  # of what a step should change; kinks of ReLUs make up a few percent of the larger one


@dataclass(frozen=True, eq=False)
class Answers:
    """What the model said.

    Attributes:
        changed: by question, makes what the layer's output was replaced by, ``(b, k, *space)``. It is made
            again where it is wanted: a plan would keep several times the layer's output. Questions are
            perhaps ``held`` and ``held too`` (the layer as it was, other images); ``mixed`` and ``larger``,
            or the small steps ``along`` the gradient and ``aside``; ``without`` (one location removed);
            ``nothing``.
        logits: the model's output, ``(n, b, c, ...)``, in the order of the questions.
        removed: number of the location that was removed from each image.
        alone: the logits ``(2, c, ...)`` of the first and the last image without the others, nothing
            changed; None where there are no others, or the model is made for so many images.
    """

    changed: Mapping[str, Callable[[], Tensor]]
    logits: Tensor
    removed: Tensor
    alone: Tensor | None = None

    @property
    def questions(self) -> tuple[str, ...]:
        """Their names, in order."""
        return tuple(self.changed)

    def of(self, question: str) -> Tensor:
        """The logits ``(b, c, ...)`` of one question."""
        return self.logits[self.questions.index(question)]

    def step(self, question: str, activations: Tensor) -> Tensor:
        """How far a question's activations are from others, ``(b, k, *space)``."""
        return self.changed[question]() - activations


@dataclass(frozen=True)
class Findings:
    """What the answers say about a map.

    Attributes:
        laws: both laws, measured.
        bypass: whether the score changed with the image although the layer was held; False where that was not
            asked apart.
        affinity: largest error of the prediction far from the activations; 0 where it was not asked for.
        gradient: largest error of the prediction near the activations; the same.
        doubts: why the answers contradict an affine head, or a gradient that can be trusted, strongest first.
    """

    laws: Laws
    bypass: bool
    affinity: float
    gradient: float
    doubts: tuple[str, ...]


def ask(finished: Pass, traced: Trace, raw: Map, *, affine: bool, apart: bool = False) -> Answers:
    """Put the questions to the model.

    Args:
        finished: the pass that a map was made from.
        traced: its trace.
        raw: the map ``(b, t, *space)``.
        affine: whether the head should be affine, so that questions may be far from the activations.
        apart: ask about other images by themselves. Otherwise they are shown along with two other questions,
            which is cheaper, and tells as much where all is well.

    Raises:
        HirescamError: the model does not run with other activations or images.
    """
    activations, images = finished.activations.detach(), finished.call.images.detach()
    removed = raw.detach().flatten(2).abs().sum(1).argmax(1)
    plans: dict[str, Callable[[], Tensor]] = {}
    if apart:
        plans |= dict.fromkeys(("held", "held too"), partial(torch.clone, activations))
    if affine:
        plans |= {"mixed": partial(_mixed, activations, 0), "larger": partial(_larger, activations)}
    else:
        plans |= {
            name: partial(torch.clone, made)
            for name, made in _steps(traced, _step_of(traced.precision)).items()
        }
    # Other images come first, where a model looks that reads one image for all, and with activations that are
    # zero nowhere, so that nothing they are multiplied by is lost.
    strangers = tuple(plans)[:2]
    plans |= {
        "without": partial(_without, activations, removed),
        "nothing": partial(torch.zeros_like, activations),
    }
    shown = dict.fromkeys(plans, images) | {name: _other(images, i) for i, name in enumerate(strangers)}
    # What the model gets is what is predicted from.
    changed = {name: partial(_rounded, make, finished.leaf.dtype) for name, make in plans.items()}
    many = torch.stack([make() for make in changed.values()])
    logits = _run(finished, many, torch.stack(list(shown.values())))
    return Answers(changed, widen(logits), removed, _alone(finished))


def _rounded(make: Callable[[], Tensor], dtype: torch.dtype) -> Tensor:
    made = make()
    return made.to(dtype).to(made.dtype)


def _larger(activations: Tensor) -> Tensor:
    return _LARGER * _mixed(activations, 1)


def _without(activations: Tensor, removed: Tensor) -> Tensor:
    """The activations with one location of each image removed."""
    left = activations.flatten(2).clone()
    left.scatter_(2, removed[:, None, None].expand(-1, left.shape[1], 1), 0)
    return left.reshape(activations.shape)


def find(answers: Answers, finished: Pass, traced: Trace, raw: Map) -> Findings:
    """Hold a map against the model's answers.

    Args:
        answers: the model's.
        finished: the pass that the map was made from; it may be asked again, for smaller steps.
        traced: its trace.
        raw: ``(b, t, *space)``.
    """
    score = finished.bound.score
    scores = {question: widen(score(answers.of(question))) for question in answers.questions}
    laws = judged(
        traced, raw, scores["nothing"], scores["without"].unsqueeze(0), answers.removed.unsqueeze(0)
    )
    affine = "mixed" in answers.questions
    affinity = gradient = 0.0
    if affine:
        affinity = max(_far(answers, traced, question, scores) for question in ("mixed", "larger"))
    else:
        gradient = _near(answers, traced, scores)
        apart = "held" in answers.questions
        if gradient > _WRONG_GRADIENT and apart and traced.precision in _SMALLER:
            gradient = _nearer(finished, traced)
    bypass = _moved(answers, traced)
    doubts = _doubts(traced, laws, bypass, affinity, gradient, affine)
    return Findings(laws, bypass, affinity, gradient, _company(answers, traced) + doubts)


def wrong_class(answers: Answers, jacobian: Tensor, classes: list[int], finished: Pass) -> int | None:
    """The first class whose gradient does not predict what the model answered; None where all do.

    Args:
        answers: the model's, for the pass.
        jacobian: ``(m, k, *space)``, gradients of the logits of some classes for the first image.
        classes: which ones.
        finished: the pass.
    """
    logits = widen(finished.logits.detach())[0, classes]
    dtype = finished.precision
    activations = finished.activations.detach()
    if "mixed" in answers.questions:
        questions = ("mixed", "nothing")
        gaps = torch.stack([answers.of(q)[0, classes] - logits for q in questions])
        steps = torch.stack([answers.step(q, activations)[0] for q in questions])
        products = jacobian.flatten(1) @ steps.flatten(1).T  # (m, n)
        size = (jacobian.flatten(1).square() @ steps.flatten(1).square().T).sqrt()  # roundings are random
        allowed = tolerance_of(dtype) * gaps.T.abs() + rounding_of(dtype) * (size + logits.abs()[:, None])
        wrong = (~((products - gaps.T).abs() <= allowed)).any(1)  # NaN is wrong too
    else:
        wrong = torch.zeros(len(classes), dtype=torch.bool, device=logits.device)
        for question in ("along", "aside"):
            gap = answers.of(question)[0, classes] - logits
            step = answers.step(question, activations)[0].flatten()
            wrong |= _strays(jacobian.flatten(1) @ step, gap, jacobian.flatten(1), step, logits, dtype) > 1
    found = wrong.nonzero()
    return classes[int(found[0])] if len(found) else None


def wrong_target(answers: Answers, finished: Pass, target: Target) -> bool:
    """Whether the gradient of a target that is affine in the logits contradicts what the model answered."""
    asked = finished.about(replace(finished.wish, target=target))
    traced = asked.trace()
    with session(grad=False):
        findings = find(answers, asked, traced, hirescam_rule(traced))
    return findings.affinity > tolerance_of(asked.precision) or findings.gradient > _WRONG_GRADIENT


def _run(finished: Pass, many: Tensor, images: Tensor) -> Tensor:
    """Logits ``(n, b, c, ...)`` for ``n`` replaced outputs, in one batch where the model allows it."""
    call, layout, leaf = finished.call, finished.layout, finished.leaf
    divisors = finished.cut.divisors
    outputs = layout.write(many.flatten(0, 1)).to(leaf.dtype)
    if call.key is None and not divisors:
        try:
            stacked = call.replace(images.flatten(0, 1))
            logits: Tensor = run_from(finished.site, stacked, outputs).unflatten(0, many.shape[:2])
            return logits
        except (HirescamError, RuntimeError):
            pass  # a model for one size of batch
    each = zip(layout.write(many, leading=1).to(leaf.dtype), images, strict=True)
    return torch.stack([run_from(finished.site, call.replace(shown), item, divisors) for item, shown in each])


def _alone(finished: Pass) -> Tensor | None:
    """The logits of the first and the last image without the others: one alone may be what others look at."""
    call, count = finished.call, len(finished.call.images)
    if count == 1:
        return None
    activations = finished.layout.read(finished.leaf.detach())
    try:
        logits = [
            run_from(
                finished.site, call.alone(number), finished.layout.write(activations[number : number + 1])
            )
            for number in (0, count - 1)
        ]
    except (HirescamError, RuntimeError):
        return None
    return widen(torch.cat(logits))


def _noise(like: Tensor, seed: int) -> Tensor:
    noise = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like)
    spread = like.std() if like.numel() > 1 else like.abs().mean()
    return noise * torch.where(spread > 0, spread, torch.ones_like(spread))


def _mixed(activations: Tensor, seed: int) -> Tensor:
    """A mixture of the activations with others like them, of another image where there is one."""
    other = activations.flip(-1).roll(1, 0) + _noise(activations, seed)
    return _MIX * activations + (1 - _MIX) * other


def _other(images: Tensor, number: int) -> Tensor:
    """Other images: mirrored, noisy, and of another mean and contrast."""
    spread = images.float().std().to(images) if images.numel() > 1 else images.new_ones(())
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    contrast, shift = ((0.5, 1.0), (2.0, -1.5))[number]
    return contrast * images.flip(-1) + shift * spread + 0.5 * _noise(images, 10 + number)


def _far(answers: Answers, traced: Trace, question: str, scores: dict[str, Tensor]) -> float:
    """Error of the prediction at some activations, as a multiple of what rounding and tolerance allow."""
    step = answers.step(question, traced.activations).unsqueeze(1)
    products = (traced.gradients * step).flatten(2)
    gap = scores[question] - traced.score
    size = products.norm(dim=2) + traced.score.abs() + scores[question].abs()
    wrong = (products.sum(2) - gap).abs()
    dtype = traced.precision
    excess = wrong - rounding_of(dtype) * size
    relative = (excess.clamp_min(0) / gap.abs().clamp_min(_TINY)).max()
    return float(relative) if bool(wrong.isfinite().all()) else float("inf")


def _near(answers: Answers, traced: Trace, scores: dict[str, Tensor]) -> float:
    """Error of the prediction after small steps, relative to what such a step should change."""
    worst = 0.0
    for question in ("along", "aside"):
        step = answers.step(question, traced.activations).unsqueeze(1)
        products = (traced.gradients * step).flatten(2).sum(2)
        gap = scores[question] - traced.score
        found = _strays(
            products, gap, traced.gradients.flatten(2), step.flatten(2), traced.score, traced.precision
        )
        worst = max(worst, float(found.max()))
    return worst * _WRONG_GRADIENT


def _nearer(finished: Pass, traced: Trace) -> float:
    """The same with smaller steps, which cross next to no kink."""
    steps = _steps(traced, _SMALLER[traced.precision])
    many = torch.stack(list(steps.values()))
    images = finished.call.images.detach()
    logits = widen(_run(finished, many, images.expand(len(many), *images.shape)))
    answers = Answers(
        {name: partial(torch.clone, made) for name, made in steps.items()}, logits, torch.zeros(0)
    )
    scores = {question: widen(finished.bound.score(answers.of(question))) for question in steps}
    return _near(answers, traced, scores)


def _steps(traced: Trace, size: float) -> dict[str, Tensor]:
    """Activations a small step away: along the gradient of the first target, and in a random direction."""
    activations = traced.activations.detach()
    noise = size * _noise(activations, 2)
    gradient = traced.gradients.detach()[:, 0]
    length = gradient.flatten(1).norm(dim=1).clamp_min(_TINY).reshape(-1, *[1] * (gradient.ndim - 1))
    along = gradient / length * noise.flatten(1).norm(dim=1).reshape(length.shape)
    return {"along": activations + along, "aside": activations + noise}


def _step_of(dtype: torch.dtype) -> float:
    return _STEP if dtype in _SMALLER else _STEP_IN_HALF


def _strays(
    predicted: Tensor, found: Tensor, gradients: Tensor, along: Tensor, score: Tensor, dtype: torch.dtype
) -> Tensor:
    """Error of a directional derivative, as a multiple of what kinks and rounding may make of it."""
    typical = gradients.norm(dim=-1) * along.norm(dim=-1) / prod(along.shape[-1:]) ** 0.5
    share = _WRONG_GRADIENT + 2 * torch.finfo(dtype).eps / _step_of(dtype)
    allowed = share * torch.maximum(typical, found.abs()) + rounding_of(dtype) * score.abs()
    wrong = (predicted - found).abs()
    return torch.where(wrong.isfinite(), wrong / allowed.clamp_min(_TINY), float("inf"))


def _moved(answers: Answers, traced: Trace) -> bool:
    """Whether the logits changed with the image although the layer was held."""
    logits, allowed = widen(traced.logits), _allowed(answers, traced)
    asked = [name for name in ("held", "held too") if name in answers.questions]
    return not all(bool((answers.of(name) - logits).abs().max() <= allowed) for name in asked)


def _company(answers: Answers, traced: Trace) -> tuple[str, ...]:
    """Whether an image has other logits alone than beside others."""
    if answers.alone is None:
        return ()
    wrong = (answers.alone - widen(traced.logits)[[0, -1]]).abs().max()
    same = bool(wrong <= _allowed(answers, traced))
    return () if same else ("an image alone gets another score than in its batch",)


def _allowed(answers: Answers, traced: Trace) -> Tensor:
    """How far logits may be apart where only rounding tells them apart."""
    logits, dtype = widen(traced.logits), traced.precision
    largest = (logits - answers.of("nothing")).abs().max()
    return tolerance_of(dtype) * largest + rounding_of(dtype) * logits.abs().max()


def _doubts(
    traced: Trace, laws: Laws, bypass: bool, affinity: float, gradient: float, affine: bool
) -> tuple[str, ...]:
    found = []
    if bypass:
        found.append("the score changes with the image although this layer's output is held")
    if affine and not affinity <= tolerance_of(traced.precision):
        found.append(f"a probe finds the head not affine (error {affinity:.1e}) although its graph is")
    if affine and not laws.hold:
        worst = max(laws.completeness_error, laws.location_error)
        found.append(f"the laws fail when they are measured (error {worst:.1e})")
    if gradient > _WRONG_GRADIENT:
        found.append(f"a small step changes the score otherwise than the gradient says (by {gradient:.0%})")
    return tuple(found)
