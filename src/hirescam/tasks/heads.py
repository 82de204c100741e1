"""The same digits with three heads: cut in half, whole, and pooled."""

from itertools import repeat

import torch
from torch import Tensor

from hirescam.networks import digits, training
from hirescam.networks.digits import DigitsNet
from hirescam.tasks.task import Task

_LAYER = "features"
_POOLED_EPOCHS = 40


def digits_cut(seed: int = 0) -> Task:
    """Make a network that cannot use the right half of its last maps, and images for it.

    Every weight of the head on that half is zero before, during and after training. Whatever a map shows
    there is wrong, for any image, and no judgement of a person is needed: the share of a map's positive part
    that lies there (``unused_mass``) should be 0. The network reads handwritten digits well with the left
    half of its maps, whose cells see two pixels further. `hirescam.networks.digits` trains it.

    What it assumes: nothing about the images. What it does not show: anything about a network that is free
    to use all of its maps (see `digits_flatten`).

    Args:
        seed: of the split, the initial weights and the order of the images.
    """
    return _whole_field("digits_cut", seed, cut=True)


def digits_flatten(seed: int = 0) -> Task:
    """Make the network of `digits_cut` without the cut: a flatten head that is free to use every cell.

    No location is known to be unused; the effects of removing each are still exact, and maps are held
    against them.

    Args:
        seed: of the split, the initial weights and the order of the images.
    """
    return _whole_field("digits_flatten", seed, cut=False)


def digits_pooled(seed: int = 0) -> Task:
    """Make the network of `digits_cut` with global average pooling before its linear layer.

    One weight for each channel and the same everywhere: HiResCAM, Grad-CAM, XGrad-CAM and CAM are one map
    (CAM up to the number of locations), and no task can tell them apart.

    Args:
        seed: of the split, the initial weights and the order of the images.
    """
    generator = torch.Generator().manual_seed(seed)
    seen, unseen = digits.load(generator)
    model = training.initialised(lambda: DigitsNet(pooled=True), generator)
    training.fit(model, repeat(seen, _POOLED_EPOCHS), generator)
    return _task("digits_pooled", model, *unseen)


def _whole_field(name: str, seed: int, *, cut: bool) -> Task:
    trained = digits.train(seed, cut)
    unused = trained.dead if cut else None
    return _task(name, trained.model, trained.test_images, trained.test_labels, unused=unused)


def _task(
    name: str, model: DigitsNet, images: Tensor, labels: Tensor, *, unused: Tensor | None = None
) -> Task:
    with torch.no_grad():
        target = model(images).argmax(1)
    facts = {"accuracy": digits.accuracy(model, images, labels)}
    return Task(name, model, _LAYER, images, labels, target, unused=unused, facts=facts)
