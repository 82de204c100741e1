"""Plans: what they are kept for, when they are made again, and how they are weakened."""

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hirescam import (
    AllClasses,
    Classes,
    Contrast,
    Explainer,
    Finer,
    Guarantee,
    Labels,
    LayerError,
    ModelError,
    Region,
    TopK,
    planning,
)
from hirescam.closed_form import ClosedForm, Doubt
from hirescam.passes.borrow import Call, as_call
from hirescam.passes.cut import Site
from hirescam.passes.restore import Slot, Written
from hirescam.passes.taps import parse
from hirescam.passes.trace import Wish, forward
from hirescam.planning import Plan, Planner
from hirescam.proof.grade import Grade
from hirescam.proof.judging import Certified
from hirescam.proof.selection import Layer
from toys import (
    CLASSES,
    SIDE,
    Bypass,
    FlattenNet,
    NormNet,
    PooledNet,
    SegNet,
    Shared,
    TwoLayerNet,
    images,
    ready,
)


def planner(model: nn.Module, layer: str | None = None, output: Any = None) -> Planner:
    made = Planner(model, None if layer is None else parse(layer), output, None, None)
    made.look()
    return made


def plan(made: Planner, x: Any = None, target: Any = 1) -> Plan:
    made.look()
    return made.plan(as_call(images(2) if x is None else x), target)


def change(model: nn.Module) -> None:
    with torch.no_grad():
        model.head.weight.mul_(1.1)


# Keys -----------------------------------------------------------------------------------------


def first(out: Tensor) -> Tensor:
    return out[:, 0]


def test_all_targets_that_are_affine_in_the_logits_share_a_plan() -> None:
    made = planner(ready(FlattenNet()))
    known = plan(made)
    for target in (
        None,
        3,
        [1, 2],
        TopK(2),
        Classes(1),
        AllClasses(),
        Contrast(0),
        Finer(1),
        torch.tensor(2),
    ):
        assert plan(made, target=target) is known
    assert len(made.plans) == 1


def test_sizes_of_batches_share_a_plan_and_sizes_of_images_do_not() -> None:
    made = planner(ready(PooledNet()))
    known = plan(made)
    assert plan(made, images(5)) is known
    other = plan(made, images(2, side=12))
    assert other is not known
    assert plan(made) is known
    assert plan(made, images(2, side=12)) is other


def test_the_number_of_channels_is_part_of_the_kind() -> None:
    class Any(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[:, :2])

    made = planner(ready(Any()))
    known = plan(made)
    assert plan(made, torch.cat([images(2), images(2)], 1)) is not known
    assert plan(made) is known


