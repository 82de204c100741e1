"""A data set in the layout of PASCAL VOC and a network, both so small that every number can be worked out."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from hirescam.evaluation.voc import CLASSES
from hirescam.models import Model, Preset, crop_picture, normalise_picture

SIDE = 32
LABELS = ("cat", "dog", "bird", "sofa")
Things = Sequence[tuple[str, tuple[int, int, int, int], bool]]
"""Name, box as in the files (1-based, inclusive), difficult."""

PICTURES: dict[str, Things] = {
    "a": [("cat", (5, 9, 20, 30), False)],
    "b": [("dog", (1, 1, 16, 16), False), ("dog", (30, 20, 48, 40), True), ("person", (3, 3, 9, 9), False)],
    "c": [("cat", (10, 10, 30, 30), False), ("bird", (20, 5, 40, 25), True)],
    "d": [("sofa", (4, 4, 44, 36), False)],
}


def voc(
    folder: Path, pictures: Mapping[str, Things] = PICTURES, *, masks: bool = True, split: str = "val"
) -> Path:
    """Write a data set of pictures of 48×40 pixels; gives its root."""
    root = folder / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main", "SegmentationClass"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / f"ImageSets/Main/{split}.txt").write_text("".join(f"{name}\n" for name in pictures))
    for place, (name, things) in enumerate(pictures.items()):
        picture(root / f"JPEGImages/{name}.jpg", seed=place)
        (root / f"Annotations/{name}.xml").write_text(annotation(things))
        if masks:
            drawn = np.zeros((40, 48), dtype=np.uint8)
            for own, (left, top, right, bottom), _ in things:
                drawn[top - 1 : bottom, left - 1 : right] = CLASSES.index(own) + 1
            Image.fromarray(drawn, "L").save(root / f"SegmentationClass/{name}.png")
    return root


def annotation(things: Things, size: tuple[int, int] = (48, 40)) -> str:
    """Write what is on a picture, with a part that has a box of its own."""
    edges = ("xmin", "ymin", "xmax", "ymax")
    objects = "".join(
        f"<object><name>{name}</name><difficult>{int(difficult)}</difficult><part><name>head</name><bndbox>"
        "<xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part><bndbox>"
        + "".join(f"<{edge}>{value}</{edge}>" for edge, value in zip(edges, box, strict=True))
        + "</bndbox></object>"
        for name, box, difficult in things
    )
    width, height = size
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{objects}</annotation>"


def picture(path: Path, *, seed: int = 0, size: tuple[int, int] = (48, 40)) -> Path:
    """Write a picture of coarse noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).resize(size, Image.Resampling.NEAREST).save(path)
    return path


def network() -> nn.Module:
    """Conv, ReLU, flatten, one linear layer, on 8×8 places: exact."""
    torch.manual_seed(7)
    layers = (nn.Conv2d(3, 6, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, len(LABELS)))
    return nn.Sequential(*layers).eval()


def model(
    *, module: nn.Module | None = None, labels: tuple[str, ...] | None = LABELS, **about: object
) -> Model:
    """The network, with a crop of the middle."""
    preset = Preset(size=(SIDE, SIDE), resize=(SIDE, SIDE), mean=(0.5,) * 3, std=(0.25,) * 3)
    crop, normalise = partial(crop_picture, preset=preset), partial(normalise_picture, preset=preset)
    return Model(module or network(), "mini", crop, normalise, labels, (3, SIDE, SIDE), **about)
