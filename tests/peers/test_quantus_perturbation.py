"""Where Quantus differs from the definitions of perturbation metrics, asserted."""

import numpy as np
import pytest
import quantus
import torch
from torch import Tensor, nn

from hirescam.metrics.infidelity import infidelity
from hirescam.metrics.perturbation import deletion
from hirescam.metrics.road import road_morf

SIDE, CLASSES, BATCH = 8, 5, 6

# Quantus warns about its parameters even when told not to.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Fixture:
    """A network, images of one or more channels, their predicted classes, and maps without ties."""

    def __init__(self, channels: int) -> None:
        layers = (
            nn.Conv2d(channels, 4, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * SIDE**2, CLASSES),
        )
        self.model = nn.Sequential(*layers).eval()
        self.images = torch.randn(BATCH, channels, SIDE, SIDE)
        self.target = self.model(self.images).argmax(1)
        self.maps = torch.rand(BATCH, SIDE, SIDE)

    def predict(self, images: Tensor) -> Tensor:
        return self.model(images).softmax(1)

    def ask(self, metric: object, **options: object) -> object:
        arrays = {"x_batch": self.images.numpy(), "y_batch": self.target.numpy()}
        return metric(model=self.model, **arrays, a_batch=self.maps[:, None].numpy(), device="cpu", **options)


def test_difference_road_counts_the_first_batch_only() -> None:
    """`ROAD` averages over its first batch and forgets the others.

    The images are the same and only the batch size changes, and with it the accuracy; with the default size
    that is everything after 64 images. Here there is one value per image, whatever the batches.
    """
    here = Fixture(channels=1)
    here.target[2:] = (here.target[2:] + 1) % CLASSES
    found = [
        here.ask(quantus.ROAD(percentages=[60], noise=0.0, disable_warnings=True), batch_size=size)[60]
        for size in (2, BATCH)
    ]
    options = {"percentages": (60,), "score": "accuracy", "noise": 0}
    ours = road_morf(here.maps, here.images, here.target, here.predict, **options)
    parts = [
        road_morf(
            here.maps[i : i + 2], here.images[i : i + 2], here.target[i : i + 2], here.predict, **options
        )
        for i in range(0, BATCH, 2)
    ]
    assert torch.equal(torch.cat(parts), ours)
    assert found[1] == pytest.approx(float(ours.mean()))
    assert found[0] == pytest.approx(float(ours[:2].mean()))
    assert found[0] != found[1]


def test_difference_pixel_flipping_takes_channels_apart() -> None:
    """`PixelFlipping` removes one channel of a pixel at a time, without the whole image, and adds up steps.

    The curve has a point for each number and none for the untouched image, and its area is not divided by the
    number of steps (nor computed at all since NumPy has no `trapz`). `deletion` removes pixels, starts at the
    whole image, and lies within [0, 1].
    """
    here = Fixture(channels=3)
    flipping = quantus.PixelFlipping(features_in_step=SIDE, perturb_baseline="black", disable_warnings=True)
    curve = np.asarray(here.ask(flipping))
    assert curve.shape == (BATCH, 3 * SIDE)
    whole = here.predict(here.images).gather(1, here.target[:, None])[:, 0].detach()
    assert not np.isclose(curve[:, 0], whole.numpy(), atol=1e-4).any()
    points = []

    def predict(images: Tensor) -> Tensor:
        points.append(len(images))
        return here.predict(images)

    found = deletion(here.maps, here.images, here.target, predict, step=SIDE)
    assert sum(points) == BATCH * (SIDE + 1)
    assert curve.sum(1).max() > 1
    assert ((found > 0) & (found < 1)).all()


def test_difference_road_needs_images_of_one_channel() -> None:
    """`ROAD` takes the numbers of all channels for places in the plane.

    A map that fits the image is repeated over the channels, its places run over the image's edge, and an
    `IndexError` follows.
    """
    with pytest.raises(IndexError, match="out of bounds"):
        Fixture(channels=3).ask(quantus.ROAD(percentages=[60], disable_warnings=True))


def test_difference_infidelity_repeats_itself_and_depends_on_units() -> None:
    """`Infidelity` removes blocks one after another, never to bring them back, and draws nothing.

    The repeats it averages over are all alike, the last block is asked about with every other one gone, and
    there is no factor β, so that ten times the map is a hundred times as unfaithful. `infidelity` draws
    squares, removes each from the whole image, and does not depend on the units of the map.
    """
    here, shown = Fixture(channels=1), []

    class Recorder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            shown.append(int((x[0] == 0).sum()))
            return here.model(x)

    def ask(factor: float, repeats: int) -> np.ndarray:
        options = {"perturb_baseline": 0.0, "perturb_patch_sizes": [4], "n_perturb_samples": repeats}
        metric = quantus.Infidelity(**options, normalise=False, disable_warnings=True)
        arrays = {"x_batch": here.images.numpy(), "y_batch": here.target.numpy()}
        maps = (factor * here.maps)[:, None].numpy()
        return np.asarray(metric(model=Recorder().eval(), **arrays, a_batch=maps, device="cpu"))

    once = ask(1, repeats=1)
    assert shown == [0, 16, 32, 48, 64]
    np.testing.assert_allclose(ask(1, repeats=3), once, rtol=1e-5)
    assert (ask(10, repeats=1) > 50 * once).all()
    gone: list[int] = []

    def logits(images: Tensor) -> Tensor:
        gone.extend(int((one == 0).sum()) for one in images)
        return here.model(images)

    options = {"samples": 60, "largest": 4}
    ours = infidelity(here.maps, here.images, here.target, logits, **options)
    assert set(gone) == {0, 1, 4, 9, 16}
    again = infidelity(10 * here.maps, here.images, here.target, logits, **options)
    torch.testing.assert_close(again, ours)
    assert not torch.equal(infidelity(here.maps, here.images, here.target, logits, seed=1, **options), ours)
