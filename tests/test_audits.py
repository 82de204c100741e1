"""Audits: which pictures, what is compared, what is counted, and what becomes of a certificate that lied."""

import math
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hirescam
from hirescam import (
    AllClasses,
    Audit,
    Classes,
    Contrast,
    Explainer,
    Finer,
    Guarantee,
    InputError,
    Region,
    TopK,
)
from hirescam.audits import Auditor
from hirescam.explainer import audit
from toys import (
    CLASSES,
    SIDE,
    FlattenNet,
    FunctionalNet,
    NormNet,
    PooledNet,
    SegNet,
    TwoLayerNet,
    images,
    ready,
)

BRIGHT = 20.0
BATCHES: list[int] = []
NOT_SHARES = [True, False, math.nan, math.inf, -0.1, 1.01, "0.5", None, [0.1], torch.tensor(0.5), 1j]


class Stealthy(nn.Module):
    """What only an audit sees: a thread does something about bright images that lack a location.

    Nothing of it is seen in a pass, and on dark images, or where all locations are there, nothing is done:
    only a location that is removed from a bright image gives it away.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.Softplus())
        self.head = nn.Linear(6 * SIDE**2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        features, found = self.features(x), []
        worker = threading.Thread(target=self._look, args=(features.data, found))
        worker.start()
        worker.join()
        self.answer(found)
        return self.head(features.flatten(1))

    def _look(self, features: Tensor, found: list[Tensor]) -> None:
        found += [one for one in features if one.amax() > BRIGHT and (one == 0).all(0).any()]
        self.spoil(found)

    def spoil(self, found: list[Tensor]) -> None:
        for one in found:
            one *= 0.5

    def answer(self, found: list[Tensor]) -> None:
        pass


class Fragile(Stealthy):
    """Refuses such images."""

    def spoil(self, found: list[Tensor]) -> None:
        pass

    def answer(self, found: list[Tensor]) -> None:
        if found:
            raise ValueError("images[0] has a hole")


class Counting(FlattenNet):
    """Keeps the sizes of its batches, where no explainer takes them for a part of the model."""

    def forward(self, x: Tensor) -> Tensor:
        BATCHES.append(len(x))
        return super().forward(x)


class Mixed(nn.Module):
    """An image and numbers beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = FlattenNet()
        self.aside = nn.Linear(3, CLASSES)

    def forward(self, image: Tensor, numbers: Tensor) -> Tensor:
        return self.net(image) * torch.sigmoid(self.aside(numbers)) + self.aside(numbers)


def fooled(net: type[Stealthy] = Stealthy) -> tuple[Explainer, Tensor, Tensor]:
    """An explainer that has certified on dark images, these, and images of which the second is bright."""
    model, dark = ready(net()), images(3)
    explainer = Explainer(model, layer="features", audit=1.0)
    assert explainer(dark).certificate.guarantee is Guarantee.EXACT
    bright = torch.stack([dark[0], 100 * dark[1], dark[2]])
    assert 2 * model.features(dark).amax() < BRIGHT < model.features(bright).amax()
    return explainer, dark, bright


# --- which pictures ------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", NOT_SHARES)
def test_what_is_no_share_is_refused(rate):
    for make in (Auditor, lambda rate: Explainer(FlattenNet().eval(), audit=rate)):
        with pytest.raises(InputError, match=r"audit=.* must be a share of the pictures, from 0 to 1"):
            make(rate)
    with pytest.raises(InputError, match="audit="):
        hirescam.explain(ready(FlattenNet()), images(), audit=rate)


@pytest.mark.parametrize("rate", [0, 1, 0.25, np.float32(0.5), Fraction(1, 3), 1e-320])
def test_shares(rate):
    assert Auditor(rate).rate == float(rate)


@pytest.mark.parametrize("rate", [1.0, 0.7, 0.5, 0.3, 0.1, 0.01])
def test_the_share_is_kept_all_along(rate):
    auditor, picked = Auditor(rate), 0
    for batch in range(1, 201):
        picked += len(auditor.picks(10))
        assert math.floor(10 * batch * rate + 1e-9) <= picked <= math.floor(10 * batch * rate + 1e-9) + 1
    assert picked == round(2000 * rate)


