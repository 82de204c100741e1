"""What float32 factors are really rounded to, by the switches that PyTorch has for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hirescam
from hirescam.passes.precision import is_half, precision_of, products_are_rounded
from toys import FlattenNet, PooledNet, TwoLayerNet, images, ready

FLOAT, HALF, BRAIN, DOUBLE = torch.float32, torch.float16, torch.bfloat16, torch.float64
SWITCHES = hasattr(torch.backends.cuda.matmul, "fp32_precision")


@contextmanager
def asked_for(precision: str) -> Iterator[None]:
    """Matrix products of float32 in another precision."""
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.fixture
def rounded() -> Iterator[None]:
    """Matrix products whose factors are rounded to bfloat16, on processors that can."""
    with asked_for("medium"):
        yield


def on(device: str, dtype: torch.dtype = FLOAT) -> Any:
    """What `precision_of` looks at, of a tensor on a device that need not be there."""
    return SimpleNamespace(device=torch.device(device), dtype=dtype)


def test_the_dtype_by_itself() -> None:
    for dtype in (DOUBLE, FLOAT, BRAIN, HALF):
        assert precision_of(torch.zeros(1, dtype=dtype)) is dtype
        assert is_half(dtype) is (dtype in (BRAIN, HALF))


def test_the_coarsest_counts() -> None:
    half, single, double = (torch.zeros(1, dtype=dtype) for dtype in (HALF, FLOAT, DOUBLE))
    assert precision_of(half, single) is HALF
    assert precision_of(single, half.bfloat16(), half) is BRAIN
    assert precision_of(single, double) is FLOAT


def test_autocast() -> None:
    with torch.autocast("cpu", dtype=BRAIN):
        assert precision_of(torch.zeros(1)) is BRAIN
        with torch.autocast("cpu", enabled=False):
            assert precision_of(torch.zeros(1)) is FLOAT
    assert precision_of(torch.zeros(1)) is FLOAT


def test_matrix_products_on_a_cpu() -> None:
    with asked_for("medium"):
        assert precision_of(torch.zeros(1)) is BRAIN
        assert precision_of(torch.zeros(1, dtype=HALF)) is HALF
        assert precision_of(torch.zeros(1, dtype=DOUBLE)) is DOUBLE
        assert products_are_rounded(torch.zeros(1))
        assert not products_are_rounded(torch.zeros(1, dtype=DOUBLE))
        assert not products_are_rounded(torch.zeros(1, dtype=BRAIN))
    assert not products_are_rounded(torch.zeros(1))


def test_convolutions_on_a_gpu_are_rounded_by_default() -> None:
    assert precision_of(on("cuda")) is HALF
    assert precision_of(on("cuda"), convolves=False) is FLOAT
    assert not products_are_rounded(on("cuda"))


def test_matrix_products_on_a_gpu() -> None:
    with asked_for("high"):
        assert precision_of(on("cuda"), convolves=False) is HALF
        assert products_are_rounded(on("cuda"))
        assert precision_of(on("cuda", DOUBLE)) is DOUBLE


@contextmanager
def switched(operations: Any, precision: str) -> Iterator[None]:
    """One kind of operation in another precision."""
    before, operations.fp32_precision = operations.fp32_precision, precision
    try:
        yield
    finally:
        operations.fp32_precision = before


@pytest.mark.skipif(not SWITCHES, reason="before torch 2.9")
def test_switches_of_one_kind_of_operation() -> None:
    with switched(torch.backends.cudnn.conv, "ieee"):
        assert precision_of(on("cuda")) is FLOAT
        with switched(torch.backends.mkldnn.conv, "bf16"):
            assert precision_of(on("cpu")) is BRAIN
            assert precision_of(on("cuda")) is FLOAT
    assert precision_of(on("cuda")) is HALF
    assert precision_of(on("cpu")) is FLOAT


@pytest.mark.parametrize(
    ("device", "allowed", "tf32", "convolves", "expected"),
    [
        ("cuda", "highest", True, True, HALF),
        ("cuda", "highest", True, False, FLOAT),
        ("cuda", "highest", False, True, FLOAT),
        ("cuda", "high", False, False, HALF),
        ("cpu", "high", True, True, FLOAT),
        ("cpu", "medium", True, True, BRAIN),
        ("mps", "medium", True, True, FLOAT),
    ],
)
def test_before_there_were_switches(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    allowed: str,
    tf32: bool,
    convolves: bool,
    expected: torch.dtype,
) -> None:
    backends = SimpleNamespace(
        cuda=SimpleNamespace(matmul=SimpleNamespace()), cudnn=SimpleNamespace(allow_tf32=tf32)
    )
    monkeypatch.setattr(torch, "backends", backends)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: allowed)
    assert precision_of(on(device), convolves=convolves) is expected


def test_devices_without_switches() -> None:
    with asked_for("medium"):
        assert precision_of(on("mps")) is FLOAT


# What comes of it -----------------------------------------------------------------------------


def wide(net: nn.Module) -> nn.Module:
    """A network whose head adds up enough products for their rounding to show."""
    return ready(net, FLOAT)


@pytest.mark.usefixtures("rounded")
@pytest.mark.parametrize(
    ("net", "guarantee"), [(FlattenNet, "exact"), (PooledNet, "exact"), (TwoLayerNet, "local")]
)
def test_verdicts_do_not_depend_on_it(net: type[nn.Module], guarantee: str) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        model, x = wide(net()), images(3, dtype=FLOAT)
        explainer = hirescam.Explainer(model, audit=1.0)
        for target in (1, 3):
            result = explainer(x, target=target)
            assert result.certificate.guarantee == guarantee, str(result.certificate)
            assert not result.certificate.precision
        assert not explainer.audits.failures
        assert explainer(x, target=lambda y: y[:, 0]).certificate.guarantee == guarantee


@pytest.mark.usefixtures("rounded")
def test_maps_are_not_rounded_twice() -> None:
    """The closed form multiplies matrices too, and theirs is not the model's arithmetic."""
    model, x = wide(FlattenNet(side=16)), images(3, side=16, dtype=FLOAT)
    explainer = hirescam.Explainer(model)
    explainer(x, target=1)
    found = explainer(x.flip(0), target=1)
    assert found.raw.dtype is FLOAT
    with torch.no_grad():
        products = model.features(x.flip(0)) * model.head.weight[1].reshape(1, -1, 16, 16)
    torch.testing.assert_close(found.raw[:, 0], products.sum(1), rtol=0, atol=1e-2)


