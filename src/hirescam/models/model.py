"""A network with its preprocessing, its labels and the shape of its input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from PIL import Image
from torch import Tensor, nn

from hirescam.errors import InputError
from hirescam.models.preprocessing import Preset, crop_picture, normalise_picture

FROM_FACTORY = "as made by the factory"
Crop = Callable[[Image.Image], Image.Image]
Normalise = Callable[[Image.Image], Tensor]


class Described(Protocol):
    """What has to be known of a network to feed it pictures and to name its answers."""

    @property
    def name(self) -> str:
        """The reference that it came from."""

    @property
    def crop(self) -> Crop:
        """The geometric half of the preprocessing: a picture to the picture that is seen."""

    @property
    def normalise(self) -> Normalise:
        """The numeric half: a cropped picture to a ``(c, h, w)`` float32 tensor."""

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The name of each class, if known."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch axis."""

    @property
    def origin(self) -> str:
        """Where the weights come from, in words."""

    def label(self, index: int) -> str:
        """Name a class."""


@dataclass(frozen=True, slots=True)
class Model:
    """A network and what is needed to feed it and to name its answers.

    A factory may return one of these to say everything about its network.

    Attributes:
        module: The network, in evaluation mode.
        name: The reference that it came from.
        crop: The geometric half of the preprocessing: a picture to the picture that is seen.
        normalise: The numeric half: a cropped picture to a ``(c, h, w)`` float32 tensor.
        labels: The name of each class, if known.
        input_shape: Shape of one input, without the batch axis.
        origin: Where the weights come from, in words.
        preset: Sizes and ranges behind ``crop`` and ``normalise``, where these are all there is to them.
        multilabel: Whether classes do not exclude each other: probabilities are sigmoids, not a softmax.
    """

    module: nn.Module
    name: str
    crop: Crop
    normalise: Normalise
    labels: tuple[str, ...] | None
    input_shape: tuple[int, ...]
    origin: str = FROM_FACTORY
    preset: Preset | None = None
    multilabel: bool = False

    def preprocess(self, image: Image.Image) -> Tensor:
        """Turn an RGB picture into a ``(c, h, w)`` float32 tensor."""
        return self.normalise(self.crop(image))

    def label(self, index: int) -> str:
        """Name a class: its label where there is one, ``class 7`` elsewhere."""
        return label_of(self.labels, index)


def label_of(labels: tuple[str, ...] | None, index: int) -> str:
    """Name a class: its label where there is one, ``class 7`` elsewhere."""
    labels = labels or ()
    return labels[index] if 0 <= index < len(labels) else f"class {index}"


def picture_model(
    module: nn.Module, name: str, preset: Preset, labels: tuple[str, ...] | None, origin: str
) -> Model:
    """Put together a model that takes pictures."""
    crop = partial(crop_picture, preset=preset)
    normalise = partial(normalise_picture, preset=preset)
    shape = (len(preset.mean), *preset.size)
    return Model(module, name, crop, normalise, labels, shape, origin, preset)


def other_model(
    module: nn.Module,
    name: str,
    shape: tuple[int, ...],
    labels: tuple[str, ...] | None,
    origin: str,
) -> Model:
    """Put together a model that takes signals, volumes or videos, and says so to who gives it a picture."""
    crop = partial(_no_picture, name=name, shape=shape)
    normalise = partial(_no_tensor, name=name, shape=shape)
    return Model(module, name, crop, normalise, labels, shape, origin)


def _no_picture(image: Image.Image, *, name: str, shape: tuple[int, ...]) -> Image.Image:
    raise InputError(
        f"image: {name!r} takes an input of shape {shape}, not a picture; "
        "call hirescam.explain from Python with a tensor, or return a Model from the factory"
    )


def _no_tensor(image: Image.Image, *, name: str, shape: tuple[int, ...]) -> Tensor:
    return normalise_picture(_no_picture(image, name=name, shape=shape), preset=Preset())
