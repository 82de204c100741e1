"""Networks that lose what they learnt: which values change, which come back, and what is left alone."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

from hirescam.errors import InputError, MetricError
from hirescam.metrics.randomisation import learnt_layers, randomised


def network() -> nn.Module:
    """Two layers of one shape, with normalisation between."""
    parts = [nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.LayerNorm(4)]
    model = nn.Sequential(*parts).eval()
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.uniform_(1, 2)  # what was learnt
    return model


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """Names of the layers in which something is not as it was."""
    now = model.state_dict()
    return {name.rpartition(".")[0] for name in now if not torch.equal(now[name], before[name])}


def last(model: nn.Module, **options) -> nn.Module:
    return list(randomised(model, **options))[-1][1]


def test_layers_go_from_the_output_to_the_input():
    assert learnt_layers(network()) == ["4", "3", "1", "0"]


def test_in_a_cascade_what_is_lost_stays_lost():
    model = network()
    before = state(model)
    stages = [(name, changed(net, before)) for name, net in randomised(model)]
    assert stages == [
        ("4", {"4"}), ("3", {"4", "3"}), ("1", {"4", "3", "1"}), ("0", {"4", "3", "1", "0"}),
    ]  # fmt: skip


def test_independently_everything_else_is_as_it_was():
    model = network()
    before = state(model)
    stages = [(name, changed(net, before)) for name, net in randomised(model, mode="independent")]
    assert stages == [(name, {name}) for name in ("4", "3", "1", "0")]


def test_both_modes_lose_a_layer_in_the_same_way():
    model = network()
    cascade = state(last(model))
    for name, net in randomised(model, mode="independent", layers=("1", "0", "3")):
        for key, value in net.get_submodule(name).state_dict().items():
            assert torch.equal(value, cascade[f"{name}.{key}"])


def test_layers_of_one_shape_get_different_values():
    net = last(network())
    assert not torch.equal(net[0].weight, net[3].weight)


def test_nothing_of_the_training_is_left_in_normalisation():
    net = last(network())
    norm = net[1]
    assert norm.running_mean.tolist() == norm.bias.tolist() == net[4].bias.tolist() == [0] * 4
    assert norm.running_var.tolist() == norm.weight.tolist() == net[4].weight.tolist() == [1] * 4


def test_running_statistics_are_lost_without_scale_and_shift_too():
    norm = nn.BatchNorm2d(3, affine=False).eval()
    norm.running_mean.fill_(7)
    assert last(norm).running_mean.tolist() == [0] * 3
    still = nn.Sequential(nn.InstanceNorm2d(3), nn.Linear(2, 2))
    assert learnt_layers(still) == ["1"]


def test_values_are_those_of_a_new_layer():
    bound = 1 / 10  # nn.Linear draws from ±1 / √inputs
    model = nn.Linear(100, 50)
    with torch.no_grad():
        model.weight.fill_(5)
    net = last(model)
    assert net.weight.abs().max() <= bound
    assert float(net.weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.05)


def test_parameters_that_nothing_resets_are_drawn_with_their_own_size():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.full((2000,), 3.0))
            self.register_buffer("kept", torch.tensor([5.0]))
            self.inner = nn.Linear(2, 2)

    model = Scaled().eval()
    net = last(model, layers=("",))
    assert float(net.scale.detach().mean()) == pytest.approx(0, abs=0.3)
    assert float(net.scale.detach().square().mean().sqrt()) == pytest.approx(3, rel=0.05)
    assert net.kept.tolist() == [5]
    assert not torch.equal(net.inner.weight, model.inner.weight)
    assert learnt_layers(model) == ["inner", ""]


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, weight_norm])
def test_weights_behind_a_reparametrisation_do_not_survive(wrap):
    """``reset_parameters`` only changes what is recomputed from them."""
    with torch.no_grad():
        model = wrap(nn.Conv1d(2, 6, 3)).eval()
        signal = torch.rand(1, 2, 9)
        model(signal)
        net = last(model)
        after = net(signal)
    for (name, old), new in zip(model.named_parameters(), net.parameters(), strict=True):
        assert not torch.equal(old, new), name
    assert not torch.allclose(after - net.bias[:, None], model(signal) - model.bias[:, None])


def test_a_constant_that_a_new_layer_has_is_left():
    """Zeros of a bias that were never trained are not noise to be."""
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    net = last(model)
    assert net[1].weight.tolist() == [1] * 3
    assert net[1].bias.tolist() == [0] * 3


def test_frozen_statistics_are_buffers_and_stay():
    from torchvision.ops import FrozenBatchNorm2d

    model = nn.Sequential(nn.Conv2d(1, 3, 1), FrozenBatchNorm2d(3)).eval()
    model[1].running_mean.fill_(4)
    assert learnt_layers(model) == ["0"]
    assert last(model)[1].running_mean.tolist() == [4] * 3


def test_names_choose_layers_blocks_or_everything():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), nn.Linear(2, 2))
    before = state(model)
    found = [changed(net, before) for _, net in randomised(model, layers=("0", "1"))]
    assert found == [{"0.0", "0.2"}, {"0.0", "0.2", "1"}]
    assert changed(last(model, layers=("",)), before) == {"0.0", "0.2", "1"}
    for key, value in last(model, layers=("",)).state_dict().items():
        assert torch.equal(value, last(model).state_dict()[key])


def test_a_number_groups_neighbours():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(5)))
    assert [name for name, _ in randomised(model, layers=2)] == ["4 … 3", "2 … 0"]
    assert [name for name, _ in randomised(model, layers=10)] == ["4", "3", "2", "1", "0"]
    before = state(model)
    found = [changed(net, before) for _, net in randomised(model, layers=2, mode="independent")]
    assert found == [{"4", "3"}, {"2", "1", "0"}]


def test_shared_modules_are_lost_once_and_together():
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    assert learnt_layers(model) == ["0"]
    net = last(model, layers=("2",))
    assert net[0] is net[2]
    assert not torch.equal(net[0].weight, shared.weight)


def test_the_seed_decides_and_the_global_random_state_does_not():
    model = network()
    first = state(last(model, seed=1))
    torch.manual_seed(123)
    assert not changed(last(model, seed=1), first)
    assert changed(last(model, seed=2), first) == {"0", "3"}


def test_the_model_and_the_random_state_come_back_as_they_were():
    model = network()
    model[0].weight.requires_grad_(False)
    model[3].weight.grad = torch.ones(4, 4)
    before, parts, random = state(model), list(model.modules()), torch.get_rng_state()
    for mode in ("cascading", "independent"):
        for _, net in randomised(model, mode=mode):
            assert net is not model
            assert not net.training
            assert not net[0].weight.requires_grad
            assert net[3].weight.requires_grad
    assert not changed(model, before)
    assert list(model.modules()) == parts
    assert torch.equal(model[3].weight.grad, torch.ones(4, 4))
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_dtype(dtype):
    net = last(network().to(dtype))
    assert {value.dtype for value in net.parameters()} == {dtype}
    assert bool(torch.cat([value.flatten() for value in net.parameters()]).isfinite().all())


def test_a_model_of_inference_tensors_and_a_caller_in_inference_mode():
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).eval()
        before = state(model)
        inside = state(last(model, mode="independent"))
    assert changed(model, before) == set()
    assert not changed(last(model, mode="independent"), inside)


def test_what_cannot_be_randomised():
    model = network()
    with pytest.raises(InputError, match="mode='bottom_up' is unknown"):
        last(model, mode="bottom_up")
    with pytest.raises(InputError, match=r"layers has 'head', which is no module of the model: .*'heads'"):
        last(nn.ModuleDict({"heads": nn.Linear(1, 1)}), layers=("head",))
    with pytest.raises(InputError, match="layers has '2', which has no parameters"):
        last(model, layers=("2",))
    with pytest.raises(InputError, match="layers='0' must be a sequence of names"):
        last(model, layers="0")
    with pytest.raises(InputError, match="layers=0 must be at least one group"):
        last(model, layers=0)
    with pytest.raises(InputError, match="model has no parameters"):
        last(nn.ReLU())


def test_a_model_that_cannot_be_copied_is_an_error():
    model = network()
    model.stray = model[0].weight * 2
    with pytest.raises(RuntimeError):
        copy.deepcopy(model)
    with pytest.raises(
        MetricError, match="model cannot be copied, and its layers are never randomised in place"
    ):
        last(model)
