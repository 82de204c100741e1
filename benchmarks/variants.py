"""The same work in several libraries: each variant is a function that returns raw maps ``(b, t, *space)``."""

import copy
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import hirescam
from benchmarks.networks import CLASSES, NETWORKS
from benchmarks.timing import Rounds, paired

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from captum.attr import LayerGradientXActivation
    from pytorch_grad_cam import HiResCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from torchcam.methods import GradCAM

Maps = Callable[[], Tensor]

BARE, OURS, HEAD_ONLY = "bare forward", "hirescam", "hirescam, head gradient"
GRAD_CAM, CAPTUM, TORCHCAM = "grad-cam", "captum", "torchcam"
PEERS = {GRAD_CAM, CAPTUM, TORCHCAM}

TOLERANCE = 1e-4
_CHECKED_IMAGES = 2
_CHECKED_CLASSES = 20


class WrongMapsError(AssertionError):
    """Two variants give different maps: there is nothing to time."""


class _Raw(HiResCAM):
    """Keeps the array that the public call then clips, scales and resizes."""

    def get_cam_image(self, *words: object) -> object:
        self.raw = super().get_cam_image(*words)
        return self.raw


def bare(model: nn.Module, x: Tensor) -> Maps:
    """The forward pass alone."""

    def run() -> Tensor:
        with torch.inference_mode():
            return model(x)

    return run


def ours(model: nn.Module, name: str, x: Tensor, index: Tensor) -> Maps:
    """An explainer, used again and again."""
    explainer = hirescam.Explainer(model, layer=NETWORKS[name].layer)
    target = hirescam.AllClasses() if index.shape[1] == CLASSES else index
    return lambda: explainer(x, target=target).raw


def head_only(model: nn.Module, name: str, x: Tensor, index: Tensor) -> Maps:
    """One forward pass and the gradient of the head: functions of the output never take the closed form."""
    explainer = hirescam.Explainer(model, layer=NETWORKS[name].layer)

    def scores(output: Tensor) -> Tensor:
        return output.gather(1, index[: len(output)])

    return lambda: explainer(x, target=scores).raw


def grad_cam(model: nn.Module, name: str, x: Tensor, index: Tensor) -> Maps:
    """pytorch-grad-cam's HiResCAM, called as its documentation does; an image is repeated for every class."""
    model = copy.deepcopy(model)
    peer = _Raw(model, [model.get_submodule(NETWORKS[name].module)])
    repeated = x.repeat_interleave(index.shape[1], dim=0) if index.shape[1] > 1 else x
    targets = [ClassifierOutputTarget(label) for label in index.flatten().tolist()]

    def run() -> Tensor:
        peer(repeated, targets)
        return torch.from_numpy(peer.raw).unflatten(0, tuple(index.shape))

    return run


def captum(model: nn.Module, name: str, x: Tensor, index: Tensor) -> Maps:
    """captum's LayerGradientXActivation, summed over channels, in a loop over classes."""
    peer = LayerGradientXActivation(model, model.get_submodule(NETWORKS[name].module))

    def run() -> Tensor:
        maps = [peer.attribute(x, target=column).sum(1).detach() for column in index.unbind(1)]
        return torch.stack(maps, dim=1)

    return run


def torchcam(model: nn.Module, name: str, x: Tensor, index: Tensor) -> Maps:
    """torchcam's GradCAM without normalisation: one forward pass, a backward pass of the head per class."""
    model = copy.deepcopy(model)
    peer = GradCAM(model, NETWORKS[name].module, input_shape=tuple(x.shape[1:]))
    columns = index.T.tolist()

    def run() -> Tensor:
        logits = model(x)
        maps = []
        for number, labels in enumerate(columns, 1):
            keep = number < len(columns)
            maps += peer(labels, logits, normalized=False, retain_graph=keep)
        return torch.stack(maps, dim=1)

    return run


