"""Networks that ``hirescam export`` wrote; the file says how pictures are prepared and classes called."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hirescam.errors import SpecError
from hirescam.models.labels import read_labels
from hirescam.models.model import Crop, Normalise, label_of
from hirescam.models.preprocessing import Preset, crop_picture, normalise_picture
from hirescam.onnx_network import ExportedNetwork

SUFFIX = ".onnx"


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """An exported network and what is needed to feed it and to name its answers.

    Attributes:
        network: The network, in ONNX Runtime.
        name: The file.
        crop: The geometric half of the preprocessing.
        normalise: The numeric half.
        labels: The name of each class, if known.
        input_shape: Shape of one input, without the batch axis.
        origin: Where the weights come from, in words.
    """

    network: ExportedNetwork
    name: str
    crop: Crop
    normalise: Normalise
    labels: tuple[str, ...] | None
    input_shape: tuple[int, ...]
    origin: str

    def label(self, index: int) -> str:
        """Name a class: its label where there is one, ``class 7`` elsewhere."""
        return label_of(self.labels, index)


def resolve_exported(path: Path, labels: Path | None = None) -> ExportedModel:
    """Open a file that ``hirescam export`` wrote.

    Args:
        path: The file.
        labels: Names of the classes, instead of those in the file.

    Raises:
        SpecError: The file does not say how pictures are prepared.
        InputError: It is no such file, or a package is missing.
    """
    network = ExportedNetwork(path)
    if network.preprocessing is None:
        raise SpecError(
            f"spec: {str(path)!r} does not say how pictures are prepared, because its network takes none or "
            "prepares them in its own way; explain tensors from Python with hirescam.ExportedNetwork"
        )
    preset = read_preset(network.preprocessing)
    names = network.labels if labels is None else read_labels(labels)
    return ExportedModel(
        network,
        str(path),
        partial(crop_picture, preset=preset),
        partial(normalise_picture, preset=preset),
        names,
        (len(preset.mean), *preset.size),
        f"file {path.name}",
    )


def read_preset(data: dict[str, object]) -> Preset:
    """Read a preset that was kept as plain data, ``preset._asdict()``.

    Raises:
        SpecError: It has other entries.
    """
    try:
        return Preset(**{key: tuple(item) if isinstance(item, list) else item for key, item in data.items()})  # type: ignore[arg-type]
    except TypeError as error:
        raise SpecError(
            f"spec: the preprocessing in the file cannot be read ({error}); export the network again"
        ) from error
