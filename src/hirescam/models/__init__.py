"""A reference such as ``torchvision:resnet50`` comes in; a network ready to be explained goes out.

With the network come the two halves of its preprocessing, its labels and the shape of its input.
Nothing is ever downloaded.
"""

from hirescam.models.building import SEED
from hirescam.models.exported import SUFFIX, ExportedModel, resolve_exported
from hirescam.models.labels import read_labels
from hirescam.models.model import FROM_FACTORY, Crop, Described, Model, Normalise
from hirescam.models.preprocessing import Preset, crop_picture, normalise_picture
from hirescam.models.references import BUILTIN
from hirescam.models.resolving import resolve
from hirescam.wording import FORMS

__all__ = [
    "BUILTIN",
    "FORMS",
    "FROM_FACTORY",
    "SEED",
    "SUFFIX",
    "Crop",
    "Described",
    "ExportedModel",
    "Model",
    "Normalise",
    "Preset",
    "crop_picture",
    "normalise_picture",
    "read_labels",
    "resolve",
    "resolve_exported",
]
