"""scikit-learn's 8x8 digits come in; a small flatten-head network trained on them goes out.

With ``cut`` the head's weights on the right half of the field are zero before, during and after
training, so that it is known for certain which cells the score cannot come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import repeat

import torch
from torch import Tensor, nn

from hirescam.errors import InputError, ModelError
from hirescam.networks import training
from hirescam.passes.borrow import session

SIDE = 8
CLASSES = 10
EPOCHS = 12
CHANNELS = (16, 32)
_TEST_SHARE = 5


class DigitsNet(nn.Module):
    """Two convolutions and one linear layer: ``(b, 1, side, side)`` to ``(b, 10)`` logits.

    ``features`` gives the last maps, ``(b, 32, side, side)``: one cell for each pixel.
    """

    def __init__(self, side: int = SIDE, *, channels: Sequence[int] = CHANNELS, pooled: bool = False) -> None:
        """Lay out the layers, with PyTorch's usual initial values.

        Args:
            side: Of the images, in pixels.
            channels: Of the two convolutions.
            pooled: Average over all places before the linear layer, instead of a weight for each.
        """
        super().__init__()
        first, second = channels
        self.features = nn.Sequential(
            nn.Conv2d(1, first, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
        )
        self.flatten = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()) if pooled else nn.Flatten()
        self.head = nn.Linear(second if pooled else second * side * side, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits of ``(b, 1, side, side)`` images with values in [0, 1]."""
        logits: Tensor = self.head(self.flatten(self.features(images)))
        return logits


Labelled = tuple[Tensor, Tensor]
"""Images ``(n, 1, 8, 8)`` and their labels ``(n,)``."""


@dataclass(frozen=True, slots=True)
class DigitsResult:
    """A trained network, the images it never saw, and the cells that its head cannot see.

    Attributes:
        model: The network, in evaluation mode.
        train_images: ``(m, 1, 8, 8)`` float32 in [0, 1], what it was trained on.
        train_labels: ``(m,)`` int64, the labels that it was trained on.
        test_images: ``(n, 1, 8, 8)`` float32 in [0, 1].
        test_labels: ``(n,)`` int64.
        accuracy: Share of the test images that are classified correctly.
        dead: ``(8, 8)`` bool, true where every weight of the head is exactly zero by design.
    """

    model: DigitsNet
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    accuracy: float
    dead: Tensor


def train(
    seed: int = 0, cut: bool = True, *, epochs: int = EPOCHS, labels: Tensor | None = None
) -> DigitsResult:
    """Train the network from scratch, in a few seconds and the same way each time.

    The global random state and the number of threads stay as they are.

    Args:
        seed: Seeds the split, the initial weights and the order of the images.
        cut: Keep the head's weights on the right half of the field at exactly zero.
        epochs: Passes over the training images, at least 1.
        labels: ``(m,)`` int64 to train on in place of the true ones, such as a permutation of the
            ``train_labels`` of an earlier run with the same seed. The accuracy is that on true labels.

    Raises:
        InputError: ``epochs`` is below 1, or ``labels`` does not fit the training images.
        ModelError: scikit-learn is not installed.
    """
    if epochs < 1:
        raise InputError(f"epochs: got {epochs!r}, expected at least 1; leave it at {EPOCHS}")
    generator = torch.Generator().manual_seed(seed)
    seen, unseen = load(generator)
    if labels is not None:
        seen = (seen[0], _checked(labels, seen[1]))
    model = training.initialised(DigitsNet, generator)
    dead = _dead_cells(cut)
    training.fit(model, repeat(seen, epochs), generator, after_step=lambda: silence(model, dead))
    return DigitsResult(model, *seen, *unseen, accuracy(model, *unseen), dead)


def _checked(labels: Tensor, truth: Tensor) -> Tensor:
    fits = labels.shape == truth.shape and labels.dtype == truth.dtype
    if not fits or not 0 <= int(labels.min()) <= int(labels.max()) < CLASSES:
        raise InputError(
            f"labels: got shape {tuple(labels.shape)} and {labels.dtype}, expected {tuple(truth.shape)} and "
            f"{truth.dtype} in 0 … {CLASSES - 1}; permute the train_labels of a first run"
        )
    with session(grad=False):
        return labels.clone()


def load(generator: torch.Generator) -> tuple[Labelled, Labelled]:
    """Return the digits to train on, and those to test on: images ``(n, 1, 8, 8)`` in [0, 1] and labels.

    Args:
        generator: draws which fifth is for testing, and the order.

    Raises:
        ModelError: scikit-learn is not installed.
    """
    with session(grad=False):
        images, labels = _load()
        order = torch.randperm(len(labels), generator=generator)
        held_out = len(labels) // _TEST_SHARE
        unseen, seen = order[:held_out], order[held_out:]
        return (images[seen], labels[seen]), (images[unseen], labels[unseen])


def _load() -> tuple[Tensor, Tensor]:
    try:
        data = import_module("sklearn.datasets").load_digits()
    except ImportError as error:
        raise ModelError(
            "digits: training needs scikit-learn, which is not installed; "
            "install it with `pip install scikit-learn`"
        ) from error
    images = torch.as_tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    return images, torch.as_tensor(data.target, dtype=torch.int64)


def _dead_cells(cut: bool) -> Tensor:
    dead = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    dead[:, SIDE // 2 :] = cut
    return dead


@torch.no_grad()
def silence(model: DigitsNet, dead: Tensor) -> None:
    """Set the weights of a flatten head to zero where ``dead``, ``(side, side)``, is true."""
    model.head.weight.view(CLASSES, -1, *dead.shape).masked_fill_(dead, 0.0)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is their label's."""
    return float((model(images).argmax(dim=1) == labels).float().mean())
