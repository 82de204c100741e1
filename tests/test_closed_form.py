"""The closed form equals the gradient path, and notices when the head is not what it was."""

import dataclasses
import threading
import warnings
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

import hirescam
from hirescam import AllClasses, Classes, Contrast, Explainer, OutputError, TopK, closed_form
from hirescam.closed_form import ClosedForm, Doubt, Maps
from hirescam.passes.trace import Pass
from hirescam.proof.laws import rounding_of, tolerance_of
from hirescam.proof.probes import ask
from hirescam.rulebook.gradient import hirescam as hirescam_rule
from passes.made import run
from toys import (
    CLASSES,
    AllButLast,
    Bypass,
    FlattenNet,
    FunctionalNet,
    NormNet,
    PooledNet,
    Shared,
    TwoLayerNet,
    images,
    ready,
)

EXACT = [FlattenNet, PooledNet, FunctionalNet, Shared, Bypass]
TARGETS = [None, 3, [1, 4, 0], torch.tensor([[1, 4], [0, 0], [2, 3]]), TopK(3), Classes(4, 1), AllClasses()]
BOUND = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 0.05}


def by_gradient(explainer: Explainer, x: Tensor, target: object) -> hirescam.Explanation:
    """A function of the output never takes the closed form."""
    index = explainer(x, target=target).target
    return Explainer(explainer.model, layer=explainer(x).layer)(x, target=lambda out: out.gather(1, index))