class Widens(FlattenNet):
    """Takes images in any precision."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double())


def test_precisions_have_plans_of_their_own() -> None:
    made = planner(ready(Widens()))
    wide = plan(made)
    narrow = plan(made, images(2, dtype=torch.float32))
    assert narrow is not wide
    assert plan(made) is wide
    assert plan(made, images(2, dtype=torch.float32)) is narrow


def test_autocast_has_a_plan_of_its_own() -> None:
    made, x = planner(ready(FlattenNet(), torch.float32)), images(2, dtype=torch.float32)
    plain = plan(made, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = plan(made, x)
        assert half is not plain
        assert half.finished.logits.dtype == torch.bfloat16
        assert plan(made, x) is half
    assert plan(made, x) is plain
    assert len(made.plans) == 2


class Chooser:
    """Scores that are methods, and functions of its own."""

    def __init__(self, label: int) -> None:
        self.label = label

    def score(self, out: Tensor) -> Tensor:
        return out[:, self.label]

    def other(self, out: Tensor) -> Tensor:
        return out[:, self.label]


def around(label: Any) -> Callable[[Tensor], Tensor]:
    return lambda out: out[:, int(label)]


def with_default(value: Any) -> Callable[[Tensor], Tensor]:
    return lambda out, label=value: out[:, int(label)]


def with_keyword(value: Any) -> Callable[[Tensor], Tensor]:
    return lambda out, *, label=value: out[:, int(label)]


def column(out: Tensor, label: Any = 0, *, factor: float = 1.0) -> Tensor:
    return factor * out[:, int(label)]


def by_partial(label: Any) -> Callable[[Tensor], Tensor]:
    return partial(column, label=label)


def by_partial_in_order(label: Any) -> Callable[[Tensor], Tensor]:
    return partial(lambda label, out: out[:, int(label)], label)


MAKERS = [around, with_default, with_keyword, by_partial, by_partial_in_order]


@pytest.mark.parametrize("make", MAKERS)
def test_functions_that_the_same_code_makes_again_are_one(make: Callable[[Any], Any]) -> None:
    """As in ``for images in batches: explainer(images, target=lambda logits: ...)``."""
    made = planner(ready(FlattenNet()))
    known = plan(made, target=make(1))
    assert make(1) is not make(1)
    assert plan(made, target=make(1)) is known
    for other in (2, True, 1.0, "1"):
        assert plan(made, target=make(other)) is not known
    label = torch.tensor(1)
    with_tensor = plan(made, target=make(label))
    assert plan(made, target=make(label)) is with_tensor
    assert plan(made, target=make(torch.tensor(1))) is not with_tensor


def test_methods_are_one_where_their_object_is() -> None:
    made, one, two = planner(ready(FlattenNet())), Chooser(1), Chooser(1)
    known = plan(made, target=one.score)
    assert plan(made, target=one.score) is known
    assert plan(made, target=two.score) is not known
    assert plan(made, target=one.other) is not known


def test_functions_of_the_same_code_and_other_globals_are_two() -> None:
    made = planner(ready(FlattenNet()))
    spaces: list[dict[str, Any]] = [{}, {}]
    for space in spaces:
        exec("def score(out): return out[:, 0]", space)
    assert spaces[0]["score"].__code__ == spaces[1]["score"].__code__
    assert plan(made, target=spaces[0]["score"]) is not plan(made, target=spaces[1]["score"])


def test_a_function_around_itself_or_around_nothing() -> None:
    def make() -> Callable[[Tensor], Tensor]:
        def score(out: Tensor) -> Tensor:
            return out[:, 0] if callable(score) else later

        return score
        later = None

    made = planner(ready(FlattenNet()))
    score = make()
    known = plan(made, target=score)
    assert plan(made, target=score) is known
    assert plan(made, target=make()) is not known


def test_what_a_plan_is_known_by_stays_alive() -> None:
    """An object that takes the place of one that is gone would else be taken for it."""
    made = planner(ready(FlattenNet()))
    seen = weakref.WeakSet[Chooser]()
    for label in range(CLASSES):
        chooser = Chooser(label)
        seen.add(chooser)
        found = plan(made, target=chooser.score)
        assert torch.equal(found.finished.score[:, 0], found.finished.logits[:, label])
        del chooser
    assert len(seen) == CLASSES


def test_functions_and_regions_are_known_by_identity() -> None:
    made = planner(ready(FlattenNet()))
    known = plan(made, target=first)
    assert plan(made, target=first) is known
    assert plan(made, target=lambda out: out[:, 0]) is not known
    assert plan(made) is not known

    class Always:
        def __call__(self, out: Tensor) -> Tensor:
            return out[:, 0]

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 1

    one, two = Always(), Always()
    assert plan(made, target=one) is not plan(made, target=two)
    dense = planner(ready(SegNet()), output="out")
    mask = torch.ones(SIDE, SIDE)
    region = Region(1, mask)
    assert plan(dense, target=region) is plan(dense, target=region)
    assert plan(dense, target=region) is not plan(dense, target=Region(1, mask))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = FlattenNet()

    def forward(self, picture: Tensor, row: Any, more: Any = None) -> Tensor:
        out = self.net(picture) + (row if isinstance(row, Tensor) else torch.tensor(row).double())
        return out if more is None else out * more


ROW = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64).repeat(2, 1)
ALIKE: list[tuple[Any, Any, bool]] = [
    (ROW, ROW.clone(), True),
    (ROW, ROW + 1e-9, False),
    (ROW, ROW.float(), False),
    (ROW, ROW[:1], False),
    ([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0], True),
    ([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 4.0, 6.0], False),
    ([1.0, 2.0, 3.0, 4.0, 5.0], [1, 2.0, 3.0, 4.0, 5.0], False),
    (1.0, True, False),
]


@pytest.mark.parametrize(("before", "after", "same"), ALIKE, ids=range(len(ALIKE)))
@pytest.mark.parametrize("named", [True, False])
def test_other_inputs_are_compared_by_value(before: Any, after: Any, same: bool, named: bool) -> None:
    made = planner(ready(TwoInputs()), "net.features")

    def given(row: Any) -> Any:
        return {"row": row, "picture": images(2)} if named else (images(2), row)

    known = plan(made, given(before))
    assert (plan(made, given(after)) is known) is same
    assert len(made.plans) == 1


def test_other_inputs_that_change_in_place_or_in_number_are_others() -> None:
    made, row = planner(ready(TwoInputs()), "net.features"), ROW.clone()
    known = plan(made, (images(2), row))
    row.add_(1)
    changed = plan(made, (images(2), row))
    assert changed is not known
    assert plan(made, (images(2), row, 2.0)) is not changed
    assert plan(made, (images(3)[:2] * 2, row, 2.0)) is made.plans[next(iter(made.plans))]


def test_the_oldest_plan_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_MOST_PLANS", 3)
    made = planner(ready(PooledNet()))
    sides = (4, 5, 6)
    plans = {side: plan(made, images(1, side=side)) for side in sides}
    assert plan(made, images(1, side=4)) is plans[4]  # 5 is the oldest now
    plans[7] = plan(made, images(1, side=7))
    assert len(made.plans) == 3
    for side in (4, 6, 7):
        assert plan(made, images(1, side=side)) is plans[side]
    assert plan(made, images(1, side=5)) is not plans[5]


def test_sixteen_plans_are_kept() -> None:
    assert planning._MOST_PLANS == 16
    assert planning.CERTIFIED_IMAGES == 2


# Changes of the model -------------------------------------------------------------------------


def test_a_plan_is_kept_while_the_model_is_what_it_was() -> None:
    model = ready(FlattenNet())
    made = planner(model)
    known = plan(made)
    model(images(2))
    assert plan(made) is known
    change(model)
    assert plan(made) is not known


def test_weights_that_change_all_the_time_keep_their_plan_without_a_closed_form() -> None:
    model = ready(FlattenNet())
    made = planner(model)
    plans = [plan(made)]
    for _ in range(6):
        change(model)
        plans.append(plan(made))
    kept = [one is two for one, two in pairwise(plans)]
    assert kept == [False, False, False, True, True, True]
    assert plans[-1].closed_form is None
    assert plans[0].closed_form is not None
    known = plan(made)  # nothing changed: the count begins again
    assert known is plans[-1]
    change(model)
    fresh = plan(made)
    assert fresh is not known
    assert fresh.closed_form is not None


def test_other_changes_are_never_taken_for_training() -> None:
    model = ready(FlattenNet())
    made = planner(model)
    plans = [plan(made)]
    for _ in range(6):
        model.head = ready(FlattenNet()).head
        plans.append(plan(made))
        assert plans[-1].closed_form is not None
    assert len({id(one) for one in plans}) == 7


def test_looking_refuses_a_model_in_training_mode() -> None:
    model = ready(PooledNet())
    made = planner(model)
    plan(made)
    model.features[1].train()
    with pytest.raises(ModelError, match=r"its part 'features\.1' is in training mode"):
        made.look()
    model.eval()
    made.look()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_closed_form_looks_at_values_of_the_head_too(dtype: torch.dtype) -> None:
    """The score need not move when weights do."""
    model, x = ready(FlattenNet(), dtype), images(2, dtype=dtype)
    made = planner(model)
    known = plan(made, x)
    model.features[0].weight.data.view(-1)[-1] += 1  # the backbone runs in every call
    assert plan(made, x) is known
    model.head.weight.data.view(-1)[-1] += 1
    assert plan(made, x) is not known


def test_what_has_no_closed_form_takes_gradients_of_the_weights_that_there_are() -> None:
    made = planner(ready(TwoLayerNet()))
    assert plan(made).ends is None


class ReadsTheImage(FlattenNet):
    def forward(self, x: Tensor) -> Tensor:
        scale = 1.0 if float(x.mean()) < 100 else 2.0
        return super().forward(x) * scale


def test_a_head_that_images_may_choose_has_no_closed_form() -> None:
    known = plan(planner(ready(ReadsTheImage())))
    assert known.certificate.guarantee == "exact"
    assert known.certificate.offset == "of this image"
    assert "and what Python reads of it before, by __float__()" in known.certificate.reason
    assert known.closed_form is None


def test_arrays_beside_the_images_are_compared_by_value() -> None:
    made, row = planner(ready(TwoInputs()), "net.features"), ROW.numpy().copy()
    known = plan(made, (images(2), row))
    assert plan(made, (images(2), row.copy())) is known
    row[0] += 1
    fresh = plan(made, (images(2), row))
    assert fresh is not known
    assert plan(made, (images(2), row.astype("float32"))) is not fresh


class Counts(FlattenNet):
    """Writes to itself in every pass, and draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.tensor(0))
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen += 1
        torch.rand(1)
        return super().forward(x)


