"""scikit-learn's 8x8 digits come in; a small flatten-head network trained on them goes out.

With ``cut`` the head's weights on the right half of the field are zero before, during and after
training, so that it is known for certain which cells the score cannot come from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor, nn

from hirescam.errors import InputError, ModelError
from hirescam.networks.weights import blank

SIDE = 8
CLASSES = 10
EPOCHS = 12
_CHANNELS = (16, 32)
_BATCH = 64
_TEST_SHARE = 5


class DigitsNet(nn.Module):
    """Two convolutions and one linear layer: ``(b, 1, 8, 8)`` to ``(b, 10)`` logits.

    ``features`` gives the last maps, ``(b, 32, 8, 8)``: one cell for each pixel.
    """

    def __init__(self) -> None:
        """Lay out the layers, with PyTorch's usual initial values."""
        super().__init__()
        first, second = _CHANNELS
        self.features = nn.Sequential(
            nn.Conv2d(1, first, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
        )
        self.flatten = nn.Flatten()
        self.head = nn.Linear(second * SIDE * SIDE, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits of ``(b, 1, 8, 8)`` images with values in [0, 1]."""
        logits: Tensor = self.head(self.flatten(self.features(images)))
        return logits


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
    with torch.inference_mode(False), torch.enable_grad():
        images, truth = _shuffled(*_load(), generator=generator)
        held_out = len(truth) // _TEST_SHARE
        test_images, train_images = (part.clone() for part in images.split((held_out, len(truth) - held_out)))
        test_labels, train_labels = (part.clone() for part in truth.split((held_out, len(truth) - held_out)))
        if labels is not None:
            train_labels = _checked(labels, train_labels)
        dead = _dead_cells(cut)
        model = _initialised(generator)
        _fit(model, train_images, train_labels, dead, epochs, generator)
    accuracy = _accuracy(model.eval(), test_images, test_labels)
    return DigitsResult(model, train_images, train_labels, test_images, test_labels, accuracy, dead)


def _checked(labels: Tensor, truth: Tensor) -> Tensor:
    fits = labels.shape == truth.shape and labels.dtype == truth.dtype
    if not fits or not 0 <= int(labels.min()) <= int(labels.max()) < CLASSES:
        raise InputError(
            f"labels: got shape {tuple(labels.shape)} and {labels.dtype}, expected {tuple(truth.shape)} and "
            f"{truth.dtype} in 0 … {CLASSES - 1}; permute the train_labels of a first run"
        )
    return labels.clone()


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


def _shuffled(images: Tensor, labels: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(labels), generator=generator)
    return images[order], labels[order]


def _dead_cells(cut: bool) -> Tensor:
    dead = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    dead[:, SIDE // 2 :] = cut
    return dead


def _initialised(generator: torch.Generator) -> DigitsNet:
    model = blank(DigitsNet)
    for name, value in model.named_parameters():
        if name.endswith("weight"):
            nn.init.kaiming_uniform_(value, nonlinearity="relu", generator=generator)
        else:
            nn.init.zeros_(value)
    return model


def _fit(
    model: DigitsNet,
    images: Tensor,
    labels: Tensor,
    dead: Tensor,
    epochs: int,
    generator: torch.Generator,
) -> None:
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    _silence(model, dead)
    for _ in range(epochs):
        for batch in _batches(len(labels), generator):
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            torch.autograd.backward(loss)
            optimiser.step()
            _silence(model, dead)
    optimiser.zero_grad(set_to_none=True)


def _batches(count: int, generator: torch.Generator) -> Iterator[Tensor]:
    order = torch.randperm(count, generator=generator)
    return (order[start : start + _BATCH] for start in range(0, count, _BATCH))


@torch.no_grad()
def _silence(model: DigitsNet, dead: Tensor) -> None:
    model.head.weight.view(CLASSES, -1, SIDE, SIDE).masked_fill_(dead, 0.0)


@torch.no_grad()
def _accuracy(model: DigitsNet, images: Tensor, labels: Tensor) -> float:
    return float((model(images).argmax(dim=1) == labels).float().mean())