def closed_forms(explainer: Explainer) -> list[ClosedForm]:
    return [plan.closed_form for plan in explainer._planner.plans.values() if plan.closed_form is not None]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call was answered in closed form."""
    log: list[bool] = []
    original = Explainer._in_closed_form

    def watched(self: Explainer, *args: object) -> object:
        result = original(self, *args)
        log.append(result[1] is not None)
        return result

    monkeypatch.setattr(Explainer, "_in_closed_form", watched)
    return log


@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("net", EXACT)
def test_it_equals_the_gradient_path(
    net: type, target: object, dtype: torch.dtype, answers: list[bool]
) -> None:
    explainer = Explainer(ready(net(), dtype))
    x = images(3, dtype=dtype)
    got = explainer(x, target=target)
    assert answers == [True]
    expected = by_gradient(explainer, x, target)
    size = expected.raw.abs().max()
    assert (got.raw - expected.raw).abs().max() <= BOUND[dtype] * size
    torch.testing.assert_close(got.score, expected.score)
    assert (got.offset - expected.offset).abs().max() <= BOUND[dtype] * size * 64
    assert got.raw.shape == expected.raw.shape
    assert not got.raw.is_inference()
    assert not got.logits.is_inference()


@pytest.mark.parametrize("ndim", [1, 3])
@pytest.mark.parametrize("net", [FlattenNet, PooledNet])
def test_signals_and_volumes(net: type, ndim: int, answers: list[bool]) -> None:
    model = ready(net(ndim, side=4) if net is FlattenNet else net(ndim))
    explainer, x = Explainer(model), images(2, ndim, side=4)
    got = explainer(x, target=AllClasses())
    assert answers == [True]
    torch.testing.assert_close(got.raw, by_gradient(explainer, x, AllClasses()).raw)


@pytest.mark.parametrize("net", [TwoLayerNet, NormNet])
def test_heads_that_are_not_exact_take_the_gradient_path(net: type, answers: list[bool]) -> None:
    explainer = Explainer(ready(net()))
    explainer(images())
    assert answers == [False]
    assert closed_forms(explainer) == []


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), width=st.integers(1, 5), side=st.integers(2, 5), batch=st.integers(1, 4))
def test_random_heads(seed: int, width: int, side: int, batch: int) -> None:
    torch.manual_seed(seed)
    model = ready(FlattenNet(width=width, side=side))
    explainer, x = Explainer(model, layer="features"), images(batch, side=side)
    for target in (None, AllClasses(), TopK(2)):
        got, expected = explainer(x, target=target), by_gradient(explainer, x, target)
        torch.testing.assert_close(got.raw, expected.raw, rtol=1e-9, atol=1e-11)


ARCHITECTURES = [
    "resnet18",
    "densenet121",
    "efficientnet_b0",
    "mobilenet_v2",
    "swin_t",
    "googlenet",
    "r3d_18",
]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_real_architectures(name: str, answers: list[bool]) -> None:
    torchvision = pytest.importorskip("torchvision")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torchvision.models.get_model(name, weights=None, num_classes=12).eval()
    x = torch.randn(2, 3, 64, 64) if name != "r3d_18" else torch.randn(1, 3, 8, 64, 64)
    x = torch.nn.functional.interpolate(x, (96, 96)) if name == "googlenet" else x
    explainer = Explainer(model)
    got = explainer(x, target=AllClasses())
    assert answers == [True]
    expected = by_gradient(explainer, x, AllClasses())
    assert (got.raw - expected.raw).abs().max() <= 1e-5 * expected.raw.abs().max()


def test_classes_are_learnt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    learnt: list[list[int]] = []
    original = ClosedForm._learn
    monkeypatch.setattr(
        ClosedForm,
        "_learn",
        lambda self, classes, rows: learnt.append(classes) or original(self, classes, rows),
    )
    explainer, x = Explainer(ready(FlattenNet())), images()
    for target in (3, 3, [1, 3], AllClasses(), TopK(2), None):
        explainer(x, target=target)
    assert learnt == [[3], [1], [0, 2, 4]]


def test_too_many_classes_for_the_memory_take_the_gradient_path(
    monkeypatch: pytest.MonkeyPatch, answers: list[bool]
) -> None:
    monkeypatch.setattr(ClosedForm.__init__, "__kwdefaults__", {"most_bytes": 2 * 6 * 64 * 8})
    explainer, x = Explainer(ready(FlattenNet())), images()
    explainer(x, target=Classes(0, 1))
    expected = explainer(x, target=AllClasses())
    explainer(x, target=Classes(0, 1))
    assert answers == [True, False, True]
    torch.testing.assert_close(expected.raw.sum((2, 3)) + expected.offset, expected.logits)


def test_one_explainer_keeps_a_cache_for_each_size() -> None:
    explainer = Explainer(ready(PooledNet()))
    for side in (8, 12, 8):
        x = images(2, side=side)
        torch.testing.assert_close(explainer(x).raw, by_gradient(explainer, x, None).raw)


def change_in_place(model: FlattenNet) -> None:
    with torch.no_grad():
        model.head.weight.mul_(-2)


def change_behind_autograds_back(model: FlattenNet) -> None:
    model.head.weight.data.mul_(-2)


def swap_the_module(model: FlattenNet) -> None:
    model.head = nn.Linear(model.head.in_features, CLASSES).double().eval()


def load_other_weights(model: FlattenNet) -> None:
    torch.manual_seed(9)
    model.load_state_dict(ready(FlattenNet()).state_dict())


def replace_the_parameter(model: FlattenNet) -> None:
    model.head.weight = nn.Parameter(model.head.weight.detach() * 3)


def change_the_data(model: FlattenNet) -> None:
    model.head.weight.data = model.head.weight.data * 3 + 1


CHANGES: list[Callable[[FlattenNet], None]] = [
    change_in_place, change_behind_autograds_back, swap_the_module, load_other_weights,
    replace_the_parameter, change_the_data,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_head_is_noticed(change: Callable[[FlattenNet], None], answers: list[bool]) -> None:
    model, x = ready(FlattenNet()), images()
    explainer = Explainer(model)
    before = explainer(x, target=1)
    change(model)
    after = explainer(x, target=1)
    fresh = Explainer(model)(x, target=1)
    torch.testing.assert_close(after.raw, fresh.raw)
    assert not torch.allclose(after.raw, before.raw)
    assert answers[-1]


def test_a_changed_backbone_needs_no_new_certificate(answers: list[bool]) -> None:
    model, x = ready(FlattenNet()), images()
    explainer = Explainer(model)
    explainer(x, target=1)
    with torch.no_grad():
        model.features[0].weight.mul_(2)
    got = explainer(x, target=1)
    assert answers == [True, True]
    torch.testing.assert_close(got.raw, Explainer(model)(x, target=1).raw)


def test_training_does_not_certify_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from hirescam.proof import judging

    count: list[int] = []
    original = judging.certify_site
    monkeypatch.setattr(judging, "certify_site", lambda *args: count.append(1) or original(*args))
    model, x = ready(FlattenNet()), images()
    explainer = Explainer(model)
    for _ in range(10):
        got = explainer(x, target=1)
        torch.testing.assert_close(got.raw, Explainer(model)(x, target=1).raw)
        with torch.no_grad():
            model.head.weight.mul_(1.1)
    assert len(count) - 10 <= 4


def test_an_op_in_place_after_the_layer_does_not_reach_the_copy(answers: list[bool]) -> None:
    explainer, x = Explainer(ready(AllButLast())), images()
    torch.testing.assert_close(explainer(x).raw, by_gradient(explainer, x, None).raw)
    assert answers[0]


def test_threads_share_one_cache() -> None:
    model = ready(FlattenNet())
    explainer, inputs = Explainer(model), [images(2) * (i + 1) for i in range(4)]
    expected = [Explainer(model)(x, target=AllClasses()).raw for x in inputs]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for label in range(CLASSES):
                for target in (label, TopK(2), AllClasses()):
                    result = explainer(inputs[number], target=target)
                    for b in range(2):
                        torch.testing.assert_close(result.raw[b], expected[number][b, result.target[b]])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


def test_autocast_has_a_cache_of_its_own() -> None:
    explainer, x = Explainer(ready(FlattenNet(), torch.float32)), images(dtype=torch.float32)
    plain = explainer(x, target=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = explainer(x, target=1)
    assert len({id(known) for known in closed_forms(explainer)}) == 2
    assert half.logits.dtype == torch.bfloat16
    assert half.raw.dtype == torch.float32
    assert (half.raw - plain.raw).abs().max() < 0.05 * plain.raw.abs().max()
    torch.testing.assert_close(explainer(x, target=1).raw, plain.raw)


@pytest.mark.parametrize("first", [2, None])
def test_a_class_whose_weights_do_not_vary_over_space_says_nothing_of_the_others(
    first: int | None, answers: list[bool]
) -> None:
    model, x = ready(FlattenNet()), images(3)
    with torch.no_grad():
        model.head.weight[2] = 0.25
    explainer = Explainer(model)
    explainer(x, target=first)
    for target in (2, Classes(0, 2), AllClasses()):
        expected = by_gradient(explainer, x, target).raw
        torch.testing.assert_close(explainer(x, target=target).raw, expected)
    assert all(answers)


def test_classes_met_one_by_one_end_in_their_own_order(answers: list[bool]) -> None:
    explainer, x = Explainer(ready(FlattenNet())), images(3)
    expected = by_gradient(Explainer(explainer.model), x, AllClasses()).raw
    answers.clear()
    for label in (4, 1, 0, 3, 2):
        torch.testing.assert_close(explainer(x, target=label).raw[:, 0], expected[:, label])
    torch.testing.assert_close(explainer(x, target=AllClasses()).raw, expected)
    torch.testing.assert_close(explainer(x, target=[3, 0, 4]).raw[:, 0], expected[range(3), [3, 0, 4]])
    assert answers == [True] * 7


def test_what_is_kept_never_passes_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 3 * 6 * 64 * 8
    monkeypatch.setattr(ClosedForm.__init__, "__kwdefaults__", {"most_bytes": most})
    explainer, x = Explainer(ready(FlattenNet())), images()
    for label in range(CLASSES):
        explainer(x, target=label)
        (known,) = closed_forms(explainer)
        assert known._rows is not None
        assert known._rows.nbytes <= most


# By itself ------------------------------------------------------------------------------------


def made(
    model: nn.Module, x: Tensor, target: object = 1, *, gradients: float = 1.0, **options: int
) -> tuple[ClosedForm, Pass]:
    """A closed form, perhaps of gradients that are not the head's."""
    finished = run(model, x, target=target)
    traced = finished.trace()
    answers = ask(finished, traced, hirescam_rule(traced), affine=True)
    spoilt = dataclasses.replace(traced, gradients=gradients * traced.gradients)
    return ClosedForm(finished, spoilt, answers, **options), finished


