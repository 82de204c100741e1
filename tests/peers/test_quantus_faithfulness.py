"""Where Quantus differs from the definitions of completeness and sensitivity-n, asserted.

The network is one linear layer on the pixels, so that a location of the layer is a pixel, weight × pixel is
exact for its logits, and both libraries can be given the same maps.
"""

import numpy as np
import pytest
import quantus
import torch
from torch import Tensor, nn

from hirescam.metrics import get
from hirescam.metrics.faithfulness import completeness_error, sensitivity_n

SIDE = 4
CLASSES = 3
BATCH = 5


class Pixels(nn.Module):
    """One linear layer without bias, in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(SIDE * SIDE, CLASSES, bias=False).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.double().flatten(1))


class Fixture:
    """A network, images, classes, the exact maps and the scores on parts of the images."""

    def __init__(self) -> None:
        self.model = Pixels().eval()
        self.x = torch.rand(BATCH, 1, SIDE, SIDE, dtype=torch.float64)
        self.y = torch.arange(BATCH) % CLASSES
        self.worth = (self.model.head.weight[self.y].detach() * self.x.flatten(1)).reshape(-1, SIDE, SIDE)

    def score_kept(self, keep: Tensor) -> Tensor:
        return (keep * self.worth).flatten(2).sum(-1)

    def ask(self, metric: object, maps: Tensor) -> np.ndarray:
        arrays = {"x_batch": self.x.numpy(), "y_batch": self.y.numpy(), "a_batch": maps[:, None].numpy()}
        return np.asarray(metric(model=self.model, **arrays, softmax=False, channel_first=True, device="cpu"))


@pytest.fixture
def pixels() -> Fixture:
    return Fixture()


QUIET = {"disable_warnings": True, "return_aggregate": False, "perturb_baseline": 0.0}
"""By default a removed pixel gets the image's least value, which may be any."""


def test_difference_completeness_of_an_exact_map_is_false(pixels):
    """By default Quantus scales the map to a maximum of 1 before it adds it up, so the sum is another."""
    assert not pixels.ask(quantus.Completeness(**QUIET), pixels.worth).any()
    assert get("completeness_error").reduce(completeness_error(pixels.worth, pixels.score_kept)) < 1e-12


def test_difference_completeness_is_equality_of_floats(pixels):
    """Without the scaling a correct map still fails by the last digit; 1e-12 of error is not forgiven."""
    raw = pixels.worth * (1 + 1e-12)
    assert not pixels.ask(quantus.Completeness(normalise=False, **QUIET), raw).any()
    assert get("completeness_error").reduce(completeness_error(raw, pixels.score_kept)) < 1e-11


def test_difference_sensitivity_n_correlates_across_images(pixels):
    """Its values are one for each n, not for each image; a batch of one image has no value at all."""
    found = pixels.ask(quantus.SensitivityN(normalise=False, **QUIET), pixels.worth)
    assert found.shape == (int(0.8 * SIDE * SIDE),)
    ours = sensitivity_n(pixels.worth, pixels.score_kept, shares=(0.2, 0.8))
    assert ours.shape == (BATCH, 2)
    np.testing.assert_allclose(ours, 1, atol=1e-12)


def test_difference_sensitivity_n_is_below_one_for_an_exact_map(pixels):
    """It sums the map over one step but removes all steps so far, in order of the map and not at random."""
    metric = quantus.SensitivityN(normalise=False, **QUIET)
    found = pixels.ask(metric, pixels.worth)
    assert found.min() < 0.9
    order = pixels.worth.flatten(1).sort(1, descending=True).values.numpy()
    cumulated = order.cumsum(1)
    steps = range(int(0.8 * SIDE * SIDE))
    expected = [np.corrcoef(order[:, n], cumulated[:, n])[0, 1] for n in steps]
    np.testing.assert_allclose(found, expected, atol=1e-5)  # Quantus predicts in single precision


def test_difference_sensitivity_n_draws_nothing(pixels):
    """Where Ancona et al. sample subsets, it repeats one order: no seed changes its answer."""
    answers = []
    for seed in (0, 1):
        np.random.seed(seed)
        answers.append(pixels.ask(quantus.SensitivityN(normalise=False, **QUIET), pixels.worth.flip(1)))
    np.testing.assert_array_equal(*answers)
    ours = [sensitivity_n(pixels.worth.flip(1), pixels.score_kept, seed=seed) for seed in (0, 1)]
    assert not torch.equal(*ours)
