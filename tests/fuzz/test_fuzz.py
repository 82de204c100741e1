"""A few random heads and sequences in every test; ``make fuzz`` runs many."""

from hypothesis import HealthCheck, given, settings

from fuzz.grammar import Program, programs
from fuzz.running import examine
from fuzz.sequences import Sequence, sequences

few = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@given(program=programs())
@settings(few, max_examples=200)
def test_no_verdict_is_false(program: Program) -> None:
    assert examine(program).violations == ()


@given(sequence=sequences())
@settings(few, max_examples=60)
def test_no_verdict_of_a_later_call_is_false(sequence: Sequence) -> None:
    assert sequence.run() == []
