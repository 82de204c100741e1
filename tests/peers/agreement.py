"""The same method from two libraries on the same network, as a number: the largest relative difference.

`AGREEMENTS` lists every (rule, peer) pair. The tests compare each number with a tolerance, and
``python docs/_agreement.py`` writes them into the docs. Peers hide the signed map: where they have a hook
before their post-processing it is compared, and our raw map is sent through their post-processing too.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import hirescam
from hirescam.rulebook.registry import get
from toys import CLASSES, CONV, FlattenNet, PooledNet, TwoLayerNet, images, ready

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import captum.attr
    import pytorch_grad_cam as pgc
    import torchcam.methods
    import torchvision
    from pytorch_grad_cam.utils.image import scale_cam_image

CLASS = 2


class CurvedNet(nn.Module):
    """A head with curvature after ReLU activations of the image's size."""

    def __init__(self, ndim: int = 2, side: int = 6) -> None:
        super().__init__()
        self.features = nn.Sequential(CONV[ndim](2, 5, 3, padding=1), nn.ReLU())
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(5 * side**ndim, 7), nn.Tanh(), nn.Linear(7, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x) * 2)


@dataclass(frozen=True)
class Setting:
    """A network, its images and the layer to explain."""

    model: nn.Module
    images: Tensor
    layer: str

    @property
    def module(self) -> nn.Module:
        return self.model.get_submodule(self.layer)


def _toy(build: Callable[[], nn.Module], batch: Callable[[], Tensor]) -> Callable[[], Setting]:
    def make() -> Setting:
        torch.manual_seed(0)
        return Setting(ready(build()), batch(), "features")

    return make


def _torchvision(name: str, layer: str) -> Callable[[], Setting]:
    def make() -> Setting:
        torch.manual_seed(0)
        return Setting(
            torchvision.models.get_model(name, weights=None).eval(), torch.randn(2, 3, 64, 64), layer
        )

    return make


SETTINGS = {
    "flatten": _toy(FlattenNet, images),
    "pooled": _toy(PooledNet, images),
    "two layers": _toy(TwoLayerNet, images),
    "curved": _toy(CurvedNet, lambda: images(side=6)),
    "flatten 1-D": _toy(lambda: FlattenNet(1), lambda: images(2, 1)),
    "flatten 3-D": _toy(lambda: FlattenNet(3, side=4), lambda: images(2, 3, side=4)),
    "curved 3-D": _toy(lambda: CurvedNet(3, side=4), lambda: images(2, 3, side=4)),
    "resnet18": _torchvision("resnet18", "layer2"),
    "resnet18, 64 channels": _torchvision("resnet18", "layer1"),
    "resnet18, last layer": _torchvision("resnet18", "layer4"),
}


@cache
def setting(name: str) -> Setting:
    return SETTINGS[name]()


PLANE = ("flatten", "pooled", "two layers", "resnet18")
LINES = (*PLANE, "flatten 1-D", "flatten 3-D")
SOLID = (*PLANE, "flatten 3-D")


@dataclass(frozen=True)
class Agreement:
    """One method in two libraries.

    Attributes:
        rule: our name.
        peer: the other library.
        method: its name there.
        settings: the networks to compare on.
        options: of our rule, where the peer's default differs.
        theirs: of the peer's constructor.
        factor: multiply the score, where a small constant of the peer would drown the gradients.
        either_sign: the peer leaves the sign of the map to chance.
        note: what the page says about it.
    """

    rule: str
    peer: str
    method: str
    settings: tuple[str, ...] = PLANE
    options: dict[str, Any] = field(default_factory=dict)
    theirs: dict[str, Any] = field(default_factory=dict)
    factor: float = 1.0
    either_sign: bool = False
    note: str = ""

    def __str__(self) -> str:
        return f"{self.rule} = {self.peer} {self.method}"

    def on(self, name: str) -> float:
        """The largest difference on one network, relative to the largest value."""
        where = setting(name)
        return MEASURES[self.peer](self, where, ours(self, where))


def ours(entry: Agreement, where: Setting) -> Tensor:
    """Our raw map ``(b, *s)``."""

    def score(logits: Tensor) -> Tensor:
        return entry.factor * logits[:, CLASS]

    rule = get(entry.rule).configure(entry.options)
    found = hirescam.explain(where.model, where.images, target=score, layer=where.layer, rule=rule)
    return found.raw[:, 0].detach()


