"""The networks of torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hirescam.errors import SpecError
from hirescam.models.building import classes_option, import_extra, origin_of, with_weights
from hirescam.models.model import Model, other_model, picture_model
from hirescam.models.preprocessing import Preset, sized
from hirescam.models.references import did_you_mean

_VIDEO_FRAMES = 16
_UNSUITED = {
    "detection": "it gives boxes, not class scores",
    "segmentation": "it gives a score per class and pixel; explain it from Python with Region",
    "optical_flow": "it gives a flow field, not class scores",
    "quantization": "quantised numbers have no gradient; use the plain network of the same name",
}


def from_torchvision(name: str, weights: Path | None, image_size: int | None) -> Model:
    """Build a network of torchvision."""
    models = import_extra("torchvision.models")
    kind = _torchvision_kind(models, name)
    published = next(iter(models.get_model_weights(name)))
    options = _torchvision_options(name, image_size)
    module, own_classes = with_weights(
        lambda classes: models.get_model(name, weights=None, **options, **classes_option(classes)),
        weights,
    )
    labels = None if own_classes else tuple(published.meta["categories"])
    spec, origin = f"torchvision:{name}", origin_of(weights)
    preset = _torchvision_preset(published.transforms())
    side = image_size or getattr(module, "image_size", None) or preset.size[0]
    if kind == "video":
        shape = (3, _VIDEO_FRAMES, side, side)
        return other_model(module, spec, shape, labels, origin)
    return picture_model(module, spec, sized(preset, (side, side)), labels, origin)


def _torchvision_kind(models: Any, name: str) -> str:
    known = models.list_models()
    if name not in known:
        raise SpecError(f"spec: torchvision has no network {name!r}; {did_you_mean(name, known)}")
    kind = str(models.get_model_builder(name).__module__).split(".")[2]
    if kind in _UNSUITED:
        raise SpecError(
            f"spec: 'torchvision:{name}' cannot be explained as a classifier: {_UNSUITED[kind]}; "
            "choose a classification network, such as torchvision:resnet50"
        )
    return kind


def _torchvision_options(name: str, image_size: int | None) -> dict[str, Any]:
    if name in ("googlenet", "inception_v3"):
        return {"init_weights": True}
    if image_size and name.startswith("vit_"):
        return {"image_size": image_size}
    if image_size and name.startswith("maxvit_"):
        return {"input_size": (image_size, image_size)}
    return {}


def _torchvision_preset(transforms: Any) -> Preset:
    return Preset(
        size=_pair(transforms.crop_size),
        resize=_pair(transforms.resize_size),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        resample=transforms.interpolation.value,
    )


def _pair(sides: list[int]) -> tuple[int, int]:
    return sides[0], sides[-1]
