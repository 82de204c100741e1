"""Perturbation metrics beside other libraries: agreement where they are right, else asserted difference."""

import inspect
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("pytorch_grad_cam", reason="needs grad-cam")
pytest.importorskip("torchcam", reason="needs torchcam")
pytest.importorskip("captum", reason="needs captum")

from hirescam.errors import InputError
from hirescam.metrics import infidelity as infidelity_module
from hirescam.metrics.composites import arcc, coherency
from hirescam.metrics.confidence import average_drop, increase_in_confidence
from hirescam.metrics.infidelity import infidelity
from hirescam.metrics.neighbours import fill_from_neighbours
from hirescam.metrics.perturbation import deletion, insertion
from hirescam.metrics.road import road, road_lerf, road_morf
from hirescam.metrics.robustness import max_sensitivity

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from captum import metrics as captum_metrics
    from pytorch_grad_cam.metrics import road as pgc_road
    from pytorch_grad_cam.metrics.arcc import ARCC, Coherency
    from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget, ClassifierOutputTarget
    from torchcam.metrics import ClassificationMetric, DeletionInsertionMetric

# pytorch-grad-cam hands tensors to NumPy functions.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")

SIDE, CLASS = 8, 2


class Given:
    """Looks to torchcam like a method, and gives the maps it was made with."""

    def __init__(self, model: nn.Module, maps: torch.Tensor) -> None:
        self.model, self.maps = model, maps

    def __call__(self, class_idx, scores):
        return [self.maps]

    def fuse_cams(self, maps):
        return maps[0]

    def _hooks_off(self):
        return nullcontext()


def network() -> nn.Module:
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * SIDE**2, 5))
    return nn.Sequential(*layers).eval()


def softmax(logits: torch.Tensor) -> torch.Tensor:
    return logits.softmax(-1)


@pytest.fixture(name="setting")
def _setting():
    model, images = network(), torch.randn(4, 3, SIDE, SIDE)
    maps = torch.rand(4, SIDE, SIDE)
    maps = maps / maps.flatten(1).amax(1).reshape(-1, 1, 1)
    return model, lambda x: softmax(model(x)), images, maps, torch.full((4,), CLASS)


def test_deletion_and_insertion_agree_with_torchcam(setting):
    """Without ties, and where the step divides the image (torchcam weighs a shorter last step less)."""
    model, predict, images, maps, target = setting
    peer = DeletionInsertionMetric(Given(model, maps), softmax, steps=16)
    peer.update(images, CLASS)
    ours = [one(maps, images, target, predict, step=4, fill="zeros").mean() for one in (deletion, insertion)]
    assert [float(one) for one in ours] == pytest.approx(list(peer.summary().values()), abs=1e-6)


def test_average_drop_and_increase_agree_with_torchcam(setting):
    """torchcam gives shares and adds 1e-7 below the line."""
    model, predict, images, maps, target = setting
    peer = ClassificationMetric(Given(model, maps), softmax)
    peer.update(images, CLASS)
    summary = peer.summary()
    assert float(average_drop(maps, images, target, predict).mean()) == pytest.approx(
        100 * summary["avg_drop"], rel=1e-5
    )
    assert (
        float(increase_in_confidence(maps, images, target, predict).mean()) == 100 * summary["conf_increase"]
    )
    assert 0 < summary["conf_increase"] < 1


def test_difference_torchcam_deletes_ties_from_the_first_index_on(setting):
    """`DeletionInsertionMetric` deletes ties from the first pixel to the last.

    A map that went through a ReLU is mostly ties, so that where the object stands changes the number; here
    the order among ties is drawn from a seed.
    """
    _, _, images, _, target = setting
    where = torch.zeros(SIDE, SIDE)
    where[0] = 1
    ones = torch.ones_like(images)

    class Rows(nn.Module):
        def __init__(self, seen: torch.Tensor) -> None:
            super().__init__()
            self.seen = seen

        def forward(self, x):
            first = (x * self.seen).mean((1, 2, 3)) * 50
            return torch.stack([0 * first, 0 * first, first], 1)

    flat = torch.zeros(4, SIDE, SIDE)
    found = {}
    for name, seen in (("top", where), ("bottom", where.flip(0))):
        model = Rows(seen).eval()
        peer = DeletionInsertionMetric(Given(model, flat), softmax, steps=SIDE)
        peer.update(ones, CLASS)
        ours = deletion(flat, ones, target, lambda x, model=model: softmax(model(x)), step=SIDE)
        found[name] = peer.summary()["deletion_auc"], float(ours.mean())
    assert abs(found["top"][0] - found["bottom"][0]) > 0.3
    assert abs(found["top"][1] - found["bottom"][1]) < 0.15


