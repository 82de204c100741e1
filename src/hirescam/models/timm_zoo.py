"""The networks of timm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from hirescam.errors import SpecError
from hirescam.models.building import classes_option, import_extra, origin_of, with_weights
from hirescam.models.labels import imagenet_labels
from hirescam.models.model import Model, picture_model
from hirescam.models.preprocessing import Preset, sized
from hirescam.models.references import did_you_mean, one_line
from hirescam.networks import lite0


def from_timm(name: str, weights: Path | None, image_size: int | None) -> Model:
    """Build a network of timm."""
    timm = import_extra("timm")
    if not timm.is_model(name):
        raise SpecError(f"spec: timm has no network {name!r}; {did_you_mean(name, timm.list_models())}")
    options = _timm_options(timm, name, image_size)
    module, _ = with_weights(
        lambda classes: _timm_network(timm, name, {**options, **classes_option(classes)}), weights
    )
    preset = _timm_preset(import_extra("timm.data").resolve_model_data_config(module))
    if image_size:
        preset = sized(preset, (image_size, image_size))
    labels = imagenet_labels() if module.num_classes == lite0.CLASSES else None
    return picture_model(module, f"timm:{name}", preset, labels, origin_of(weights))


def _timm_options(timm: Any, name: str, image_size: int | None) -> dict[str, Any]:
    config = timm.get_pretrained_cfg(name)
    fixed = config is not None and config.fixed_input_size
    return {"img_size": image_size} if image_size and fixed else {}


def _timm_network(timm: Any, name: str, options: Mapping[str, Any]) -> nn.Module:
    try:
        module: nn.Module = timm.create_model(name, pretrained=False, **options)
    except (RuntimeError, TypeError, ValueError) as error:
        raise SpecError(
            f"spec: timm could not build {name!r} ({one_line(error)}); check the name and its tag"
        ) from error
    if not getattr(module, "num_classes", 0):
        raise SpecError(
            f"spec: 'timm:{name}' has no classifier (num_classes is 0), so there is no score; "
            "choose a network with classes, or write a factory that adds a head"
        )
    return module


def _timm_preset(config: Mapping[str, Any]) -> Preset:
    size = (int(config["input_size"][1]), int(config["input_size"][2]))
    resample = config["interpolation"]
    return Preset(
        size=size,
        resize=(int(size[0] / config["crop_pct"]), int(size[1] / config["crop_pct"])),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        resample=resample if resample in ("bilinear", "lanczos", "nearest") else "bicubic",
        squash=config["crop_mode"] == "squash",
    )