def test_what_a_model_writes_to_itself_is_no_change_and_comes_back() -> None:
    model, x = ready(Counts()), as_call(images(2))
    made = planner(model)
    state = torch.get_rng_state()
    known = plan(made)
    assert (int(model.calls), model.seen) == (0, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert plan(made) is known
    with made.giving_back():
        forward(known.site, x, Wish(1))
        assert int(model.calls) == 1
    assert (int(model.calls), model.seen) == (0, 0)
    assert set(made._places) == {Written(model.calls), Slot(model.__dict__, "seen")}
    model(images(2))
    assert plan(made) is known
    places = list(made._places)
    plan(made, target=first)
    assert made._places == places


# Making plans ---------------------------------------------------------------------------------


def test_classes_are_certified_on_two_images_and_functions_on_all() -> None:
    made, x = planner(ready(FlattenNet())), images(5)
    for target in (1, None, Contrast(0), AllClasses()):
        made.plans.clear()
        known = plan(made, x, target)
        assert len(known.finished.call.images) == 2
        assert torch.equal(known.finished.call.images, x[:2])
        assert known.batches == {1, 2}
    assert len(plan(made, x, first).finished.call.images) == 5
    assert plan(made, x, first).batches == {1, 5}


def test_the_classes_that_were_certified_count_as_checked() -> None:
    made = planner(ready(FlattenNet()))
    assert plan(made, images(3), [4, 2, 0]).checked == {4, 2}
    made.plans.clear()
    assert plan(made, images(3), Classes(3, 1)).checked == {3}
    made.plans.clear()
    assert plan(made, images(3), first).checked == set()


@pytest.mark.parametrize(
    ("net", "target", "closed"),
    [
        (FlattenNet, 1, True),
        (FlattenNet, AllClasses(), True),
        (FlattenNet, first, False),
        (FlattenNet, Contrast(0), True),  # for classes that are asked for later
        (TwoLayerNet, 1, False),
        (NormNet, 1, False),
    ],
)
def test_exact_heads_have_a_closed_form_for_classes(net: type, target: Any, closed: bool) -> None:
    made = planner(ready(net()))
    known = plan(made, target=target)
    assert isinstance(known.closed_form, ClosedForm) is closed
    assert known.compiled is None


class Judge:
    """Judges layers, and can be told to doubt some and to refuse others."""

    def __init__(self) -> None:
        self.judge = planning.judging.certify_site
        self.tried: list[str] = []
        self.doubted = self.refused = ""

    def __call__(self, site: Site, call: Call, target: Any, graded: Grade, logits: Tensor) -> Certified:
        name = site.tap.name
        self.tried.append(name)
        if name in self.refused:
            raise LayerError(f"layer={name!r} cannot be replaced")
        found = self.judge(site, call, target, graded, logits)
        if name not in self.doubted:
            return found
        return replace(found, certificate=planning.weakened(found.certificate, "a test says so"))


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Judge:
    made = Judge()
    monkeypatch.setattr(planning.judging, "certify_site", made)
    return made


class Chain(nn.Module):
    """Four convolutions, and a head of one linear layer, or of two with a kink between."""

    def __init__(self, *, kink: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(2, 2, 3, padding=1) for _ in range(4))
        more = (nn.ReLU(), nn.Linear(CLASSES, CLASSES)) if kink else ()
        self.head = nn.Sequential(nn.Linear(2 * SIDE**2, CLASSES), *more)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.d(self.c(self.b(self.a(x)))).flatten(1))