def asked(form: ClosedForm, model: nn.Module, x: Tensor, target: object) -> Maps | Doubt | None:
    with torch.no_grad():
        return form.maps(model.features(x), model(x), target)


def true_maps(model: FlattenNet, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.einsum("tkhw,bkhw->bthw", model.head.weight.reshape(CLASSES, 6, 8, 8), model.features(x))


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_maps_of_other_images(target: object) -> None:
    model, x = ready(FlattenNet()), images(3)
    form, finished = made(model, images(2))
    found = asked(form, model, x, target)
    assert isinstance(found, Maps)
    wanted = true_maps(model, x)
    index = found.index
    torch.testing.assert_close(found.raw, wanted.gather(1, index[:, :, None, None].expand(-1, -1, 8, 8)))
    torch.testing.assert_close(found.score, model(x).detach().gather(1, index))
    torch.testing.assert_close(found.logits, model(x).detach())
    assert found.layout == finished.layout


def test_offsets_are_what_the_model_says_without_any_activation() -> None:
    model, x = ready(FlattenNet()), images(2)
    form, _ = made(model, x)
    asked(form, model, x, AllClasses())
    torch.testing.assert_close(form._offset, model.head.bias.detach())


def test_a_gradient_that_is_not_the_heads_reproduces_no_score() -> None:
    model, x = ready(FlattenNet()), images(3)
    form, _ = made(model, x, gradients=1.5)
    assert asked(form, model, x, 1) == Doubt((0, 1, 2))
    assert isinstance(asked(form, model, x, 2), Maps)  # which was learnt from the head itself


def test_the_images_that_are_not_accounted_for_are_numbered() -> None:
    model, x = ready(FlattenNet()), images(5)
    form, _ = made(model, x)
    with torch.no_grad():
        logits, leaf = model(x), model.features(x)
    logits[[1, 4], 2] += 1e-3
    assert isinstance(form.maps(leaf, logits, 1), Maps)
    assert form.maps(leaf, logits, 2) == Doubt((1, 4))
    assert form.maps(leaf, logits, [0, 2, 2, 2, 0]) == Doubt((1,))
    assert form.maps(leaf, logits, AllClasses()) == Doubt((1, 4))
    leaf[3] = torch.nan
    assert form.maps(leaf, logits, 1) == Doubt((3,))


def test_another_size_of_layer_is_a_doubt_about_every_image() -> None:
    model, x = ready(PooledNet()), images(2)
    form, _ = made(model, x)
    other = images(3, side=12)
    assert asked(form, model, other, 1) == Doubt((0, 1, 2))


def test_doubts_in_words() -> None:
    assert str(Doubt((4, 1))) == "it does not account for the score of images[4]"
    assert str(Doubt(label=3)) == "the gradient of class 3 is not what the model does"
    assert str(Doubt(label=0)) == "the gradient of class 0 is not what the model does"


def test_scores_must_be_finite() -> None:
    model, x = ready(FlattenNet()), images(2)
    form, _ = made(model, x)
    with pytest.raises(OutputError, match=r"images\[1\] is NaN"):
        form.maps(model.features(x).detach(), torch.tensor([[0.0] * 5, [torch.nan] * 5]).double(), 1)


def test_a_class_with_a_wrong_gradient_is_a_doubt_about_that_class() -> None:
    class Hooked(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x) * 1
            if out.requires_grad:
                out.register_hook(lambda g: g * torch.tensor([1.0, 1, 1, 2, 1]).to(g))
            return out

    model, x = ready(Hooked()), images(2)
    form, _ = made(model, x)
    assert isinstance(asked(form, model, x, 2), Maps)
    assert asked(form, model, x, 3) == Doubt(label=3)
    assert asked(form, model, x, AllClasses()) == Doubt(label=3)
    assert sorted(form._known) == [1, 2]


ROW = 6 * 64 * 8


@pytest.mark.parametrize(("most", "kept"), [(0, 0), (ROW, 1), (3 * ROW, 3), (5 * ROW - 1, 4), (5 * ROW, 5)])
def test_no_more_is_kept_than_fits(most: int, kept: int) -> None:
    model, x = ready(FlattenNet()), images(2)
    form, _ = made(model, x, most_bytes=most)
    answers = [isinstance(asked(form, model, x, label), Maps) for label in (1, 0, 2, 3, 4)]
    assert answers == [number < kept for number in range(5)]
    assert len(form._known) == kept
    assert isinstance(asked(form, model, x, AllClasses()), Maps) is (kept == 5)


def test_a_class_that_is_not_pooled_takes_the_room_of_those_that_were() -> None:
    """Four classes fit pooled; of all locations only two do."""
    model, x = ready(FlattenNet()), images(2)
    with torch.no_grad():
        for label in range(4):
            model.head.weight[label] = 0.25
    form, _ = made(model, x, most_bytes=2 * ROW)
    assert all(isinstance(asked(form, model, x, label), Maps) for label in range(4))
    assert sorted(form._known) == [0, 1, 2, 3]
    assert isinstance(asked(form, model, x, 4), Maps)
    for label, fits in ((4, True), (0, True), (1, False)):
        assert isinstance(asked(form, model, x, label), Maps) is fits
    assert sorted(form._known) == [0, 4]
    assert form._rows.nbytes <= 2 * ROW
    torch.testing.assert_close(asked(form, model, x, 4).raw, true_maps(model, x)[:, 4:])


def test_a_class_that_is_not_pooled_may_have_no_room_at_all() -> None:
    model, x = ready(FlattenNet()), images(2)
    with torch.no_grad():
        model.head.weight[1] = 0.25
    form, _ = made(model, x, most_bytes=ROW - 1)
    assert isinstance(asked(form, model, x, 1), Maps)
    assert asked(form, model, x, Classes(1, 2)) is None
    assert form._known == {}
    assert asked(form, model, x, 1) is None  # whoever asks has the gradient path


def test_pooled_heads_keep_one_value_for_each_channel() -> None:
    model, x = ready(PooledNet()), images(2)
    form, _ = made(model, x, most_bytes=5 * 6 * 8)
    assert isinstance(asked(form, model, x, AllClasses()), Maps)
    assert form._rows.shape == (5, 6)


@pytest.mark.parametrize("spread", [1e-3, 1e-2, 0.1])
def test_weights_that_vary_a_little_over_space_are_not_pooled(spread: float) -> None:
    """Their mean would give a map that is wrong by as much."""
    model, x = ready(FlattenNet()), images(2)
    with torch.no_grad():
        waves = 1 + spread * torch.linspace(-1, 1, 64, dtype=torch.float64)
        model.head.weight.copy_((torch.randn(5, 6, 1).double() * waves).flatten(1))
    form, _ = made(model, x)
    found = asked(form, model, x, AllClasses())
    torch.testing.assert_close(found.raw, true_maps(model, x))


def test_room_doubles_and_ends_at_the_number_of_classes() -> None:
    model, x = ready(FlattenNet()), images(2)
    form, _ = made(model, x)
    rooms = [form._rows.shape[1]]
    for label in (0, 2, 3, 4):
        asked(form, model, x, label)
        rooms.append(form._rows.shape[1])
    assert rooms == [1, 2, 4, 4, 5]


def test_many_classes_are_learnt_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_form, "_CLASSES_TOGETHER", 2)
    sizes: list[int] = []
    original = Pass.jacobian
    monkeypatch.setattr(
        Pass, "jacobian", lambda self, classes: sizes.append(len(classes)) or original(self, classes)
    )
    model, x = ready(FlattenNet()), images(2)
    form, _ = made(model, x)
    found = asked(form, model, x, AllClasses())
    torch.testing.assert_close(found.raw, true_maps(model, x))
    assert sizes == [2, 2]


