"""Sequences: every change can be made, and a verdict that is kept too long is found."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings

import hirescam
from fuzz import sequences as module
from fuzz.asking import TARGETS
from fuzz.changes import CHANGES
from fuzz.grammar import Affine, Program, Readout
from fuzz.node import quiet
from fuzz.sequences import Call, Change, Sequence, draw_sequence
from fuzz.session import IMAGES, Inputs, Session, inputs_of
from fuzz.source import Seeded
from fuzz.truth import Subject, Truth

PLAIN = Program(steps=(Affine("scale"), Readout("mean")), batch=3)


@pytest.mark.parametrize("what", CHANGES)
def test_every_change_leaves_a_model_that_runs(what: str) -> None:
    with quiet():
        session = Session(PLAIN)
        Change(what).run(session)
        with torch.no_grad():
            assert session.model(session.images("same")).shape == (3, 4)


@pytest.mark.parametrize("which", IMAGES)
def test_every_call_can_be_made(which: str) -> None:
    assert Sequence(PLAIN, (Call(images=which), Call("certify", images=which))).run() == []


@pytest.mark.parametrize("target", [*TARGETS, "object"])
def test_every_target_can_be_asked_for(target: str) -> None:
    with quiet():
        session = Session(PLAIN)
        subject = Subject(session.model, session.images("same"), session.ask(target))
        found = session.explainer(subject.images, target=subject.ask.target(3))
        assert torch.allclose(found.score, Truth(subject).scores)


class Stubborn(hirescam.Explainer):
    """Gives its first answer again and again."""

    def __call__(self, *args: Any, **options: Any) -> hirescam.Explanation:
        self.first = getattr(self, "first", None) or super().__call__(*args, **options)
        return self.first


MATTERS = [
    "append a softmax",
    "append a square",
    "a step more: square",
    "a hook that squares the scores",
    "another forward of the model",
    "weights in place",
    "weights loaded",
    "weights replaced",
    "power 2",
]


@pytest.mark.parametrize("what", MATTERS)
def test_an_answer_that_is_kept_is_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hirescam, "Explainer", Stubborn)
    found = Sequence(PLAIN, (Call(), Change(what), Call())).run()
    assert found
    assert all(problem.endswith("(action 2)") for problem in found)


def test_a_kept_verdict_about_a_changed_target_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hirescam, "Explainer", Stubborn)
    call = Call(target="object")
    found = Sequence(PLAIN, (call, Change("the target's power"), call)).run()
    assert any("false exact" in problem for problem in found)


def test_a_crash_is_found_and_an_error_of_the_library_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(hirescam.Explainer, "certify", fail)
    error: Exception = hirescam.errors.ModelError("no")
    assert Sequence(PLAIN, (Call("certify"),)).run() == []
    error = KeyError("oops")
    assert "crash: KeyError" in Sequence(PLAIN, (Call("certify"),)).run()[0]


def test_a_call_that_the_model_cannot_answer_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program(steps=(Readout("flatten"),))
    monkeypatch.setattr(module, "claims", lambda *args: ["asked"])
    assert Sequence(program, (Call(images="larger"),)).run() == []
    assert Sequence(program, (Call(),)).run() == ["asked (action 0)"]


def test_other_inputs_are_those_of_the_image() -> None:
    images = PLAIN.images()
    inputs = inputs_of("extra", images)
    assert inputs.extra is not None
    assert torch.equal(inputs.alone(2).extra, inputs.extra[2:])
    assert inputs.named(images).keys() == {"image", "refine", "extra"}
    assert inputs.elsewhere is not None
    assert Inputs().elsewhere is None
    assert Inputs().named(images) is images


def test_a_seed_draws_the_same_sequence() -> None:
    assert draw_sequence(Seeded("1")) == draw_sequence(Seeded("1"))


@given(sequence=module.sequences())
@settings(
    max_examples=20, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
def test_a_sequence_is_a_script(sequence: Sequence) -> None:
    names = {name: getattr(module, name) for name in ("Call", "Change", "Sequence")}
    from fuzz import grammar

    assert (
        eval(repr(sequence), names | {name: getattr(grammar, name) for name in grammar.__all__}) == sequence
    )