@pytest.mark.parametrize(
    ("bad", "tried", "layer"),
    [("", "a", "a"), ("a", "ab", "b"), ("ab", "abc", "c"), ("abc", "abcd", "d"), ("abcd", "abcd", "a")],
)
def test_the_first_affine_layer_whose_probes_agree_stands(
    bad: str, tried: str, layer: str, judged: Judge
) -> None:
    judged.doubted = bad
    known = plan(planner(ready(Chain())))
    assert judged.tried == list(tried)
    assert known.certificate.layer == known.site.tap.name == layer
    assert (known.certificate.guarantee is Guarantee.NONE) is (bad == "abcd")


@pytest.mark.parametrize(
    ("bad", "tried", "layer"), [("", "a", "a"), ("ab", "abc", "c"), ("abc", "abc", "a"), ("abcd", "abc", "a")]
)
def test_of_layers_that_are_not_affine_three_are_tried(
    bad: str, tried: str, layer: str, judged: Judge
) -> None:
    judged.doubted = bad
    known = plan(planner(ready(Chain(kink=True))))
    assert judged.tried == list(tried)
    assert known.certificate.layer == known.site.tap.name == layer
    assert (known.certificate.guarantee is Guarantee.NONE) is (bad[:3] == "abc")


def test_layers_that_cannot_be_replaced_are_passed_over(judged: Judge) -> None:
    judged.refused = "ab"
    assert plan(planner(ready(Chain()))).certificate.layer == "c"
    judged.doubted = "cd"
    known = plan(planner(ready(Chain())))
    assert known.certificate.layer == "c"
    assert known.certificate.guarantee is Guarantee.NONE
    judged.refused = "abcd"
    with pytest.raises(LayerError, match="layer='a' cannot be replaced"):
        plan(planner(ready(Chain())))


