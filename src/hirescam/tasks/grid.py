"""The grid pointing game with a head that knows places: which of n × n digits speaks for the class?"""

import torch
from torch import Tensor, nn

from hirescam.errors import InputError
from hirescam.networks import digits, training
from hirescam.networks.digits import CLASSES, SIDE, DigitsNet, Labelled
from hirescam.tasks.task import Task

_CHANNELS = (8, 16)
_MOSAICS = 3000
_EPOCHS = 12
_RATE = 0.02
_CANDIDATES = 800
_MOST = 200
_CONFIDENT = 0.99


def grid_pointing(seed: int = 0, *, n: int = 2) -> Task:
    """Make a network that tells which digits are in a mosaic of n × n, and mosaics that it is sure about.

    In the grid pointing game (Rao et al. 2022, arXiv 2205.10435) a mosaic of images of different classes is
    explained for one of them. The score is the share of the map's positive part within that class's cell:
    ``relevance_mass`` here, which is 0 for a map without a positive part (theirs is 0 below 1e-7). Chance
    is 1/n².

    There the classifier was trained on single images and pools before its last layer. Here it has a flatten
    head, so it is trained on mosaics: for each of the ten classes it answers whether it is present, with a
    binary cross-entropy for each. The digits of a training mosaic are drawn independently, with repetition,
    so that no cell tells anything about another and the network has to look at all of them. The mosaics of
    the task show n² different digits that it never saw, and it gives the explained one a probability of at
    least 0.99.

    What it assumes: that a network which is sure of a class has found it in the cell that shows it. This is
    likely and not certain. Other digits can look like the class and add to its score, so the network's own
    share (that of the positive effects, and of HiResCAM, since the head is exact) is below 1. That share, not
    1, is what a faithful map scores, and a higher one is not more faithful. Cells at a border also
    see two pixels of the neighbour. ``facts`` says how often the class is lost (probability below 0.5) when
    its own cell, or all others, show other digits instead.

    Args:
        seed: of the split, the weights and the mosaics.
        n: digits along each side, 2 or 3.

    Raises:
        InputError: n is neither 2 nor 3, which would leave no choice or repeat digits.
    """
    if n not in (2, 3):
        raise InputError(f"n={n}: a mosaic has 2 × 2 or 3 × 3 different digits, so give 2 or 3")
    generator = torch.Generator().manual_seed(seed)
    seen, unseen = digits.load(generator)
    model = training.initialised(lambda: DigitsNet(n * SIDE, channels=_CHANNELS), generator)
    passes = (_any_digits(seen, n, generator) for _ in range(_EPOCHS))
    training.fit(model, passes, generator, rate=_RATE, loss=_presence_loss)
    return _asked(model, unseen, n, generator)


def _asked(model: DigitsNet, digits: Labelled, n: int, generator: torch.Generator) -> Task:
    """The mosaics with a confident answer, and how much the answer depends on the cell."""
    tiles, labels = _different_digits(digits, n * n, generator)
    cell = torch.randint(n * n, (_CANDIDATES,), generator=generator)
    target = labels.gather(1, cell[:, None])[:, 0]
    present = nn.functional.one_hot(labels, CLASSES).amax(1)
    accuracy = (_probabilities(model, mosaic(tiles, n)).round() == present).double().mean()
    sure = (_probability(model, tiles, target) >= _CONFIDENT).nonzero()[:_MOST, 0]
    tiles, target, there = tiles[sure], target[sure], nn.functional.one_hot(cell[sure], n * n).bool()
    other = _other_digits(digits, target, n * n, generator)
    lost = [
        (_probability(model, torch.where(where[:, :, None, None, None], other, tiles), target) < 0.5)
        for where in (there, ~there)
    ]
    return Task(
        name="grid_pointing",
        model=model,
        layer="features",
        images=mosaic(tiles, n),
        labels=target,
        target=target,
        masks=there.reshape(-1, n, n).repeat_interleave(SIDE, 1).repeat_interleave(SIDE, 2),
        predict=lambda images: _probabilities(model, images),
        facts={
            "accuracy": float(accuracy),
            "lost_without_cell": float(lost[0].double().mean()),
            "lost_without_others": float(lost[1].double().mean()),
        },
    )


def mosaic(tiles: Tensor, n: int) -> Tensor:
    """Lay ``(m, n², 1, side, side)`` digits side by side: ``(m, 1, n · side, n · side)``, row by row."""
    grid: Tensor = tiles.unflatten(1, (n, n))
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def _any_digits(digits: Labelled, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mosaics of any digits, and for each class whether it is present."""
    images, labels = digits
    chosen = torch.randint(len(labels), (_MOSAICS, n * n), generator=generator)
    return mosaic(images[chosen], n), nn.functional.one_hot(labels[chosen], CLASSES).amax(1).float()


def _different_digits(digits: Labelled, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows of digits of different classes, with their classes."""
    classes = torch.rand((_CANDIDATES, CLASSES), generator=generator).argsort(1)[:, :count]
    right = digits[1] == classes.reshape(-1, 1)
    chosen = torch.multinomial(right.float(), 1, generator=generator).reshape(classes.shape)
    return digits[0][chosen], classes


def _other_digits(digits: Labelled, target: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Rows of digits of any class but the target's."""
    wrong = digits[1] != target[:, None]
    return digits[0][torch.multinomial(wrong.float(), count, generator=generator)]


def _probability(model: DigitsNet, tiles: Tensor, target: Tensor) -> Tensor:
    n = round(tiles.shape[1] ** 0.5)
    return _probabilities(model, mosaic(tiles, n)).gather(1, target[:, None])[:, 0]


def _probabilities(model: DigitsNet, images: Tensor) -> Tensor:
    """For each class by itself, that it is present."""
    with torch.no_grad():
        found: Tensor = model(images).sigmoid()
    return found


def _presence_loss(logits: Tensor, present: Tensor) -> Tensor:
    """Binary cross-entropy, the sum over classes."""
    each = nn.functional.binary_cross_entropy_with_logits(logits, present, reduction="none")
    return each.sum(1).mean()
