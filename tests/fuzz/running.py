"""One program from end to end: build, ask the library, judge; and smaller ones that still fail."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, replace
from itertools import product
from typing import Any, TypeVar

import torch

import hirescam
from fuzz.asking import TARGETS
from fuzz.grammar import Model, Program
from fuzz.joins import Inner, Parallel
from fuzz.judge import Snapshot, violations
from fuzz.node import Kind, Named, Step, lowest, quiet
from fuzz.truth import TOLERANCE, Subject, Truth, affine, gap
from hirescam.errors import HirescamError

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What came of one program.

    Attributes:
        program: its repr.
        kind: what the head is by construction.
        verdict: the guarantee, or ``error`` or ``crash``.
        violations: what is false; () is as it should be.
        affine: whether brute force finds the head affine.
        refused: the library's reason where it gave less than the construction and brute force allow, or "".
        judged: whether the layer that was chosen can be judged at all.
        seconds: in the library, and in all.
    """

    program: str
    kind: str
    verdict: str
    violations: tuple[str, ...] = ()
    affine: bool = False
    refused: str = ""
    judged: bool = True
    seconds: tuple[float, float] = (0.0, 0.0)


def examine(program: Program) -> Outcome:
    """Explain a program's images and judge the answer."""
    start = time.perf_counter()
    with quiet():
        outcome = _judged(program, program.build())
    library, _ = outcome.seconds
    return replace(outcome, seconds=(library, time.perf_counter() - start))


@dataclass(frozen=True)
class Answer:
    """What the library said, or how it failed."""

    verdict: str
    result: hirescam.Explanation | None = None
    failure: str = ""


def _judged(program: Program, model: Model) -> Outcome:
    ask, images = TARGETS[program.target], program.images()
    outcome = Outcome(repr(program), program.kind.name.lower(), "unusable", judged=False)
    try:
        plainly, _ = Subject(model, images, ask).run()
    except RuntimeError:  # an inference tensor where it may not be
        return outcome
    snapshot, start = Snapshot(model), time.perf_counter()
    answer = _asked(
        lambda: hirescam.explain(model, images, target=ask.target(len(images)), layer=program.layer)
    )
    seconds = time.perf_counter() - start
    found = snapshot.changes() + ([f"crash: {answer.failure}"] if answer.verdict == "crash" else [])
    found += disagreements(program, model, answer)
    truth = truth_of(program, model)
    allowed = TOLERANCE[program.precision] * (1 + float(plainly.abs().amax()))
    if not truth.unsteady and gap(truth.logits, plainly.double()) > allowed:
        # rounding decides which way it takes, or random numbers are others in another precision
        return replace(outcome, verdict=answer.verdict)
    found += claims(truth.subject, answer.result, truth) if answer.result is not None else []
    return replace(
        outcome,
        verdict=answer.verdict,
        violations=tuple(found),
        affine=affine(truth),
        refused=reason_of(answer) if fell_short(program.kind, answer.verdict, truth) else "",
        judged=answer.result is None
        or any(True for _ in at_layer(truth.subject, answer.result.layer, answer.result)),
        seconds=(seconds, 0.0),
    )


def _asked(question: Callable[[], hirescam.Explanation]) -> Answer:
    try:
        result = question()
    except HirescamError as error:
        return Answer("error", failure=f"{type(error).__name__}: {error}")
    except Exception as error:
        return Answer("crash", failure=f"{type(error).__name__}: {str(error)[:300]}")
    return Answer(str(result.certificate.guarantee), result)


def disagreements(program: Program, model: Model, answer: Answer) -> list[str]:
    """Where ``certify`` and ``layers`` say something else than ``explain``; asked of one program in four."""
    if answer.result is None or program.seed % 4:
        return []
    images, said = program.images(), answer.result.certificate
    target = TARGETS[program.target].target(len(images))
    try:
        certificate = hirescam.certify(model, images, program.layer, target=target)
        listed = hirescam.Explainer(model).layers(images, target=target)
    except HirescamError as error:
        return [f"verdicts disagree: after an answer, {type(error).__name__}: {error}"]
    except Exception as error:
        return [f"crash: {type(error).__name__}: {str(error)[:300]}"]
    found = []
    if (certificate.guarantee, certificate.layer) != (said.guarantee, said.layer):
        found.append(f"verdicts disagree: certify says {certificate.guarantee}, explain {said.guarantee}")
    chosen = [layer.name for layer in listed if layer.chosen]
    if program.layer is None and chosen != [said.layer]:
        found.append(f"verdicts disagree: layers chooses {chosen}, explain {said.layer!r}")
    return found


def truth_of(program: Program, model: Model) -> Truth:
    """The truth about a program's layer.

    The model is turned to double precision for good, which loses nothing, so that the judge sees more.
    """
    rounding = lowest(*(step.precision for step in program.steps))
    subject = Subject(
        model.double(),
        program.images().double(),
        TARGETS[program.target],
        precision=program.precision,
        arithmetic=rounding or torch.float64,
    )
    return Truth(subject)


