"""Structure, bypass and probes on small heads whose verdict is known."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hirescam
from hirescam import Contrast, Finer, Guarantee, ModelError
from hirescam.passes.cut import Site
from hirescam.passes.taps import Place, Tap
from hirescam.proof import judging
from hirescam.proof.grade import Grade, grade
from hirescam.proof.judging import Certified, certify_site, upheld
from hirescam.proof.ops import Kind, Op
from passes.made import call, laid_out, run
from toys import (
    CLASSES,
    SIDE,
    After,
    Branching,
    Bypass,
    Detached,
    FlattenNet,
    NormNet,
    PooledNet,
    TwoLayerNet,
    images,
    ready,
)


def certify(model: nn.Module, layer: str | None = None) -> hirescam.Certificate:
    return hirescam.certify(ready(model), images(), layer)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize(("net", "same"), [(FlattenNet, False), (PooledNet, True)])
def test_one_linear_layer_is_exact(net: type, same: bool, ndim: int) -> None:
    model = net(ndim, side=4) if net is FlattenNet else net(ndim)
    certificate = hirescam.certify(ready(model), images(2, ndim, side=4))
    assert certificate.guarantee == "exact"
    assert certificate.breaks == ()
    assert certificate.advice == ""
    assert certificate.same_as_gradcam is same
    assert certificate.completeness_error < 1e-10
    assert certificate.location_error < 1e-10


def test_float32_stays_below_a_ten_thousandth() -> None:
    for net in (FlattenNet(), PooledNet()):
        model = ready(net, torch.float32)
        certificate = hirescam.certify(model, images(dtype=torch.float32))
        assert certificate.completeness_error < 1e-4
        assert certificate.location_error < 1e-4


AFFINE: dict[str, Callable[[Tensor], Tensor]] = {
    "scale": lambda x: x * 3 - 1,
    "mean removed": lambda x: x - x.mean((2, 3), keepdim=True),
    "average pool": lambda x: F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear"),
    "pad and crop": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")[..., 1:-1, 1:-1],
    "split and join": lambda x: torch.cat(x.chunk(3, 1)[::-1], 1),
    "roll, flip, transpose": lambda x: x.roll(1, 2).flip(3).transpose(2, 3),
    "shortcut within the head": lambda x: x + 0.5 * x.flip(2),
    "einsum": lambda x: torch.einsum("bchw,c->bchw", x, torch.linspace(1, 2, 6, dtype=x.dtype)),
    "eval batch norm": ready(nn.BatchNorm2d(6)),
    "eval dropout": ready(nn.Dropout(0.5)),
    "depthwise convolution": ready(nn.Conv2d(6, 6, 3, padding=1, groups=6)),
    "fft there and back": lambda x: torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[2:]),
    "cumulative sum": lambda x: x.cumsum(-1),
    "unfold": lambda x: F.fold(F.unfold(x, 2, stride=2), (SIDE, SIDE), 2, stride=2),
}
PIECEWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky relu": lambda x: F.leaky_relu(x, 0.1),
    "relu6": F.relu6,
    "max pool": lambda x: F.interpolate(F.max_pool2d(x, 2), scale_factor=2),
    "abs": torch.abs,
    "clamp": lambda x: x.clamp(-1, 1),
    "maximum": lambda x: torch.maximum(x, x.flip(2)),
    "prelu": ready(nn.PReLU()),
    "relu of a view in place": lambda x: _half(x.clone(), torch.relu_),
}
OTHER: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
    "softmax": lambda x: x.softmax(1),
    "square": lambda x: x * x,
    "power": lambda x: x**3,
    "gate": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "self-division": lambda x: x / (1 + x.mean((2, 3), keepdim=True) ** 2),
    "instance norm and relu": lambda x: F.relu(F.instance_norm(x)),
    "hand-written norm": lambda x: x / (x.var((2, 3), keepdim=True) + 1).sqrt(),
    "sigmoid of a view in place": lambda x: _half(x.clone(), torch.sigmoid_),
    "mask from the values": lambda x: x * (x > 0),
    "rounding": lambda x: x.round(),
    "argmax index": lambda x: x * x.flatten(2).argmax(-1)[..., None, None],
}


def _half(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change half of the channels in place."""
    change(x[:, :3])
    return x


@pytest.mark.parametrize("name", AFFINE)
def test_affine_ops_are_exact(name: str) -> None:
    certificate = certify(After(AFFINE[name]), "conv")
    assert certificate.guarantee == "exact", str(certificate)


