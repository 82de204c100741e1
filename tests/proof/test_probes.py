"""Each question to the model finds the fault that it is for, and rounding is no fault."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hirescam
from hirescam import AllClasses, Contrast, LayerError
from hirescam.passes.trace import Pass
from hirescam.proof import probes
from hirescam.proof.laws import Laws, rounding_of, tolerance_of
from hirescam.proof.probes import Answers, Findings, ask, find, wrong_class, wrong_target
from hirescam.rulebook.gradient import hirescam as rule
from passes.made import close, run
from toys import SIDE, After, FlattenNet, NormNet, PooledNet, SegNet, TwoLayerNet, images, ready

DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def asked(finished: Pass, *, affine: bool = True, apart: bool = False) -> tuple[Answers, Findings]:
    traced = finished.trace()
    answers = ask(finished, traced, rule(traced), affine=affine, apart=apart)
    return answers, find(answers, finished, traced, rule(traced))


def found(op: Callable[[Tensor], Tensor], *, affine: bool = True, apart: bool = False) -> Findings:
    torch.manual_seed(0)
    return asked(run(ready(After(op)), images(2), "conv", 1), affine=affine, apart=apart)[1]


# The questions --------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [False, True])
def test_what_is_asked_of_an_affine_head(apart: bool) -> None:
    model, x = ready(PooledNet()), images(2)
    answers, _ = asked(run(model, x, target=[1, 4]), apart=apart)
    activations = model.features(x).detach()
    held = ("held", "held too") if apart else ()
    assert answers.questions == (*held, "mixed", "larger", "without", "nothing")
    given = {name: make() for name, make in answers.changed.items()}
    assert all(torch.equal(given[name], activations) for name in held)
    assert not given["nothing"].any()
    raw = rule(run(model, x, target=[1, 4]).trace())[:, 0].abs().flatten(1)
    assert answers.removed.tolist() == raw.argmax(1).tolist()
    for item, kept, cell in zip(given["without"], activations, answers.removed.tolist(), strict=True):
        assert not item.flatten(1)[:, cell].any()
        rest = [s for s in range(SIDE**2) if s != cell]
        assert torch.equal(item.flatten(1)[:, rest], kept.flatten(1)[:, rest])
    sizes = {name: float(item.std()) / float(activations.std()) for name, item in given.items()}
    assert 0.5 < sizes["mixed"] < 1.5
    assert 4 < sizes["larger"] < 12
    with torch.no_grad():
        for name, item in given.items():
            close(answers.of(name), model.head(item.mean((2, 3))))
            close(answers.step(name, activations), item - activations)


@pytest.mark.parametrize("apart", [False, True])
def test_what_is_asked_of_another_head(apart: bool) -> None:
    model, x = ready(TwoLayerNet()), images(2)
    finished = run(model, x, target=[1, 4])
    answers, _ = asked(finished, affine=False, apart=apart)
    held = ("held", "held too") if apart else ()
    assert answers.questions == (*held, "along", "aside", "without", "nothing")
    assert not any(answers.step(name, finished.activations.detach()).any() for name in held)
    traced = finished.trace()
    along, aside = (answers.step(name, traced.activations).flatten(1) for name in ("along", "aside"))
    gradient = traced.gradients[:, 0].flatten(1)
    close(F.cosine_similarity(along, gradient), torch.ones(2, dtype=torch.float64))
    close(along.norm(dim=1), aside.norm(dim=1))
    assert float(aside.std() / traced.activations.std()) == pytest.approx(2.0**-6, rel=0.1)
    assert float(F.cosine_similarity(aside[:1], aside[1:]).abs()) < 0.2


@pytest.mark.parametrize(
    ("affine", "apart", "strangers"),
    [
        (True, False, ("mixed", "larger")),
        (False, False, ("along", "aside")),
        (True, True, ("held", "held too")),
        (False, True, ("held", "held too")),
    ],
)
def test_two_questions_are_asked_with_other_images(
    affine: bool, apart: bool, strangers: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = ready(FlattenNet()), images(2)
    seen: list[Tensor] = []
    original = probes.run_from
    monkeypatch.setattr(
        probes, "run_from", lambda site, call, *rest: seen.append(call.images) or original(site, call, *rest)
    )
    answers, _ = asked(run(model, x, target=1), affine=affine, apart=apart)
    assert [len(item) for item in seen[1:]] == [1, 1]
    shown = dict(zip(answers.questions, seen[0].unflatten(0, (-1, 2)), strict=True))
    assert {name for name, item in shown.items() if not torch.equal(item, x)} == set(strangers)
    first, second = (shown[name] for name in strangers)
    for item in (first, second):
        assert abs(float(item.mean() - x.mean())) > 0.5 * float(x.std())
        assert not torch.allclose(item.std(), x.std(), rtol=0.1)
    assert float(second.mean()) < float(x.mean()) < float(first.mean())


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_other_images_of_one_grey_are_others_too(value: float) -> None:
    for grey in (torch.full((2, 3, 4, 4), value), torch.full((1, 1, 1), value)):
        made = [probes._other(grey, number) for number in (0, 1)]
        assert all(bool((one != grey).any()) for one in made)
        assert not torch.equal(*made)
        assert made[0].shape == grey.shape


def test_other_images_are_as_far_as_images_are_from_each_other() -> None:
    x = images(2)
    for number in (0, 1):
        near, far = (probes._other(scale * x, number).mean() - scale * x.mean() for scale in (1, 1000))
        assert float(far / near) == pytest.approx(1000)


def test_what_is_larger_is_another_mixture() -> None:
    finished = run(ready(FlattenNet()), images(2), target=1)
    answers, _ = asked(finished)
    mixed, larger = (answers.changed[question]() for question in ("mixed", "larger"))
    assert not torch.allclose(larger, 8 * mixed, rtol=0.1)


def test_noise_is_as_large_as_what_it_is_like_and_takes_no_random_numbers() -> None:
    like = 5 * torch.randn(40, 50).double() + 100
    state = torch.get_rng_state()
    noise = probes._noise(like, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert noise.dtype == torch.float64
    assert float(noise.std() / like.std()) == pytest.approx(1, rel=0.1)
    assert torch.equal(noise, probes._noise(like, 3))
    assert not torch.equal(noise, probes._noise(like, 4))
    assert float(probes._noise(torch.full((40, 50), 7.0), 0).std()) == pytest.approx(1, rel=0.1)
    assert float(probes._noise(torch.tensor([[7.0]]), 0)) != 0


# Faults that one question alone finds ---------------------------------------------------------


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("net", [FlattenNet, PooledNet])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_affine_head_is_above_suspicion(dtype: torch.dtype, net: type, apart: bool) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        model, x = ready(net(), dtype), images(2, dtype=dtype)
        for target in (1, None, AllClasses(), Contrast(0, 2)):
            _, findings = asked(run(model, x, target=target), apart=apart)
            assert findings.doubts == ()
            assert not findings.bypass
            assert findings.gradient == 0


def bump(at: Tensor) -> Callable[[Tensor], Tensor]:
    """Nothing, but for activations whose mean is that of one question."""
    means = at.mean((1, 2, 3))

    def op(a: Tensor) -> Tensor:
        close = (a.mean((1, 2, 3))[:, None] - means).abs().amin(1) < 1e-9
        return a + close.to(a.dtype)[:, None, None, None]

    return op


DOUBTS = {
    "mixed": "a probe finds the head not affine",
    "larger": "a probe finds the head not affine",
    "without": "the laws fail when they are measured",
    "nothing": "the laws fail when they are measured",
}


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("question", DOUBTS)
def test_a_fault_that_only_one_question_meets_is_found(question: str, apart: bool) -> None:
    torch.manual_seed(0)
    model, x = ready(After(lambda a: a)), images(2)
    answers, findings = asked(run(model, x, "conv", 1), apart=apart)
    assert findings.doubts == ()
    model.op = bump(answers.changed[question]())
    _, findings = asked(run(model, x, "conv", 1), apart=apart)
    assert [doubt[: len(DOUBTS[question])] for doubt in findings.doubts] == [DOUBTS[question]]
    assert findings.laws.hold is (DOUBTS[question] == DOUBTS["mixed"])
    assert (findings.affinity > 0.01) is findings.laws.hold


def test_a_gate_that_saturates_shows_only_at_eight_times_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def gate(a: Tensor) -> Tensor:
        return a * (1 - torch.sigmoid(40 * (a.abs().mean((1, 2, 3), keepdim=True) - 2.5)))

    assert "not affine" in found(gate).doubts[0]
    monkeypatch.setattr(probes, "_LARGER", 1.0)
    assert found(gate).doubts == ()


class Around(FlattenNet):
    """Something of the image goes around the layer, unseen by the graph of the pass that is cut."""

    def __init__(self, way: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1)) + self.way(x.detach())[:, None]


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "its mean": lambda x: x.mean((1, 2, 3)),
    "its contrast": lambda x: x.std((1, 2, 3)),
    "one half against the other": lambda x: (x[..., 4:] - x[..., :4]).mean((1, 2, 3)),
    "one pixel": lambda x: x[:, 0, 3, 3],
}


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_way_around_the_layer_is_found(way: str, affine: bool) -> None:
    torch.manual_seed(0)
    finished = run(ready(Around(WAYS[way])), images(2), target=1)
    _, findings = asked(finished, affine=affine)
    assert findings.doubts  # of what it cannot be said before it is asked apart
    assert not findings.bypass
    _, findings = asked(finished, affine=affine, apart=True)
    assert findings.bypass
    assert findings.doubts[0] == "the score changes with the image although this layer's output is held"


def test_images_that_influence_each_other_give_themselves_away() -> None:
    assert found(lambda a: a - a.mean(0, keepdim=True)).doubts
    assert found(lambda a: a * (a.shape[0] if a.shape[0] > 2 else 1)).doubts


# Gradients ------------------------------------------------------------------------------------


def with_gradient(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Nothing, with another gradient."""

    class Changed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 1

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return change(gradient)

    return Changed.apply


