"""Sequences of calls on one explainer, with changes between them; every call is judged by itself."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import strategies as st

from fuzz.asking import AFFINE_TARGETS, TARGETS
from fuzz.changes import CHANGES
from fuzz.grammar import Program, draw_program
from fuzz.judge import Snapshot
from fuzz.node import Plain, lowest, quiet
from fuzz.running import claims, shorter
from fuzz.session import IMAGES, Session, inputs_of
from fuzz.source import Drawn, Source
from fuzz.truth import Subject, Truth
from hirescam.errors import HirescamError


@dataclass(frozen=True, repr=False)
class Call(Plain):
    """One call of the explainer.

    Attributes:
        does: ``explain``, ``certify`` or ``compare``.
        target: a name in `asking.TARGETS`, or ``object``.
        images: a name in `IMAGES`.
        inputs: ``none``, ``extra`` or ``refine``.
        rule: of the map.
        autocast: whether it runs under autocast.
        differentiable: whether the graph is kept.
    """

    does: str = "explain"
    target: str = "one"
    images: str = "same"
    inputs: str = "none"
    rule: str = "hirescam"
    autocast: bool = False
    differentiable: bool = False

    def run(self, session: Session) -> list[str]:
        """Make the call and judge the answer; a call that the model itself cannot answer is left out."""
        subject = self._subject(session)
        try:
            subject.run()
        except (RuntimeError, IndexError, ValueError):
            return []
        snapshot, found = Snapshot(session.model), []
        answers: dict[str, Any] = {}
        try:
            with subject.context():
                answers = self._answers(session, subject)
        except HirescamError:
            pass
        except Exception as error:
            found = [f"crash: {type(error).__name__}: {str(error)[:300]}"]
        return list(dict.fromkeys([*found, *snapshot.changes(), *self._judged(subject, answers)]))

    def _subject(self, session: Session) -> Subject:
        images = session.images(self.images)
        autocast = self.autocast and images.dtype is torch.float32
        rounding = [step.precision for step in session.program.steps]
        precision = lowest(images.dtype, *rounding, torch.bfloat16 if autocast else None)
        inputs = inputs_of(self.inputs, images)
        return Subject(
            session.model,
            images,
            session.ask(self.target),
            call=inputs,
            elsewhere=inputs.elsewhere,
            context=(lambda: torch.autocast("cpu", torch.bfloat16)) if autocast else nullcontext,
            precision=precision or images.dtype,
            arithmetic=precision or images.dtype,
        )

    def _answers(self, session: Session, subject: Subject) -> dict[str, Any]:
        """Certificates or explanations by the name of their rule."""
        images, explainer = subject.call.named(subject.images), session.explainer
        target = subject.ask.target(len(subject.images))
        if self.does == "certify":
            return {"": explainer.certify(images, target=target)}
        if self.does == "compare":
            return explainer.compare(images, target=target)
        options = {"rule": self.rule, "differentiable": self.differentiable}
        return {self.rule: explainer(images, target=target, **options)}

    def _judged(self, subject: Subject, answers: dict[str, Any]) -> Iterator[str]:
        truth = Truth(subject) if answers else None
        for rule, answer in answers.items():
            yield from claims(subject, answer, truth, rule)


@dataclass(frozen=True, repr=False)
class Change(Plain):
    """A change of the model, or of the target."""

    what: str

    def run(self, session: Session) -> list[str]:
        """Make it."""
        CHANGES[self.what](session)
        return []


@dataclass(frozen=True, repr=False)
class Sequence(Plain):
    """A program and what is done with one explainer of its model."""

    program: Program
    actions: tuple[Call | Change, ...]

    def run(self) -> list[str]:
        """Do it; return what was false, with the number of the action."""
        found = []
        with quiet():
            session = Session(self.program)
            for number, action in enumerate(self.actions):
                found += [f"{problem} (action {number})" for problem in action.run(session)]
        return found


def smaller_sequences(sequence: Sequence) -> Iterator[Sequence]:
    """Sequences with an action less, a plainer call, or a smaller program."""
    actions = sequence.actions
    for number, action in enumerate(actions):
        yield replace(sequence, actions=actions[:number] + actions[number + 1 :])
        if isinstance(action, Call):
            plainer = [replace(action, **{name: value}) for name, value in Call().__dict__.items()]
            yield from (
                replace(sequence, actions=(*actions[:number], call, *actions[number + 1 :]))
                for call in plainer
                if call != action
            )
    yield from (replace(sequence, program=program) for program in shorter(sequence.program))


def draw_call(source: Source) -> Call:
    """Draw a call; most of its choices are the plain ones."""
    return Call(
        does=source.pick(["explain", "explain", "explain", "certify", "compare"]),
        target=source.pick([*AFFINE_TARGETS * 2, "object", "object", *TARGETS]),
        images=source.pick(["same", "same", "others", *IMAGES]),
        inputs=source.pick(["none", "none", "none", "none", "extra", "refine"]),
        rule=source.pick(["hirescam", "hirescam", "hirescam", "gradcam"]),
        autocast=source.pick([False, False, False, False, True]),
        differentiable=source.pick([False, False, False, False, True]),
    )


def draw_sequence(source: Source) -> Sequence:
    """Draw a program that mostly earns a strong verdict, and two to four calls with changes between them."""
    theme = source.pick(["affine"] * 5 + ["normalising"] * 2 + ["local"] + ["odd"])
    actions: list[Call | Change] = [draw_call(source)]
    for _ in range(source.integer(1, 3)):
        actions += [Change(source.pick(list(CHANGES))) for _ in range(source.pick([1, 1, 0, 2]))]
        # Often the same call again, which a verdict that was kept would answer.
        actions.append(source.pick([actions[0], draw_call(source)]))
    return Sequence(draw_program(source, theme), tuple(actions))


@st.composite
def sequences(draw: st.DrawFn) -> Sequence:
    """Sequences that hypothesis can shrink."""
    return draw_sequence(Drawn(draw))
