"""The package's own networks."""

from __future__ import annotations

from pathlib import Path

from hirescam.models.building import file_origin
from hirescam.models.labels import imagenet_labels
from hirescam.models.model import Model, other_model, picture_model
from hirescam.models.preprocessing import Preset, sized
from hirescam.networks import crepe, lite0


def load_lite0(weights: Path | None, image_size: int | None) -> Model:
    """Load EfficientNet-Lite0 with its trained weights or those of a file."""
    side = image_size or lite0.SIDE
    preset = sized(Preset(mean=(lite0.MEAN,) * 3, std=(lite0.STD,) * 3, resample="bicubic"), (side, side))
    origin = file_origin(weights) or f"package {lite0.DISTRIBUTION}"
    return picture_model(lite0.load(weights), "lite0", preset, imagenet_labels(), origin)


def load_crepe(weights: Path | None) -> Model:
    """Load the pitch network CREPE with its trained weights or those of a file."""
    origin = file_origin(weights) or f"package {crepe.DISTRIBUTION}"
    labels = tuple(f"{crepe.bin_to_hertz(index):.1f} Hz" for index in range(crepe.BINS))
    return other_model(crepe.load(weights), "crepe", (1, crepe.FRAME), labels, origin)