class WrongGradient(FlattenNet):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if y.requires_grad:
            y.register_hook(lambda gradient: 2 * gradient)
        return y


class Bent(FlattenNet):
    def forward(self, x: Tensor) -> Tensor:
        a = self.features(x).flatten(1)
        with torch.inference_mode():
            gate = 1 + 0.2 * torch.sigmoid(4 * a.mean(1, keepdim=True))
        return self.head(a * gate.clone())


@pytest.mark.usefixtures("rounded")
@pytest.mark.parametrize("net", [WrongGradient, Bent])
def test_what_is_wrong_is_found_all_the_same(net: type[nn.Module]) -> None:
    certificate = hirescam.certify(wide(net()), images(3, dtype=FLOAT), target=1)
    assert certificate.guarantee == "none", str(certificate)


@pytest.mark.usefixtures("rounded")
def test_weights_that_change_where_sums_would_not_show_it() -> None:
    model, x = wide(FlattenNet()), images(3, dtype=FLOAT)
    explainer = hirescam.Explainer(model)
    explainer(x, target=1)
    model.head.weight.data *= 1.05
    found, expected = explainer(x, target=1), hirescam.explain(model, x, target=1)
    assert torch.equal(found.raw, expected.raw)


class FloatAtTheEnd(FlattenNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


@pytest.mark.parametrize("dtype", [BRAIN, HALF], ids=str)
def test_logits_of_another_precision_than_the_head(dtype: torch.dtype) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        result = hirescam.explain(ready(FloatAtTheEnd(), dtype), images(3, dtype=dtype), target=1)
        assert result.logits.dtype is FLOAT
        assert result.certificate.guarantee == "exact", str(result.certificate)


class NoCopies(FlattenNet):
    def __deepcopy__(self, memo: object) -> "NoCopies":
        raise TypeError("this network cannot be copied")


@pytest.mark.usefixtures("rounded")
def test_what_limits_the_errors_is_said() -> None:
    model, x = wide(NoCopies(side=16)), images(3, side=16, dtype=FLOAT)
    certificate = hirescam.certify(model, x, target=1)
    assert certificate.guarantee == "exact", str(certificate)
    if max(certificate.completeness_error, certificate.location_error) > 1e-4:  # a processor that rounds
        assert "limited by float32 with factors rounded like bfloat16" in str(certificate)
