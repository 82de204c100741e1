"""The same on a GPU as on the CPU: verdicts, maps, rules, and a borrowed model that comes back as it was."""

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import hirescam
from architectures import CASES, SMALL, batch, build
from hirescam.rulebook.registry import rules
from toys import FlattenNet, PooledNet, TwoLayerNet, images, ready

pytest.importorskip("timm", reason="needs the extra 'vision'")
pytest.importorskip("torchvision", reason="needs the extra 'vision'")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def full_precision() -> Iterator[None]:
    """Convolutions in float32: by default they round their inputs to 10 bits (TF32)."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(params=["highest", "high", "medium"])
def products(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every precision of matrix products that PyTorch has."""
    torch.set_float32_matmul_precision(request.param)
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize(("spec", "shape", "guarantee", "layer", "why"), CASES, ids=[c[0] for c in CASES])
def test_verdicts_are_those_of_the_cpu(
    spec: str, shape: tuple[int, ...], guarantee: str, layer: str, why: str
) -> None:
    certificate = hirescam.certify(build(spec).cuda(), batch(shape).cuda())
    assert (certificate.guarantee, certificate.layer) == (guarantee, layer), f"{why}\n{certificate}"


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize(("spec", "shape"), [case[:2] for case in CASES], ids=[c[0] for c in CASES])
def test_maps_are_those_of_the_cpu(spec: str, shape: tuple[int, ...]) -> None:
    model, x = build(spec), batch(shape)
    expected = hirescam.explain(model, x, target=3).raw
    found = hirescam.explain(model.cuda(), x.cuda(), target=3).raw
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize(
    ("net", "rule"),
    [(FlattenNet, name) for name in sorted(set(rules()) - {"cam"})]
    + [(TwoLayerNet, name) for name in sorted(set(rules()) - {"cam"})]
    + [(PooledNet, name) for name in sorted(rules())],
)
def test_rules_are_those_of_the_cpu(net: type[nn.Module], rule: str) -> None:
    model, x = ready(net()), images()
    expected = hirescam.explain(model, x, target=3, rule=rule)
    found = hirescam.explain(model.cuda(), x.cuda(), target=3, rule=rule)
    assert found.certificate.guarantee == expected.certificate.guarantee
    torch.testing.assert_close(found.raw.cpu(), expected.raw)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:efficientnet_b0", "timm:resnetv2_50"])
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    model = build(name).cuda().to(dtype)
    result = hirescam.explain(model, batch(SMALL).cuda().repeat(3, 1, 1, 1).to(dtype))
    assert result.certificate.guarantee == "exact", str(result.certificate)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast(dtype: torch.dtype) -> None:
    model, x = build("torchvision:resnet18").cuda(), torch.randn(4, *SMALL, device="cuda")
    explainer = hirescam.Explainer(model)
    plain = explainer(x)
    with torch.autocast("cuda", dtype):
        result = explainer(x, target=plain.target)
    assert result.certificate.guarantee == "exact", str(result.certificate)
    scale = float(plain.raw.abs().max())
    torch.testing.assert_close(result.raw.float(), plain.raw, rtol=0, atol=0.05 * scale)


def test_random_states_and_the_model_come_back() -> None:
    model, x = build("torchvision:efficientnet_b0").cuda(), torch.randn(3, *SMALL, device="cuda")
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state, own = torch.cuda.get_rng_state(), torch.get_rng_state()
    with torch.no_grad():
        expected = model(x)
    for rule in ("hirescam", "ss_cam", "random"):
        result = hirescam.explain(model, x, rule=rule)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert torch.equal(torch.get_rng_state(), own)
    torch.testing.assert_close(result.logits, expected)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_many_images_many_times_and_weights_that_change() -> None:
    model = build("torchvision:resnet18").cuda()
    explainer = hirescam.Explainer(model, audit=1.0)
    for count in (1, 64, 1, 7):
        result = explainer(torch.randn(count, *SMALL, device="cuda"))
        assert result.certificate.guarantee == "exact", str(result.certificate)
        assert result.raw.shape == (count, 1, 2, 2)
    assert not explainer.audits.failures
    assert explainer.audits.audited == 73
    with torch.no_grad():
        model.fc.weight.mul_(-2)
    x = torch.randn(2, *SMALL, device="cuda")
    torch.testing.assert_close(explainer(x, target=3).raw, hirescam.explain(model, x, target=3).raw)
    model.fc = nn.Sequential(model.fc, nn.Softmax(1))
    assert explainer(x, target=3).certificate.guarantee != "exact"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled(mode: str) -> None:
    model, x = build("torchvision:resnet18").cuda(), torch.randn(4, *SMALL, device="cuda")
    expected = hirescam.explain(model, x, target=3)
    found = hirescam.Explainer(model).compile()(x, target=3)
    torch.testing.assert_close(
        found.raw, expected.raw, rtol=1e-2, atol=1e-2 * float(expected.raw.abs().max())
    )
    assert found.certificate.guarantee == "exact"
    faster = torch.compile(copy.deepcopy(model), mode=mode)
    result = hirescam.Explainer(faster)(x, target=3)
    assert result.certificate.guarantee == "exact", str(result.certificate)


def test_results_travel() -> None:
    result = hirescam.explain(ready(PooledNet()).cuda(), images().cuda())
    again = pickle.loads(pickle.dumps(result))
    assert torch.equal(again.raw.cpu(), result.raw.cpu())


def test_images_on_another_device() -> None:
    with pytest.raises(hirescam.HirescamError, match=r"use images.to\('cuda:0'\)"):
        hirescam.explain(ready(PooledNet()).cuda(), images())