def test_difference_pytorch_grad_cam_drops_by_logits(setting):
    """`DropInConfidence` takes what the target gives, a logit by default, and never divides by it.

    With the softmax target it is the numerator of the average drop, as a share; with the logit it can be
    anything. Here logits are an error, and the drop is in per cent of the whole image's probability.
    """
    model, predict, images, maps, target = setting
    soft = [ClassifierOutputSoftmaxTarget(CLASS)] * 4
    theirs = DropInConfidence()(images, maps.numpy(), soft, model)
    whole = predict(images)[:, CLASS].detach().numpy()
    ours = average_drop(maps, images, target, predict).numpy()
    np.testing.assert_allclose(100 * theirs / whole, ours, rtol=1e-4, atol=1e-4)
    assert not np.allclose(100 * theirs, ours, rtol=0.1)
    rises = IncreaseInConfidence()(images, maps.numpy(), soft, model)
    np.testing.assert_array_equal(100 * rises, increase_in_confidence(maps, images, target, predict))

    loud = nn.Sequential(model, nn.Linear(5, 5)).eval().requires_grad_(False)
    loud[1].weight.copy_(100 * torch.eye(5))
    by_logits = DropInConfidence()(images, maps.numpy(), [ClassifierOutputTarget(CLASS)] * 4, loud)
    assert by_logits.max() > 1
    with pytest.raises(InputError, match="this metric is defined on probabilities"):
        average_drop(maps, images, target, loud)


def without_noise(monkeypatch) -> None:
    """Take pytorch-grad-cam's noise away, which has no seed of its own."""
    monkeypatch.setattr(pgc_road.torch, "randn_like", torch.zeros_like)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_linear_imputation_agrees_with_pytorch_grad_cam(share):
    """The same pixels removed from the same image, in the same space."""
    image, gone = torch.randn(3, 12, 9), torch.rand(12, 9) < share
    theirs = pgc_road.NoisyLinearImputer(noise=0)(image, (~gone).float())
    torch.testing.assert_close(fill_from_neighbours(image[None], gone[None])[0], theirs, atol=1e-5, rtol=1e-5)


def hundred():
    """Images of 100 pixels, where both count alike, and maps without ties."""
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(400, 5))
    model, images, maps = nn.Sequential(*layers).eval(), torch.randn(3, 3, 10, 10), torch.rand(3, 10, 10)
    maps = maps / maps.flatten(1).amax(1).reshape(-1, 1, 1)
    return model, lambda x: softmax(model(x)), images, maps, torch.full((3,), CLASS)


def test_road_agrees_with_pytorch_grad_cam(monkeypatch):
    """Without ties and noise, in the same space. Its percentages count what is kept."""
    without_noise(monkeypatch)
    model, predict, images, maps, target = hundred()
    soft = [ClassifierOutputSoftmaxTarget(CLASS)] * 3
    for ours, theirs, percentage in (
        (road_morf, pgc_road.ROADMostRelevantFirst, 80),
        (road_lerf, pgc_road.ROADLeastRelevantFirst, 30),
    ):
        found = ours(maps, images, target, predict, percentages=(100 - percentage,), noise=0)
        expected = theirs(percentage)(images, maps.numpy(), soft, model, return_diff=False)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    found = road(maps, images, target, predict, noise=0)
    expected = pgc_road.ROADCombined()(images, maps.numpy(), soft, model)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_coherency_and_arcc_agree_with_pytorch_grad_cam(monkeypatch, sign):
    """The mean is harmonic in its code, whatever its docstring says."""
    without_noise(monkeypatch)
    model, _, images, maps, target = hundred()
    again = (maps + torch.rand(3, 10, 10)) / 2

    def method(input_tensor, targets):
        return again.numpy()

    soft = [ClassifierOutputSoftmaxTarget(CLASS)] * 3
    theirs = Coherency()(images, maps.numpy(), soft, model, method)
    np.testing.assert_allclose(coherency(maps, images, lambda x: again), theirs, atol=1e-5)
    expected = ARCC(method)(images, maps.numpy(), soft, lambda x: sign * model(x))
    found = arcc(maps, images, target, lambda x: softmax(sign * model(x)), lambda x: again, noise=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert 0 < found.max() < 1


def test_difference_pytorch_grad_cam_road_removes_everything_at_once():
    """`ROADMostRelevantFirst` removes all values above a percentile, and of a map of zeros that is all of it.

    A map after a ReLU with 95 % zeros loses 100 % of its pixels at every percentage (and least relevant first
    is stuck at one level); here rank counts, and exactly p % go.
    """
    maps = torch.zeros(1, 10, 10)
    maps[0, 3, 2:7] = torch.arange(1.0, 6.0)
    images, lost = torch.rand(1, 1, 10, 10), []

    def record(image, kept):
        lost.append(int((kept == 0).sum()))
        return image

    for percentile in (10, 50, 90):
        pgc_road.RemoveMostRelevantFirst(percentile, record)(images[0], maps[0])
    assert lost == [100, 100, 100]
    seen = []

    def predict(shown):
        seen.extend(int((one != images).sum()) for one in shown)
        return torch.full((len(shown), 3), 1 / 3)

    road_morf(maps, images, torch.tensor([CLASS]), predict, percentages=(10, 50, 90))
    assert seen == [10, 50, 90]


def test_difference_pytorch_grad_cam_road_adds_its_noise_after_normalisation():
    """Its noise of 0.01 is added to images that are normalised already.

    That is a quarter of what ROAD adds, which is 0.01 before the division by about 0.225. Here the channels'
    ``std`` says what a unit is.
    """
    images, gone = torch.randn(1, 3, 40, 40), torch.rand(1, 40, 40) < 0.5
    plain = fill_from_neighbours(images, gone)[0]
    theirs = pgc_road.NoisyLinearImputer()(images[0], (~gone[0]).float()) - plain
    seen = []

    def predict(shown):
        seen.append(shown[0])
        return torch.full((len(shown), 3), 1 / 3)

    road_morf(gone.float(), images, torch.tensor([CLASS]), predict, percentages=(40,), std=0.225)
    removed = (seen[0] != images[0]).all(0)
    ours = seen[0] - fill_from_neighbours(images, removed[None])[0]
    assert float(theirs[:, gone[0]].std()) == pytest.approx(0.01, rel=0.1)
    assert float(ours[:, removed].std()) == pytest.approx(0.01 / 0.225, rel=0.1)


def one_channel():
    """A network for images of one channel, an image, a map, and the same squares for both libraries."""
    layers = (nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * SIDE**2, 5))
    model = nn.Sequential(*layers).double().eval()
    images, maps = torch.randn(1, 1, SIDE, SIDE).double(), torch.randn(1, SIDE, SIDE).double()
    squares = list(infidelity_module._squares((SIDE, SIDE), samples=40, largest=4, seed=0))

    def perturb(repeated):
        marks = torch.zeros_like(repeated).flatten(1)
        for index, square in enumerate(squares):
            marks[index, square] = 1
        marks = marks.reshape(repeated.shape)
        return marks, repeated * (1 - marks)

    return model, images, maps, perturb