def test_a_layer_that_is_named_is_the_only_one_tried(judged: Judge) -> None:
    judged.doubted = "abcd"
    assert plan(planner(ready(Chain()), "d")).certificate.layer == "d"
    assert judged.tried == ["d"]
    judged.refused = "c"
    with pytest.raises(LayerError, match="layer='c' cannot be replaced"):
        plan(planner(ready(Chain()), "c"))


def test_a_layer_that_is_named_is_found_once() -> None:
    model = ready(Shared())
    assert plan(planner(model, "relu#2")).site.tap.name == "relu#2"
    with pytest.raises(
        LayerError, match=r"layer='relu' is called 3 times .* one of 'relu#1', 'relu#2', 'relu#3'"
    ):
        plan(planner(model, "relu"))
    with pytest.raises(LayerError, match=r"layer='relu#4' is not on the way from the image to the score"):
        plan(planner(model, "relu#4"))


# What is found out later ----------------------------------------------------------------------


def test_a_plan_is_weakened_in_place() -> None:
    known = plan(planner(ready(FlattenNet())))
    known.weaken("something was found")
    assert known.certificate.guarantee is Guarantee.NONE
    assert "something was found" in known.certificate.reason
    assert known.closed_form is None


def test_a_doubt_about_a_class_certifies_on_that_class() -> None:
    made = planner(ready(Hooked(2)), "features")
    known, call = plan(made), as_call(images(2))
    fresh = made.resolve(known, Doubt(label=3), call, 1)
    assert fresh is not known
    assert fresh.finished.bound.index.unique().tolist() == [3]
    assert fresh.certificate.guarantee is Guarantee.EXACT
    assert made.plan(call, 1) is fresh
    assert made.resolve(fresh, Doubt(label=2), call, 1).certificate.guarantee is Guarantee.NONE


