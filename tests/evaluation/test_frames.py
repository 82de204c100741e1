"""Masks and boxes go through the same crop as the picture."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps

import miniature
from hirescam.errors import ImageFileError, InputError
from hirescam.evaluation import MaskFile, Sample, framed, whole
from hirescam.evaluation.frames import NotSeenError, seen
from hirescam.models import Preset

# A picture of 128×64 pixels: the crop scales it to 64×32 and keeps columns 16 to 47, which are
# 32 to 95 in the picture.
WIDE = (128, 64)


def sample(tmp_path, *boxes, **about) -> Sample:
    return Sample("a/cat", miniature.picture(tmp_path / "a.png", size=WIDE), "cat", boxes, **about)


def test_boxes_and_their_union_by_hand(tmp_path):
    inside, cut, outside = (40, 8, 60, 20), (80, 40, 120, 64), (0, 0, 30, 64)
    frame = framed(miniature.model(), sample(tmp_path, inside, cut, outside))
    assert frame.image.shape == (3, 32, 32)
    assert frame.boxes.tolist() == [[[4, 4], [10, 14]], [[20, 24], [32, 32]]]
    expected = np.zeros((32, 32), dtype=bool)
    expected[4:10, 4:14] = expected[20:32, 24:32] = True
    assert (frame.mask.numpy() == expected).all()
    assert not frame.traced
    assert frame.scale == 2


def test_a_mask_by_hand(tmp_path):
    numbers = np.zeros((64, 128), dtype=np.uint8)
    numbers[10:20, 40:60] = 8
    numbers[10:20, 60:70] = 255  # a void border is not in the mask
    path = tmp_path / "mask.png"
    Image.fromarray(numbers, "L").save(path)
    frame = framed(miniature.model(), sample(tmp_path, (40, 8, 60, 20), mask=MaskFile(path, 8)))
    expected = np.zeros((32, 32), dtype=bool)
    expected[5:10, 4:14] = True
    assert (frame.mask.numpy() == expected).all()
    assert frame.traced
    alone = framed(miniature.model(), sample(tmp_path, mask=MaskFile(path, 8)))
    assert alone.boxes is None
    assert (alone.mask.numpy() == expected).all()


def test_a_region_lands_where_the_picture_shows_it():
    """The crop is asked about a picture on which the region is painted, by another way."""
    model = miniature.model()
    generator = np.random.default_rng(0)
    for _ in range(20):
        region = np.zeros((50, 70), dtype=bool)
        top, left = generator.integers(0, 30, 2)
        region[top : top + 18, left : left + 25] = True
        grey = Image.fromarray(region.astype(np.uint8) * 255, "L")
        bright = model.normalise(model.crop(grey.convert("RGB")))[0] * 0.25 + 0.5
        assert ((bright > 0.5).numpy() == seen(model, region)).all()


@pytest.mark.parametrize("colour", ["black", "white", "grey", (124, 116, 104)])
def test_a_border_that_the_crop_adds_is_never_inside(colour):
    model = miniature.model()
    padded = replace(model, crop=lambda picture: ImageOps.pad(picture, (32, 32), color=colour))
    region = np.ones((20, 40), dtype=bool)
    found = seen(padded, region)
    assert found[8:24].all()
    assert not found[:8].any()
    assert not found[24:].any()


def test_an_object_outside_the_crop_is_not_seen_unless_the_whole_picture_is(tmp_path):
    model, away = miniature.model(), sample(tmp_path, (0, 0, 32, 64))
    with pytest.raises(NotSeenError, match="outside what the network sees"):
        framed(model, away)
    empty = np.zeros((64, 128), dtype=bool)
    with pytest.raises(NotSeenError):
        framed(model, sample(tmp_path, mask=empty))
    known = replace(model, preset=Preset(size=(32, 32), resize=(32, 32)))
    for one in (whole(model), whole(known)):
        frame = framed(one, away)
        assert frame.boxes.tolist() == [[[0, 0], [32, 8]]]
        assert frame.scale == pytest.approx(np.sqrt(2 * 4), rel=0.05)
    assert whole(known).preset.squash


def test_a_sample_without_objects_is_a_picture(tmp_path):
    frame = framed(miniature.model(), sample(tmp_path))
    assert (frame.mask, frame.boxes, frame.traced) == (None, None, False)


def test_what_does_not_fit_together_is_an_error(tmp_path):
    with pytest.raises(ImageFileError, match=r"annotation is for a picture of 64x128, .* has 128x64"):
        framed(miniature.model(), sample(tmp_path, size=(64, 128)))
    with pytest.raises(ImageFileError, match="its mask is 3x2, its picture 128x64"):
        framed(miniature.model(), sample(tmp_path, mask=np.ones((2, 3), dtype=bool)))
    model = miniature.model()
    smaller = replace(model, normalise=lambda picture: model.normalise(picture.resize((16, 16))))
    with pytest.raises(InputError, match=r"crop gives \(32, 32\) and normalise \(16, 16\)"):
        framed(smaller, sample(tmp_path, (40, 8, 60, 20)))
    (tmp_path / "text.jpg").write_text("no")
    with pytest.raises(ImageFileError, match="not a picture"):
        framed(model, replace(sample(tmp_path), path=tmp_path / "text.jpg"))