@pytest.mark.parametrize("rescale", [True, False])
def test_infidelity_agrees_with_captum(rescale):
    """On the same squares."""
    model, images, maps, perturb = one_channel()
    theirs = captum_metrics.infidelity(
        model, perturb, images, maps[:, None], target=CLASS, n_perturb_samples=40, normalize=rescale
    )
    ours = infidelity(maps, images, torch.tensor([CLASS]), model, samples=40, largest=4, rescale=rescale)
    torch.testing.assert_close(ours, theirs)


def test_difference_captum_s_infidelity_depends_on_the_units_of_the_map():
    """`infidelity` leaves out the factor β unless `normalize=True`.

    The official code always applies it. Without it a map in other units, such as one stretched to [0, 1], is
    unfaithful for that alone; here β is on unless turned off.
    """
    model, images, maps, perturb = one_channel()

    def theirs(factor):
        given = (model, perturb, images, factor * maps[:, None])
        return float(captum_metrics.infidelity(*given, target=CLASS, n_perturb_samples=40))

    def ours(factor):
        return float(infidelity(factor * maps, images, torch.tensor([CLASS]), model, samples=40, largest=4))

    assert theirs(10) > 20 * theirs(1)
    assert ours(10) == pytest.approx(ours(1))


def shaken(images):
    """Noise of ours, in the order in which captum wants it."""
    seen = []
    max_sensitivity(
        images.sum(1), images, lambda noisy: seen.append(noisy) or noisy.sum(1), radius=0.1, samples=6
    )
    return torch.stack(seen, 1).flatten(0, 1)


def test_max_sensitivity_agrees_with_captum():
    """On the same noisy images."""
    model, _, images, _, target = hundred()

    def explain(x):
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(model(x)[:, CLASS].pow(2).sum(), x)[0].sum(1)

    theirs = captum_metrics.sensitivity_max(
        lambda x: (explain(x[0] if isinstance(x, tuple) else x),),
        images,
        perturb_func=lambda repeated: shaken(images),
        n_perturb_samples=6,
    )
    ours = max_sensitivity(explain(images), images, explain, radius=0.1, samples=6)
    torch.testing.assert_close(ours.float(), theirs)
    assert len(ours) == len(target)
    assert (ours > 0.01).all()


def test_difference_captum_s_radius_is_a_tenth_of_quantus_s():
    """`sensitivity_max` draws 10 images within 0.02 by default; Quantus' `MaxSensitivity` 200 within 0.2.

    Numbers of the two do not compare. Here, with captum's defaults, ten times the radius changes the value
    about tenfold.
    """
    quantus = pytest.importorskip("quantus", reason="needs quantus")
    theirs = inspect.signature(captum_metrics.sensitivity_max).parameters
    assert (theirs["perturb_radius"].default, theirs["n_perturb_samples"].default) == (0.02, 10)
    others = inspect.signature(quantus.MaxSensitivity.__init__).parameters
    assert (others["lower_bound"].default, others["nr_samples"].default) == (0.2, 200)
    images = torch.rand(2, 1, 6, 6, dtype=torch.float64)
    small, large = (
        max_sensitivity(images[:, 0], images, lambda x: x[:, 0], radius=radius) for radius in (0.02, 0.2)
    )
    torch.testing.assert_close(large, 10 * small)
