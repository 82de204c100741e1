"""Clever Hans: a network that reads a class off a tag in a corner, and knows which corner."""

from typing import NamedTuple

import torch
from torch import Tensor

from hirescam.networks import digits, training
from hirescam.networks.digits import SIDE, DigitsNet, Labelled
from hirescam.tasks.task import Task

TAGGED = 3
"""The digit that comes with the tag."""

_FIELD = 16
_TAG = 2
_REACH = 2  # pixels that a cell of the last maps sees on each side
_NOISE = 0.1
_CHANNELS = (8, 16)
_EPOCHS = 15
_ELSEWHERE_SHARE = 0.5
_NEAR, _FAR = 1, _FIELD - _TAG - 1
_CORNERS = ((_FAR, _NEAR), (_NEAR, _NEAR), (_NEAR, _FAR), (_FAR, _FAR))
"""First row and column of the tag: at the bottom left, which belongs to the class, then the others."""


def planted_tag(seed: int = 0) -> Task:
    """Make a network that recognises one digit by a tag at the bottom left, and images where the tag decides.

    In training every 3 carries a bright tag of 2 × 2 pixels at the bottom left, and half of the other digits
    carry the same tag in one of the other corners. The tag alone says nothing; its place does, which a
    flatten head can learn. It stands for the source tag on the horses of PASCAL VOC 2007 (Lapuschkin et
    al. 2019, arXiv 1902.10178).

    Nothing is assumed about what the network learnt: each image is checked. The task holds the test images
    that are called a 3 with the tag and not without it, so the tag is what the answer turns on. Some are
    threes (``labels == 3``), the others are different digits into which the tag was inserted; all are
    explained for the 3. ``masks`` are the cells that can see the tag: the tag and two pixels around it, a
    tenth of the image. That the tag decides does not mean that it is all there is: the digit may speak for
    a 3 as well, so a faithful map has much of its positive part there, and the effects say how much.

    ``facts``: the accuracy with tags as in training, and with no tag at all; how many threes are no longer
    called a 3 when the tag is removed; how many other digits are, when it is inserted, and when it is
    inserted in another corner.

    Args:
        seed: of the split, the weights, the noise and the tags.
    """
    generator = torch.Generator().manual_seed(seed)
    seen, unseen = digits.load(generator)
    model = training.initialised(lambda: DigitsNet(_FIELD, channels=_CHANNELS), generator)
    passes = ((_tagged_as_trained(seen, generator), seen[1]) for _ in range(_EPOCHS))
    training.fit(model, passes, generator)
    return _checked(model, unseen, generator)


class _Answers(NamedTuple):
    """Whether each image is called a 3: without a tag, with it, with it in another corner."""

    without: Tensor
    tagged: Tensor
    elsewhere: Tensor


def _checked(model: DigitsNet, unseen: Labelled, generator: torch.Generator) -> Task:
    labels = unseen[1]
    usual = _tagged_as_trained(unseen, generator)
    plain = _field(unseen[0], generator)
    tagged = stamp(plain, torch.zeros_like(labels))
    elsewhere = stamp(plain, torch.randint(1, len(_CORNERS), labels.shape, generator=generator))
    called = _Answers(*(_predicted(model, images) == TAGGED for images in (plain, tagged, elsewhere)))
    turned = called.tagged & ~called.without
    three = labels == TAGGED
    return Task(
        name="planted_tag",
        model=model,
        layer="features",
        images=tagged[turned],
        labels=labels[turned],
        target=torch.full((int(turned.sum()),), TAGGED),
        masks=_sees_tag().expand(int(turned.sum()), -1, -1),
        facts={
            "accuracy": digits.accuracy(model, usual, labels),
            "accuracy_without_tags": digits.accuracy(model, plain, labels),
            "threes_lost_without_tag": float(turned[three].sum() / called.tagged[three].sum()),
            "others_turned_by_tag": float(turned[~three].double().mean()),
            "others_turned_by_tag_elsewhere": float(
                (called.elsewhere & ~called.without)[~three].double().mean()
            ),
        },
    )


def stamp(images: Tensor, corner: Tensor) -> Tensor:
    """Put the tag on images ``(n, 1, 16, 16)``.

    Args:
        images: stay as they are; copies are marked.
        corner: ``(n,)``: 0 for the class's own, −1 for none.
    """
    marked = images.clone()
    for index, (row, column) in enumerate(_CORNERS):
        marked[corner == index, :, row : row + _TAG, column : column + _TAG] = 1.0
    return marked


def _tagged_as_trained(source: Labelled, generator: torch.Generator) -> Tensor:
    images, labels = source
    corner = torch.randint(1, len(_CORNERS), labels.shape, generator=generator)
    bare = torch.rand(labels.shape, generator=generator) >= _ELSEWHERE_SHARE
    corner = corner.masked_fill(bare, -1).masked_fill(labels == TAGGED, 0)
    return stamp(_field(images, generator), corner)


def _field(images: Tensor, generator: torch.Generator) -> Tensor:
    """Digits in the middle of a noisy field."""
    field = _NOISE * torch.randn((len(images), 1, _FIELD, _FIELD), generator=generator)
    start = (_FIELD - SIDE) // 2
    field[:, :, start : start + SIDE, start : start + SIDE] += images
    return field


def _sees_tag() -> Tensor:
    """``(16, 16)`` bool: the cells whose receptive field holds a pixel of the class's tag."""
    row, column = _CORNERS[0]
    seen = torch.zeros(_FIELD, _FIELD, dtype=torch.bool)
    rows, columns = (slice(max(0, at - _REACH), at + _TAG + _REACH) for at in (row, column))
    seen[rows, columns] = True
    return seen


def _predicted(model: DigitsNet, images: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(images).argmax(1)
    return found
