"""The grammar: every entry runs, what is called affine is affine, and programs are Python."""

import inspect
import itertools
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from fuzz import grammar
from fuzz.asking import TARGETS
from fuzz.grammar import Builder, Model, Program, Readout, draw_program, programs
from fuzz.hidden import COMPUTED, COUNT_USES, COUNTS, HIDING, TESTS, USES, VALUES
from fuzz.joins import JOINS, MODES
from fuzz.node import Env, Kind, Step, lowest, quiet
from fuzz.source import Seeded
from fuzz.truth import Subject, Truth, affine, gap

few = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
FAMILIES = [value for name in grammar.__all__ if hasattr(value := getattr(grammar, name), "every")]
ENTRIES = [step for family in FAMILIES for step in family.every()]
MADE: list[Step] = [
    *(grammar.Launder(value=name) for name in VALUES),
    *(grammar.Launder(computed=name) for name in COMPUTED),
    *(grammar.Launder(hidden=name) for name in HIDING),
    *(grammar.Launder(value="mean of all", hidden=name) for name in HIDING),
    *(grammar.Launder(use=name) for name in USES),
    *(grammar.Branch(name) for name in TESTS),
    *(grammar.Count(name) for name in COUNTS),
    *(grammar.Count(use=name) for name in COUNT_USES),
    *(grammar.Within((grammar.Affine("scale"),), name) for name in MODES),
    *(grammar.Parallel((grammar.Affine("scale"),), (), name) for name in JOINS),
    *(grammar.Checkpointed((grammar.Affine("scale"),), reentrant) for reentrant in (False, True)),
    *(grammar.Residual((grammar.Affine("scale"),), in_place) for in_place in (False, True)),
]
STARTS: list[tuple[Step, ...]] = [(), (grammar.Affine("flatten"),), (grammar.Affine("tokens"),)]


@cache
def features(ndim: int, start: tuple[Step, ...]) -> tuple[Tensor, Env]:
    program = Program(steps=start, ndim=ndim)
    made = Builder(*Model(program).features(program.images()))
    assert all(made.add(step) for step in start)
    return made.x, made.env


def builder(ndim: int, start: tuple[Step, ...]) -> Builder:
    return Builder(*features(ndim, start))


@pytest.mark.parametrize("step", [*ENTRIES, *MADE], ids=str)
def test_every_step_runs_somewhere(step: Step) -> None:
    with quiet(), torch.no_grad():
        added = [ndim for ndim in (2, 1, 3) for start in STARTS if fits(step, builder(ndim, start))]
    assert added, "the step fits no features that a program has"


def fits(step: Step, made: Builder) -> bool:
    return step.fits(made.x) and made.add(step)


def truth_of(program: Program) -> Truth:
    rounding = lowest(*(step.precision for step in program.steps)) or torch.float64
    subject = Subject(
        program.build().double(),
        program.images().double(),
        TARGETS[program.target],
        precision=program.precision,
        arithmetic=rounding,
    )
    return Truth(subject)


@pytest.mark.parametrize("step", [step for step in ENTRIES if step.kind is not Kind.OTHER], ids=str)
def test_every_entry_is_of_the_kind_that_it_says(step: Step) -> None:
    for ndim, start in itertools.product((2, 1, 3), STARTS):
        with quiet(), torch.no_grad():
            readout = () if isinstance(step, Readout) else (Readout("flatten"),)
            if not fits(step, builder(ndim, start)):
                continue
            truth = truth_of(Program(steps=(*start, step, *readout), ndim=ndim, target="all"))
            assert (truth.unsteady, truth.around, truth.together) == ("", "", "")
            assert (truth.curved if step.kind is Kind.AFFINE else truth.held_curved) == ""


@given(program=programs("affine"))
@settings(few, max_examples=100)
def test_what_is_affine_by_construction_is_affine(program: Program) -> None:
    with quiet():
        truth = truth_of(program)
        assert program.kind is Kind.AFFINE
        assert affine(truth) or float((truth.scores - truth.zero).abs().amax()) < 1e-8


@given(program=programs("normalising"))
@settings(few, max_examples=60)
def test_what_is_normalising_by_construction_is_affine_once_held(program: Program) -> None:
    with quiet():
        truth = truth_of(program)
        assert program.kind in (Kind.NORMALISING, Kind.AFFINE)  # a normaliser may have fitted nowhere
        assert (truth.unsteady, truth.around, truth.together, truth.held_curved) == ("", "", "", "")
        size = 1 + float(truth.scores.abs().amax())
        assert gap(truth.held(truth.activations), truth.scores) < 1e-9 * size


@given(program=programs())
@settings(few, max_examples=30)
def test_a_program_is_a_script(program: Program) -> None:
    names = {name: getattr(grammar, name) for name in grammar.__all__}
    again = eval(repr(program), names)
    assert again == program
    with quiet():
        one, other = (item.build().state_dict() for item in (program, again))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_seed_draws_the_same_program() -> None:
    first, again = (draw_program(Seeded("1")) for _ in range(2))
    assert first == again
    assert len({repr(draw_program(Seeded(number))) for number in range(20)}) == 20


def test_all_kinds_are_drawn() -> None:
    drawn = [draw_program(Seeded(number)) for number in range(300)]
    assert {program.kind for program in drawn} == set(Kind)
    families = {type(step) for program in drawn for step in program.steps}
    steps = {value for name in grammar.__all__ if inspect.isclass(value := getattr(grammar, name))}
    assert steps - {Program} <= families
