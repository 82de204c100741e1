"""Paths come in, upright RGB pictures go out; texts, JSON and pictures are written in one step."""

from __future__ import annotations

import json
import os
import re
import uuid
import warnings
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hirescam.errors import ImageFileError, InputError

MIN_SIDE = 8
"""Shortest side in pixels that ``read_image`` accepts by default."""
MAX_PIXELS = 100_000_000
"""Most pixels that are decoded; the header is checked before."""
ENDINGS = frozenset(
    {
        *(".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
        *(".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    }
)
"""Endings, in small letters, of the files that ``find_images`` takes from a folder."""

_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_SCALED_TO_16_BITS = ("PNG", "PPM")


def read_image(path: Path | str, *, min_side: int = MIN_SIDE) -> Image.Image:
    """Read a picture as it is meant to be seen.

    EXIF orientation is applied, transparency is laid over white, 16-bit grey is divided by 257,
    CMYK and palettes are converted, and an animation gives its first frame.

    Args:
        path: A PNG, JPEG, GIF, BMP, TIFF, WebP, JPEG 2000 or PPM file.
        min_side: Shortest side in pixels that is accepted.

    Returns:
        An 8-bit RGB picture that no longer needs the file.

    Raises:
        ImageFileError: The file is missing, empty, damaged, of another kind, too small, larger
            than ``MAX_PIXELS``, or holds values without a known range.
    """
    path = _readable(Path(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _opened(path) as image:
            _check_size(image.size, path, min_side)
            _check_range(image, path)
            return _decoded(image, path)


def find_images(paths: Sequence[Path | str]) -> list[Path]:
    """List the pictures that files and folders stand for, each once.

    A folder gives the files below it, at any depth and in sorted order, that have a known ending
    and no name starting with a dot. Any other path is passed on as it is, so that one bad file is
    reported when it is read and does not lose the others.

    Args:
        paths: Files and folders.

    Raises:
        InputError: ``paths`` is empty, or a single string.
        ImageFileError: The folders hold no pictures.
    """
    if isinstance(paths, (str, Path)) or not paths:
        raise InputError(
            f"paths: got {paths!r}, expected a list of files and folders; put at least one path into a list"
        )
    found = list(dict.fromkeys(file for path in paths for file in _expanded(Path(path))))
    if found:
        return found
    places = ", ".join(repr(str(path)) for path in paths)
    raise ImageFileError(
        f"no pictures found in {places}; looked for files ending in {' '.join(sorted(ENDINGS))}"
    )


def write_text(path: Path | str, text: str) -> None:
    """Write a UTF-8 text file whole or not at all, and the folders that it needs.

    Raises:
        InputError: The place cannot be written to.
    """
    try:
        write_bytes(path, text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise InputError(
            f"text: cannot be written as UTF-8 ({error.reason}); remove lone surrogates"
        ) from error


def write_json(path: Path | str, data: object) -> None:
    """Write data as indented JSON, whole or not at all.

    Raises:
        InputError: The place cannot be written to, or the data holds NaN, infinity or a type that
            JSON does not have.
    """
    try:
        text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"data: cannot be written as JSON ({error}); convert it to dicts, lists, strings, "
            "finite numbers and booleans"
        ) from error
    write_text(path, text + "\n")


def write_png(path: Path | str, image: Image.Image) -> None:
    """Write a picture as PNG, whole or not at all.

    Raises:
        InputError: The place cannot be written to, or the picture's mode is not known to PNG.
    """
    buffer = BytesIO()
    try:
        image.save(buffer, format="PNG")
    except (OSError, ValueError) as error:
        raise InputError(
            f"image: a picture of mode {image.mode!r} and size {image.size} cannot be saved as "
            f"PNG ({error}); convert it to RGB"
        ) from error
    write_bytes(path, buffer.getvalue())


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write a file whole or not at all, and the folders that it needs.

    The content goes to a hidden file beside the target, which is then renamed.

    Raises:
        InputError: The place cannot be written to.
    """
    path = Path(path)
    draft = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content)
        os.replace(draft, path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"path: cannot write {str(path)!r} ({reason}); choose a place that can be written to"
        ) from error
    finally:
        _discard(draft)


def _readable(path: Path) -> Path:
    try:
        if path.is_file() and path.stat().st_size:
            return path
        kind = _unusable(path)
    except OSError as error:
        kind = f"cannot be opened ({error.strerror})"
    raise ImageFileError(f"{str(path)!r} {kind}; give the path of a picture")


def _unusable(path: Path) -> str:
    if path.is_file():
        return "is empty (0 bytes)"
    if path.is_dir():
        return "is a folder, expected a file"
    return "is not a regular file" if path.exists() else "does not exist"


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=_known_formats())
    except Image.DecompressionBombError as error:
        raise _too_large(path, _first_number(error)) from None
    except UnidentifiedImageError:
        raise ImageFileError(
            f"{str(path)!r} is not a picture in a known format, whatever its name says; "
            f"convert it to PNG or JPEG (known: {', '.join(_FORMATS)})"
        ) from None
    except Exception as error:
        raise _undecodable(path, error) from error


def _known_formats() -> list[str]:
    """List the formats that are read, of those in this Pillow: others may start programs."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _check_size(size: tuple[int, int], path: Path, min_side: int) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise _too_large(path, f"{width}x{height} = {width * height:,}")
    if min(size) < min_side:
        raise ImageFileError(
            f"{str(path)!r} is too small: {width}x{height} pixels, expected at least {min_side} "
            "on each side; give a larger picture"
        )


def _check_range(image: Image.Image, path: Path) -> None:
    if image.mode not in ("I", "F") or _is_16_bit(image):
        return
    kind = "32-bit integers" if image.mode == "I" else "32-bit floats"
    raise ImageFileError(
        f"{str(path)!r} holds {kind}, whose range is not known; "
        "save it as an 8-bit or 16-bit picture, scaled as the model expects"
    )


def _is_16_bit(image: Image.Image) -> bool:
    """Tell 16-bit grey, which Pillow also opens as 32-bit from formats that have no 32 bits."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SCALED_TO_16_BITS)


def _decoded(image: Image.Image, path: Path) -> Image.Image:
    try:
        image.load()
        return _rgb(ImageOps.exif_transpose(image), deep=_is_16_bit(image))
    except Exception as error:
        raise _undecodable(path, error) from error


def _rgb(image: Image.Image, *, deep: bool) -> Image.Image:
    if deep:
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        return _over_white(image.convert("RGBA"))
    return image.convert("RGB").copy()


def _eight_bits(grey: np.ndarray) -> np.ndarray:
    return ((grey.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _over_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _too_large(path: Path, pixels: str) -> ImageFileError:
    return ImageFileError(
        f"{str(path)!r} is too large: {pixels} pixels, expected at most {MAX_PIXELS:,}; "
        "scale it down first (nothing was decoded)"
    )


def _first_number(error: Exception) -> str:
    found = re.search(r"\d+", str(error))
    return f"{int(found[0]):,}" if found else "too many"


def _undecodable(path: Path, error: Exception) -> ImageFileError:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return ImageFileError(f"{str(path)!r} is truncated or damaged ({reason}); copy it again or save it anew")


def _expanded(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if _is_picture(file, path))
    else:
        yield path


def _is_picture(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.suffix.lower() in ENDINGS and not hidden and file.is_file()


def _discard(draft: Path) -> None:
    try:
        draft.unlink(missing_ok=True)
    except (OSError, ValueError):
        return
