"""Sanity and shape in Quantus: agreement where it follows the papers, asserted difference where not."""

import math

import numpy as np
import pytest
import quantus
import torch
from quantus.functions.similarity_func import (
    correlation_spearman,
    distance_euclidean,
    distance_manhattan,
    lipschitz_constant,
    ssim,
)
from quantus.helpers.model.pytorch_model import PyTorchModel
from torch import Tensor, nn

from hirescam.metrics.randomisation import learnt_layers, randomised
from hirescam.metrics.sanity import mprt, mprt_curve, random_logit
from hirescam.metrics.shape import complexity, continuity, sparseness
from hirescam.metrics.similarity import alike

QUIET = {"disable_warnings": True, "display_progressbar": False}
PLAIN = {**QUIET, "normalise": False, "abs": False}


class Pixels(nn.Module):
    """Two layers of one shape; what is explained is weight × pixel of the first."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x.flatten(1))))


def explain(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: object) -> np.ndarray:
    """Gradient times pixel of a linear network, in Quantus' form."""
    weights = model.head.weight @ model.second.weight @ model.first.weight
    pixels = torch.as_tensor(inputs).flatten(1)
    return (weights.detach()[torch.as_tensor(targets)] * pixels).reshape(-1, 1, 4, 4).numpy()


@pytest.fixture
def batch() -> tuple[nn.Module, np.ndarray, np.ndarray, np.ndarray]:
    """A network, images, targets and their maps, ``(n, 1, 4, 4)``."""
    model, images, targets = Pixels().eval(), torch.rand(5, 1, 4, 4).numpy(), np.arange(5) % 4
    return model, images, targets, explain(model, images, targets)


def test_quantus_averages_the_trained_network_in(batch):
    """The key to skip is called "orig" there and the entry "original": the average is too high by a share."""
    model, images, targets, maps = batch
    made = {"similarity_func": correlation_spearman, "layer_order": "top_down", **PLAIN}
    given = {"model": model, "x_batch": images, "y_batch": targets, "a_batch": maps, "explain_func": explain}
    curve = quantus.MPRT(**made)(**given)
    average = quantus.MPRT(**made, return_average_correlation=True)(**given)
    assert list(curve) == ["original", "head", "second", "first"]
    assert curve["original"] == pytest.approx([1] * 5)
    assert average == pytest.approx(np.mean(list(curve.values()), axis=0)), "with the original"

    ours = mprt_curve(*of_ours(batch))
    assert ours.layers == ("head", "second", "first")
    torch.testing.assert_close(mprt(*of_ours(batch)), ours.values.mean(1))
    assert (ours.values < 0.999).all()


def of_ours(batch) -> tuple:
    """The same for a metric of ours."""
    model, images, targets, maps = batch
    return (
        torch.from_numpy(maps[:, 0]),
        model,
        lambda net: torch.from_numpy(explain(net, images, targets)[:, 0]),
    )


def test_quantus_makes_layers_of_one_shape_the_same(batch):
    """It sets one seed before every layer, so that random layers are copies of one another."""
    model = batch[0]
    theirs = [net for _, net in PyTorchModel(model).get_random_layer_generator(order="top_down", seed=3)][-1]
    assert torch.equal(theirs.first.weight, theirs.second.weight)
    ours = [net for _, net in randomised(model, seed=3)][-1]
    assert not torch.equal(ours.first.weight, ours.second.weight)


def test_quantus_leaves_parameters_without_a_reset_as_they_were():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.arange(3.0))
            self.head = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.scale * x)

    model = Scaled().eval()
    for _, theirs in PyTorchModel(model).get_random_layer_generator(order="top_down"):
        assert torch.equal(theirs.scale, model.scale)
    assert learnt_layers(model) == ["head", ""]
    ours = [net for _, net in randomised(model)][-1]
    assert not torch.equal(ours.scale, model.scale)


def test_quantus_changes_the_global_random_state(batch):
    before = torch.get_rng_state()
    for _ in PyTorchModel(batch[0]).get_random_layer_generator():
        pass
    assert not torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore::scipy.stats.ConstantInputWarning")
def test_quantus_has_no_number_for_a_constant_map():
    """In a batch NaN; by itself it fails."""
    varies, constant = np.arange(12.0).reshape(2, 6), np.eye(2, 6)
    constant[0] = 0
    with np.errstate(invalid="ignore"):
        theirs = correlation_spearman(varies, constant, batched=True)
    assert np.isnan(theirs[0])
    with pytest.raises(AttributeError):
        correlation_spearman(varies[:1], constant[:1], batched=True)
    ours = alike(torch.from_numpy(varies), torch.from_numpy(constant))
    assert ours.tolist() == pytest.approx([0, theirs[1]])


