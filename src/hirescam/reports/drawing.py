"""Pictures for pages and panels."""

import base64
from collections.abc import Sequence
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont

from hirescam import pages

_TILE = 420
_PAPER, _INK, _SOFT = (255, 255, 255), (29, 29, 31), (98, 98, 95)


def picture_of(image: Image.Image, *, pixelated: bool = False) -> pages.Picture:
    """Put a picture into a data URI."""
    kind = "PNG" if pixelated else "JPEG"
    content = base64.b64encode(encoded(image, kind)).decode()
    return pages.Picture(f"data:image/{kind.lower()};base64,{content}", image.width, image.height, pixelated)


def grey(picture: Image.Image) -> Image.Image:
    """Take the colour out of a picture, so that red and blue are the map's alone."""
    return picture.convert("L").convert("RGB")


def panel(tiles: Sequence[tuple[Image.Image, str]], *, foot: str = "", width: int = _TILE) -> Image.Image:
    """Set pictures side by side, each with a line below it, and a text under all of them.

    Args:
        tiles: pictures with their captions.
        foot: text, wrapped to the width.
        width: of each tile in pixels.
    """
    gap, size = 18, max(13, width // 22)
    shown = [_scaled(image, width) for image, _ in tiles]
    height = max(image.height for image in shown)
    whole = len(tiles) * (width + gap) + gap
    foot = foot.replace(pages.MINUS, "-")  # Pillow's own font has no true minus sign
    lines = _wrapped(foot, whole - 2 * gap, size)
    canvas = Image.new("RGB", (whole, height + 2 * gap + 2 * size + len(lines) * size * 3 // 2), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, (image, (_, caption)) in enumerate(zip(shown, tiles, strict=True)):
        left = gap + index * (width + gap)
        canvas.paste(image, (left, gap))
        draw.text((left, gap + height + size // 2), caption, fill=_INK, font=_font(size))
    for index, line in enumerate(lines):
        top = height + gap + 5 * size // 2 + index * size * 3 // 2
        draw.text((gap, top), line, fill=_SOFT, font=_font(size))
    return canvas


def encoded(image: Image.Image, kind: str) -> bytes:
    """Write a picture as the bytes of a file of a kind, ``PNG`` or ``JPEG``."""
    buffer = BytesIO()
    if kind == "JPEG":
        image.convert("RGB").save(buffer, kind, quality=88)
    else:
        image.save(buffer, kind)
    return buffer.getvalue()


def _scaled(image: Image.Image, width: int) -> Image.Image:
    size = (width, max(1, round(image.height * width / image.width)))
    small = image.width * 4 < width
    return image.convert("RGB").resize(size, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _wrapped(text: str, width: int, size: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _font(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
