"""The closed form equals the gradient path, and notices when the head is not what it was."""

import threading
import warnings
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

import hirescam
from hirescam import AllClasses, Classes, Explainer, TopK
from hirescam.closed_form import ClosedForm
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
        log.append(result is not None)
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
    explainer(x, target=1)
    assert answers[:2] == [True, False]
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
    from hirescam.proof import certificate

    count: list[int] = []
    original = certificate.certify_tap
    monkeypatch.setattr(certificate, "certify_tap", lambda *args: count.append(1) or original(*args))
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
