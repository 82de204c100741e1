"""Views: each step does one thing, is recorded, and leaves the raw map alone."""

import pytest
import torch
from PIL import Image

import hirescam
from hirescam.overlays import NEGATIVE, POSITIVE, blend
from toys import FlattenNet, images, ready


def explanation(ndim: int = 2) -> hirescam.Explanation:
    model = ready(FlattenNet(ndim, side=4))
    return hirescam.explain(model, images(2, ndim, side=4), target=hirescam.Classes(0, 1))


def test_sign_keeps_one_side() -> None:
    result = explanation()
    raw = result.raw.clone()
    both, positive, negative = (
        result.view(size=(4, 4), sign=sign, scale=None).values for sign in ("both", "positive", "negative")
    )
    torch.testing.assert_close(both, raw)
    torch.testing.assert_close(positive, raw.clamp(min=0))
    torch.testing.assert_close(positive + negative, raw)
    assert torch.equal(result.raw, raw)


def test_scale_is_recorded_and_can_be_undone() -> None:
    result = explanation()
    each, shared = result.view(size=(4, 4)), result.view(size=(4, 4), scale="shared")
    torch.testing.assert_close(each.values.flatten(2).abs().amax(-1), torch.ones(2, 2, dtype=torch.float64))
    torch.testing.assert_close(each.values * each.limit[..., None, None], result.raw)
    torch.testing.assert_close(shared.limit, result.raw.abs().max().expand(2, 2))
    assert each.steps == ("sign=both", "size=(4, 4), resample=bilinear", "scale=each")


def test_nearest_shows_cells_and_bilinear_keeps_the_mean() -> None:
    result = explanation()
    nearest = result.view(size=(12, 12), resample="nearest", scale=None).values
    torch.testing.assert_close(nearest, result.raw.repeat_interleave(3, -1).repeat_interleave(3, -2))
    smooth = result.view(size=(12, 12), scale=None).values
    torch.testing.assert_close(smooth.mean((2, 3)), result.raw.mean((2, 3)))


def test_an_all_zero_map_stays_zero() -> None:
    from hirescam.views import render

    view = render(torch.zeros(1, 1, 3, 3), size=None, sign="both", resample="nearest", scale="each")
    assert torch.equal(view.values, torch.zeros(1, 1, 3, 3))
    assert view.limit.item() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sign": "absolute"}, "sign='absolute' is unknown: use one of 'both', 'positive', 'negative'"),
        ({"resample": "cubic"}, "resample='cubic' is unknown"),
        ({"scale": "max"}, "scale='max' is unknown"),
        ({"size": (4,)}, r"size=\(4,\) has 1 axes, the map has 2"),
    ],
)
def test_steps_that_do_not_exist_are_refused(options: dict, message: str) -> None:
    with pytest.raises(hirescam.InputError, match=message):
        explanation().view(**options)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_overlays_for_signals_images_and_volumes(ndim: int) -> None:
    result = explanation(ndim)
    drawn = result.overlay(images(2, ndim, side=4))
    assert [len(row) for row in drawn] == [2, 2]
    assert all(isinstance(picture, Image.Image) for row in drawn for picture in row)
    expected = {1: (640, 160), 2: (4, 4), 3: (16, 4)}[ndim]
    assert drawn[0][0].size == expected


def test_colours_mean_signs() -> None:
    import numpy as np

    grey = Image.new("RGB", (2, 1), (128, 128, 128))
    left, right = np.asarray(blend(grey, np.array([[1.0, -1.0]]), opacity=1.0))[0]
    assert tuple(left) == POSITIVE
    assert tuple(right) == NEGATIVE
    untouched = np.asarray(blend(grey, np.zeros((1, 2)), opacity=1.0))
    assert untouched.std() == 0


def test_nearest_stays_nearest_on_a_larger_picture() -> None:
    result = explanation()
    picture = result.overlay([Image.new("RGB", (64, 48))] * 2, resample="nearest")[0][0]
    assert picture.size == (64, 48)
    assert len(picture.getcolors()) <= 16


def test_overlay_wants_one_picture_for_each_image() -> None:
    with pytest.raises(hirescam.InputError, match="overlay got 1 images for 2 maps"):
        explanation().overlay([Image.new("RGB", (4, 4))])
    with pytest.raises(hirescam.InputError, match="opacity=2 must be from 0 to 1"):
        explanation().overlay(images(2, side=4), opacity=2)


def test_tokens_are_shown_on_their_grid() -> None:
    from dataclasses import replace

    result = replace(explanation(), raw=torch.arange(10.0).expand(1, 1, 10), prefix=1, grid=(3, 3), places=())
    assert result.view(size=(3, 3), scale=None).values.flatten().tolist() == list(map(float, range(1, 10)))
