"""Structure, bypass and probes on small heads whose verdict is known."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hirescam
from hirescam.passes.trace import Pass
from hirescam.proof import certificate as certificate_module
from toys import (
    SIDE,
    After,
    Branching,
    Bypass,
    Detached,
    FlattenNet,
    FunctionalNet,
    NormNet,
    PooledNet,
    Shared,
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
    "relu of a view in place": lambda x: _relu_half(x.clone()),
    "mask from the values": lambda x: x * (x > 0),
    "rounding": lambda x: x.round(),
    "argmax index": lambda x: x * x.flatten(2).argmax(-1)[..., None, None],
}


def _relu_half(x: Tensor) -> Tensor:
    x[:, :3].relu_()
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


@pytest.mark.parametrize("name", NORMS)
def test_a_normaliser_before_the_linear_layer_is_conditional(name: str) -> None:
    model = ready(NormNet(NORMS[name]))
    for parameter in NORMS[name].parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    certificate = hirescam.certify(model, images())
    assert certificate.guarantee == "conditional", str(certificate)
    assert certificate.completeness_error < 1e-10
    assert certificate.location_error < 1e-10
    assert certificate.layer == "features"


@pytest.mark.parametrize(
    "norm",
    [
        nn.GroupNorm(3, 6),
        nn.InstanceNorm2d(6, affine=True),
        nn.InstanceNorm2d(6, track_running_stats=True),
        lambda x: F.normalize(x, dim=1),
        lambda x: F.layer_norm(x, [SIDE, SIDE]),
    ],
    ids=["group", "instance", "instance, running", "l2", "layer over space"],
)
def test_normalisers_over_maps_hold_their_divisor(norm: Callable[[Tensor], Tensor]) -> None:
    norm = ready(norm) if isinstance(norm, nn.Module) else norm
    model = ready(After(norm))
    result = hirescam.explain(model, images(), layer="conv", target=1)
    assert result.certificate.guarantee in ("conditional", "exact"), str(result.certificate)
    assert result.certificate.location_error < 1e-10
    zero_offset = result.offset
    other = hirescam.explain(model, images(2) * 3 + 1, layer="conv", target=1).offset
    torch.testing.assert_close(zero_offset, other, rtol=1e-8, atol=1e-10)  # a constant of the model


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


def test_a_custom_op_is_other_by_name() -> None:
    class Halve(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x / 2

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return grad / 2

    certificate = certify(After(Halve.apply), "conv")
    assert certificate.guarantee == "none"
    assert "Halve" in certificate.breaks


def test_a_lying_custom_op_named_like_a_known_one_is_other() -> None:
    class Add(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x**2

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return grad

    assert certify(After(Add.apply), "conv").guarantee == "none"


def test_the_probe_overrules_a_graph_that_looks_affine(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the tables were wrong about an op, the weaker verdict would stand."""
    from hirescam.proof import ops

    monkeypatch.setattr(ops, "_LINEAR", ops._LINEAR | {"Silu"})
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


def test_the_verdict_reads_like_a_sentence() -> None:
    text = str(certify(FlattenNet()))
    assert text.startswith("EXACT at layer 'features': the map adds up to the score")
    assert "Grad-CAM gives another map here." in text
    assert "\n" not in text


def test_softmax_in_the_model_is_named() -> None:
    class Probabilities(FlattenNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).softmax(1)

    certificate = certify(Probabilities())
    assert certificate.guarantee == "none"
    assert certificate.breaks == ("softmax",)
    assert "explain the logits" in certificate.advice


def test_functional_calls_are_taps() -> None:
    certificate = certify(FunctionalNet())
    assert certificate.layer == "relu()#2"
    assert certificate.guarantee == "exact"
    listed = {layer.name: layer for layer in hirescam.layers(ready(FunctionalNet()), images())}
    assert listed["relu()#1"].guarantee == "local"
    assert [layer.name for layer in listed.values() if layer.chosen] == ["relu()#2"]


def test_repeated_modules_are_told_apart() -> None:
    listed = [layer.name for layer in hirescam.layers(ready(Shared()), images())]
    assert {"again#1", "again#2", "relu#1", "relu#2", "relu#3"} <= set(listed)
    assert certify(Shared()).layer == "relu#3"


@pytest.mark.parametrize(
    ("net", "inputs"), [(PooledNet, 8), (FlattenNet, 8), (NormNet, 8), (TwoLayerNet, 17)]
)
def test_a_head_is_probed_in_one_run_on_few_inputs(
    net: type, inputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/certificate.md and docs/speed.md give these numbers."""
    seen: list[int] = []
    original = Pass._rescore
    monkeypatch.setattr(Pass, "_rescore", lambda self, many: seen.append(len(many)) or original(self, many))
    certify(net())
    assert seen == [inputs]


def test_a_head_whose_affinity_cannot_be_measured_is_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = certificate_module.probe
    monkeypatch.setattr(certificate_module, "probe", lambda *args: (probe(*args)[0], float("nan")))
    certificate = certify(FlattenNet())
    assert certificate.guarantee == "none"
    assert "not affine" in certificate.reason