@pytest.mark.parametrize("apart", [False, True])
def test_a_right_gradient_is_above_suspicion(apart: bool) -> None:
    findings = found(with_gradient(lambda g: g), affine=False, apart=apart)
    assert findings.gradient < 1e-6
    assert findings.doubts == ()
    assert findings.affinity == 0


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "the other way": lambda g: -g,
    "none": lambda g: g * 0,
    "twice": lambda g: g * 2,
    "clipped": lambda g: g.clamp(-0.01, 0.01),
    "half of it": lambda g: g * (torch.arange(g.shape[-1]) % 2),
    "mirrored": lambda g: g.flip(-1),
    "with something added": lambda g: g + g.flip(2),
    "not a number": lambda g: g * torch.nan,
}


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_gradient_is_found(name: str, apart: bool) -> None:
    findings = found(with_gradient(WRONG[name]), affine=False, apart=apart)
    assert findings.gradient > 0.1
    assert findings.doubts[-1].startswith("a small step changes the score otherwise than the gradient says")


def traced_at(logits: torch.dtype = torch.float64, **tensors: Tensor) -> Any:
    """A trace of one image, one score and four locations whose gradient is one everywhere."""
    ones = torch.ones(1, 1, 1, 4, dtype=torch.float64)
    base = {"gradients": ones, "activations": 0 * ones[:, 0], "score": torch.zeros(1, 1).double()}
    return SimpleNamespace(**(base | tensors), precision=logits)


