"""A folder in the layout of PASCAL VOC comes in; one sample for each picture and class on it goes out.

The layout (Everingham et al., IJCV 2010): ``JPEGImages/ID.jpg``, ``Annotations/ID.xml``, lists of names in
``ImageSets/Main/SPLIT.txt`` and, for some pictures, class numbers by pixel in ``SegmentationClass/ID.png``.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from hirescam.errors import InputError
from hirescam.evaluation.samples import Box, Data, MaskFile, Sample
from hirescam.reports import printable

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable"),
    *("dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""The classes of PASCAL VOC; the number of a class in a mask is its place here, counted from 1."""

ONLY_DIFFICULT = "only objects that are marked as difficult"
BAD_ANNOTATION = "annotation missing or unusable"
NO_PICTURE = "picture missing"
NO_MASK = "no pixels of the class"

Truth = Literal["masks", "boxes"]
"""How it is given where objects are."""

_MOST_BYTES = 2 * 2**20
_NO_MARKUP = ("<!DOCTYPE", "<!ENTITY")


@dataclass(frozen=True, slots=True)
class Thing:
    """One annotated object."""

    name: str
    box: Box
    difficult: bool


def voc_data(
    path: Path | str, *, split: str = "val", labelled: bool = True, truth: Truth | None = None
) -> Data:
    """List the samples of one split of a data set in the layout of PASCAL VOC.

    A sample is a picture and a class on it. Its boxes are those of all objects of that class, difficult ones
    too; a sample is left out if all of them are difficult, as in the pointing game of Zhang et al.
    (arXiv 1608.00507). Boxes are 1-based and inclusive in the files.

    Args:
        path: the folder with ``JPEGImages``, or one above it with a single such folder (VOCdevkit).
        split: name of a list in ``ImageSets/Main``, such as ``val`` or ``dog_val``, or of a list with its
            folder, such as ``Segmentation/val``. In a list with a flag after each name, -1 leaves it out.
        labelled: False gives one sample for each picture, to be explained for the predicted class, without
            boxes and masks.

        truth: ``"masks"`` takes the pixels of the class and leaves samples without them out, ``"boxes"`` the
            union of the boxes, as the pointing game does; None takes masks if every sample has one, else
            boxes, so that the two are never mixed.

    Raises:
        InputError: there is no such data set, no such list, or nothing in it.
    """
    root = _root(Path(path))
    names = _listed(root, split)
    left_out: Counter[str] = Counter()
    samples: list[Sample] = []
    for name in names:
        picture = _picture(root, name)
        if picture is None:
            left_out[NO_PICTURE] += 1
        elif labelled:
            samples += _by_class(root, name, picture, left_out)
        else:
            samples.append(Sample(name, picture))
    samples = _located(samples, truth, left_out) if labelled else samples
    if not samples:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in left_out.items()) or "it is empty"
        raise InputError(f"split={split!r} of {str(root)!r} gives no samples: {reasons}")
    return Data(f"{printable(root)}, {split}", tuple(samples), left_out)