def test_all_or_none():
    assert Auditor(1).picks(4) == [0, 1, 2, 3]
    assert Auditor(0).picks(1000) == []
    assert Auditor(1e-320).picks(1000) == []


@pytest.mark.parametrize("rate", [0.7, 0.1])
def test_the_same_pictures_whatever_the_batches(rate):
    whole, parts = Auditor(rate), Auditor(rate)
    expected = whole.picks(300)
    found = []
    for start in range(0, 300, 7):
        parts.location(49)
        found += [start + number for number in parts.picks(min(7, 300 - start))]
    assert found == expected
    assert expected != list(range(expected[0], 300, round(1 / rate)))  # random, not every tenth


def test_random_states_are_left_alone():
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist()
    auditor = Auditor(0.5)
    assert [auditor.picks(9), auditor.location(64)] == [Auditor(0.5).picks(9), Auditor(0.5).location(64)]
    explainer = Explainer(ready(FlattenNet()), audit=1.0)
    torch.set_rng_state(before[1])
    explainer(images(3))
    assert explainer.audits.audited == 3
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert np.random.get_state()[1].tolist() == before[2]


# --- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Audit(20, 2000, 3e-6), "audited 20 of 2,000, largest error 3e-6"),
        (Audit(1, 1, 0.0), "audited 1 of 1, largest error 0"),
        (Audit(2, 3, 0.314, ("a", "b")), "audited 2 of 3, largest error 0.31; 2 failed"),
        (Audit(1, 3, math.inf, ("a",)), "audited 1 of 3, largest error inf; 1 failed"),
        (Audit(0, 12345), "audited none of 12,345"),
        (Audit(), "audited none of 0"),
    ],
)
def test_words(found, words):
    assert str(found) == words


def test_adding_up():
    one, two = Audit(1, 10, 1e-6, ("a",)), Audit(2, 5, 1e-7, ("b",))
    assert one + two == Audit(3, 15, 1e-6, ("a", "b"))


# --- maps that are right ---------------------------------------------------------------------------


@pytest.mark.parametrize("net", [FlattenNet, PooledNet, FunctionalNet, NormNet])
@pytest.mark.parametrize(
    ("dtype", "most"),
    [(torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 2), (torch.float16, 2)],
)
def test_right_maps_pass(net, dtype, most):
    explainer = Explainer(ready(net(), dtype), audit=1.0)
    for target in (None, TopK(3), AllClasses(), Classes(1, 4), 2, [0, 3, 1, 1]):
        result = explainer(images(4, dtype=dtype), target=target)
        assert result.certificate.guarantee in (Guarantee.EXACT, Guarantee.CONDITIONAL)
        assert (result.audit.audited, result.audit.pictures, result.audit.failures) == (4, 4, ())
        assert result.audit.largest_error < most  # in half precision, rounding may be as large as the map
    assert (explainer.audits.audited, explainer.audits.failures) == (24, ())


@pytest.mark.parametrize("net", [FlattenNet, NormNet])
@pytest.mark.parametrize(
    "target",
    [Contrast(1), Contrast(1, 2), Finer(), lambda out: out[:, 1] * torch.tensor([1.0, -2.0, 0.5])],
    ids=["contrast", "contrast of two", "finer", "function of the batch"],
)
def test_other_scores(net, target):
    result = Explainer(ready(net()), audit=1.0)(images(3), target=target)
    assert result.audit.audited == 3
    assert result.audit.largest_error < 1e-10


def test_a_region_of_each_image():
    target = Region(1, torch.rand(3, SIDE, SIDE) > 0.5)
    result = Explainer(ready(SegNet()), audit=1.0)(images(3), target=target)
    assert (result.audit.audited, result.audit.failures) == (3, ())
    assert result.audit.largest_error < 1e-10


@pytest.mark.parametrize("ndim", [1, 3])
def test_signals_and_volumes(ndim):
    result = Explainer(ready(FlattenNet(ndim)), audit=1.0)(images(2, ndim))
    assert result.audit.audited == 2
    assert result.audit.largest_error < 1e-10


