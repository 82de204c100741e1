"""Pictures as people have them, good and bad, become upright RGB or a clear error."""

from __future__ import annotations

import json
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hirescam import io
from hirescam.errors import ImageFileError, InputError

RED = (255, 0, 0)


def scene(width: int = 48, height: int = 32) -> Image.Image:
    """Make a picture with a bright top left corner and noise that JPEG cannot fold away."""
    values = np.random.default_rng(0).integers(0, 120, (height, width, 3), dtype=np.uint8)
    values[: height // 4, : width // 4] = 255
    return Image.fromarray(values)


def bomb(path: Path, side: int) -> Path:
    """Write a PNG of a few bytes whose header promises side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        content += struct.pack(">I", len(body)) + kind + body
        content += struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(content)
    return path


def message(path: Path | str) -> str:
    with pytest.raises(ImageFileError) as caught:
        io.read_image(path)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_rgb_is_returned_as_it_is(tmp_path: Path) -> None:
    scene().save(tmp_path / "a.png")
    image = io.read_image(tmp_path / "a.png")
    assert type(image) is Image.Image
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.asarray(scene()))


def test_file_may_vanish_after_reading(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    scene().save(path)
    image = io.read_image(str(path))
    path.unlink()
    assert image.getpixel((0, 0)) == (255, 255, 255)


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "no.png"
    assert message(path) == f"{str(path)!r} does not exist; give the path of a picture"


def test_folder(tmp_path: Path) -> None:
    assert "is a folder, expected a file" in message(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    assert "is empty (0 bytes)" in message(tmp_path / "a.jpg")


def test_not_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "is not a regular file" in message(tmp_path / "pipe.png")


def test_name_that_is_too_long(tmp_path: Path) -> None:
    assert "give the path of a picture" in message(tmp_path / ("a" * 5000))


def test_line_break_in_the_name_stays_on_one_line(tmp_path: Path) -> None:
    assert r"a\nb.png" in message(tmp_path / "a\nb.png")


def test_text_renamed_to_jpg(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("hello, this is not a picture")
    text = message(tmp_path / "a.jpg")
    assert "is not a picture in a known format, whatever its name says" in text
    assert "convert it to PNG or JPEG" in text


def test_postscript_is_not_handed_to_an_interpreter(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\nshowpage\n%%EOF\n"
    )
    assert "is not a picture in a known format" in message(tmp_path / "a.png")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "gif", "bmp"])
def test_truncated_file_is_an_error_and_no_half_picture(tmp_path: Path, ending: str, share: float) -> None:
    path = tmp_path / f"a.{ending}"
    scene(200, 150).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    text = message(path)
    assert "truncated or damaged" in text or "not a picture in a known format" in text


def test_truncated_progressive_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    scene(200, 150).save(path, progressive=True)
    path.write_bytes(path.read_bytes()[:-2000])
    assert "truncated or damaged" in message(path)


def test_one_pixel(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "a.png")
    text = message(tmp_path / "a.png")
    assert "is too small: 1x1 pixels, expected at least 8 on each side" in text
    assert io.read_image(tmp_path / "a.png", min_side=1).size == (1, 1)


@pytest.mark.parametrize(("side", "size"), [(60_000, "3,600,000,000"), (10_001, "10001x10001 = 100,020,001")])
def test_bomb_is_refused_by_its_header(tmp_path: Path, side: int, size: str) -> None:
    path = bomb(tmp_path / "a.png", side)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = message(path)
    assert f"is too large: {size} pixels, expected at most 100,000,000" in text


def test_large_picture_below_the_limit_warns_of_nothing(tmp_path: Path) -> None:
    path = bomb(tmp_path / "a.png", 9_900)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "truncated or damaged" in message(path)


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey(tmp_path: Path, mode: str) -> None:
    Image.new("L", (9, 9), 255).convert(mode).save(tmp_path / "a.png")
    assert io.read_image(tmp_path / "a.png").getpixel((4, 4)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), RED),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("LA", (0, 0), (255, 255, 255)),
        ("LA", (90, 255), (90, 90, 90)),
    ],
)
def test_transparency_lies_over_white(
    tmp_path: Path, mode: str, colour: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    Image.new(mode, (9, 9), colour).save(tmp_path / "a.png")
    assert io.read_image(tmp_path / "a.png").getpixel((4, 4)) == expected


def test_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (9, 9), 1)
    image.putpalette([0, 0, 255, 255, 0, 0])
    image.putpixel((4, 4), 0)
    image.save(tmp_path / "a.png", transparency=0)
    read = io.read_image(tmp_path / "a.png")
    assert (read.getpixel((4, 4)), read.getpixel((0, 0))) == ((255, 255, 255), RED)


def test_transparent_colour_without_alpha_channel(tmp_path: Path) -> None:
    image = Image.new("RGB", (9, 9), RED)
    image.putpixel((4, 4), (0, 0, 255))
    image.save(tmp_path / "a.png", transparency=(0, 0, 255))
    read = io.read_image(tmp_path / "a.png")
    assert (read.getpixel((4, 4)), read.getpixel((0, 0))) == ((255, 255, 255), RED)


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    red, green, blue = np.asarray(io.read_image(tmp_path / "a.jpg"))[8, 8]
    assert red > 230
    assert green < 40
    assert blue < 40


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, ending: str) -> None:
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{ending}")
    read = np.asarray(io.read_image(tmp_path / f"a.{ending}"))
    assert np.array_equal(read[..., 0], np.rint(values / 257).astype(np.uint8))
    assert (read[0, 0, 0], read[-1, -1, 0]) == (0, 255)


def test_sixteen_bit_grey_in_a_portable_grey_map(tmp_path: Path) -> None:
    values = np.full((9, 9), 257 * 100, dtype=">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5 9 9 65535\n" + values.tobytes())
    assert io.read_image(tmp_path / "a.pgm").getpixel((4, 4)) == (100, 100, 100)


@pytest.mark.parametrize(("kind", "words"), [(np.int32, "integers"), (np.float32, "floats")])
def test_values_without_a_range_are_refused(tmp_path: Path, kind: type, words: str) -> None:
    Image.fromarray(np.ones((9, 9), dtype=kind)).save(tmp_path / "a.tif")
    text = message(tmp_path / "a.tif")
    assert f"holds 32-bit {words}, whose range is not known" in text
    assert "save it as an 8-bit or 16-bit picture" in text


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    scene().save(tmp_path / "a.jpg", exif=exif, quality=95)
    read = io.read_image(tmp_path / "a.jpg")
    assert read.size == (32, 48)
    assert np.asarray(read)[:6, -4:].mean() > 240


def test_unicode_path(tmp_path: Path) -> None:
    path = tmp_path / "Bär 猫 🐈.png"
    scene().save(path)
    assert io.read_image(path).size == (48, 32)


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (9, 9), RED), Image.new("RGB", (9, 9), (0, 0, 255))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert io.read_image(tmp_path / "a.gif").getpixel((4, 4)) == RED


def test_find_images_in_files_and_folders(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "deep/er/c.tiff", "notes.txt", "._a.jpg", ".hidden/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    extra, missing = tmp_path / "notes.txt", tmp_path / "missing.png"
    found = io.find_images([extra, tmp_path, tmp_path / "a.jpg", missing])
    names = [str(path.relative_to(tmp_path)) for path in found]
    assert names == ["notes.txt", "a.jpg", "b.PNG", "deep/er/c.tiff", "missing.png"]


def test_find_images_without_any(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match=r"no pictures found in '.*'; looked for .*\.jpg"):
        io.find_images([tmp_path])


@pytest.mark.parametrize("paths", [[], "a.png"])
def test_find_images_of_nothing(paths: list[str]) -> None:
    with pytest.raises(InputError, match=r"paths: got .*, expected a list of files and folders"):
        io.find_images(paths)


def test_writers_make_folders_and_leave_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    io.write_text(folder / "a.txt", "grün\n")
    io.write_json(folder / "a.json", {"größe": [1, None]})
    io.write_png(folder / "a.png", scene())
    assert sorted(path.name for path in folder.iterdir()) == ["a.json", "a.png", "a.txt"]
    assert (folder / "a.txt").read_text(encoding="utf-8") == "grün\n"
    assert json.loads((folder / "a.json").read_text(encoding="utf-8")) == {"größe": [1, None]}
    assert np.array_equal(np.asarray(Image.open(folder / "a.png")), np.asarray(scene()))


def test_written_files_have_the_usual_rights(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("x")
    io.write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain.txt").stat().st_mode


def test_failed_write_keeps_what_was_there(tmp_path: Path) -> None:
    io.write_json(tmp_path / "a.json", [1])
    with pytest.raises(InputError, match="data: cannot be written as JSON"):
        io.write_json(tmp_path / "a.json", {"x": float("nan")})
    with pytest.raises(InputError, match="data: cannot be written as JSON"):
        io.write_json(tmp_path / "a.json", {"x": tmp_path})
    with pytest.raises(InputError, match="text: cannot be written as UTF-8"):
        io.write_text(tmp_path / "a.json", "\ud800")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == [1]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for place in ("file/a.png", "folder", "a" * 300):
        with pytest.raises(InputError, match=r"path: cannot write .*; choose a place"):
            io.write_png(tmp_path / place, scene())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_picture_that_png_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"image: a picture of mode 'CMYK' .* to RGB"):
        io.write_png(tmp_path / "a.png", Image.new("CMYK", (9, 9)))
