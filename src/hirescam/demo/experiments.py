"""Three trained networks are explained; what was found on each comes out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from hirescam import io, models
from hirescam.explainer import Explainer
from hirescam.explanation import Explanation
from hirescam.models import Model
from hirescam.networks import crepe, digits

PHOTOS = ("chelsea.png", "coffee.png", "camera.png", "rocket.jpg", "astronaut.png")
"""Photographs that come inside the scikit-image package."""
MOSAIC = ("coffee.png", "chelsea.png")
"""The two that are set side by side."""
PITCH = 220.0
"""Hertz."""
_RULES = ("hirescam", "gradcam")
_DIGIT_NETWORKS = 3


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