def test_autocast_does_not_round_the_sums() -> None:
    model, x = ready(FlattenNet(), torch.float32), images(2, dtype=torch.float32)
    form, _ = made(model, x)
    with torch.no_grad():
        leaf, logits = model.features(x), model(x)
    wanted = true_maps(model, x)
    form.maps(leaf, logits, AllClasses())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = form.maps(leaf, logits, AllClasses())
    assert found.raw.dtype == torch.float32
    assert (found.raw - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("net", [FlattenNet, PooledNet])
def test_images_may_ask_for_different_classes(net: type) -> None:
    model, x = ready(net()), images(3)
    form, _ = made(model, x)
    every = Explainer(model)(x, target=AllClasses()).raw
    for target in ([0, 1, 2], [2, 2, 2], [4, 0, 4], torch.tensor([[1, 2], [1, 2], [2, 1]])):
        found = asked(form, model, x, target)
        index = found.index[:, :, None, None].expand(-1, -1, 8, 8)
        torch.testing.assert_close(found.raw, every.gather(1, index))


# The check of every result --------------------------------------------------------------------


def strangers(total: float, offset: float, score: float, parts: float, dtype: torch.dtype) -> tuple[int, ...]:
    """Whether one score is not reproduced by a map of two locations whose sizes add up to ``parts``."""
    flat = torch.tensor([[[(parts + total) / 2, (total - parts) / 2]]], dtype=torch.float64)
    as_tensor = torch.tensor([[score]], dtype=torch.float64)
    return closed_form._not_reproduced(flat, torch.tensor([[offset]], dtype=torch.float64), as_tensor, dtype)


DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("share", "wrong"), [(0.98, False), (1.02, True)])
def test_the_check_is_held_against_what_the_map_accounts_for(
    dtype: torch.dtype, sign: int, share: float, wrong: bool
) -> None:
    """A map that adds up to two, an offset of seven, and a score that is not nine."""
    tolerance, rounding = tolerance_of(dtype), rounding_of(dtype)

    def allowed(error: float) -> float:
        score = 9 + sign * error
        return tolerance * max(2, abs(score - 7)) + rounding * (2 + 7 + abs(score))

    error = 0.0
    for _ in range(300):
        error = allowed(error)
    found = strangers(2, 7, 9 + sign * share * error, 2, dtype)
    assert found == ((0,) if wrong else ())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_large_offset_hides_nothing_but_its_rounding(dtype: torch.dtype) -> None:
    eps = 64 * torch.finfo(dtype).eps
    assert strangers(2, 1e4, 1e4 + 2 + 0.9 * 2e4 * eps, 2, dtype) == ()
    assert strangers(2, 1e4, 1e4 + 2 + 1.2 * 2e4 * eps + 2.2 * tolerance_of(dtype), 2, dtype) == (0,)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_large_parts_that_cancel_may_round(dtype: torch.dtype) -> None:
    eps = 64 * torch.finfo(dtype).eps
    error = 0.9 * 1e4 * eps + 2 * tolerance_of(dtype)
    assert strangers(2, 0, 2 + error, 1e4, dtype) == ()
    assert strangers(2, 0, 2 + error, 2, dtype) == (0,)


