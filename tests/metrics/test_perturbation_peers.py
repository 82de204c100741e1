"""Perturbation metrics beside other libraries: agreement where they are right, else asserted difference."""

import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("pytorch_grad_cam", reason="needs grad-cam")
pytest.importorskip("torchcam", reason="needs torchcam")

from hirescam.errors import InputError
from hirescam.metrics.confidence import average_drop, increase_in_confidence
from hirescam.metrics.perturbation import deletion, insertion

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget, ClassifierOutputTarget
    from torchcam.metrics import ClassificationMetric, DeletionInsertionMetric

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