@pytest.mark.parametrize(
    ("target", "classes"),
    [(None, None), ([0, 1, 2, 3], [2, 1]), (torch.tensor([0, 1, 2, 3]), [2, 1]), (4, [4, 4])],
)
def test_a_doubt_about_images_certifies_on_those_images(target: Any, classes: list[int] | None) -> None:
    made, x = planner(ready(FlattenNet())), images(4)
    call = as_call(x)
    known = made.plan(call, target)
    fresh = made.resolve(known, Doubt((2, 1, 3)), call, target)
    assert fresh is not known
    assert torch.equal(fresh.finished.call.images, x[[2, 1]])
    assert made.plan(call, target) is fresh
    if classes is not None:
        assert fresh.finished.bound.index[:, 0].tolist() == classes


def test_a_plan_can_be_made_again_for_these_very_images() -> None:
    made, x = planner(ready(FlattenNet())), images(4)
    known = made.plan(as_call(x), 1)
    fresh = made.again(as_call(x + 1), 1)
    assert fresh is not known
    assert torch.equal(fresh.finished.call.images, (x + 1)[:2])
    assert made.plan(as_call(x), 1) is fresh


def hooked(net: type[nn.Module]) -> Callable[..., nn.Module]:
    """Networks that multiply the gradients of some classes."""

    class Hooked(net):  # type: ignore[misc,valid-type]
        def __init__(self, *wrong: int) -> None:
            super().__init__()
            self.wrong = wrong

        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x) * 1
            factors = torch.ones(CLASSES, dtype=out.dtype)
            factors[list(self.wrong)] = 3
            if out.requires_grad:
                out.register_hook(lambda gradient: gradient * factors)
            return out

    return Hooked


Hooked, HookedTwo = hooked(FlattenNet), hooked(TwoLayerNet)


@pytest.mark.parametrize("net", [Hooked, HookedTwo])
def test_every_class_is_held_against_the_models_answers_once(
    net: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    original = planning.wrong_class
    monkeypatch.setattr(
        planning, "wrong_class", lambda answers, jacobian, classes, *rest: asked.append(classes)
        or original(answers, jacobian, classes, *rest),
    )  # fmt: skip
    made = planner(ready(net(3)), "features")
    known, call = plan(made), as_call(images(2))
    assert made.doubtful(known, forward(known.site, call, Wish(1))) is None
    assert made.doubtful(known, forward(known.site, call, Wish(Classes(0, 4)))) is None
    assert made.doubtful(known, forward(known.site, call, Wish(Classes(4, 0, 1)))) is None
    assert asked == [[0, 4]]
    assert known.checked == {0, 1, 4}
    assert made.doubtful(known, forward(known.site, call, Wish(Classes(4, 3)))) == 3
    assert asked == [[0, 4], [3]]
    known.weaken("the gradient of class 3 is not what the model does")
    assert made.doubtful(known, forward(known.site, call, Wish(2))) is None  # nothing is promised any more
    assert asked == [[0, 4], [3]]


def test_a_suspicion_about_a_class_of_a_local_head_is_looked_into() -> None:
    """Kinks look like a wrong gradient: before it is blamed the class itself is asked, with smaller steps."""
    made = planner(ready(TwoLayerNet()), "features")
    known, call = plan(made), as_call(images(2))
    assert not made._contradicted(known, 3)
    exact = planner(ready(FlattenNet()), "features")
    assert exact._contradicted(plan(exact), 3)
    wrong = planner(ready(HookedTwo(3)), "features")
    assert wrong._contradicted(plan(wrong), 3)
    assert not wrong._contradicted(plan(wrong), 2)
    assert made.doubtful(known, forward(known.site, call, Wish(AllClasses()))) is None


def test_targets_made_of_classes_are_held_against_the_answers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    original = planning.wrong_target
    monkeypatch.setattr(
        planning, "wrong_target", lambda answers, made, target: asked.append(target)
        or original(answers, made, target),
    )  # fmt: skip
    made = planner(ready(Hooked(3)), "features")
    known, call = plan(made), as_call(images(2))
    for target in (Contrast(0, 1), Contrast(0, 1), Contrast(1, 2)):
        assert made.doubtful(known, forward(known.site, call, Wish(target))) is None
    assert asked == [Contrast(0, 1), Contrast(1, 2)]
    assert made.doubtful(known, forward(known.site, call, Wish(Contrast(0, 3)))) == Contrast(0, 3)


def test_labels_of_images_are_held_against_the_answers_class_by_class() -> None:
    made = planner(ready(Hooked(3)), "features")
    known, call = plan(made), as_call(images(2))
    few, all_of_them = Labels(torch.tensor([[1, 0, 1, 0, 0]] * 2)), Labels(torch.ones(2, CLASSES))
    assert made.doubtful(known, forward(known.site, call, Wish(few))) is None
    assert known.checked == {0, 1, 2}
    assert made.doubtful(known, forward(known.site, call, Wish(all_of_them))) == 3


def test_functions_and_regions_have_been_certified_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "wrong_target", None)
    monkeypatch.setattr(planning, "wrong_class", None)
    made, call = planner(ready(FlattenNet()), "features"), as_call(images(2))
    known = plan(made, target=first)
    assert made.doubtful(known, forward(known.site, call, Wish(first))) is None
    dense = planner(ready(SegNet()), "features", "out")
    region = Region(1, torch.ones(SIDE, SIDE))
    known = plan(dense, target=region)
    assert dense.doubtful(known, forward(known.site, call, Wish(region))) is None