def test_what_is_no_number_is_not_reproduced() -> None:
    assert strangers(torch.nan, 0, 2, 2, torch.float64) == (0,)
    assert strangers(2, 0, torch.nan, 2, torch.float64) == (0,)


# Between calls --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_change_that_keeps_this_images_scores_is_noticed(dtype: torch.dtype) -> None:
    """The check of the sum cannot see it; that the weights were written to can."""
    model, x = ready(FlattenNet(), dtype), images(2, dtype=dtype)
    explainer = Explainer(model)
    explainer(x, target=1)
    seen = model.features(x).detach().flatten(1).double()
    basis = torch.linalg.qr(seen.T)[0]
    change = torch.randn(384, dtype=torch.float64)
    change = change - basis @ (basis.T @ change)
    with torch.no_grad():
        model.head.weight[1] += change.to(dtype)
    after = explainer(x, target=1)
    wanted = torch.einsum(
        "khw,bkhw->bhw", model.head.weight[1].reshape(6, 8, 8).double(), model.features(x).double()
    ).detach()
    gap = (after.raw[:, 0].double() - wanted).abs().max() / wanted.abs().max()
    assert gap < {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]


def test_a_contrast_is_not_answered_in_closed_form(answers: list[bool]) -> None:
    explainer, x = Explainer(ready(FlattenNet())), images(2)
    explainer(x, target=Contrast(0, 1))
    assert answers == []
