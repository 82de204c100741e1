"""A program from end to end, smaller failures, and the report of many."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

import hirescam
from fuzz import report, running
from fuzz.__main__ import main
from fuzz.grammar import (
    Affine,
    Curved,
    Launder,
    Model,
    Opaque,
    Parallel,
    Piecewise,
    Program,
    Readout,
    Residual,
)
from fuzz.report import Outcome, Report, Task, kind_of, smallest, work
from fuzz.running import class_of, examine, shorter, shrink
from fuzz.sequences import Call, Change, Sequence, smaller_sequences
from hirescam.proof import placing

FLAT = Readout("flatten")
PLAIN = Program(steps=(FLAT,))


def test_a_plain_head_is_exact_and_nothing_is_false() -> None:
    outcome = examine(PLAIN)
    assert (outcome.verdict, outcome.violations, outcome.affine, outcome.refused) == ("exact", (), True, "")
    assert outcome.kind == "affine"
    assert outcome.seconds[1] > outcome.seconds[0] > 0


def test_a_curve_is_no_refusal() -> None:
    outcome = examine(Program(steps=(Curved("silu"), FLAT)))
    assert (outcome.verdict, outcome.violations, outcome.affine, outcome.refused) == ("none", (), False, "")


def lying(monkeypatch: pytest.MonkeyPatch, **claims: Any) -> None:
    """Let the library claim something else."""
    explain = hirescam.explain

    def claim(*args: Any, **options: Any) -> hirescam.Explanation:
        result = explain(*args, **options)
        return replace(result, certificate=replace(result.certificate, **claims))

    monkeypatch.setattr(hirescam, "explain", claim)


def test_a_false_verdict_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    lying(monkeypatch, guarantee=hirescam.Guarantee.EXACT)
    found = examine(Program(steps=(Curved("silu"), FLAT), seed=1)).violations
    assert [kind_of(violation) for violation in found] == ["false exact"]


def test_a_verdict_that_certify_does_not_share_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    lying(monkeypatch, guarantee=hirescam.Guarantee.NONE)
    assert [kind_of(violation) for violation in examine(PLAIN).violations] == ["verdicts disagree"]


def test_a_refusal_is_counted_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    lying(monkeypatch, guarantee=hirescam.Guarantee.NONE, breaks=("odd (steps.0)",))
    assert examine(replace(PLAIN, seed=1)).refused == "ops: odd"


@pytest.mark.parametrize(
    ("error", "verdict", "violations"),
    [
        (hirescam.errors.ModelError("no"), "error", ()),
        (ZeroDivisionError("oops"), "crash", ("crash: ZeroDivisionError: oops",)),
    ],
)
def test_only_the_librarys_own_errors_are_answers(
    monkeypatch: pytest.MonkeyPatch, error: Exception, verdict: str, violations: tuple[str, ...]
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(hirescam, "explain", fail)
    outcome = examine(PLAIN)
    assert (outcome.verdict, outcome.violations) == (verdict, violations)
    assert outcome.refused.startswith(type(error).__name__)


def test_what_the_library_leaves_behind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    explain = hirescam.explain

    def careless(model: Model, *args: Any, **options: Any) -> hirescam.Explanation:
        model.layer.requires_grad_(False)
        return explain(model, *args, **options)

    monkeypatch.setattr(hirescam, "explain", careless)
    assert any("not as it was" in violation for violation in examine(PLAIN).violations)


def test_a_failure_is_made_smaller() -> None:
    gate = Launder(value="gate", computed="no_grad", hidden="numpy")
    inner = Residual((Affine("flip"), Parallel((gate,), (Affine("roll"),))))
    program = Program(steps=(Affine("conv"), inner, Readout("mean")), ndim=3, batch=4, target="all", seed=7)

    def fails(candidate: Program) -> bool:
        candidate.build()
        return "hidden='numpy'" in repr(candidate) and "Readout" in repr(candidate)

    small = shrink(program, shorter, fails)
    assert small == Program(steps=(Launder(hidden="numpy"), FLAT), batch=1)


def test_a_failing_sequence_is_made_smaller() -> None:
    call = Call(target="all", images="others", rule="gradcam")
    actions = (call, Change("frozen"), Change("append a softmax"), call, Change("no hooks"))
    program = Program(steps=(Affine("conv"), FLAT), batch=3)
    small = shrink(
        Sequence(program, actions), smaller_sequences, lambda s: "softmax" in repr(s) and "gradcam" in repr(s)
    )
    assert sorted(map(repr, small.actions)) == ["Call(rule='gradcam')", "Change(what='append a softmax')"]


def test_reasons_are_counted_without_numbers_and_places() -> None:
    one, other = "off by 1.2e-03 at 'steps.0.inner1' (error 3)", "off by 7 at 'steps.2' (error 12)"
    assert class_of(one) == class_of(other)
    assert kind_of("crash: ValueError: 3 of 4") == kind_of("crash: ValueError: 5 of 6")
    assert kind_of("false exact: off by 1") == "false exact"


def test_a_task_is_the_same_every_time() -> None:
    task = Task("head", 5, range(3))
    assert [o.program for o in work(task)] == [o.program for o in work(task)]
    assert work(Task("sequence", 5, range(1)))[0].kind == "sequence"


def test_what_takes_too_long_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def forever(program: Program) -> Outcome:
        while True:
            pass

    monkeypatch.setattr(report, "_SECONDS", 1)
    monkeypatch.setattr(report, "examine", forever)
    assert report.guarded(PLAIN).violations == ("crash: more than 1 seconds",)


def test_a_failure_of_the_fuzzer_itself_is_not_silent() -> None:
    outcome = report.guarded(Program(steps=(Affine("no such op"),)))
    assert kind_of(outcome.violations[0]).startswith("the fuzzer failed: KeyError")


def test_the_smallest_example_of_a_task_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    lying(monkeypatch, guarantee=hirescam.Guarantee.NONE)
    task = Task("head", 0, range(60))
    number = next(n for n, o in zip(task.numbers, work(task), strict=True) if "verdicts disagree" in str(o))
    assert smallest(task, number, "verdicts disagree") == repr(replace(PLAIN, batch=1))


def outcome(**fields: Any) -> Outcome:
    return replace(Outcome("Program()", "affine", "exact", affine=True), **fields)


def test_the_report_counts_and_says_what_is_false(tmp_path: Path) -> None:
    heads = [
        outcome(),
        outcome(verdict="none", refused="ops: odd"),
        outcome(kind="other", affine=False, violations=("false exact: off by 1",)),
        outcome(kind="normalising", verdict="none", affine=False, refused="ops: [norm]"),
    ]
    made = Report(heads, [outcome(kind="sequence")], {"false exact": ["Program(1)"]})
    assert (made.false, len(made.affine), len(made.refused)) == (1, 2, 1)
    console = Console(record=True, width=100)
    made.show(console)
    text = console.export_text()
    for words in ("refused: 1 (50.0%", "ops: odd", "ops: [norm]", "false exact: Program(1)", "false: 1 of 4"):
        assert words in text
    made.save(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["refused"] == 1


def test_the_command_runs_and_its_status_says_whether_something_is_false(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = [
        "--heads",
        "3",
        "--sequences",
        "1",
        "--processes",
        "1",
        "--examples",
        "0",
        "--out",
        str(tmp_path / "found.json"),
    ]
    status = main(words)
    written = json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert status == (1 if written["false"] else 0)
    assert (written["heads"], written["sequences"]) == (3, 1)
    assert "false: " in capsys.readouterr().out
    monkeypatch.setattr("fuzz.__main__.run", lambda *args, **options: Report([], [], {}))
    assert main(words) == 0
    bad = Report([outcome(violations=("wrong map: off",))], [], {})
    monkeypatch.setattr("fuzz.__main__.run", lambda *args, **options: bad)
    assert main(words) == 1


def test_layers_that_are_no_modules_are_not_judged() -> None:
    subject = running.Subject(PLAIN.build(), PLAIN.images(), running.TARGETS["one"])
    assert list(running.at_layer(subject, "relu()#1", examine)) == []


def test_channels_may_be_on_either_axis() -> None:
    """The layer's activations have eight channels and eight by eight locations."""
    outcome = examine(Program(steps=(Affine("both parts"), FLAT), layer=None))
    assert (outcome.verdict, outcome.violations, outcome.judged) == ("exact", (), True)
    truth = running.truth_of(PLAIN, PLAIN.build())
    raw = torch.zeros(2, 1, 8, 8)
    there = running.at_layer(truth.subject, "layer.1", SimpleNamespace(raw=raw))
    found = list(there)
    assert [subject.channels for subject in found[:2]] == [1, 3]
    assert len(found) == 4 * (2 * 8) ** 2 + 2


def test_a_map_may_be_in_the_order_of_the_image() -> None:
    for move in ("flip", "roll", "rot90", "take_along_dim"):
        outcome = examine(Program(steps=(Opaque("clamp of data"), Affine(move), FLAT), layer=None))
        assert (outcome.verdict, outcome.violations) == ("exact", ())
    subject = replace(running.truth_of(PLAIN, PLAIN.build()).subject, moves=((True, 1), (False, 2)))
    raw = torch.randn(2, 1, 8, 8)
    assert torch.equal(subject.mapped(raw), raw.roll((1, 2), (2, 3)).flip(2))
    for swapped in (False, True):
        one = replace(subject, swapped=swapped)
        assert torch.equal(one.unmapped(one.mapped(raw)), raw)


@pytest.mark.parametrize("seed", [0, 732])
def test_the_layer_that_is_listed_as_chosen_is_the_one_that_is_explained(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second class has its kinks elsewhere: a layer that is local for the first is not for both."""
    monkeypatch.setattr(placing, "measured", lambda model, call, wanted: [None] * len(wanted))
    steps = (Affine("rsub"), Piecewise("maximum"), Readout("one location"))
    program = Program(steps=steps, batch=1, seed=seed, target="top", layer=None)
    assert examine(program).violations == ()
