"""What is evaluated: pictures, the class to explain on each, and where its objects are if that is known."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from hirescam import io
from hirescam.errors import ImageFileError
from hirescam.reports import printable

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the picture: counted from 0, start inclusive, stop exclusive."""


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A picture of class numbers, one of which is wanted; it is read when it is needed.

    Attributes:
        path: a palette or grey picture of the size of the photograph.
        value: the number of the wanted class; every other number, a void border too, is not in the mask.
    """

    path: Path
    value: int

    def read(self) -> NDArray[np.bool_]:
        """Read the mask ``(h, w)``.

        Raises:
            ImageFileError: the file is missing, damaged, too large or of another kind.
        """
        try:
            with Image.open(self.path) as image:
                if image.mode not in ("P", "L"):
                    raise self._unusable(f"its pixels are {image.mode}, not class numbers")
                if image.width * image.height > io.MAX_PIXELS:
                    raise self._unusable(f"{image.width}x{image.height} pixels are too many")
                return np.asarray(np.asarray(image) == self.value)
        except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            if isinstance(error, ImageFileError):
                raise
            raise self._unusable(str(error)) from None

    def _unusable(self, reason: str) -> ImageFileError:
        return ImageFileError(f"mask {str(self.path)!r} cannot be used ({reason})")


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One picture, and one thing to explain on it.

    Attributes:
        name: unique in its data.
        path: the picture.
        wanted: the class to explain, by its name in the data; None for what the network predicts.
        boxes: around the objects of that class.
        mask: the pixels of that class ``(height, width)``; None for the union of the boxes, if any.
        size: width and height that the annotation says, to be checked.
    """

    name: str
    path: Path
    wanted: str | None = None
    boxes: tuple[Box, ...] = ()
    mask: MaskFile | NDArray[np.bool_] | None = None
    size: tuple[int, int] | None = None

    @property
    def located(self) -> bool:
        """Whether it is known where the objects are."""
        return bool(self.boxes) or self.mask is not None

    def read_mask(self) -> NDArray[np.bool_] | None:
        """Give the mask, if there is one."""
        return self.mask.read() if isinstance(self.mask, MaskFile) else self.mask

    @property
    def key(self) -> str:
        """Change with everything that a value may depend on: the files as they are now, class and boxes."""
        parts: list[object] = [self.name, self.wanted, self.boxes, self.size, _state(self.path)]
        if isinstance(self.mask, MaskFile):
            parts += [self.mask.value, _state(self.mask.path)]
        elif self.mask is not None:
            parts += [self.mask.shape, self.mask.tobytes()]
        return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Data:
    """Samples, and what was left out while they were collected.

    Attributes:
        name: what the data are called in the report.
        samples: in the order of the data.
        left_out: how many samples were left out, by reason.
    """

    name: str
    samples: tuple[Sample, ...]
    left_out: Mapping[str, int] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __len__(self) -> int:
        return len(self.samples)


def as_data(samples: Data | Iterable[Sample]) -> Data:
    """Take samples of any kind."""
    return samples if isinstance(samples, Data) else Data("samples", tuple(samples))


def folder_data(folder: Path | str, *, labelled: bool = False) -> Data:
    """List the pictures below a folder.

    Args:
        folder: pictures at any depth.
        labelled: the class of a picture is the name of the folder that it lies in, instead of what the
            network predicts.

    Raises:
        ImageFileError: it is no folder, or there are no pictures in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageFileError(f"data={str(folder)!r} is not a folder: give a folder of pictures, or voc:PATH")
    paths = io.find_images([folder])
    return Data(printable(folder), tuple(_in_folder(path, folder, labelled=labelled) for path in paths))


def _in_folder(path: Path, folder: Path, *, labelled: bool) -> Sample:
    return Sample(path.relative_to(folder).as_posix(), path, path.parent.name if labelled else None)


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