def answers_of(steps: dict[str, Tensor], logits: dict[str, float] | None = None) -> Answers:
    values = [[[(logits or {}).get(name, 0.0)]] for name in steps]
    return Answers(
        {name: partial(torch.clone, step.double().reshape(1, 1, 4)) for name, step in steps.items()},
        torch.tensor(values, dtype=torch.float64),
        torch.zeros(1, dtype=torch.int64),
    )


def scores_of(values: dict[str, float]) -> dict[str, Tensor]:
    return {name: torch.tensor([[value]], dtype=torch.float64) for name, value in values.items()}


@pytest.mark.parametrize("question", ["along", "aside"])
@pytest.mark.parametrize("wrong", [0.9, 1.1])
def test_a_small_step_may_be_a_tenth_off(question: str, wrong: float) -> None:
    """The step is two long and should change the score by four, typically by two."""
    steps = {"along": torch.ones(4), "aside": torch.ones(4)}
    answers, traced = answers_of(steps), traced_at()
    right = {"along": 4.0, "aside": 4.0}
    assert probes._near(answers, traced, scores_of(right)) == 0
    for sign in (1, -1):
        there = right | {question: 4 / (1 - sign * 0.1 * wrong)}
        assert (probes._near(answers, traced, scores_of(there)) > 0.1) is (wrong > 1)


