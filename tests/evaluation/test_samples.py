"""Samples: what is read from folders, masks and keys."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import miniature
from hirescam import io
from hirescam.errors import ImageFileError
from hirescam.evaluation import Data, MaskFile, Sample, folder_data
from hirescam.evaluation.samples import as_data


def test_a_folder_gives_its_pictures_at_any_depth(tmp_path):
    miniature.picture(tmp_path / "cat/one.png")
    miniature.picture(tmp_path / "two.jpg")
    (tmp_path / "notes.txt").write_text("no picture")
    found = folder_data(tmp_path)
    assert [(one.name, one.wanted) for one in found] == [("cat/one.png", None), ("two.jpg", None)]
    assert found.name == str(tmp_path)
    labelled = folder_data(tmp_path, labelled=True)
    assert [one.wanted for one in labelled] == ["cat", tmp_path.name]


def test_a_folder_without_pictures_and_no_folder_are_errors(tmp_path):
    with pytest.raises(ImageFileError, match="no pictures found"):
        folder_data(tmp_path)
    with pytest.raises(ImageFileError, match="is not a folder: give a folder of pictures, or voc:PATH"):
        folder_data(tmp_path / "missing")


def test_samples_of_any_kind_are_data():
    sample = Sample("a", "a.png")
    assert as_data([sample]).samples == (sample,)
    data = Data("mine", (sample,))
    assert as_data(data) is data
    assert len(data) == 1


def test_a_mask_is_the_pixels_of_one_class(tmp_path):
    numbers = np.array([[0, 3], [3, 255]], dtype=np.uint8)
    path = tmp_path / "mask.png"
    Image.fromarray(numbers, "L").save(path)
    assert MaskFile(path, 3).read().tolist() == [[False, True], [True, False]]
    assert not Sample("a", path).located
    assert Sample("a", path, mask=MaskFile(path, 3)).read_mask().sum() == 2
    own = np.ones((2, 2), dtype=bool)
    assert Sample("a", path, mask=own).read_mask() is own


def test_a_mask_in_colours_or_damaged_is_an_error(tmp_path):
    path = miniature.picture(tmp_path / "mask.png")
    with pytest.raises(ImageFileError, match="its pixels are RGB, not class numbers"):
        MaskFile(path, 1).read()
    path.write_text("not a picture")
    with pytest.raises(ImageFileError, match=r"mask.png.* cannot be used"):
        MaskFile(path, 1).read()
    with pytest.raises(ImageFileError, match="cannot be used"):
        MaskFile(tmp_path / "missing.png", 1).read()


def test_a_mask_that_promises_too_many_pixels_is_not_decoded(tmp_path, monkeypatch):
    path = tmp_path / "mask.png"
    Image.new("L", (20, 10)).save(path)
    monkeypatch.setattr(io, "MAX_PIXELS", 100)
    with pytest.raises(ImageFileError, match="20x10 pixels are too many"):
        MaskFile(path, 1).read()


def test_a_key_changes_with_everything_that_values_depend_on(tmp_path):
    path = miniature.picture(tmp_path / "a.png")
    sample = Sample("a", path, "cat", ((0, 0, 4, 4),))
    keys = {sample.key, replace(sample).key}
    assert len(keys) == 1
    others = [
        replace(sample, wanted="dog"),
        replace(sample, boxes=((0, 0, 4, 5),)),
        replace(sample, mask=np.ones((2, 2), dtype=bool)),
        replace(sample, mask=np.zeros((2, 2), dtype=bool)),
        replace(sample, mask=MaskFile(path, 1)),
        replace(sample, mask=MaskFile(path, 2)),
        replace(sample, path=tmp_path / "missing.png"),
    ]
    keys |= {other.key for other in others}
    miniature.picture(path, seed=5)
    keys.add(sample.key)
    assert len(keys) == len(others) + 2