MAKERS = {OURS: ours, HEAD_ONLY: head_only, GRAD_CAM: grad_cam, CAPTUM: captum, TORCHCAM: torchcam}


@dataclass(frozen=True)
class Checked:
    """Variants whose maps are right.

    Attributes:
        works: the bare forward pass, and the variants.
        once: how many seconds a call took of those that are warm.
        error: how far hirescam's maps are from the definition, relative to the largest value.
    """

    works: dict[str, Maps]
    once: dict[str, float]
    error: float

    def timed(self, seconds: float, rounds: int | None) -> Rounds:
        """Time them in turns; the other libraries in every second round at most."""
        return paired(self.works, seconds=seconds, rounds=rounds, seldom=PEERS, once=self.once)

    @property
    def difference(self) -> dict[str, float]:
        """The error, as a cell of a table."""
        return {"difference": self.error}


def checked(model: nn.Module, name: str, x: Tensor, index: Tensor, wanted: tuple[str, ...]) -> Checked:
    """Build variants and check what they return.

    Args:
        model: the network, in evaluation mode.
        name: which of the networks it is.
        x: images ``(b, c, *space)``.
        index: classes ``(b, t)``.
        wanted: names of variants.

    Raises:
        WrongMapsError: a variant's maps are not those of the definition.
    """
    expected = definition(model, name, x[:_CHECKED_IMAGES], index[:_CHECKED_IMAGES, :_CHECKED_CLASSES])
    works: dict[str, Maps] = {BARE: bare(model, x)}
    once: dict[str, float] = {}
    errors = [0.0]
    for variant in wanted:
        work = works[variant] = MAKERS[variant](model, name, x, index)
        start = time.perf_counter()
        maps = work()
        if variant in PEERS:  # the first call of an explainer says nothing about the others
            once[variant] = time.perf_counter() - start
        error = check(variant, name, maps[:_CHECKED_IMAGES, :_CHECKED_CLASSES], expected)
        errors += [] if variant in PEERS else [error]
    return Checked(works, once, max(errors))


def check(variant: str, name: str, maps: Tensor, expected: Tensor) -> float:
    """The largest difference of maps from the definition, relative to the largest value.

    Raises:
        WrongMapsError: it is more than rounding explains.
    """
    if variant == TORCHCAM and not NETWORKS[name].averages:
        return 0.0  # another method; it is only timed
    clipped = expected.relu() if variant == TORCHCAM else expected
    if maps.shape != expected.shape:
        raise WrongMapsError(
            f"{name}: maps of {variant} have shape {tuple(maps.shape)}, not {tuple(expected.shape)}"
        )
    error = float((maps.detach() - clipped).abs().max() / expected.abs().max())
    if not error <= TOLERANCE:
        raise WrongMapsError(f"{name}: the maps of {variant} differ by {error:.1e} of the largest value")
    return error


def definition(model: nn.Module, name: str, x: Tensor, index: Tensor) -> Tensor:
    """Σ_k ∂score/∂A[k]·A[k] by autograd, class by class, at the module that the others hook."""
    kept: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        torch.set_grad_enabled(True)
        kept.append(output.detach().requires_grad_())
        return kept[0].clone()  # what follows may be in place

    with model.get_submodule(NETWORKS[name].module).register_forward_hook(cut), torch.no_grad():
        logits = model(x)
    (leaf,), maps = kept, []
    for column in index.unbind(1):
        score = logits.gather(1, column[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, leaf, retain_graph=True)
        maps.append((gradient * leaf).sum(1).detach())
    return torch.stack(maps, dim=1)


def one_class_each(batch: int) -> Tensor:
    """A different class for every image, ``(b, 1)``."""
    return (torch.arange(batch) * 61 + 7).remainder(CLASSES)[:, None]


def same_classes(batch: int, count: int) -> Tensor:
    """The same classes for every image, ``(b, t)``, spread over all; in order where all are wanted."""
    return (torch.arange(count) * (CLASSES // count)).expand(batch, count)