def apart(one: Tensor | np.ndarray, other: Tensor | np.ndarray) -> float:
    """The largest difference, relative to the largest value; zero where both are zero everywhere."""
    first, second = (torch.as_tensor(item).double() for item in (one, other))
    return float((first - second).abs().max() / second.abs().max().clamp_min(1e-300))


def signal(theirs: Tensor | np.ndarray) -> Tensor:
    """Insist that there is something to compare."""
    found = torch.as_tensor(theirs).double()
    assert float(found.abs().max()) > 0, "the peer's map is zero everywhere"
    return found


def aligned(one: Tensor, other: Tensor) -> Tensor:
    """Turn each map the way the other points."""
    product = (one * other).flatten(1).sum(1).sign()
    return one * product.reshape(-1, *[1] * (one.ndim - 1))


# --- pytorch-grad-cam ----------------------------------------------------------------------------


def pgc_maps(
    method: str, where: Setting, *, factor: float = 1.0, **theirs: Any
) -> tuple[np.ndarray, np.ndarray, Callable[[Tensor], np.ndarray]]:
    """The peer's map before its post-processing, what it returns, and its post-processing."""
    cam = getattr(pgc, method)(where.model, [where.module], **theirs)
    found: list[np.ndarray] = []
    inner = cam.get_cam_image

    def spy(*args: Any, **kwargs: Any) -> np.ndarray:
        found.append(inner(*args, **kwargs))
        return found[-1].copy()

    cam.get_cam_image = spy
    size = cam.get_target_width_height(where.images)

    def finish(raw: Tensor) -> np.ndarray:
        scaled = scale_cam_image(np.maximum(raw.numpy(), 0), size)
        return cam.aggregate_multi_layers([scaled[:, None]])

    with cam:
        returned = cam(where.images, [lambda output: factor * output[CLASS]] * len(where.images))
    return found[0], returned, finish


def pgc_difference(entry: Agreement, where: Setting, raw: Tensor) -> float:
    theirs, returned, finish = pgc_maps(entry.method, where, factor=entry.factor, **entry.theirs)
    if entry.either_sign:
        raw = aligned(raw, torch.as_tensor(theirs).to(raw))
    return max(apart(raw, signal(theirs)), apart(finish(raw), returned))


# --- torchcam ------------------------------------------------------------------------------------


def torchcam_map(
    method: str, where: Setting, *, factor: float = 1.0, normalized: bool = False, **theirs: Any
) -> Tensor:
    """The peer's map; with its ReLU, which it applies also where ``normalized=False``."""
    if method == "CAM":
        theirs = {"fc_layer": "fc" if hasattr(where.model, "fc") else "head", **theirs}
    extractor = getattr(torchcam.methods, method)(where.model, where.layer, **theirs)
    with extractor:
        scores = where.model(where.images.clone().requires_grad_())
        if method == "SmoothGradCAMpp":  # makes its own scores
            return extractor(targets=lambda output: factor * output[CLASS], normalized=normalized)[0]
        return extractor(CLASS, factor * scores, normalized=normalized)[0].detach()


def torchcam_difference(entry: Agreement, where: Setting, raw: Tensor) -> float:
    """Compare behind their ReLU; methods linear in the gradient are asked for −score too, for the rest."""
    plain, scaled = (
        torchcam_map(entry.method, where, factor=entry.factor, normalized=normalized, **entry.theirs)
        for normalized in (False, True)
    )
    shown = raw if entry.method == "CAM" else raw.relu()
    finished = torchcam.methods.core._CAM._normalize(shown.clone())
    if entry.method in ("GradCAM", "XGradCAM"):
        plain, shown = plain - torchcam_map(entry.method, where, factor=-entry.factor), raw
    return max(apart(shown, signal(plain)), apart(finished, scaled))


# --- captum --------------------------------------------------------------------------------------


def captum_map(method: str, where: Setting) -> Tensor:
    peer = getattr(captum.attr, method)(where.model, where.module)
    if method != "LayerFeatureAblation":
        return peer.attribute(where.images, target=CLASS).sum(1).detach()
    space = where.module(where.images).shape[2:]
    cells = torch.arange(space.numel()).reshape(1, 1, *space)
    return peer.attribute(where.images, target=CLASS, layer_mask=cells)[:, 0].detach()


def captum_difference(entry: Agreement, where: Setting, raw: Tensor) -> float:
    return apart(raw, signal(captum_map(entry.method, where)))