@pytest.mark.parametrize("wrong", [0.9, 1.1])
def test_a_step_across_the_gradient_is_held_against_a_typical_one(wrong: float) -> None:
    """Across the gradient nothing should change; a typical step of this length changes the score by two."""
    across = torch.tensor([1.0, -1.0, 1.0, -1.0])
    answers = answers_of({"along": across, "aside": across})
    there = scores_of({"along": 0.0, "aside": 0.2 * wrong})
    assert (probes._near(answers, traced_at(), there) > 0.1) is (wrong > 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("wrong", [0.9, 1.1])
def test_rounding_of_the_score_is_no_wrong_gradient(dtype: torch.dtype, wrong: float) -> None:
    """No gradient and no change, but for what adding up a score of 50 leaves."""
    nothing = torch.zeros(4)
    traced = traced_at(
        dtype, gradients=torch.zeros(1, 1, 1, 4).double(), score=torch.tensor([[50.0]]).double()
    )
    answers = answers_of({"along": nothing, "aside": nothing})
    step = 2**-4 if dtype is torch.bfloat16 else 2**-6
    share = 0.1 + 2 * torch.finfo(dtype).eps / step
    gap = wrong * 50 * rounding_of(dtype) / (1 - share)
    there = scores_of({"along": 50.0, "aside": 50.0 + gap})
    assert (probes._near(answers, traced, there) > 0.1) is (wrong > 1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_kinks_are_no_wrong_gradient(dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    model, x = ready(TwoLayerNet(), dtype), images(2, dtype=dtype)
    _, findings = asked(run(model, x, target=seed), affine=False, apart=True)
    assert findings.gradient <= 0.1
    assert findings.doubts == ()


@pytest.mark.parametrize(
    ("dtype", "gap", "doubted"),
    [
        (torch.float64, 1e-5, False), (torch.float64, 1e-9, True),
        (torch.float32, 3e-3, False), (torch.float32, 1e-5, True),
        (torch.bfloat16, 1e-2, True),
    ],
    ids=str,
)  # fmt: skip
def test_kinks_right_beside_the_activations_need_a_smaller_step(
    dtype: torch.dtype, gap: float, doubted: bool
) -> None:
    """Half of all activations have a kink that the larger step crosses; half precision has no smaller one.

    Smaller steps are taken where questions are asked apart.
    """
    torch.manual_seed(0)
    model, x = ready(After(lambda a: a), dtype), images(1, dtype=dtype)
    with torch.no_grad():
        near = model.conv(x)
        near += gap * near.std()

    model.op = lambda a: a + 20 * torch.relu(a - near)
    finished = run(model, x, "conv", 1)
    assert asked(finished, affine=False)[1].doubts
    assert bool(asked(finished, affine=False, apart=True)[1].doubts) is doubted


# Tolerances -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("wrong", [0.95, 1.05])
def test_affinity_allows_a_share_of_the_change_and_rounding_of_what_is_added_up(
    dtype: torch.dtype, wrong: float
) -> None:
    """Products of size five add up to three for a step of (3, -1, 1, 0); the score goes from 10 to 13."""
    traced = traced_at(dtype, score=torch.tensor([[10.0]]).double())
    step = torch.tensor([3.0, -1.0, 1.0, 0.0])
    answers, tolerance, rounding = answers_of({"mixed": step}), tolerance_of(dtype), rounding_of(dtype)
    exact = probes._far(answers, traced, "mixed", scores_of({"mixed": 13.0}))
    assert exact == 0

    def excess(error: float) -> float:
        """What is found less what is allowed, if the score changes by so much too much."""
        return error - rounding * (5 + 10 + 13 + error) - tolerance * (3 + error)

    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    at = probes._far(answers, traced, "mixed", scores_of({"mixed": 13.0 + wrong * low}))
    assert (at > tolerance) is (wrong > 1)


def test_what_is_not_finite_is_as_far_as_can_be() -> None:
    answers, traced = (
        answers_of({"mixed": torch.ones(4), "along": torch.ones(4), "aside": torch.ones(4)}),
        traced_at(),
    )
    for value in (torch.nan, torch.inf):
        broken = scores_of({"mixed": value, "along": value, "aside": 4.0})
        assert probes._far(answers, traced, "mixed", broken) == torch.inf
        assert probes._near(answers, traced, broken) == torch.inf


@pytest.mark.parametrize("question", ["held", "held too"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("wrong", [0.95, 1.05])
def test_a_bypass_may_change_as_much_as_rounding_does(
    dtype: torch.dtype, wrong: float, question: str
) -> None:
    """The score is 8, and 5 of it are lost without any activation."""
    traced = traced_at(dtype)
    traced.logits = torch.full((1, 1), 8.0, dtype=dtype)
    allowed = tolerance_of(dtype) * 5 + rounding_of(dtype) * 8
    steps = dict.fromkeys(("nothing", "held", "held too"), torch.zeros(4))
    same = {"nothing": 3.0, "held": 8.0, "held too": 8.0}
    for sign in (1, -1):
        answers = answers_of(steps, same | {question: 8.0 + sign * wrong * allowed})
        assert probes._moved(answers, traced) is (wrong > 1)
    assert probes._moved(answers_of(steps, same | {question: torch.nan}), traced)
    assert not probes._moved(answers_of({"nothing": torch.zeros(4)}, same), traced)  # not asked


def laws(hold: bool) -> Laws:
    return Laws(0.25, 0.5, 1, complete=hold, local=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_doubts_come_strongest_first_and_only_where_they_are_due(dtype: torch.dtype) -> None:
    traced, tolerance = traced_at(dtype), tolerance_of(dtype)
    every = probes._doubts(traced, laws(False), True, 1.01 * tolerance, 0.11, True)
    assert [doubt.split()[0:3] for doubt in every] == [
        ["the", "score", "changes"], ["a", "probe", "finds"], ["the", "laws", "fail"], ["a", "small", "step"],
    ]  # fmt: skip
    assert "(error 5.0e-01)" in every[2]
    assert "(by 11%)" in every[3]
    assert probes._doubts(traced, laws(True), False, tolerance, 0.1, True) == ()
    assert probes._doubts(traced, laws(False), False, torch.inf, 0.1, False) == ()
    assert len(probes._doubts(traced, laws(True), False, torch.nan, 0.0, True)) == 1


FAULT = 0.002  # of the map, squared: above what float32 explains, below what bfloat16 does


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_half_precision_cannot_tell_float32_can(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, x = ready(After(lambda a: a + FAULT * a * a), dtype), images(2, dtype=dtype)
    _, findings = asked(run(model, x, "conv", 1))
    assert bool(findings.doubts) is (dtype is not torch.bfloat16)
    model.op = lambda a: a + 3 * a * a
    _, findings = asked(run(model, x, "conv", 1))
    assert findings.doubts


# Alone ----------------------------------------------------------------------------------------

COUPLED: dict[str, Callable[[Tensor], Tensor]] = {
    "another way for many": lambda a: 2 * a if len(a) > 1 else a,
    "the number in the batch": lambda a: a * (1 + torch.arange(len(a)).to(a).view(-1, 1, 1, 1)),
    "the mean of all": lambda a: a - 0.5 * a.mean(0),
    "the first": lambda a: a + 0.5 * a[:1].roll(1, 1),
    "the largest of all": lambda a: a + a.amax(),
}


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("batch", [2, 3])
@pytest.mark.parametrize("name", COUPLED)
def test_an_image_that_scores_otherwise_alone_is_found(name: str, batch: int, affine: bool) -> None:
    model = ready(After(COUPLED[name]))
    answers, findings = asked(run(model, images(batch), "conv", 1), affine=affine)
    assert answers.alone.shape == (2, 5)
    assert findings.doubts[0] == "an image alone gets another score than in its batch"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_image_that_is_alone_has_no_company(dtype: torch.dtype) -> None:
    model = ready(FlattenNet(), dtype)
    assert asked(run(model, images(1, dtype=dtype), target=1))[0].alone is None
    _, findings = asked(run(model, images(3, dtype=dtype), target=1))
    assert findings.doubts == ()


def test_beside_other_inputs_an_image_alone_has_its_own_part_of_them() -> None:
    model, x = ready(TwoInputs()), images(3)
    row = torch.randn(3, 5, dtype=torch.float64)
    answers, findings = asked(run(model, (x, row), "net.features", 1))
    close(answers.alone, model(x, row).detach()[[0, 2]])
    assert findings.doubts == ()


# One batch, or one by one ---------------------------------------------------------------------


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each pass has."""
    seen: list[int] = []
    original = probes.run_from
    monkeypatch.setattr(
        probes,
        "run_from",
        lambda site, call, *rest: seen.append(len(call.images)) or original(site, call, *rest),
    )
    return seen


@pytest.mark.parametrize("net", [PooledNet, FlattenNet])
def test_all_questions_to_a_model_go_in_one_batch(net: type, sizes: list[int]) -> None:
    """docs/speed.md gives these numbers: two images, four questions about each, and each alone."""
    assert hirescam.certify(ready(net()), images()).guarantee == "exact"
    assert sizes == [8, 1, 1]
    sizes.clear()
    assert hirescam.certify(ready(net()), images(1)).guarantee == "exact"
    assert sizes == [4]


def test_questions_that_are_asked_apart_go_in_one_batch_too(sizes: list[int]) -> None:
    for affine in (True, False):
        asked(run(ready(FlattenNet()), images(2), target=1), affine=affine, apart=True)
    assert sizes == [12, 1, 1] * 2


def test_smaller_steps_are_taken_only_apart_and_only_after_a_doubt(sizes: list[int]) -> None:
    good, bad = (
        run(ready(After(with_gradient(g))), images(2), "conv", 1) for g in (lambda g: g, lambda g: -g)
    )
    for finished, apart, expected in (
        (good, False, [8, 1, 1]), (bad, False, [8, 1, 1]), (good, True, [12, 1, 1]),
        (bad, True, [12, 1, 1, 4]),
    ):  # fmt: skip
        sizes.clear()
        asked(finished, affine=False, apart=apart)
        assert sizes == expected


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = FlattenNet()

    def forward(self, picture: Tensor, row: Tensor) -> Tensor:
        return self.net(picture) + row


def test_beside_other_inputs_questions_go_one_by_one(sizes: list[int]) -> None:
    model, x = ready(TwoInputs()), images(2)
    row = torch.randn(2, 5, dtype=torch.float64)
    _, findings = asked(run(model, (x, row), "net.features", 1))
    assert sizes == [2] * 4 + [1] * 2
    assert findings.doubts == ()


def test_with_divisors_held_questions_go_one_by_one(sizes: list[int]) -> None:
    _, findings = asked(run(ready(NormNet()), images(2), target=1, hold=True))
    assert sizes == [2] * 4 + [1] * 2
    assert findings.doubts == ()
    _, findings = asked(run(ready(NormNet()), images(2), target=1))
    assert findings.doubts  # not held


@pytest.mark.parametrize("error", [RuntimeError("batch"), LayerError("layer='x': no")])
def test_a_model_for_one_size_of_batch_is_asked_one_by_one(error: Exception, sizes: list[int]) -> None:
    class OneSize(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) != 2:
                raise error
            return super().forward(x)

    torch.manual_seed(0)
    model = ready(OneSize())
    answers, findings = asked(run(model, images(2), target=1))
    assert sizes == [8, 2, 2, 2, 2, 1]
    assert answers.alone is None
    assert findings.doubts == ()
    plain = ready(FlattenNet())
    plain.load_state_dict(model.state_dict())
    together, _ = asked(run(plain, images(2), target=1))
    close(answers.logits, together.logits)


def test_dense_outputs_are_asked_too() -> None:
    from hirescam import Region
    from hirescam.passes.trace import Wish, forward
    from passes.made import call, laid_out, site

    model, mask, x = ready(SegNet()), torch.ones(SIDE, SIDE), call(images(2))
    finished = forward(laid_out(site(model, output="out"), x), x, Wish(Region(1, mask)))
    answers, findings = asked(finished)
    assert answers.logits.shape == (4, 2, 5, SIDE, SIDE)
    assert findings.doubts == ()


# Other classes and targets --------------------------------------------------------------------

SMOOTH = 1  # a seed of a network of two layers that has no kink right beside its activations


@pytest.mark.parametrize(("affine", "seed"), [(True, 0), (False, SMOOTH)])
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_the_gradient_of_another_class_is_held_against_the_same_answers(
    dtype: torch.dtype, affine: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    model, x = ready(FlattenNet() if affine else TwoLayerNet(), dtype), images(2, dtype=dtype)
    finished = run(model, x, target=1)
    answers, _ = asked(finished, affine=affine)
    classes = [3, 0, 4]
    jacobian = finished.jacobian(classes)
    assert wrong_class(answers, jacobian, classes, finished) is None
    for change in (lambda j: -j, lambda j: 2 * j, lambda j: j.flip(-1), lambda j: j * torch.nan):
        spoilt = jacobian.clone()
        spoilt[1] = change(spoilt[1])
        assert wrong_class(answers, spoilt, classes, finished) == 0
        spoilt[0] = change(spoilt[0])
        assert wrong_class(answers, spoilt, classes, finished) == 3


@pytest.mark.parametrize("question", ["mixed", "nothing"])
def test_a_class_is_asked_at_a_mixture_and_at_nothing(question: str) -> None:
    model, x = ready(FlattenNet()), images(2)
    finished = run(model, x, target=1)
    answers, _ = asked(finished)
    number = answers.questions.index(question)
    logits = answers.logits.clone()
    logits[number, 0, 2] += 1e-4
    spoilt = replace(answers, logits=logits)
    assert wrong_class(spoilt, finished.jacobian([1, 2]), [1, 2], finished) == 2
    assert wrong_class(spoilt, finished.jacobian([1, 3]), [1, 3], finished) is None
    logits[number, 1, 3] += 1
    assert wrong_class(spoilt, finished.jacobian([1, 3]), [1, 3], finished) is None  # of the second image


@pytest.mark.parametrize("question", ["along", "aside"])
def test_a_class_of_another_head_is_asked_along_and_aside(question: str) -> None:
    torch.manual_seed(SMOOTH)
    model, x = ready(TwoLayerNet()), images(2)
    finished = run(model, x, target=1)
    answers, _ = asked(finished, affine=False)
    number = answers.questions.index(question)
    logits = answers.logits.clone()
    logits[number, 0, 2] += 1
    spoilt = replace(answers, logits=logits)
    assert wrong_class(spoilt, finished.jacobian([1, 2]), [1, 2], finished) == 2
    assert wrong_class(spoilt, finished.jacobian([1, 3]), [1, 3], finished) is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("wrong", [0.95, 1.05])
def test_a_class_may_be_as_wrong_as_rounding_makes_it(dtype: torch.dtype, wrong: float) -> None:
    """Products of size √11 add up to three, and the logit goes from ten to thirteen."""
    jacobian, step = torch.ones(1, 1, 4).double(), torch.tensor([3.0, -1.0, 1.0, 0.0])
    finished = SimpleNamespace(
        logits=torch.full((1, 1), 10.0, dtype=dtype),
        precision=dtype,
        activations=torch.zeros(1, 1, 4).double(),
    )
    tolerance, rounding = tolerance_of(dtype), rounding_of(dtype)
    error = (tolerance * 3 + rounding * (11**0.5 + 10)) / (1 - tolerance)
    logits = {"mixed": 13.0 + wrong * error, "nothing": 10.0}
    answers = answers_of({"mixed": step, "nothing": torch.zeros(4)}, logits)
    assert wrong_class(answers, jacobian, [0], finished) == (0 if wrong > 1 else None)


def test_a_target_is_held_against_the_same_answers() -> None:
    model, x = ready(FlattenNet()), images(2)
    finished = run(model, x, target=1)
    answers, _ = asked(finished)
    assert not wrong_target(answers, finished, Contrast(0, 3))
    logits = answers.logits.clone()
    logits[answers.questions.index("mixed"), :, 3] += 1
    assert wrong_target(replace(answers, logits=logits), finished, Contrast(0, 3))
    assert not wrong_target(replace(answers, logits=logits), finished, Contrast(0, 2))


@pytest.mark.parametrize("apart", [False, True])
def test_a_target_of_another_head_is_held_against_small_steps(apart: bool) -> None:
    class OneIsWrong(TwoLayerNet):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            return torch.cat([out[:, :3], with_gradient(lambda g: -g)(out[:, 3:4]), out[:, 4:]], 1)

    finished = run(ready(OneIsWrong()), images(2), target=1)
    answers, findings = asked(finished, affine=False, apart=apart)
    assert findings.doubts == ()
    assert wrong_target(answers, finished, Contrast(0, 3))
    assert not wrong_target(answers, finished, Contrast(0, 2))


def test_a_head_whose_affinity_cannot_be_measured_is_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_far", lambda *args: float("nan"))
    certificate = hirescam.certify(ready(FlattenNet()), images(), "features")
    assert certificate.guarantee == "none"
    assert "not affine" in certificate.reason
