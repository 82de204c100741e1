"""The layout of PASCAL VOC, and what is wrong with folders that are almost in it."""

import pytest

import miniature
from hirescam.errors import InputError
from hirescam.evaluation import CLASSES, MaskFile, voc_data
from hirescam.evaluation.voc import BAD_ANNOTATION, NO_MASK, NO_PICTURE, ONLY_DIFFICULT, read_things


def names(data):
    return [sample.name for sample in data]


def test_a_sample_is_a_picture_and_a_class(tmp_path):
    root = miniature.voc(tmp_path)
    data = voc_data(tmp_path)
    assert names(data) == ["a/cat", "b/dog", "b/person", "c/cat", "d/sofa"]
    assert data.left_out == {ONLY_DIFFICULT: 1}
    dog = data.samples[1]
    assert dog.path == root / "JPEGImages/b.jpg"
    assert dog.boxes == ((0, 0, 16, 16), (29, 19, 48, 40))  # 0-based, stop exclusive; difficult ones too
    assert dog.size == (48, 40)
    assert dog.mask == MaskFile(root / "SegmentationClass/b.png", CLASSES.index("dog") + 1)
    assert [sample.name for sample in voc_data(root)] == names(data)
    assert [sample.name for sample in voc_data(root.parent)] == names(data)


def test_there_are_twenty_classes_in_the_order_of_their_numbers():
    assert len(CLASSES) == 20
    assert sorted(CLASSES) == list(CLASSES)
    assert (CLASSES.index("aeroplane"), CLASSES.index("person"), CLASSES.index("tvmonitor")) == (0, 14, 19)


def test_masks_and_boxes_are_not_mixed(tmp_path):
    root = miniature.voc(tmp_path)
    (root / "SegmentationClass/c.png").unlink()
    assert {sample.mask for sample in voc_data(root)} == {None}
    assert {sample.mask for sample in voc_data(root, truth="boxes")} == {None}
    masked = voc_data(root, truth="masks")
    assert names(masked) == ["a/cat", "b/dog", "b/person", "d/sofa"]
    assert all(sample.mask for sample in masked)
    assert masked.left_out == {ONLY_DIFFICULT: 1, NO_MASK: 1}


def test_unlabelled_samples_are_pictures(tmp_path):
    found = voc_data(miniature.voc(tmp_path), labelled=False)
    assert [(one.name, one.wanted, one.located) for one in found] == [
        (name, None, False) for name in ("a", "b", "c", "d")
    ]


def test_lists_with_flags_and_lists_in_other_folders(tmp_path):
    root = miniature.voc(tmp_path)
    (root / "ImageSets/Main/cat_val.txt").write_text("a  1\nb -1\nc  0\n")
    assert names(voc_data(root, split="cat_val")) == ["a/cat", "c/cat"]
    (root / "ImageSets/Segmentation").mkdir()
    (root / "ImageSets/Segmentation/val.txt").write_text("\ufeffd\n\n", "utf-8")
    assert names(voc_data(root, split="Segmentation/val")) == ["d/sofa"]


def test_what_is_missing_is_counted(tmp_path):
    root = miniature.voc(tmp_path)
    (root / "JPEGImages/a.jpg").unlink()
    (root / "Annotations/d.xml").unlink()
    data = voc_data(root)
    assert names(data) == ["b/dog", "b/person", "c/cat"]
    assert data.left_out == {NO_PICTURE: 1, BAD_ANNOTATION: 1, ONLY_DIFFICULT: 1}
    for path in (root / "JPEGImages").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="gives no samples: 4 with picture missing"):
        voc_data(root)


def test_wrong_paths_and_lists_say_what_there_is(tmp_path):
    with pytest.raises(InputError, match="is not a folder: give VOCdevkit"):
        voc_data(tmp_path / "nothing")
    with pytest.raises(InputError, match="is not in the layout of PASCAL VOC: expected the folders"):
        voc_data(tmp_path)
    root = miniature.voc(tmp_path)
    with pytest.raises(InputError, match=r"split='trian' is not a list of .*: there are val"):
        voc_data(root, split="trian")
    (root / "ImageSets/Main/empty.txt").touch()
    with pytest.raises(InputError, match="gives no samples: it is empty"):
        voc_data(root, split="empty")
    root.rename(root.with_name("VOC2007"))
    miniature.voc(tmp_path)
    with pytest.raises(InputError, match=r"several data sets \(VOC2007, VOC2012\): name one"):
        voc_data(tmp_path)


def test_boxes_are_rounded_and_cut_to_the_picture(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(miniature.annotation([("cat", (1, 1, 1, 1), False), ("cow", (40, 30, 60, 50), True)]))
    size, things = read_things(path)
    assert size == (48, 40)
    assert [(one.name, one.box, one.difficult) for one in things] == [
        ("cat", (0, 0, 1, 1), False),  # a single pixel
        ("cow", (39, 29, 48, 40), True),
    ]
    path.write_text(path.read_text().replace("<xmin>40<", "<xmin>40.4000001<"))
    assert read_things(path)[1][1].box == (39, 29, 48, 40)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no element found"),
        ("<annotation></annotation>", "it has no size/width"),
        ("<annotation><size><width>x</width><height>2</height></size></annotation>", "could not convert"),
        ('<!DOCTYPE a [<!ENTITY b "bb">]><annotation>&b;</annotation>', "declares entities"),
        (miniature.annotation([("cat", (30, 5, 20, 9), False)]), r"\(30, 5, 20, 9\) is empty"),
        (miniature.annotation([("cat", (60, 5, 70, 9), False)]), "is empty in a picture of"),
        (miniature.annotation([(" ", (1, 5, 20, 9), False)]), "it has no name"),
        (" " * 3_000_000, "larger than"),
    ],
)
def test_bad_annotations_say_why(tmp_path, text, complaint):
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_things(path)
    path.write_bytes(b"\xff\xfe<")
    with pytest.raises(InputError, match=r"a.xml.* cannot be used"):
        read_things(path)