def doubled_for(net: type[nn.Module], label: int) -> Explainer:
    """An explainer that has seen a class whose gradient is right, of a model in which another's is wrong."""
    made = Explainer(ready(hooked(net)(label)), layer="features")
    assert made(images(2), target=1).certificate.guarantee != "none"
    return made


WRONG = "the gradient of {} is not what the model does"


@pytest.mark.parametrize("net", [FlattenNet, TwoLayerNet])
@pytest.mark.parametrize("rule", ["hirescam", "gradcam"])
def test_a_wrong_gradient_of_a_later_class_takes_the_guarantee_back(net: type[nn.Module], rule: str) -> None:
    made = doubled_for(net, 3)
    assert made(images(2), target=2, rule=rule).certificate.guarantee != "none"
    for target in (3, 1):
        assert made(images(2), target=target, rule=rule).certificate.guarantee == "none"
    made = doubled_for(net, 3)
    found = made(images(2), target=Contrast(0, 3), rule=rule).certificate
    assert found.guarantee == "none"
    assert WRONG.format("Contrast(a=0, b=3)") in found.reason


@pytest.mark.parametrize(("net", "guarantee"), [(FlattenNet, "exact"), (TwoLayerNet, "local")])
@pytest.mark.parametrize("rule", ["hirescam", "gradcam"])
def test_a_class_that_changed_unseen_is_certified_anew(
    net: type[nn.Module], guarantee: str, rule: str
) -> None:
    """Weights changed through ``.data`` make old answers wrong, not the gradient."""
    model, x = ready(net()), images(2)
    made = Explainer(model, layer="features")
    made(x, target=1, rule=rule)
    last = model.head if net is FlattenNet else model.head[-1]
    last.weight.data.neg_()
    for target in (3, 1, Contrast(0, 2)):
        found = made(x, target=target, rule=rule)
        assert found.certificate.guarantee == guarantee, str(found.certificate)
        expected = Explainer(model, layer="features")(x, target=target, rule=rule)
        torch.testing.assert_close(found.raw, expected.raw)


# Compiled -------------------------------------------------------------------------------------


class Fake:
    """Stands for a compiled model."""

    def __init__(self, finished: Any) -> None:
        self.finished, self.fresh = finished, True


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "Compiled", Fake)


@pytest.mark.usefixtures("compiling")
def test_compiled_plans_are_made_where_the_closed_form_answers() -> None:
    made = planner(ready(FlattenNet()))
    eager = plan(made)
    made.compile()
    known = plan(made)
    assert known is not eager
    assert isinstance(known.compiled, Fake)
    assert known.compiled.finished is known.finished
    assert plan(made, target=first).compiled is None
    known.compiled.fresh = False
    assert plan(made) is not known
    known = plan(made)
    known.weaken("x")
    assert known.compiled is None
    several = planner(ready(TwoInputs()), "net.features")
    several.compile()
    assert plan(several, (images(2), ROW)).compiled is None


@pytest.mark.usefixtures("compiling")
def test_autocast_is_not_compiled() -> None:
    made, x = planner(ready(FlattenNet(), torch.float32)), images(2, dtype=torch.float32)
    made.compile()
    for half in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16) if half else nullcontext():
            assert (plan(made, x).compiled is None) is half