@pytest.mark.parametrize("given", [tuple, lambda pair: dict(zip(("image", "numbers"), pair, strict=True))])
def test_several_inputs(given):
    explainer = Explainer(ready(Mixed()), audit=1.0)
    for _ in range(2):
        inputs = given((images(3), torch.rand(3, 3, dtype=torch.float64)))
        result = explainer(inputs, target=TopK(2))
        assert result.certificate.guarantee is Guarantee.EXACT
        assert result.audit.audited == 3
        assert result.audit.largest_error < 1e-10


def test_maps_for_a_loss():
    model, x = ready(FlattenNet()), images(2).requires_grad_()
    result = Explainer(model, audit=1.0)(x, differentiable=True)
    assert result.audit.largest_error < 1e-10
    assert result.raw.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_within_grad_modes(mode):
    explainer = Explainer(ready(FlattenNet()), audit=1.0)
    with mode():
        assert explainer(images(2)).audit.largest_error < 1e-10


def test_within_autocast():
    explainer = Explainer(ready(FlattenNet(), torch.float32), audit=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        result = explainer(images(3, dtype=torch.float32))
    assert (result.audit.audited, result.audit.failures) == (3, ())


def test_scores_that_are_differences_of_large_numbers():
    model = ready(FlattenNet(), torch.float32)
    with torch.no_grad():
        model.head.bias += 1e4
    explainer = Explainer(model, audit=1.0)
    result = explainer(images(6, dtype=torch.float32), target=Contrast(1, 2))
    assert result.certificate.guarantee is Guarantee.EXACT
    assert (result.audit.audited, result.audit.failures) == (6, ())
    assert result.audit.largest_error > 1e-3


@pytest.mark.parametrize(
    ("lost", "words"),
    [(0.0, "error 0"), (1e-17, "error 0"), (0.1, "error inf; 2 failed")],
)
def test_a_map_of_zeros(lost, words, monkeypatch):
    monkeypatch.setattr(hirescam.audits, "_lost", lambda *given: torch.full((1,), lost).double())
    model = ready(FlattenNet())
    with torch.no_grad():
        model.features[0].bias.fill_(-100)
        model.features[0].weight.mul_(1e-3)
    result = Explainer(model, layer="features", audit=1.0)(images(2))
    assert not result.raw.any()
    assert str(result.audit) == f"audited 2 of 2, largest {words}"


# --- maps that are wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize("net", [FlattenNet, NormNet])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_a_wrong_map_fails(net, dtype, monkeypatch):
    seen = []

    def of_another_map(auditor, plan, call, target, maps):
        raw = maps.raw.clone()
        raw[1] += maps.raw.abs().max() + 10
        seen.append(maps)
        return audit(auditor, plan, call, target, replace(maps, raw=raw))

    monkeypatch.setattr(hirescam.explainer, "audit", of_another_map)
    explainer = Explainer(ready(net(), dtype), audit=1.0)
    result = explainer(images(3, dtype=dtype), target=TopK(2))
    (sentence,) = result.audit.failures
    assert sentence.startswith("an audit of images[1] failed: without location ")
    assert f"the score of class {int(seen[0].index[1, 0])} loses " in sentence
    assert result.audit.audited == 3
    assert 0.5 < result.audit.largest_error < 2
    assert result.certificate.guarantee is Guarantee.NONE
    assert sentence in str(result.certificate)


def test_what_only_an_audit_sees():
    explainer, dark, bright = fooled()
    result = explainer(bright)
    assert result.certificate.guarantee is Guarantee.NONE
    assert "an audit of images[1] failed: without location" in result.certificate.reason
    assert len(result.audit.failures) == 1
    assert explainer.audits.failures == result.audit.failures
    assert explainer.audits.audited == 6
    assert explainer(dark).certificate.guarantee is Guarantee.NONE  # it is not given again
    assert explainer.audits.audited == 6  # nor is there anything left to check
    unchecked = Explainer(explainer.model, layer="features")
    unchecked(dark)
    assert unchecked(bright).certificate.guarantee is Guarantee.EXACT  # without it, the lie stands


def test_compare_audits_too_and_every_rule_gets_the_verdict():
    explainer, _, bright = fooled()
    found = explainer.compare(bright, rules=("gradcam", "hirescam"))
    assert found["gradcam"].audit is None
    assert len(found["hirescam"].audit.failures) == 1
    assert {str(one.certificate.guarantee) for one in found.values()} == {"none"}


def test_a_model_that_does_not_run_without_a_location():
    explainer, _, bright = fooled(Fragile)
    result = explainer(bright)
    (sentence,) = result.audit.failures
    assert sentence.startswith("an audit of images[1] failed: without location")
    assert "the model does not run" in sentence
    assert "images[1] has a hole" in sentence  # which is the first where it is alone
    assert result.audit.largest_error == math.inf
    assert result.certificate.guarantee is Guarantee.NONE


def test_a_loss_that_is_no_number_fails(monkeypatch):
    monkeypatch.setattr(hirescam.audits, "_lost", lambda *given: torch.full((1,), math.nan))
    result = Explainer(ready(FlattenNet()), audit=1.0)(images(1))
    assert result.audit.largest_error == math.inf
    assert "loses nan" in result.audit.failures[0]


def test_a_map_that_overflows_is_an_error_not_a_failed_audit(monkeypatch):
    explainer = Explainer(ready(FlattenNet()), audit=1.0)
    explainer(images(2))
    with monkeypatch.context() as patch:
        patch.setattr(Explainer, "_map", lambda self, rule, finished: torch.full((2, 1, 8, 8), math.nan))
        with pytest.raises(hirescam.ModelError, match=r"the map of images\[0\] has NaN"):
            explainer(images(2), differentiable=True)
    assert explainer(images(2)).certificate.guarantee is Guarantee.EXACT
    assert explainer.audits.pictures == 4


# --- counts --------------------------------------------------------------------------------------


def test_counts_add_up_over_calls():
    explainer = Explainer(ready(FlattenNet()), audit=0.25)
    found = [explainer(images(batch)).audit for batch in (1, 5, 3, 7, 4)]
    assert sum(found, Audit()) == explainer.audits
    assert (explainer.audits.audited, explainer.audits.pictures) == (5, 20)


def test_what_is_not_audited():
    explainer = Explainer(ready(FlattenNet()), audit=1.0)
    assert explainer(images(), rule="gradcam").audit is None
    assert Explainer(explainer.model)(images()).audit is None
    assert explainer.audits == Audit()
    local = Explainer(ready(TwoLayerNet()), layer="features", audit=1.0)
    assert local(images()).audit == Audit()


def test_two_passes_of_one_picture_for_each_audit():
    explainer = Explainer(ready(Counting()), audit=0.5)
    explainer(images(4))
    BATCHES.clear()
    explainer(images(8))
    assert sorted(BATCHES) == [1] * 2 * 4 + [8]


def test_threads_share_the_count():
    explainer = Explainer(ready(FlattenNet()), audit=0.5)
    x = images(3)
    expected = explainer(x).raw

    def work(_: int) -> Tensor:
        return explainer(x).raw

    with ThreadPoolExecutor(4) as pool:
        for raw in pool.map(work, range(39)):
            assert torch.equal(raw, expected)
    assert (explainer.audits.audited, explainer.audits.pictures) == (60, 120)
    assert explainer.audits.failures == ()


def test_picks_and_sums_of_threads():
    auditor = Auditor(0.1)

    def work(_: int) -> int:
        picked = len(auditor.picks(7))
        auditor.add(Audit(picked, 7))
        return picked

    with ThreadPoolExecutor(8) as pool:
        total = sum(pool.map(work, range(4000)))
    assert total == 2800
    assert auditor.found == Audit(2800, 28000)


# --- where it is passed on -------------------------------------------------------------------------


def test_explain_and_of_pass_the_rate_on():
    model = ready(FlattenNet())
    assert hirescam.explain(model, images(3), audit=1.0).audit.audited == 3
    assert hirescam.explain(model, images(3)).audit is None
    other = Explainer(model, audit=1.0).of(ready(PooledNet()))
    assert other(images(3)).audit.audited == 3


def test_it_is_saved(tmp_path):
    explainer, _, bright = fooled()
    result = explainer(bright)
    result.save(tmp_path / "map")
    assert hirescam.load(tmp_path / "map").audit == result.audit


def test_hooks_and_modes_are_as_before():
    model = ready(FlattenNet())
    Explainer(model, audit=1.0)(images(3))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not model.training
    assert torch.is_grad_enabled()