def test_quantus_gives_two_constant_maps_a_range_of_nothing():
    """The data range is that of the two maps: 0, and the structural similarity 0 / 0."""
    flat = np.full((9, 9), 2.0)
    with np.errstate(invalid="ignore"):
        assert math.isnan(ssim(flat, flat))
    assert alike(torch.from_numpy(flat)[None], torch.from_numpy(flat)[None], "ssim").tolist() == [1]


def test_random_logit_agrees_where_there_is_one_other_class():
    model, images = Pixels(classes=2).eval(), torch.rand(5, 1, 4, 4).numpy()
    targets = np.array([0, 1, 1, 0, 1])
    maps = explain(model, images, targets)
    theirs = quantus.RandomLogit(num_classes=2, similarity_func=correlation_spearman, **PLAIN)(
        model=model, x_batch=images, y_batch=targets, a_batch=maps, explain_func=explain
    )
    ours = random_logit(
        torch.from_numpy(maps[:, 0]), torch.from_numpy(images), torch.from_numpy(targets), model,
        lambda other: torch.from_numpy(explain(model, images, other.numpy())[:, 0]), similarity="spearman",
    )  # fmt: skip
    assert ours.tolist() == pytest.approx(theirs, abs=1e-6)


def shapes(metric: type, maps: np.ndarray, **options: object) -> list[float]:
    images = np.ones_like(maps)
    given = {"x_batch": images, "y_batch": np.zeros(len(maps), int), "a_batch": maps.copy()}
    return list(
        map(float, metric(**{**QUIET, "normalise": False, "abs": True} | options)(nn.Identity(), **given))
    )


def test_sparseness_and_complexity_agree(batch):
    maps = batch[3]
    assert sparseness(torch.from_numpy(maps[:, 0])).tolist() == pytest.approx(
        shapes(quantus.Sparseness, maps), abs=1e-5
    )
    assert complexity(torch.from_numpy(maps[:, 0])).tolist() == pytest.approx(
        shapes(quantus.Complexity, maps), abs=1e-5
    )


def test_quantus_sparseness_depends_on_the_units_of_small_maps(batch):
    """It adds 1e-7 to every pixel; ours is blind to a factor."""
    maps = batch[3].astype(np.float64)
    small = 1e-7 * maps
    assert shapes(quantus.Sparseness, small) != pytest.approx(shapes(quantus.Sparseness, maps), abs=0.05)
    raw = torch.from_numpy(maps[:, 0])
    torch.testing.assert_close(sparseness(1e-7 * raw), sparseness(raw))


def test_quantus_gives_a_map_of_zeros_a_sparseness():
    """In a batch with another; a batch of zeros alone it refuses."""
    maps = np.zeros((2, 1, 4, 4))
    maps[1, 0, 1, 2] = 1
    raw = torch.from_numpy(maps[:, 0])
    assert shapes(quantus.Sparseness, maps) == pytest.approx([0, 15 / 16], abs=1e-5)
    assert sparseness(raw).tolist() == pytest.approx([math.nan, 15 / 16], nan_ok=True)
    with np.errstate(invalid="ignore"):
        assert shapes(quantus.Complexity, maps) == pytest.approx([math.nan, 0], abs=1e-9, nan_ok=True)
    assert complexity(raw).tolist() == pytest.approx([math.nan, 0], nan_ok=True)


def test_continuity_is_the_lipschitz_estimate_of_one_pixel_shifts(batch):
    model, images, targets, maps = batch
    moved = []
    for axis in (2, 3):
        for part in (slice(None, 1), slice(-1, None)):
            where = [slice(None)] * 4
            where[axis] = part
            ends = (images[tuple(where)], images) if part.stop else (images, images[tuple(where)])
            joined = np.concatenate(ends, axis)
            keep = [slice(None)] * 4
            keep[axis] = slice(0, 4) if part.stop else slice(1, 5)
            moved.append(joined[tuple(keep)])
    norms = {"norm_numerator": distance_manhattan, "norm_denominator": distance_euclidean}
    slopes = [
        lipschitz_constant(
            maps.reshape(5, -1), explain(model, other, targets).reshape(5, -1),
            images.reshape(5, -1), other.reshape(5, -1), **norms,
        )
        for other in moved
    ]  # fmt: skip
    sizes = distance_euclidean(images.reshape(5, -1), 0) / distance_manhattan(maps.reshape(5, -1), 0)
    wanted = np.max(slopes, axis=0) * sizes

    def explain_images(other: Tensor) -> Tensor:
        return torch.from_numpy(explain(model, other.numpy(), targets)[:, 0])

    ours = continuity(torch.from_numpy(maps[:, 0]), torch.from_numpy(images), explain_images)
    assert ours.tolist() == pytest.approx(wanted.tolist(), rel=1e-4)
