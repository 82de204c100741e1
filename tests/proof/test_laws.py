"""The two laws, measured: what is found, what rounding may explain, and where the removals are."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hirescam.passes.layout import simple
from hirescam.passes.trace import Trace
from hirescam.proof import laws
from hirescam.proof.laws import Laws, judged, measure, rounding_of, tolerance_of
from hirescam.rulebook.gradient import hirescam as rule
from passes.made import run
from toys import Branching, FlattenNet, TwoLayerNet, images, ready

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def linear(batch: int = 2, count: int = 2, space: tuple[int, ...] = (3, 4)) -> tuple[Trace, Tensor]:
    """The trace of a linear head with a bias, and its true maps."""
    generator = torch.Generator().manual_seed(0)
    activations = torch.rand(batch, 5, *space, generator=generator, dtype=torch.float64) + 0.5
    gradients = torch.rand(batch, count, 5, *space, generator=generator, dtype=torch.float64) + 0.5

    def score(many: Tensor) -> Tensor:
        return torch.einsum("btk...,nbk...->nbt", gradients, many) + 3

    nothing = activations.new_zeros(0)
    traced = Trace(
        activations=activations, gradients=gradients, score=score(activations[None])[0],
        index=torch.zeros(batch, count, dtype=torch.int64), logits=activations.new_zeros(batch, 5),
        layout=simple(tuple(activations.shape), 1), output=activations, rescore=score,
        regrade=lambda x: gradients, head_replayed=True, held=False, precision=torch.float64,
        images=nothing, score_images=lambda x: x, retrace=lambda x: traced, curvature=lambda x: x,
    )  # fmt: skip
    return traced, rule(traced)


def test_a_map_that_is_right() -> None:
    found = measure(*linear())
    assert found.completeness_error < 1e-13
    assert found.location_error < 1e-13
    assert (found.cells, found.complete, found.local, found.hold) == (12, True, True, True)


@pytest.mark.parametrize(("complete", "local"), [(True, True), (True, False), (False, True), (False, False)])
def test_both_laws_have_to_hold(complete: bool, local: bool) -> None:
    assert Laws(0, 0, 1, complete=complete, local=local).hold is (complete and local)


def test_errors_are_relative_and_the_largest_of_the_batch() -> None:
    traced, raw = linear()
    wrong = raw.clone()
    wrong[1, 0, 2, 1] += 0.25
    found = measure(traced, wrong)
    total = float(raw[1, 0].sum())
    assert found.completeness_error == pytest.approx(0.25 / total)
    assert found.location_error == pytest.approx(0.25 / float(wrong[1, 0].max()))
    assert not found.complete
    assert not found.local


def test_a_map_that_only_adds_up() -> None:
    traced, raw = linear()
    found = measure(traced, raw.flip(-1))
    assert found.complete
    assert not found.local
    assert found.completeness_error < 1e-13
    assert found.location_error > 0.1


def test_the_score_of_nothing_at_all_is_taken_off() -> None:
    traced, raw = linear()
    assert measure(traced, raw + 3 / 12).completeness_error > 0.01
    shifted = replace(traced, score=traced.score + 1)
    assert not measure(shifted, raw).complete


# Which locations ------------------------------------------------------------------------------


def test_locations_are_spread_from_the_first_to_the_last() -> None:
    traced, raw = linear(space=(100,))
    seen: list[Tensor] = []
    watched = replace(traced, rescore=lambda many: seen.append(many.clone()) or traced.rescore(many))
    assert measure(watched, raw, most_cells=3).cells == 3
    many = torch.cat(seen)
    assert len(many) == 4
    assert not many[0].any()
    empty = [(item == 0).all(1).nonzero()[:, 1].unique().tolist() for item in many[1:]]
    assert [len(one) for one in empty] == [1, 1, 1]
    assert (empty[0], empty[2]) == ([0], [99])
    assert empty[1][0] in (49, 50)
    for item, (cell,) in zip(many[1:], empty, strict=True):
        kept = [s for s in range(100) if s != cell]
        assert torch.equal(item[..., kept], traced.activations[..., kept])
    assert measure(traced, raw).cells == 64
    small, small_raw = linear(space=(5,))
    assert measure(small, small_raw, most_cells=9).cells == 5


def test_an_error_at_any_location_that_is_looked_at_is_found() -> None:
    traced, raw = linear()
    for cell in range(12):
        wrong = raw.clone()
        wrong.view(2, 2, 12)[0, 1, cell] += 0.01
        assert not measure(traced, wrong).local


def test_blocks_under_a_bound_of_memory_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    traced, raw = linear()
    whole, sizes = measure(traced, raw * 1.1), []
    watched = replace(traced, rescore=lambda many: sizes.append(len(many)) or traced.rescore(many))
    monkeypatch.setattr(laws, "_BLOCK_BYTES", 5 * traced.activations.nbytes)
    assert measure(watched, raw * 1.1) == whole
    assert sizes == [5, 5, 3]
    sizes.clear()
    monkeypatch.setattr(laws, "_BLOCK_BYTES", 1)
    assert measure(watched, raw * 1.1) == whole
    assert sizes == [1] * 13


# What rounding may explain --------------------------------------------------------------------

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.03}


ROUNDING = {torch.float64: 64, torch.float32: 64, torch.bfloat16: 4, torch.float16: 4}


def test_tolerances_are_stated() -> None:
    assert {dtype: tolerance_of(dtype) for dtype in DTYPES} == TOLERANCE
    assert tolerance_of(torch.float8_e4m3fn) == 1e-3
    for dtype in DTYPES:
        assert rounding_of(dtype) == ROUNDING[dtype] * torch.finfo(dtype).eps


def in_dtype(traced: Trace, dtype: torch.dtype) -> Trace:
    return replace(traced, precision=dtype)


def bound(allowed: Callable[[float], float]) -> float:
    """The error that is just allowed, where what is allowed depends on the error."""
    error = 0.0
    for _ in range(300):
        error = allowed(error)
    return error


@pytest.mark.parametrize("score", [0.0, 1000.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("factor", "holds"), [(0.99, True), (1.01, False)])
def test_an_error_just_within_what_is_allowed_and_one_just_beyond_it(
    dtype: torch.dtype, factor: float, holds: bool, score: float
) -> None:
    """A map of two locations, 1 and 0, and a model that answers a little otherwise."""
    share, rounding = TOLERANCE[dtype], ROUNDING[dtype] * torch.finfo(dtype).eps
    traced = replace(in_dtype(linear(1, 1, (2,))[0], dtype), score=torch.full((1, 1), score).double())
    raw, removed = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64), torch.tensor([[0], [1]])
    nothing, without = traced.score - 1, traced.score - raw.permute(2, 0, 1)

    error = factor * bound(lambda e: share + rounding * max(1, score + e))
    found = judged(traced, raw, nothing, without + error * removed[..., None], removed)
    assert found.location_error == pytest.approx(error)
    assert (found.complete, found.local) == (True, holds)

    error = factor * bound(lambda e: share * abs(1 - e) + rounding * max(1, score, abs(score - 1 + e)))
    found = judged(traced, raw, nothing + error, without, removed)
    assert found.completeness_error == pytest.approx(error / abs(1 - error))
    assert (found.complete, found.local) == (holds, True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_map_that_is_a_third_too_large_never_holds(dtype: torch.dtype) -> None:
    traced, raw = linear()
    assert measure(in_dtype(traced, dtype), raw).hold
    assert not measure(in_dtype(traced, dtype), 1.3 * raw).hold


def test_what_is_not_finite_never_holds() -> None:
    traced, raw = linear()
    for value in (torch.nan, torch.inf):
        broken = raw.clone()
        broken[0, 0, 0, 0] = value
        found = measure(traced, broken)
        assert not found.complete
        assert not found.hold


def test_an_empty_map_of_a_score_that_is_constant() -> None:
    traced, raw = linear()
    still = replace(
        traced, score=torch.full((2, 2), 3.0), rescore=lambda many: torch.full((len(many), 2, 2), 3.0)
    )
    found = measure(still, raw * 0)
    assert found.hold
    assert (found.completeness_error, found.location_error) == (0, 0)


def test_an_empty_map_of_a_score_of_nothing() -> None:
    """No error, of which none is allowed."""
    traced, raw = linear()
    nothing = replace(
        traced, score=torch.zeros(2, 2), rescore=lambda many: torch.zeros(len(many), 2, 2).double()
    )
    assert measure(nothing, raw * 0).hold


# Of real passes -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_real_passes_obey_and_a_map_for_another_class_does_not(dtype: torch.dtype) -> None:
    model, x = ready(FlattenNet(), dtype), images(2, dtype=dtype)
    traced = run(model, x, target=1).trace()
    assert measure(traced, rule(traced)).hold
    other = run(model, x, target=2).trace()
    assert not measure(traced, rule(other)).local
    much = 3.0 if dtype is torch.bfloat16 else 1.01
    assert not measure(traced, much * rule(traced)).hold
    assert not measure(traced, (2 - much) * rule(traced)).hold


def test_the_whole_model_answers_where_the_head_cannot() -> None:
    model, x = ready(Branching(threshold=-1)), images(2)
    traced = run(model, x, target=1).trace()
    assert not traced.head_replayed
    assert measure(traced, rule(traced)).hold
    local = run(ready(TwoLayerNet()), x, target=1).trace()
    assert not measure(local, rule(local)).local
