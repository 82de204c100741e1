"""A compiled explainer gives the maps of a plain one, and notices when the network is not what it was."""

import shutil
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

import hirescam
from hirescam import AllClasses, Explainer, ModelError, TopK
from hirescam.compiled import Compiled
from hirescam.passes.borrow import as_call
from toys import FlattenNet, FunctionalNet, PooledNet, TwoLayerNet, images, ready

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU"),
    pytest.mark.filterwarnings("ignore"),  # the compiler's own
]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the batches that compiled code was run on, after the check at its making."""
    log: list[tuple[int, ...]] = []
    original = Compiled.__call__

    def watched(self: Compiled, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        log.append(tuple(x.shape))
        return original(self, x)

    monkeypatch.setattr(Compiled, "__call__", watched)
    return log


def compiled(model: nn.Module) -> Explainer:
    return Explainer(model).compile()


@pytest.mark.parametrize(
    ("net", "dtype"),
    [(FlattenNet, torch.float64), (PooledNet, torch.float32), (FunctionalNet, torch.float32)],
)
def test_it_gives_the_maps_of_a_plain_explainer_for_any_batch(net: type, dtype: torch.dtype, runs) -> None:
    model = ready(net(), dtype)
    explainer, plain = compiled(model), Explainer(model)
    for batch, target in ((3, None), (1, 2), (5, TopK(2)), (2, AllClasses())):
        x = images(batch, dtype=dtype)
        got, expected = explainer(x, target=target), plain(x, target=target)
        torch.testing.assert_close(got.raw, expected.raw)
        torch.testing.assert_close(got.logits, expected.logits)
        assert torch.equal(got.target, expected.target)
        assert not got.raw.is_inference()
        assert not got.logits.is_inference()
    assert [shape[0] for shape in runs] == [2, 3, 1, 5, 2]  # the first is the check


def test_images_with_channels_last() -> None:
    class Last(PooledNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.permute(0, 3, 1, 2))

    model, x = ready(Last(), torch.float32), images(3, dtype=torch.float32).permute(0, 2, 3, 1).contiguous()
    got, expected = compiled(model)(x), Explainer(model)(x)
    assert got.axes == "bhwc"
    torch.testing.assert_close(got.raw, expected.raw)


def test_the_results_are_the_callers_to_keep() -> None:
    model, x = ready(FlattenNet(), torch.float32), images(2, dtype=torch.float32)
    explainer = compiled(model)
    first = explainer(x)
    kept = first.raw.clone(), first.logits.clone()
    explainer(x + 1)
    assert torch.equal(first.raw, kept[0])
    assert torch.equal(first.logits, kept[1])


def backbone_in_place(model: FlattenNet) -> None:
    with torch.no_grad():
        model.features[0].weight.mul_(2)


def backbone_behind_autograds_back(model: FlattenNet) -> None:
    model.features[0].weight.data.mul_(2)


def backbone_data_replaced(model: FlattenNet) -> None:
    model.features[0].weight.data = model.features[0].weight.data + 1


def backbone_module_swapped(model: FlattenNet) -> None:
    old = model.features[0]
    torch.manual_seed(5)
    model.features[0] = type(old)(old.in_channels, old.out_channels, 3, padding=1).double().eval()


def head_in_place(model: FlattenNet) -> None:
    with torch.no_grad():
        model.head.weight.mul_(-2)


CHANGES = [
    backbone_in_place, backbone_behind_autograds_back, backbone_data_replaced, backbone_module_swapped,
    head_in_place,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_network_is_never_explained_with_frozen_weights(
    change: Callable[[FlattenNet], None], runs
) -> None:
    model, x = ready(FlattenNet()), images(3)
    explainer = compiled(model)
    explainer(x)
    change(model)
    after = explainer(x, target=1)
    torch.testing.assert_close(after.raw, Explainer(model)(x, target=1).raw)
    done = len(runs)
    again = explainer(x, target=1)
    torch.testing.assert_close(again.raw, after.raw)
    assert len(runs) == done + 1, "compiled again after the change"


def test_other_requests_take_the_plain_path(runs) -> None:
    model, x = ready(FlattenNet(), torch.float32), images(3, dtype=torch.float32)
    explainer = compiled(model)
    explainer(x)
    done = len(runs)
    explainer(x, rule="gradcam")
    explainer(x, target=lambda output: output[:, 0])
    assert explainer(x, differentiable=True).raw.requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert explainer(x).logits.dtype == torch.bfloat16
    assert len(runs) == done


def test_a_head_that_is_not_exact_is_refused_with_the_reason() -> None:
    with pytest.raises(
        ModelError, match=r"compile\(\) needs an exact head, and layer .* is local: Between it"
    ):
        compiled(ready(TwoLayerNet()))(images())


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.mean() > 0:
            x = x * 2
        return self.head(self.features(x).mean((2, 3)))


def test_a_network_that_cannot_be_compiled_says_so() -> None:
    torch.manual_seed(0)
    model = Branching().eval()
    x = torch.rand(2, 3, 8, 8)
    assert hirescam.certify(model, x).guarantee == "exact"
    with pytest.raises(ModelError, match=r"cannot be traced for any batch size: .*data-dependent.* as it is"):
        compiled(model)(x)


def test_the_model_comes_back_as_it_was() -> None:
    model, x = ready(PooledNet(), torch.float32), images(2, dtype=torch.float32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    compiled(model)(x)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.slow
def test_a_real_network() -> None:
    torchvision = pytest.importorskip("torchvision")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torchvision.models.resnet18(weights=None, num_classes=7).eval()
    x = torch.randn(2, 3, 64, 64)
    explainer = compiled(model)
    for batch in (x, x[:1]):
        got, expected = explainer(batch), Explainer(model)(batch)
        assert got.layer == "layer4"
        assert (got.raw - expected.raw).abs().max() <= 1e-4 * expected.raw.abs().max()


class Kept(FlattenNet):
    """A network with a buffer that is NaN, an empty one, one of integers, and weights in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("unknown", torch.full((3,), float("nan")))
        self.register_buffer("nothing", torch.zeros(0))
        self.register_buffer("count", torch.tensor(3))
        self.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("place", [0, -1])
def test_a_value_changed_behind_the_counters_is_noticed(place: int, runs: list) -> None:
    model, x = ready(Kept(), torch.float32), images(2, dtype=torch.float32)
    explainer = compiled(model)
    explainer(x)
    plan = explainer._planner.plan(as_call(x), None)
    assert plan.fresh(as_call(x))
    model.head.weight.data[place, place] += 1
    assert not plan.fresh(as_call(x))
    torch.testing.assert_close(explainer(x, target=place % 5).raw, Explainer(model)(x, target=place % 5).raw)


def test_the_compiler_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    compiled(ready(PooledNet(), torch.float32))(images(2, dtype=torch.float32))
    assert "AUTOTUNE" not in "".join(capfd.readouterr())
