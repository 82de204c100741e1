"""Does the map depend on what the network learnt, and on the class? Checks that only say no.

A map that stays the same when the network is replaced by a random one did not come from what the network
knows. The reverse does not hold: a map that changes need not be right, and channels weighted at random
(the rule ``random``) change as much once their activations are random. Similarities of −1 are no better
than 1, they are the same map with the other sign; good is close to 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hirescam.errors import InputError, MetricError
from hirescam.metrics.checks import flat
from hirescam.metrics.randomisation import Mode, randomised
from hirescam.metrics.registry import LOWER, SANITY, metric
from hirescam.metrics.scoring import Outputs
from hirescam.metrics.similarity import Similarity, alike

GROUPS = 10
"""Stages of a deep network: each costs an explanation of the whole batch and a certificate."""

ExplainWith = Callable[[nn.Module], Tensor]
"""From a network to maps ``(n, *size)``; images, targets, layer and rule are always the same."""


@dataclass(frozen=True)
class Curve:
    """How alike the maps of a network and of its randomised copies are.

    Attributes:
        layers: ``stages`` names of layers, in the order in which they were randomised.
        values: ``(n, stages)`` similarity of each image's map to the trained network's. The trained network
            itself is no stage.
    """

    layers: tuple[str, ...]
    values: Tensor


def mprt_curve(
    maps: Tensor,
    model: nn.Module,
    explain_with: ExplainWith,
    *,
    similarity: Similarity = "spearman",
    mode: Mode = "cascading",
    layers: int | Sequence[str] | None = GROUPS,
    seed: int = 0,
) -> Curve:
    """Randomise the network layer by layer and follow how alike its maps stay, for plots.

    Arguments and errors are those of ``mprt``.

    Example:
        >>> import hirescam, torch
        >>> from torch import nn
        >>> from hirescam.metrics import Case, Scene
        >>> from hirescam.metrics.sanity import mprt_curve
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)).eval()
        >>> case = Case(Scene(hirescam.Explainer(model), torch.rand(2, 3, 8, 8)))
        >>> curve = mprt_curve(case.maps, case.model, case.explain_with)
        >>> curve.layers, curve.values.shape
        (('3', '0'), torch.Size([2, 2]))
    """
    flat("maps", maps)
    names, found = [], []
    for name, network in randomised(model, mode=mode, layers=layers, seed=seed):
        names.append(name)
        found.append(alike(maps, _explained(explain_with, network, name), similarity))
    return Curve(tuple(names), torch.stack(found, 1))


@metric(kind=SANITY, better=LOWER, bounds=(-1, 1), units="similarity", cite="adebayo2018")
def mprt(
    maps: Tensor,
    model: nn.Module,
    explain_with: ExplainWith,
    *,
    similarity: Similarity = "spearman",
    mode: Mode = "cascading",
    layers: int | Sequence[str] | None = GROUPS,
    seed: int = 0,
) -> Tensor:
    """Randomise the network layer by layer and take the mean similarity of its maps to the original ones.

    (1 / L) · Σ_{l = 1 … L} similarity(map of the trained network, map after stage l)

    This is the model-parameter randomisation test. Stages go from the output to the input; in
    ``"cascading"`` mode the layers before stay random, in ``"independent"`` mode they come back. The trained
    network is no stage, so its similarity of 1 is in no average. Low is good: near 1 the map does not depend
    on what was learnt. Near −1 it does not either, but for its sign, which random weights of a pooled head
    can turn round; such values cancel others in a mean, so read it with ``similarity="spearman_abs"`` too. A
    rule that reads activations alone is at 1 for as long as only layers after the explained one are random.

    A map that becomes constant has similarity 0 to a map that varies; if both are constant it is 1, since
    the map did not respond: nothing is dropped. What re-initialising a layer means, for
    normalisation too, is said in `hirescam.metrics.randomisation.randomised`. The number depends on how many
    layers lie before and after the explained one, and a group of layers may lie on both sides of it: compare
    rules on one network at one layer.

    Source: the model parameter randomisation test of Adebayo et al. 2018, arXiv 1810.03292, where it is a
    curve and not a mean; `hirescam.metrics.sanity.mprt_curve` gives the curve.

    Args:
        maps: ``(n, *size)``, of the trained network.
        model: the trained network; it is copied and not touched.
        explain_with: gives maps of the same images, targets and layer for another network.
        similarity: see `hirescam.metrics.similarity.alike`.
        mode: ``"cascading"`` or ``"independent"``.
        layers: a number of groups, of nearly as many layers each, from the last registered layer to the
            first; None is every layer by itself, as slow as that is. Or names of layers or blocks in an order
            of your own; ``("",)`` is the whole network at once.
        seed: of the random parameters.

    Returns:
        ``(n,)`` in [−1, 1]; never NaN.

    Raises:
        InputError: an option or a layer is unknown, or maps and similarity do not fit together.
        MetricError: the network cannot be copied, or the maps of a randomised one are not finite.
    """
    curve = mprt_curve(maps, model, explain_with, similarity=similarity, mode=mode, layers=layers, seed=seed)
    return curve.values.mean(1)


@metric(kind=SANITY, better=LOWER, bounds=(-1, 1), units="similarity", cite="sixt2020")
def random_logit(
    maps: Tensor,
    images: Tensor,
    target: Tensor,
    predict: Outputs,
    explain_target: Callable[[Tensor], Tensor],
    *,
    similarity: Similarity = "spearman",
    seed: int = 0,
) -> Tensor:
    """Explain another class, drawn at random, and find how alike the two maps are.

    similarity(map of the explained class, map of the other class)

    Near 1 the map does not depend on the class, as for rules that read activations alone. The other class is
    uniform among all others and drawn once for each class, so that an image's does not depend on the batch
    that it is in. Constant maps: two are alike (1), one is not like one that varies (0). Classes may share
    evidence, so that 0 is not what a faithful map must reach; compare rules.

    Source: the random logit test of Sixt et al. 2020, arXiv 1912.09818, who take the structural similarity of
    maps of pixels; maps of a coarse grid are too smooth for it (see `hirescam.metrics.similarity.alike`).

    Args:
        maps: ``(n, *size)``.
        images: ``(n, c, *size)``; one of them tells the number of classes.
        target: ``(n,)``.
        predict: gives one number per class.
        explain_target: from other targets ``(n,)`` to maps ``(n, *size)`` of the same images.
        similarity: see `hirescam.metrics.similarity.alike`.
        seed: of the other classes.

    Returns:
        ``(n,)`` in [−1, 1]; never NaN.

    Raises:
        InputError: the model has one class, or maps and similarity do not fit together.
    """
    classes = predict(images[:1]).shape[1]
    if classes < 2:
        raise InputError("random_logit compares classes, but the model has one: leave this metric out")
    generator = torch.Generator().manual_seed(seed)
    step = torch.randint(1, classes, (classes,), generator=generator).to(target.device)
    return alike(maps, explain_target((target + step[target]) % classes), similarity)


def label_randomisation(
    labels: Tensor,
    train: Callable[[Tensor], nn.Module],
    explain_with: ExplainWith,
    *,
    similarity: Similarity = "spearman",
    seed: int = 0,
) -> Tensor:
    """Train one network on true labels and one on shuffled ones, and find how alike their maps are.

    similarity(map of the network trained on the labels, map of that trained on a permutation of them)

    Low is good: near 1 the map shows what any network of this architecture shows, whatever the images mean.
    The second network must learn its labels by heart (over 95 % of the training images in the source), or it
    is only a network that learnt nothing; that is up to ``train``. Constant maps are scored as in ``mprt``.
    It needs training, so it is a function and not a metric of the registry.

    Source: the data randomisation test of Adebayo et al. 2018, arXiv 1810.03292.

    Args:
        labels: ``(m,)``, of the training images.
        train: from labels ``(m,)`` to a trained network in evaluation mode; the same images, initial values
            and number of steps each time.
        explain_with: from a network to maps ``(n, *size)`` of images that it was not trained on, for the same
            targets.
        similarity: see `hirescam.metrics.similarity.alike`.
        seed: of the permutation.

    Returns:
        ``(n,)`` in [−1, 1]; never NaN.

    Raises:
        InputError: the permutation changes no label, or maps and similarity do not fit together.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    if torch.equal(labels[order], labels):
        raise InputError(
            f"labels are the same after shuffling {len(labels)} of them: give more, of two classes"
        )
    return alike(explain_with(train(labels)), explain_with(train(labels[order])), similarity)


def _explained(explain_with: ExplainWith, network: nn.Module, layer: str) -> Tensor:
    maps = explain_with(network)
    if not bool(maps.isfinite().all()):
        bad = int((~maps.isfinite()).flatten(1).any(1).nonzero()[0])
        raise MetricError(
            f"after randomising {layer!r} the map of image {bad} has NaN or infinite values: the random "
            "network overflows; give layers= without it, or a network in float64"
        )
    return maps
