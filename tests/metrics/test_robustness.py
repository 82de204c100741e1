"""Max-sensitivity: by hand, closed form, noise on both sides, and the constant that wins."""

import math

import pytest
import torch

from hirescam.errors import InputError
from hirescam.metrics.robustness import max_sensitivity
from metrics.affine import row


def summed(images):
    return images.sum(1)


def recorded(seen):
    def explain(images):
        seen.append(images)
        return summed(images)

    return explain


@pytest.mark.parametrize("size", [(7,), (4, 5), (2, 3, 4)], ids=len)
def test_it_is_the_largest_change_of_all_samples_divided_once(size):
    images = torch.rand(3, 2, *size, dtype=torch.float64)
    seen = []
    found = max_sensitivity(summed(images), images, recorded(seen), radius=0.1, samples=7, seed=3)
    assert len(seen) == 7
    for index in range(3):
        whole = math.sqrt(sum(float(v) ** 2 for v in summed(images)[index].flatten()))
        changes = [
            math.sqrt(sum(float(v) ** 2 for v in summed(other - images)[index].flatten())) / whole
            for other in seen
        ]
        assert float(found[index]) == pytest.approx(max(changes))
    more = max_sensitivity(summed(images), images, summed, radius=0.1, samples=8, seed=3)
    assert (more >= found).all()


def test_noise_is_two_sided_up_to_the_radius_and_the_same_for_every_image():
    """One-sided noise, as Xplique's, would move every image in the same direction."""
    images, seen = torch.rand(2, 3, 50, 50, dtype=torch.float64), []
    max_sensitivity(summed(images), images, recorded(seen), radius=0.3, samples=2)
    noise = torch.stack(seen) - images
    assert -0.3 <= float(noise.min()) < -0.299
    assert 0.299 < float(noise.max()) <= 0.3
    assert abs(float(noise.mean())) < 0.005
    assert float(noise.std()) == pytest.approx(0.3 / math.sqrt(3), rel=0.02)
    torch.testing.assert_close(noise[:, 0], noise[:, 1])
    assert not torch.equal(noise[0], noise[1])


def test_by_hand():
    """A map that doubles under noise has 1, whatever its units."""
    maps, images = row(3, -4)[0], row(1, 1)
    assert max_sensitivity(maps, images, lambda x: 2 * maps).tolist() == [1]
    assert max_sensitivity(100 * maps, images, lambda x: 200 * maps).tolist() == [1]
    assert max_sensitivity(maps, images, lambda x: -maps).tolist() == [2]


def test_a_constant_explanation_is_perfect_and_a_map_of_zeros_is_undefined():
    maps, images = torch.rand(2, 4), torch.rand(2, 1, 4)
    assert max_sensitivity(maps, images, lambda x: maps).tolist() == [0, 0]
    assert max_sensitivity(torch.zeros(2, 4), images, lambda x: maps).isnan().all()


def test_radius_and_samples_are_checked():
    maps, images = torch.rand(1, 4), torch.rand(1, 1, 4)
    for options in ({"radius": 0.0}, {"radius": math.nan}, {"samples": 0}):
        with pytest.raises(InputError, match="expected a radius above 0, and a sample"):
            max_sensitivity(maps, images, summed, **options)
    with pytest.raises(InputError, match=r"maps has shape \(1, 3\): expected \(1, 4\)"):
        max_sensitivity(maps, images, lambda x: torch.rand(1, 3))