def claims(subject: Subject, answer: Any, known: Truth | None = None, rule: str = "hirescam") -> list[str]:
    """What is false in an explanation, or in a certificate alone, at the layer that it is about.

    Maps are in the order of the image, and the judge does not know how a layer's output lies on it: the axis
    that holds the channels, and the turn of the others, that make the map true are taken.
    """
    certificate = getattr(answer, "certificate", answer)
    result = None if certificate is answer else answer
    if certificate.layer == "layer":
        return violations(known or Truth(subject), certificate, result, rule)
    found: list[list[str]] = []
    for there in at_layer(subject, certificate.layer, answer):
        found.append(violations(Truth(there), certificate, result, rule))
        if not found[-1]:
            break
    return min(found, key=len, default=[])


def at_layer(subject: Subject, layer: str, answer: Any) -> Iterator[Subject]:
    """The same call at the layer that was chosen, with each axis that can hold the channels, and each turn.

    None where it cannot be judged: a layer that is the result of a call, and no module's, has no place for a
    hook, and without a map nothing tells the axes.
    """
    raw = getattr(answer, "raw", None)
    if layer == "layer":
        yield subject
        return
    if raw is None or layer not in dict(subject.model.named_modules()):
        return
    there = replace(subject, layer=layer)
    shape, space = there.run()[1].shape, raw.shape[2:]
    fitting = {axis for axis in (1, len(shape) - 1) if shape[1:axis] + shape[axis + 1 :] == space}
    for axis in sorted(fitting):
        yield replace(there, channels=axis)
    for axis in sorted(fitting):
        turns = [[(backwards, by) for backwards in (False, True) for by in range(size)] for size in space]
        for moves in list(product(*turns))[1:]:
            yield replace(there, channels=axis, moves=moves)
        for moves in product(*turns) if len(set(space)) < len(space) else ():
            yield replace(there, channels=axis, moves=moves, swapped=True)
        yield replace(there, channels=axis, free=True)


def fell_short(kind: Kind, verdict: str, truth: Truth) -> bool:
    """Whether the verdict is weaker than construction and brute force allow."""
    if kind is Kind.AFFINE:
        short = verdict != "exact" and affine(truth)
    elif kind is Kind.NORMALISING:
        steady = not (truth.unsteady_after or truth.around or truth.together)
        short = verdict not in ("exact", "conditional") and steady and not truth.held_curved
    else:
        return False
    return short and not truth.without_gradient


def reason_of(answer: Answer) -> str:
    """Why the verdict is what it is: the ops that it names, or the library's words."""
    if answer.result is None:
        return answer.failure
    certificate = answer.result.certificate
    named = sorted({re.sub(r" \([\w.#]+\)$", "", name) for name in certificate.breaks})
    return "ops: " + ", ".join(named) if named else getattr(certificate, "reason", "") or str(certificate)


def class_of(reason: str) -> str:
    """A reason without its numbers and places, to count alike ones together."""
    reason = re.sub(r"'?\b(steps|layer|stem)(\.[\w()]+)+'?", "…", reason)
    return re.sub(r"-?\d+(\.\d+)?(e[-+]?\d+)?", "#", reason)[:160]


# --- smaller ones ------------------------------------------------------------------------------


def shrink(thing: T, smaller: Callable[[T], Iterator[T]], fails: Callable[[T], bool], most: int = 60) -> T:
    """Leave out what a failure does not need, one thing at a time."""
    for _ in range(most):
        found = next((candidate for candidate in smaller(thing) if _still(candidate, fails)), None)
        if found is None:
            break
        thing = found
    return thing


def _still(candidate: T, fails: Callable[[T], bool]) -> bool:
    try:
        return fails(candidate)
    except Exception:  # a program that cannot be built is no smaller example
        return False


PLAINEST: dict[str, object] = {
    "batch": 1, "ndim": 2, "dtype": "float64", "ends": "pool", "target": "one", "seed": 0, "layer": "layer"
}  # fmt: skip


def shorter(program: Program) -> Iterator[Program]:
    """Programs with a step less, or a plainer choice."""
    yield from (replace(program, steps=steps) for steps in _fewer(program.steps))
    for name, value in PLAINEST.items():
        if getattr(program, name) != value:
            yield replace(program, **{name: value})
    if program.batch > 2:
        yield replace(program, batch=2)


def _fewer(steps: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
    for number, step in enumerate(steps):
        before, after = steps[:number], steps[number + 1 :]
        yield before + after
        if isinstance(step, Inner):
            yield before + step.steps + after
            yield from ((*before, replace(step, steps=inner), *after) for inner in _fewer(step.steps))
        if isinstance(step, Parallel):
            yield before + step.others + after
        yield from ((*before, plainer, *after) for plainer in _plainer(step))


def _plainer(step: Step) -> Iterator[Step]:
    """The step with a field at its default, or the first of its table."""
    for field in fields(step):
        first = next(iter(step.TABLE)) if isinstance(step, Named) else field.default
        if first is not MISSING and getattr(step, field.name) != first:
            yield replace(step, **{field.name: first})
