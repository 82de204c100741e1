"""A reference is looked up at the source that it names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hirescam.errors import InputError, SpecError
from hirescam.models.builtin import load_crepe, load_lite0
from hirescam.models.exported import SUFFIX
from hirescam.models.factories import from_factory
from hirescam.models.labels import read_labels
from hirescam.models.model import Model
from hirescam.models.timm_zoo import from_timm
from hirescam.models.torchvision_zoo import from_torchvision


def resolve(
    spec: str,
    *,
    weights: Path | None = None,
    labels: Path | None = None,
    image_size: int | None = None,
) -> Model:
    """Build the network that a reference names.

    Networks of torchvision and timm get random weights, the same in every run, unless ``weights``
    is given; where that file has another number of classes, so has the network. Neither the
    random state nor any other global setting is left changed. A network that a module keeps as an
    attribute is put into evaluation mode.

    Args:
        spec: ``lite0``, ``crepe``, ``torchvision:NAME``, ``timm:NAME``,
            ``package.module:factory`` or ``file.py:factory``. A factory takes no arguments and
            returns an ``nn.Module`` or a ``Model``; it may also be an ``nn.Module``.
        weights: A ``.safetensors`` file or a state dict.
        labels: A text file with one label per line, or JSON: a list, or a dict by class index.
        image_size: Side in pixels of the input, instead of the network's own.

    Raises:
        SpecError: The reference cannot be resolved, or names a network that does not classify.
        WeightsError: The weights cannot be loaded, or do not fit.
        InputError: The labels cannot be read, or ``image_size`` is not positive.
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"image_size: got {image_size!r}, expected at least 1; leave it out or 224")
    names = None if labels is None else read_labels(labels)
    model = _built(spec, weights, image_size)
    model.module.eval()
    return model if names is None else replace(model, labels=names)


def _built(spec: str, weights: Path | None, image_size: int | None) -> Model:
    prefix, _, name = spec.partition(":")
    if spec.endswith(SUFFIX):
        raise SpecError(
            f"spec: {spec!r} is an exported network, which only `hirescam explain` takes: everything else "
            "needs the graph of the PyTorch network; name that"
        )
    if spec == "lite0":
        return load_lite0(weights, image_size)
    if spec == "crepe":
        return load_crepe(weights)
    if prefix == "torchvision" and name:
        return from_torchvision(name, weights, image_size)
    if prefix == "timm" and name:
        return from_timm(name, weights, image_size)
    return from_factory(spec, weights, image_size)
