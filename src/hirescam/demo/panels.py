"""What was found, as pictures."""

from pathlib import Path

import torch
from PIL import Image

from hirescam import io, reports
from hirescam.demo.experiments import PITCH, Digits, Photos, Pitch
from hirescam.demo.figures import measured_laws, share_text
from hirescam.explanation import Explanation
from hirescam.proof.certificate import Certificate
from hirescam.proof.grade import Guarantee
from hirescam.proof.laws import Laws

_SHOWN_DIGITS = 4
_DIGIT_SIDE = 8
_MOSAIC_TILE = 380


def write_pictures(out: Path, photos: Photos, pitch: Pitch, *, cut: Digits) -> None:
    """Write the mosaic, the photographs, the tone and two digits, each with its maps."""
    io.write_png(out / "mosaic.png", mosaic_panel(photos))
    overlays = photos.results["hirescam"].overlay([reports.grey(crop) for crop in photos.crops])
    for name, (overlay,) in zip(photos.names, overlays, strict=True):
        io.write_png(out / f"{Path(name).stem}.png", overlay)
    io.write_png(out / "pitch.png", _pitch_panel(pitch))
    io.write_png(out / "digits.png", _digits_panel(cut))


def mosaic_panel(photos: Photos) -> Image.Image:
    """Set the mosaic and the maps of its two classes side by side, with the verdict below."""
    found = photos.halves["hirescam"]
    drawn = found.overlay([reports.grey(photos.mosaic)])[0]
    labels = [photos.model.label(index) for index in found.target[0].tolist()]
    sides = ("left", "right")
    captions = [
        f"{label}: {share:.0%} of the red in the {side} half"
        for label, share, side in zip(labels, photos.own_half, sides, strict=True)
    ]
    tiles = [(photos.mosaic, "shown to EfficientNet-Lite0"), *zip(drawn, captions, strict=True)]
    return reports.panel(tiles, foot=_foot(found.certificate, measured_laws(found)), width=_MOSAIC_TILE)


def _foot(certificate: Certificate, laws: Laws) -> str:
    said = "the map adds up to the logit less the head's bias, and each cell is what removing it costs"
    if certificate.guarantee is not Guarantee.EXACT:
        said = certificate.reason
    return (
        f"Verdict {str(certificate.guarantee).upper()}: {said} (measured errors "
        f"{laws.completeness_error:.0e} and "
        f"{laws.location_error:.0e})."
    )


def _pitch_panel(pitch: Pitch) -> Image.Image:
    tiles = [
        (found.overlay(pitch.signal, resample="nearest")[0][0], f"{rule}: sum {float(found.raw.sum()):+.3f}")
        for rule, found in pitch.results.items()
    ]
    return reports.panel(tiles, foot=f"A tone of {PITCH:.0f} Hz, heard as {pitch.label}.", width=480)


def _digits_panel(cut: Digits) -> Image.Image:
    tiles = []
    for index in different_digits(cut)[:2]:
        picture = digit_picture(cut, index).convert("RGB")
        tiles.append((picture, f"a handwritten {int(cut.trained.test_labels[index])}"))
        pale = Image.blend(picture, Image.new("RGB", picture.size, "white"), 0.6)
        tiles += [(_digit_overlay(found, index, pale), rule) for rule, found in cut.results.items()]
    share = cut.dead_share
    foot = (
        f"The head cannot see the right half. Share of the red there ({cut.networks} networks): "
        f"HiResCAM {share_text(share['hirescam'])}, Grad-CAM {share_text(share['gradcam'])}."
    )
    return reports.panel(tiles, foot=foot, width=220)


def _digit_overlay(found: Explanation, index: int, picture: Image.Image) -> Image.Image:
    one = reports.only(found, index)
    return one.overlay([picture], resample="nearest")[0][0]


def different_digits(cut: Digits) -> list[int]:
    """The first test image of each of a few digits."""
    labels = cut.trained.test_labels.tolist()
    return [labels.index(label) for label in sorted(set(labels))[:_SHOWN_DIGITS]]


def digit_picture(cut: Digits, index: int) -> Image.Image:
    """Draw a test image as dark ink on white paper."""
    levels = ((1 - cut.trained.test_images[index, 0]) * 255).round().to(torch.uint8)
    return Image.frombytes("L", (_DIGIT_SIDE, _DIGIT_SIDE), bytes(levels.flatten().tolist()))