@pytest.mark.parametrize("name", PIECEWISE)
def test_piecewise_linear_ops_are_local(name: str) -> None:
    certificate = certify(After(PIECEWISE[name]), "conv")
    assert certificate.guarantee == "local", str(certificate)
    assert len(certificate.breaks) == 1
    assert "fully connected layer" in certificate.advice


@pytest.mark.parametrize("name", OTHER)
def test_everything_else_is_none(name: str) -> None:
    certificate = certify(After(OTHER[name]), "conv")
    assert certificate.guarantee == "none", str(certificate)
    assert certificate.breaks
    assert "choose a layer nearer to the score" in certificate.advice
    assert "tokens" not in certificate.advice


NORMS: dict[str, nn.Module] = {
    "layer norm": nn.LayerNorm(6),
    "rms norm": nn.RMSNorm(6),
    "group norm": nn.GroupNorm(2, 6),
}


def test_a_bypass_voids_the_guarantee() -> None:
    certificate = certify(Bypass(), "deep")
    assert certificate.bypass
    assert certificate.guarantee == "none"
    assert "around this layer" in str(certificate)
    assert certify(Bypass()).layer == "add()"
    assert certify(Bypass()).guarantee == "exact"


def test_a_hidden_bypass_is_found_by_its_probe() -> None:
    class HiddenBypass(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + x.detach().mean()

    certificate = certify(HiddenBypass(), "features")
    assert certificate.guarantee == "none", str(certificate)
    assert certificate.bypass


def test_a_branch_on_a_value_is_seen_though_no_probe_takes_it() -> None:
    certificate = certify(Branching(threshold=1e6), "features")
    assert certificate.guarantee == "none"
    assert any("__bool__" in name for name in certificate.breaks)


def test_a_detached_gate_is_seen() -> None:
    certificate = certify(Detached(), "features")
    assert certificate.guarantee == "none"
    assert any("detach" in name for name in certificate.breaks)


def test_no_grad_inside_the_head_does_not_hide_a_gate() -> None:
    class Gated(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            features = self.features(x)
            with torch.no_grad():
                gate = features.mean()
            return self.head((features * gate).flatten(1))

    certificate = certify(Gated(), "features")
    assert certificate.guarantee == "none"
    assert "mul" in certificate.breaks


def test_the_probe_overrules_a_graph_that_looks_affine(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the tables were wrong about an op, the weaker verdict would stand."""
    from hirescam.proof import ops

    monkeypatch.setitem(ops._BY_NAME, "Silu", [ops.Entry("Silu", Kind.AFFINE)])
    certificate = certify(After(F.silu), "conv")
    assert certificate.guarantee == "none"
    assert "the weaker verdict stands" in str(certificate)


def test_a_random_model_is_refused_a_guarantee() -> None:
    class Noisy(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.dropout(self.features(x), 0.5, training=True).flatten(1))

    certificate = certify(Noisy(), "features")
    assert certificate.guarantee == "none"
    assert "random numbers" in str(certificate)


def test_two_linear_layers_are_local_and_the_residuals_show_it() -> None:
    certificate = certify(TwoLayerNet())
    assert certificate.guarantee == "local"
    assert certificate.breaks == ("relu (head.2)",)
    assert certificate.location_error > 1e-3


# The weaker of two grades ---------------------------------------------------------------------

AFFINE_GRADE = grade((Op("linear", Kind.AFFINE),), bypass=False)
HELD_GRADE = grade((Op("layer_norm", Kind.NORMALISING, "norm"),), bypass=False)
LOCAL_GRADE = grade((Op("relu", Kind.PIECEWISE),), bypass=False)
NO_GRADE = grade((Op("softmax", Kind.OTHER),), bypass=False)


def judge(
    model: nn.Module,
    graded: Grade = AFFINE_GRADE,
    layer: str = "features",
    target: Any = 1,
    given: Any = None,
    logits: Tensor | None = None,
) -> Certified:
    """Judge a layer that the whole graph is said to grade like this."""
    given = images() if given is None else given
    if logits is None:
        with torch.no_grad():
            logits = model(*given) if isinstance(given, tuple) else model(given)
    site = laid_out(Site(model, Place(Tap(layer))), call(given))
    return certify_site(site, call(given), target, graded, logits)


def test_what_is_seen_in_the_cut_pass_weakens_the_grade_of_the_graph() -> None:
    found = judge(ready(TwoLayerNet()))
    assert found.certificate.guarantee is Guarantee.LOCAL
    assert found.certificate.breaks == ("relu (head.2)",)
    assert "aside" in found.answers.questions  # and the questions are those of the weaker one
    assert judge(ready(NormNet())).certificate.guarantee is Guarantee.NONE  # its divisors were not held
    assert judge(ready(FlattenNet()), LOCAL_GRADE).certificate.guarantee is Guarantee.LOCAL


def test_what_is_seen_in_the_cut_pass_does_not_strengthen_it() -> None:
    for graded in (LOCAL_GRADE, NO_GRADE):
        found = judge(ready(FlattenNet()), graded)
        assert found.certificate.guarantee is graded.guarantee
        assert found.certificate.head == tuple(op.name for op in graded.head)
    bypassed = judge(ready(FlattenNet()), grade((Op("linear", Kind.AFFINE),), bypass=True))
    assert bypassed.certificate.bypass
    assert bypassed.certificate.guarantee is Guarantee.NONE


def test_with_its_divisors_held_a_pass_must_be_affine() -> None:
    good = judge(ready(NormNet()), HELD_GRADE)
    assert good.certificate.guarantee is Guarantee.CONDITIONAL
    assert good.finished.wish.hold
    assert good.certificate.location_error < 1e-10

    class More(NormNet):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.norm(self.features(x).mean((2, 3)))))

    bad = judge(ready(More()), HELD_GRADE)
    assert bad.certificate.guarantee is Guarantee.NONE


@pytest.mark.parametrize(
    ("net", "hold", "allows"),
    [
        (FlattenNet, False, [Guarantee.EXACT, Guarantee.CONDITIONAL, Guarantee.LOCAL, Guarantee.NONE]),
        (TwoLayerNet, False, [Guarantee.LOCAL, Guarantee.NONE]),
        (NormNet, False, [Guarantee.CONDITIONAL, Guarantee.LOCAL, Guarantee.NONE]),
        (NormNet, True, [Guarantee.EXACT, Guarantee.CONDITIONAL, Guarantee.LOCAL, Guarantee.NONE]),
        (Detached, False, [Guarantee.NONE]),
    ],
)
def test_a_pass_allows_some_guarantees(net: type, hold: bool, allows: list[Guarantee]) -> None:
    finished = run(ready(net()), images(), target=1, hold=hold)
    assert [guarantee for guarantee in Guarantee if upheld(finished, guarantee)] == allows


class Early(FlattenNet):
    """Constants that are made before the layer and used after it."""

    gated = False

    def forward(self, x: Tensor) -> Tensor:
        grid = torch.linspace(0, 1, SIDE, dtype=x.dtype) + 1
        grid = grid * (x.detach().mean() > -9) if self.gated else grid
        return self.head((self.features(x) * grid).flatten(1))


def test_a_pass_is_watched_from_its_start_only_where_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[bool] = []
    forward = judging.forward
    monkeypatch.setattr(
        judging, "forward", lambda site, *rest: watched.append(site.place.all) or forward(site, *rest)
    )
    plain = judge(ready(FlattenNet()))
    assert watched == [False]
    assert not plain.finished.site.place.all
    watched.clear()
    early = judge(ready(Early()))
    assert watched == [False, True]
    assert early.certificate.guarantee is Guarantee.EXACT
    assert early.finished.site.place.all
    watched.clear()
    model = ready(Early())
    model.gated = True
    assert judge(model).certificate.guarantee is Guarantee.NONE
    assert watched == [False, True]
    watched.clear()
    judge(ready(Early()), NO_GRADE)
    assert watched == [False]


# Doubts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("share", "same"), [(0.8, True), (1.3, False)])
def test_two_passes_may_differ_by_rounding(dtype: torch.dtype, share: float, same: bool) -> None:
    model, x = ready(FlattenNet(), dtype), images(dtype=dtype)
    with torch.no_grad():
        logits = model(x).double()
    logits[0, 1] += share * judging.tolerance_of(dtype) * logits.abs().max()
    found = judge(model, given=x, logits=logits.to(dtype))
    assert (found.certificate.guarantee is Guarantee.EXACT) is same
    if not same:
        assert (
            "gives different outputs for the same images (it draws random numbers?)"
            in found.certificate.reason
        )


def test_of_a_random_model_no_way_around_the_layer_is_claimed() -> None:
    class Noisy(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.randn(1, dtype=x.dtype)

    found = judge(ready(Noisy()), LOCAL_GRADE)
    assert "random numbers" in found.certificate.reason
    assert not found.certificate.bypass
    assert found.certificate.guarantee is Guarantee.NONE


def test_a_way_around_the_layer_that_probes_find_is_told() -> None:
    class Side(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + x.detach().mean((1, 2, 3))[:, None]

    for graded in (AFFINE_GRADE, LOCAL_GRADE, NO_GRADE):
        found = judge(ready(Side()), graded)
        assert found.certificate.bypass
        assert found.certificate.guarantee is Guarantee.NONE


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether other images were asked about apart, by round of questions."""
    seen: list[bool] = []
    original = judging.ask

    def asks(*given: Any, affine: bool, apart: bool) -> Any:
        seen.append(apart)
        return original(*given, affine=affine, apart=apart)

    monkeypatch.setattr(judging, "ask", asks)
    return seen


def turned(a: Tensor) -> Tensor:
    """Nothing, with a gradient of the wrong sign, which no graph shows."""
    a = a * 1
    if a.requires_grad:
        a.register_hook(torch.neg)
    return a


def test_questions_are_asked_apart_only_where_something_is_doubtful(rounds: list[bool]) -> None:
    for graded in (AFFINE_GRADE, LOCAL_GRADE, NO_GRADE):
        for op, doubted in ((torch.clone, False), (turned, True)):
            rounds.clear()
            found = judge(ready(After(op)), graded, "conv")
            apart = graded is NO_GRADE or doubted
            assert rounds == ([True] if graded is NO_GRADE else [False, True] if doubted else [False])
            assert ("held" in found.answers.questions) is apart
            assert (found.certificate.guarantee is graded.guarantee) is (graded is NO_GRADE or not doubted)


@pytest.mark.parametrize(
    ("graded", "guarantee"), [(AFFINE_GRADE, Guarantee.NONE), (LOCAL_GRADE, Guarantee.LOCAL)]
)
def test_a_doubt_that_is_gone_when_asked_apart_stays_only_with_an_affine_head(
    graded: Grade, guarantee: Guarantee, rounds: list[bool]
) -> None:
    model = ready(After(lambda a: a * (2 if len(a) == 8 else 1)))  # two images, four questions
    found = judge(model, graded, "conv")
    assert rounds == [False, True]
    assert found.certificate.guarantee is guarantee
    assert ("the weaker verdict stands" in found.certificate.reason) is graded.affine


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_kinks_right_beside_the_activations_cost_no_guarantee(dtype: torch.dtype, rounds: list[bool]) -> None:
    model, x = ready(After(torch.clone), dtype), images(dtype=dtype)
    with torch.no_grad():
        near = model.conv(x)
        near += (1e-5 if dtype is torch.float64 else 3e-3) * near.std()
    model.op = lambda a: a + 20 * torch.relu(a - near.repeat(len(a) // 2, 1, 1, 1))
    found = judge(model, LOCAL_GRADE, "conv", given=x)
    assert rounds == [False, True]
    assert found.certificate.guarantee is Guarantee.LOCAL


def test_a_layer_that_may_be_anything_raises_no_doubts() -> None:
    found = judge(ready(After(torch.sin)), NO_GRADE, "conv")
    assert found.certificate.reason == "Between it and the score: softmax."


def test_a_model_that_does_not_run_with_another_layer_is_told() -> None:
    class Picky(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            features = self.features(x)
            if self.picky and bool((features.detach() == 0).flatten(1).all(1).any()):
                raise ValueError("nothing: nowhere")
            return self.head(features.flatten(1))

        picky = False

    model = ready(Picky())
    site = laid_out(Site(model, Place(Tap("features"))), call(images()))
    with torch.no_grad():
        logits = model(images())
    finished = run(model, images(), target=1)
    model.picky = True
    answers, findings, doubt = judging._asked(finished, finished.trace(), AFFINE_GRADE)
    assert answers is None
    assert findings is None
    assert doubt == (
        "the model does not run when this layer's output is replaced (nothing: nowhere. Check that "
        "model(images) runs by itself with these images)"
    )
    certificate = certify_site(site, call(images()), 1, AFFINE_GRADE, logits).certificate
    assert certificate.guarantee is Guarantee.NONE
    assert certificate.completeness_error != certificate.completeness_error  # not measured


# What the arithmetic hides --------------------------------------------------------------------


class Offset(FlattenNet):
    """A bias that hides what the map is about, and a gradient that may be wrong."""

    def __init__(self, offset: float, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        with torch.no_grad():
            self.head.bias.fill_(offset)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x) * 1
        if features.requires_grad and self.factor != 1:
            features.register_hook(lambda gradient: self.factor * gradient)
        return self.head(features.flatten(1))


def test_an_error_that_rounding_makes_is_measured_again_in_float64() -> None:
    x = images(dtype=torch.float32)
    certificate = judge(ready(Offset(1e5), torch.float32), given=x).certificate
    assert certificate.guarantee is Guarantee.EXACT
    assert certificate.location_error < 1e-6
    assert certificate.completeness_error < 1e-6
    assert certificate.precision == ""
    small = judge(ready(Offset(0.1), torch.float32), given=x).certificate
    assert 1e-10 < small.location_error < 1e-4
    assert small.precision == ""


def test_a_fault_that_rounding_hides_is_found_in_float64() -> None:
    x = images(dtype=torch.float32)
    model = ready(Offset(1e6, factor=1.5), torch.float32)
    finished = run(model, x, target=1)
    _, findings, _ = judging._asked(finished, finished.trace(), AFFINE_GRADE)
    assert findings.doubts == ()  # in float32 there is nothing to be seen
    certificate = judge(model, given=x).certificate
    assert certificate.guarantee is Guarantee.NONE
    assert "the weaker verdict stands" in certificate.reason


def test_float64_has_nothing_to_be_measured_in_again() -> None:
    certificate = judge(ready(Offset(1e13))).certificate
    assert certificate.guarantee is Guarantee.EXACT
    assert certificate.precision == "float64"
    assert max(certificate.location_error, certificate.completeness_error) > 1e-4
    assert "(limited by float64)" in str(certificate)


@pytest.mark.parametrize(
    "why", ["a lock", "its size", "float32 inside", "float32 before", "an error of ours"]
)
def test_a_model_that_cannot_be_measured_again_is_limited_by_its_arithmetic(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = ready(Offset(1e5), torch.float32), images(dtype=torch.float32)
    if why == "a lock":
        model.lock = threading.Lock()
    elif why == "its size":
        monkeypatch.setattr(judging, "_DOUBLE_BYTES", 8 * sum(p.numel() for p in model.parameters()) - 1)
    elif why == "float32 inside":
        model.features.append(type("Casts", (nn.Module,), {"forward": lambda self, a: a.float()})())
    elif why == "float32 before":
        model.register_forward_pre_hook(lambda module, args: (args[0].float(),))
    else:
        monkeypatch.setattr(judging, "_double", lambda finished: (_ for _ in ()).throw(ModelError("no")))
    certificate = judge(model, given=x).certificate
    assert certificate.guarantee is Guarantee.EXACT
    assert certificate.precision == "float32"
    assert certificate.location_error > 1e-4


def test_a_model_just_small_enough_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = ready(Offset(1e5), torch.float32), images(dtype=torch.float32)
    monkeypatch.setattr(judging, "_DOUBLE_BYTES", 8 * sum(p.numel() for p in model.parameters()))
    assert judge(model, given=x).certificate.precision == ""


class Spoilt(TwoLayerNet):
    """In a backward pass the second class gets twice its gradient."""

    head_of = TwoLayerNet

    def forward(self, x: Tensor) -> Tensor:
        y = self.head_of.forward(self, x)
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient * gradient.new_tensor([1, 2] + [1] * (CLASSES - 2)))
        return y


@pytest.mark.parametrize("seed", range(8))
def test_kinks_and_roundings_of_half_precision_are_no_wrong_gradient(seed: int) -> None:
    """What bfloat16 cannot tell, a copy of the model in float64 does."""
    torch.manual_seed(seed)
    model, x = ready(TwoLayerNet(), torch.bfloat16), images(2, dtype=torch.bfloat16)
    assert judge(model, target=1, given=x).certificate.guarantee is Guarantee.LOCAL
    spoilt = ready(Spoilt(), torch.bfloat16)
    assert judge(spoilt, target=1, given=x).certificate.guarantee is Guarantee.NONE


def test_without_a_doubt_half_precision_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []
    monkeypatch.setattr(judging, "_double", lambda finished: copies.append(1))
    x = images(2, dtype=torch.bfloat16)
    seeds = range(8)
    for seed in seeds:
        torch.manual_seed(seed)
        judge(ready(TwoLayerNet(), torch.bfloat16), target=1, given=x)
    assert len(copies) < len(seeds)


def test_a_doubt_in_half_precision_stands_where_there_can_be_no_copy() -> None:
    model = ready(Spoilt(), torch.bfloat16)
    model.lock = threading.Lock()
    certificate = judge(model, target=1, given=images(2, dtype=torch.bfloat16)).certificate
    assert certificate.guarantee is Guarantee.NONE
    assert certificate.precision == "bfloat16"


class SpoiltFlat(FlattenNet):
    """The same of one linear layer."""

    forward = Spoilt.forward
    head_of = FlattenNet


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("asked", [0, 1])
def test_a_class_whose_gradient_is_wrong_is_found_in_half_precision_too(
    asked: int, dtype: torch.dtype
) -> None:
    """Whether it is certified first, or asked for once another class was."""
    explainer = hirescam.Explainer(ready(SpoiltFlat(), dtype))
    x = images(2, dtype=dtype)
    first = explainer(x, target=asked).certificate.guarantee
    assert first is (Guarantee.NONE if asked == 1 else Guarantee.EXACT)
    assert explainer(x, target=1).certificate.guarantee is Guarantee.NONE


def test_the_copy_in_float64_is_of_the_same_classes_and_leaves_the_model() -> None:
    model, x = ready(Offset(1e5), torch.float32), images(dtype=torch.float32)
    for target in (None, 3, [1, 2], Contrast(0, 1)):
        finished = run(model, x, target=target)
        double = judging._double(finished)
        assert double.logits.dtype == torch.float64
        assert torch.equal(double.bound.index, finished.bound.index)
        assert (double.wish.target is target) is (target == Contrast(0, 1))
        assert double.site.model is not model
        assert model.head.weight.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert judging._double(run(model, x, target=1)).logits.dtype == torch.float64


# What the offset is a constant of -------------------------------------------------------------


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = FlattenNet()

    def forward(self, picture: Tensor, row: Tensor) -> Tensor:
        return self.net(picture) + row


def test_an_offset_is_a_constant_of_what_was_shown() -> None:
    model = ready(FlattenNet())
    for target in (None, 1, [1, 2], Contrast(0, 1)):
        assert judge(model, target=target).certificate.offset == "of the model"
    assert judge(model, target=Finer(1)).certificate.offset == "of this image"
    assert judge(model, target=lambda out: out[:, 0]).certificate.offset == "of this image"
    assert judge(ready(NormNet()), HELD_GRADE).certificate.offset == "of this image"
    assert judge(model, LOCAL_GRADE).certificate.offset == "of this image"
    row = torch.randn(2, 5, dtype=torch.float64)
    both = judge(ready(TwoInputs()), layer="net.features", given=(images(), row))
    assert both.certificate.offset == "for these other inputs"
    assert both.certificate.guarantee is Guarantee.EXACT


# What is counted ------------------------------------------------------------------------------


def test_locations_and_those_that_can_get_credit_are_counted() -> None:
    class Token(FlattenNet):
        def __init__(self, keep: int) -> None:
            super().__init__()
            self.head, self.keep = nn.Linear(6 * keep, 5), keep

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.features(x).flatten(2)[..., : self.keep].flatten(1))

    for keep in (1, 2, SIDE**2):
        certificate = judge(ready(Token(keep))).certificate
        assert (certificate.positions, certificate.locations) == (keep, SIDE**2)
        assert ("mean pooling instead of one class token" in certificate.advice) is (keep == 1)


@pytest.mark.parametrize(("spread", "same"), [(0.0, True), (1e-6, True), (1e-2, False), (1.0, False)])
def test_a_head_that_treats_locations_a_little_differently_is_not_gradcams(spread: float, same: bool) -> None:
    model = ready(FlattenNet())
    with torch.no_grad():
        weight = torch.ones(5, 6, SIDE**2).double()
        weight[:, :, 0] += spread
        model.head.weight.copy_(weight.flatten(1))
    assert judge(model).certificate.same_as_gradcam is same


def test_a_certificate_names_the_layer_the_head_and_what_breaks_it() -> None:
    certificate = judge(ready(TwoLayerNet()), LOCAL_GRADE, target=2).certificate
    assert certificate.layer == "features"
    assert certificate.head == ("relu",)
    assert certificate.breaks == ("relu",)
