"""What was found, as the sections of one page."""

from dataclasses import replace
from pathlib import Path

from hirescam import pages, reports
from hirescam.demo.experiments import MOSAIC, PITCH, Digits, Photos, Pitch
from hirescam.demo.figures import share_text
from hirescam.demo.panels import different_digits, digit_picture
from hirescam.explanation import Explanation
from hirescam.pages import Bars, Item, Section, Wave
from hirescam.proof.certificate import Certificate


def _verdict(certificate: Certificate) -> tuple[str, str]:
    return str(certificate.guarantee), str(certificate)


def photos_section(photos: Photos) -> Section:
    """The page's section about the photographs."""
    found = photos.results["hirescam"]
    single = [_photo_item(photos, index) for index in range(len(photos.names))]
    return Section(
        "Photographs: EfficientNet-Lite0",
        "A network trained on ImageNet, with average pooling before its only linear layer. First a picture "
        "with two things in it: each class must point to its own. Then single photographs with the class "
        "that "
        "the network finds; not every answer is right, and the maps show what it rests on.",
        *_verdict(found.certificate),
        items=(_mosaic_item(photos), *single),
        findings=_photos_findings(photos),
    )


def _photos_findings(photos: Photos) -> tuple[str, ...]:
    left, right = photos.own_half
    first, second = (photos.model.label(index) for index in photos.halves["hirescam"].target[0].tolist())
    return (
        f"On the mosaic, {left:.0%} of what speaks for {first!r} lies in the left half and {right:.0%} of "
        "what speaks "
        f"for {second!r} in the right half.",
        f"Grad-CAM gives the same maps here: they differ by at most {pages.error(photos.gradcam_gap)} of the "
        "largest "
        "value. The head pools over places first, so averaging the gradient changes nothing.",
        f"Map plus the head's bias gives every logit to {pages.error(photos.residual)}.",
    )


def _mosaic_item(photos: Photos) -> Item:
    found = photos.halves["hirescam"]
    labels = [photos.model.label(index) for index in found.target[0].tolist()]
    sides = ("left", "right")
    maps = tuple(
        reports.map_of(found, label, target=place, note=f"{share:.0%} of the red in the {side} half")
        for place, (label, share, side) in enumerate(zip(labels, photos.own_half, sides, strict=True))
    )
    name = " beside ".join(Path(photo).stem for photo in MOSAIC)
    return Item(name, reports.picture_of(photos.mosaic), tuple(map(_without_laws, maps)))


def _photo_item(photos: Photos, index: int) -> Item:
    found = photos.results["hirescam"]
    one = reports.map_of(found, photos.model.label(int(found.target[index, 0])), image=index)
    return Item(photos.names[index], reports.picture_of(photos.crops[index]), (_without_laws(one),))


def _without_laws(one: pages.Map) -> pages.Map:
    """Leave out figures that were measured on a whole batch, not on this map."""
    return replace(one, laws=None)


def pitch_section(pitch: Pitch) -> Section:
    """The page's section about the tone."""
    found = pitch.results["hirescam"]
    bars = tuple(_bars(rule, item) for rule, item in pitch.results.items())
    total = float(found.raw.sum())
    return Section(
        "Sound: the pitch network CREPE",
        f"One frame of a tone of {PITCH:.0f} Hz. The network says {pitch.label}. Its head flattens four "
        "stretches of "
        "time into one linear layer, so it may treat them differently.",
        *_verdict(found.certificate),
        wave=Wave(tuple(pitch.signal.flatten()[::2].tolist()), bars),
        findings=(
            f"HiResCAM: {pages.number(total)} found in the sound, {pages.signed(pitch.bias)} is the head's "
            "bias; together "
            f"they miss the logit {pages.number(float(found.score))} by {pages.error(pitch.residual)}.",
            "Grad-CAM's map is negative everywhere: its positive part, which is what Grad-CAM shows, sums "
            "to "
            f"{pages.number(pitch.gradcam_positive)}. It would say that the network heard nothing."
            if pitch.gradcam_positive == 0
            else f"Grad-CAM's positive part sums to {pages.number(pitch.gradcam_positive)}.",
        ),
    )


def _bars(rule: str, found: Explanation) -> Bars:
    total = float(found.raw.sum())
    return Bars(rule, tuple(found.raw[0, 0].tolist()), f"sum {pages.signed(total)}")


def digits_section(cut: Digits) -> Section:
    """The page's section about the digits."""
    share, peaks = cut.dead_share, cut.dead_peaks
    return Section(
        "A head with a blind half: digits",
        "Two convolutions and one linear layer, trained by this run on scikit-learn's digits. The linear "
        "layer's weights "
        "on the right half (beyond the dashed line) are fixed at zero, so nothing there can matter to the "
        "answer. "
        f"It still reads {cut.trained.accuracy:.1%} of {len(cut.trained.test_images)} new digits correctly.",
        *_verdict(cut.results["hirescam"].certificate),
        items=tuple(_digit_item(cut, index) for index in different_digits(cut)),
        findings=(
            f"Share of the red in the blind half, over {cut.networks} networks trained alike: HiResCAM "
            f"{share_text(share['hirescam'])}, Grad-CAM {share_text(share['gradcam'])} "
            f"({share_text(cut.dead_range[0])} to {share_text(cut.dead_range[1])} by network). Of red and "
            f"blue together: HiResCAM {share_text(cut.dead_magnitude['hirescam'])}, Grad-CAM "
            f"{share_text(cut.dead_magnitude['gradcam'])}.",
            f"Grad-CAM's highest cell lies in the blind half in {peaks['gradcam']:.0%} of the pictures, "
            f"HiResCAM's in {peaks['hirescam']:.0%}.",
        ),
    )


def _digit_item(cut: Digits, index: int) -> Item:
    label = int(cut.trained.test_labels[index])
    maps = tuple(
        _without_laws(reports.map_of(found, f"{rule}: {int(found.target[index, 0])}", image=index, blind=0.5))
        for rule, found in cut.results.items()
    )
    return Item(f"a handwritten {label}", reports.picture_of(digit_picture(cut, index), pixelated=True), maps)