MEASURES = {"pytorch-grad-cam": pgc_difference, "torchcam": torchcam_difference, "captum": captum_difference}

BIG = 1e6
"""Multiplies the score, so that the peers' small constants (1e-6 added to G²) do not count."""

AGREEMENTS = [
    Agreement("hirescam", "pytorch-grad-cam", "HiResCAM", SOLID),
    Agreement("gradcam", "pytorch-grad-cam", "GradCAM", SOLID),
    Agreement("elementwise", "pytorch-grad-cam", "GradCAMElementWise", SOLID),
    Agreement("layercam", "pytorch-grad-cam", "LayerCAM", SOLID),
    Agreement("xgradcam", "pytorch-grad-cam", "XGradCAM", SOLID),
    Agreement(
        "gradcam_pp",
        "pytorch-grad-cam",
        "GradCAMPlusPlus",
        SOLID,
        factor=BIG,
        note="with the score times a million, see below",
    ),
    Agreement(
        "shapleycam",
        "pytorch-grad-cam",
        "ShapleyCAM",
        ("pooled", "resnet18", "curved", "curved 3-D"),
        note="see below",
    ),
    Agreement(
        "eigencam",
        "pytorch-grad-cam",
        "EigenCAM",
        SOLID,
        options={"centred": True},
        either_sign=True,
        note="`centred=True`, up to the sign",
    ),
    Agreement(
        "eigen_gradcam", "pytorch-grad-cam", "EigenGradCAM", SOLID, either_sign=True, note="up to the sign"
    ),
    Agreement("seg_eigencam", "pytorch-grad-cam", "SegEigenCAM", SOLID),
    Agreement(
        "kpca_cam",
        "pytorch-grad-cam",
        "KPCA_CAM",
        SOLID,
        either_sign=True,
        note="sigmoid kernel, up to the sign",
    ),
    Agreement(
        "kpca_cam",
        "pytorch-grad-cam",
        "KPCA_CAM",
        SOLID,
        options={"kernel": "rbf"},
        theirs={"kernel": "rbf"},
        either_sign=True,
        note="RBF kernel, up to the sign",
    ),
    Agreement(
        "scorecam",
        "pytorch-grad-cam",
        "ScoreCAM",
        ("flatten", "pooled", "two layers"),
        note="layers of the image's size, see below",
    ),
    Agreement(
        "ablationcam",
        "pytorch-grad-cam",
        "AblationCAM",
        ("flatten", "pooled", "two layers", "resnet18, 64 channels"),
        note="activations whose smallest value is zero, see below",
    ),
    Agreement(
        "cam",
        "torchcam",
        "CAM",
        ("pooled", "resnet18, last layer"),
    ),
    Agreement("gradcam", "torchcam", "GradCAM", LINES),
    Agreement("xgradcam", "torchcam", "XGradCAM", LINES),
    Agreement("layercam", "torchcam", "LayerCAM", LINES),
    Agreement(
        "smooth_gradcam_pp",
        "torchcam",
        "SmoothGradCAMpp",
        ("pooled", "resnet18, last layer"),
        factor=BIG,
        options={"samples": 1, "noise": 1e-9},
        theirs={"num_samples": 1, "std": 1e-9},
        note="pooled heads, one sample, next to no noise, the score times a million, see below",
    ),
    Agreement(
        "scorecam",
        "torchcam",
        "ScoreCAM",
        ("flatten", "pooled", "two layers", "flatten 1-D", "flatten 3-D"),
        note="layers of the image's size, see below",
    ),
    Agreement(
        "ss_cam",
        "torchcam",
        "SSCAM",
        ("flatten", "pooled", "flatten 3-D"),
        options={"samples": 2, "noise": 1e-9},
        theirs={"num_samples": 2, "std": 1e-9},
        note="with next to no noise, as the draws differ",
    ),
    Agreement(
        "is_cam",
        "torchcam",
        "ISCAM",
        ("flatten", "pooled", "flatten 3-D"),
        options={"steps": 1},
        theirs={"num_samples": 1},
        note="one step, see below",
    ),
    Agreement("hirescam", "captum", "LayerGradientXActivation", (*LINES, "curved")),
    Agreement("gradcam", "captum", "LayerGradCam", (*LINES, "curved")),
    Agreement(
        "removal",
        "captum",
        "LayerFeatureAblation",
        ("flatten", "two layers", "curved", "flatten 1-D", "flatten 3-D"),
    ),
]