def test_only_exact_heads_are_compiled() -> None:
    made = planner(ready(TwoLayerNet()))
    made.compile()
    with pytest.raises(
        ModelError, match=r"compile\(\) needs an exact head, and layer 'features' is local: Between"
    ):
        plan(made)


# Small things ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ([5, 6, 7], [7, 5]),
        ((5, 6, 7), [7, 5]),
        (torch.tensor([5, 6, 7]), [7, 5]),
        (torch.tensor([[5, 1], [6, 1], [7, 1]]), [[7, 1], [5, 1]]),
        (torch.tensor(5), 5),
        ([5, 6], [5, 6]),
        (torch.tensor([5, 6]), [5, 6]),
        (5, 5),
        (None, None),
    ],
    ids=str,
)
def test_a_target_of_some_images(target: Any, expected: Any) -> None:
    found = planning._of_images(target, 3, [2, 0])
    assert (found.tolist() if isinstance(found, Tensor) else found) == expected


def test_targets_without_images_are_their_own() -> None:
    for target in (TopK(2), Contrast(0), first):
        assert planning._of_images(target, 3, [2, 0]) is target


def listed(model: nn.Module, target: Any = 1) -> list[Layer]:
    return planner(model).layers(as_call(images(3)), target)


def test_a_graph_and_its_layers_can_be_asked_for() -> None:
    made, call = planner(ready(Bypass())), as_call(images(2))
    graph, found = made.graph(call, None), made.layers(call, None)
    assert [layer.name for layer in found] == ["first", "relu()", "deep", "add()"]
    assert {layer.name for layer in found} <= {graph.place(one).tap.name for one in graph.sightings}
    assert [layer.name for layer in found if layer.chosen] == [plan(made).certificate.layer]


@pytest.mark.parametrize("model", [Bypass, NormNet, TwoLayerNet, Shared, Counts])
def test_the_layer_that_is_marked_is_the_one_that_is_planned(model: type) -> None:
    torch.manual_seed(0)
    net = ready(model())
    for target in (1, first, AllClasses()):
        chosen = [layer for layer in listed(net, target) if layer.chosen]
        certificate = plan(planner(net), target=target).certificate
        assert [(layer.name, layer.guarantee, layer.breaks) for layer in chosen] == [
            (certificate.layer, certificate.guarantee, certificate.breaks)
        ]
        assert chosen[0].probed


@pytest.mark.parametrize(
    ("bad", "chosen"), [("", "a"), ("a", "b"), ("abc", "d"), ("abcd", "a")], ids=["none", "a", "abc", "all"]
)
def test_all_layers_that_look_affine_are_listed_as_they_were_judged(
    bad: str, chosen: str, judged: Judge
) -> None:
    judged.doubted = bad
    found = listed(ready(Chain()))
    assert [layer.name for layer in found] == judged.tried == list("abcd")
    for layer in found:
        assert layer.probed
        assert layer.guarantee is (Guarantee.NONE if layer.name in bad else Guarantee.EXACT)
        assert layer.chosen is (layer.name == chosen)


def test_of_layers_that_are_not_affine_three_are_judged_for_a_list(judged: Judge) -> None:
    judged.doubted = "a"
    found = listed(ready(Chain(kink=True)))
    assert judged.tried == list("abc")
    none, local = Guarantee.NONE, Guarantee.LOCAL
    assert [(layer.name, layer.guarantee, layer.probed, layer.chosen) for layer in found] == [
        ("a", none, True, False),
        ("b", local, True, True),
        ("c", local, True, False),
        ("d", local, False, False),
    ]


def test_layers_that_cannot_be_replaced_are_not_listed(judged: Judge) -> None:
    judged.refused = "ac"
    assert [(layer.name, layer.chosen) for layer in listed(ready(Chain()))] == [("b", True), ("d", False)]


def test_listing_leaves_the_model_and_the_random_numbers() -> None:
    model = ready(Counts())
    state = torch.get_rng_state()
    listed(model)
    assert (int(model.calls), model.seen) == (0, 0)
    assert torch.equal(torch.get_rng_state(), state)
