"""ROAD: by hand, exactly p %, noise in the right units, and its seed."""

import pytest
import torch

from hirescam.errors import InputError
from hirescam.metrics.neighbours import fill_from_neighbours
from hirescam.metrics.road import PERCENTAGES, road, road_lerf, road_morf
from metrics.affine import Affine, affine, first_class, row

ZERO = torch.tensor([0])


def shown_by(metric, maps, images, **options):
    """The images that the metric shows to the model."""
    seen = []

    def predict(shown):
        seen.extend(shown)
        return torch.full((len(shown), 2), 0.5)

    metric(maps, images, torch.zeros(len(images), dtype=torch.int64), predict, **options)
    return torch.stack(seen).unflatten(0, (-1, len(images)))


def test_by_hand():
    images, maps = row(0.1, 0.2, 0.3, 0.4), row(1, 2, 3, 4)[0]
    model = Affine(torch.full((1, 4), 0.5).double())
    options = {"percentages": (25, 50), "noise": 0}
    # 0.1 0.2 0.3 (0.3), and 0.1 0.2 (0.2 0.2)
    assert road_morf(maps, images, ZERO, model, **options).tolist() == pytest.approx([(0.45 + 0.35) / 2])
    # (0.2) 0.2 0.3 0.4, and (0.3 0.3) 0.3 0.4
    assert road_lerf(maps, images, ZERO, model, **options).tolist() == pytest.approx([(0.55 + 0.65) / 2])
    assert road(maps, images, ZERO, model, **options).tolist() == pytest.approx([0.1])
    # p = 0.45 loses the top place, and 0.55 keeps it
    options["score"] = "accuracy"
    assert road_morf(maps, images, ZERO, model, **options).tolist() == [0]
    assert road_lerf(maps, images, ZERO, model, **options).tolist() == [1]
    assert road(maps, images, ZERO, model, **options).tolist() == [0.5]


@pytest.mark.parametrize("metric", [road_morf, road_lerf])
@pytest.mark.parametrize("size", [(200,), (20, 10), (5, 8, 5)], ids=len)
def test_exactly_p_percent_of_a_map_of_zeros_go(metric, size):
    """Of a map that is zero in 95 % of its pixels, and of a constant one; all channels together."""
    maps = torch.zeros(2, *size)
    maps[0].flatten()[:10] = torch.arange(1.0, 11.0)
    images = torch.rand(2, 3, *size)
    seen = shown_by(metric, maps, images)
    changed = (seen != images).all(2).flatten(2).sum(2)
    assert changed.tolist() == [[2 * p, 2 * p] for p in PERCENTAGES]
    assert torch.equal((seen != images).all(2), (seen != images).any(2))


def test_percentages_are_rounded_down():
    images, maps = torch.rand(1, 1, 7, 7), torch.rand(1, 7, 7)
    changed = (shown_by(road_morf, maps, images, percentages=(1, 10, 99.9)) != images).flatten(1).sum(1)
    assert changed.tolist() == [0, 4, 48]


def test_what_one_order_removes_the_other_keeps():
    images, maps = torch.rand(1, 1, 10, 10), torch.randint(3, (1, 10, 10)).float()
    most = shown_by(road_morf, maps, images, percentages=(30,)) != images
    least = shown_by(road_lerf, maps, images, percentages=(70,)) != images
    assert torch.equal(most, ~least)
    assert maps[most[0, :, 0]].min() >= maps[least[0, :, 0]].max()


def test_normalised_images_get_their_noise_in_their_own_units():
    """Filled before normalisation, as ROAD does, and filled after with ``std``: the same images."""
    images, maps = torch.rand(2, 3, 8, 8, dtype=torch.float64), torch.rand(2, 8, 8)
    mean = torch.tensor([0.485, 0.456, 0.406]).double().reshape(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).double().reshape(3, 1, 1)
    before = (shown_by(road_morf, maps, images) - mean) / std
    after = shown_by(road_morf, maps, (images - mean) / std, std=(0.229, 0.224, 0.225))
    torch.testing.assert_close(before, after, atol=1e-6, rtol=1e-6)
    unaware = shown_by(road_morf, maps, (images - mean) / std)
    assert float((unaware - after).abs().max()) > 0.02


def test_the_noise_is_gaussian_of_the_size_asked_for_and_one_draw_for_all():
    images, maps = torch.rand(2, 3, 40, 40, dtype=torch.float64), torch.rand(2, 40, 40)
    maps[1] = maps[0]
    noisy = shown_by(road_morf, maps, images, percentages=(50, 80), noise=0.05)
    plain = shown_by(road_morf, maps, images, percentages=(50, 80), noise=0)
    added = noisy - plain
    assert float(added[added != 0].std()) == pytest.approx(0.05, rel=0.05)
    torch.testing.assert_close(added[:, 0], added[:, 1])
    torch.testing.assert_close(added[1][added[0] != 0], added[0][added[0] != 0])
    gone = (plain[0] != images).all(1)
    torch.testing.assert_close(plain[0], fill_from_neighbours(images, gone))


def test_a_seed_says_everything_and_the_batch_nothing():
    images, maps = torch.rand(3, 1, 6, 6, dtype=torch.float64), torch.randint(2, (3, 6, 6))
    model, target = affine(images), first_class(images)
    whole = road(maps, images, target, model, seed=1)
    assert torch.equal(whole, road(maps, images, target, model, seed=1))
    assert (whole != road(maps, images, target, model, seed=2)).all()
    alone = [road(maps[i : i + 1], images[i : i + 1], target[:1], model, seed=1) for i in range(3)]
    torch.testing.assert_close(torch.cat(alone), whole)


def test_a_good_map_is_above_chance_and_its_reverse_below():
    images = torch.rand(4, 1, 12, 12, dtype=torch.float64)
    model, target = affine(images), first_class(images)
    truth = model.contributions(images - images.mean())
    assert (road(truth, images, target, model, noise=0) > 0.01).all()
    assert (road(-truth, images, target, model, noise=0) < -0.01).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"percentages": (0, 50)}, r"percentages=\(0, 50\) must be above 0 and below 100"),
        ({"percentages": (100,)}, r"percentages=\(100,\) must be"),
        ({"percentages": ()}, r"percentages=\(\) must be"),
        ({"score": "logit"}, "score='logit' is unknown: use 'probability' or 'accuracy'"),
        ({"std": (1.0, 1.0)}, "one number or one for each of 3 channels"),
        ({"std": 0.0}, r"std=0.0 must be above 0"),
    ],
)
def test_options_are_checked(options, words):
    for metric in (road_morf, road_lerf, road):
        with pytest.raises(InputError, match=words):
            shown_by(metric, torch.rand(1, 4, 4), torch.rand(1, 3, 4, 4), **options)