def read_things(path: Path) -> tuple[tuple[int, int], list[Thing]]:
    """Read one annotation file.

    Returns:
        Width and height of the picture, and its objects; boxes 0-based, stop exclusive, within the picture.

    Raises:
        InputError: the file is missing, too large, or not an annotation.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise _bad(path, f"larger than {_MOST_BYTES:,} bytes")
        text = path.read_text("utf-8-sig")
        if any(word in text for word in _NO_MARKUP):
            raise _bad(path, "it declares entities, which annotations do not need")
        root = ElementTree.fromstring(text)
        size = _number(root, "size/width"), _number(root, "size/height")
        return size, [_thing(item, size) for item in root.findall("object")]
    except (OSError, ValueError, ElementTree.ParseError) as error:
        if isinstance(error, InputError):
            raise
        raise _bad(path, str(error)) from None


def _root(path: Path) -> Path:
    if _is_root(path):
        return path
    if not path.is_dir():
        raise InputError(f"data='voc:{path}' is not a folder: give VOCdevkit, or the folder with JPEGImages")
    found = sorted(one for one in path.iterdir() if _is_root(one))
    found = found or sorted(one for one in path.glob("VOCdevkit/*") if _is_root(one))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(one.name for one in found)
        raise InputError(f"data='voc:{path}' holds several data sets ({names}): name one, as voc:{found[0]}")
    raise InputError(
        f"data='voc:{path}' is not in the layout of PASCAL VOC: expected the folders Annotations, "
        "ImageSets/Main and JPEGImages in it, or in one folder below it"
    )


def _is_root(path: Path) -> bool:
    return all((path / name).is_dir() for name in ("Annotations", "ImageSets", "JPEGImages"))


def _listed(root: Path, split: str) -> list[str]:
    sets = root / "ImageSets"
    places = (sets / "Main" / f"{split}.txt", sets / f"{split}.txt")
    place = next((one for one in places if one.is_file()), None)
    if place is None:
        there = sorted(one.stem for one in (sets / "Main").glob("*.txt") if "_" not in one.stem)
        raise InputError(f"split={split!r} is not a list of {str(root)!r}: there are {', '.join(there)}")
    lines = (line.split() for line in place.read_text("utf-8-sig").splitlines())
    return [words[0] for words in lines if words and words[1:] != ["-1"]]


def _picture(root: Path, name: str) -> Path | None:
    places = (root / "JPEGImages" / f"{name}{ending}" for ending in (".jpg", ".jpeg", ".png", ".JPG"))
    return next((place for place in places if place.is_file()), None)


def _by_class(root: Path, name: str, picture: Path, left_out: Counter[str]) -> Iterator[Sample]:
    try:
        size, things = read_things(root / "Annotations" / f"{name}.xml")
    except InputError:
        left_out[BAD_ANNOTATION] += 1
        return
    for wanted in sorted({thing.name for thing in things}):
        own = [thing for thing in things if thing.name == wanted]
        if all(thing.difficult for thing in own):
            left_out[ONLY_DIFFICULT] += 1
            continue
        boxes = tuple(thing.box for thing in own)
        yield Sample(f"{name}/{wanted}", picture, wanted, boxes, _mask(root, name, wanted), size)


def _located(samples: list[Sample], truth: Truth | None, left_out: Counter[str]) -> list[Sample]:
    masked = [sample for sample in samples if sample.mask is not None]
    if truth == "boxes" or (truth is None and len(masked) < len(samples)):
        return [replace(sample, mask=None) for sample in samples]
    left_out.update({NO_MASK: len(samples) - len(masked)} if len(masked) < len(samples) else {})
    return masked


def _mask(root: Path, name: str, wanted: str) -> MaskFile | None:
    path = root / "SegmentationClass" / f"{name}.png"
    known = wanted in CLASSES and path.is_file()
    return MaskFile(path, CLASSES.index(wanted) + 1) if known else None


def _thing(item: ElementTree.Element, size: tuple[int, int]) -> Thing:
    left, top, right, bottom = (_number(item, f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax"))
    box = (max(0, left - 1), max(0, top - 1), min(size[0], right), min(size[1], bottom))
    if box[0] >= box[2] or box[1] >= box[3]:
        raise ValueError(f"the box {(left, top, right, bottom)} is empty in a picture of {size}")
    return Thing(_text(item, "name"), box, (item.findtext("difficult") or "0").strip() == "1")


def _number(item: ElementTree.Element, place: str) -> int:
    return round(float(_text(item, place)))


def _text(item: ElementTree.Element, place: str) -> str:
    found = (item.findtext(place) or "").strip()
    if not found:
        raise ValueError(f"it has no {place}")
    return found


def _bad(path: Path, reason: str) -> InputError:
    return InputError(f"annotation {str(path)!r} cannot be used: {reason}")
