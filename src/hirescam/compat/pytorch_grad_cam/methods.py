"""Which rule each class of pytorch-grad-cam is, and how its channels come apart for ``eigen_smooth``."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from hirescam.compat.pytorch_grad_cam.ablation_layer import AblationLayer, AblationLayerVit
from hirescam.compat.pytorch_grad_cam.base_cam import BaseCAM
from hirescam.compat.pytorch_grad_cam.maps import Reshape, channels_apart, weights_times
from hirescam.errors import InputError


class GradCAM(BaseCAM):
    """Rule ``gradcam``."""

    rule = "gradcam"
    terms = channels_apart


class HiResCAM(BaseCAM):
    """Rule ``hirescam``; where a normaliser follows the layer its divisor is held, unlike there."""

    rule = "hirescam"
    terms = channels_apart


class GradCAMElementWise(BaseCAM):
    """Rule ``elementwise``."""

    rule = "elementwise"
    terms = channels_apart


class GradCAMPlusPlus(BaseCAM):
    """Rule ``gradcam_pp``, without the 1e-6 in the denominator that drowns small gradients there."""

    rule = "gradcam_pp"
    terms = channels_apart


class XGradCAM(BaseCAM):
    """Rule ``xgradcam``."""

    rule = "xgradcam"
    terms = channels_apart


class LayerCAM(BaseCAM):
    """Rule ``layercam``."""

    rule = "layercam"
    terms = channels_apart


class ScoreCAM(BaseCAM):
    """Rule ``scorecam``, whose masks are resampled as maps are; there the corners are aligned."""

    rule = "scorecam"
    terms = weights_times


class ShapleyCAM(BaseCAM):
    """Rule ``shapleycam``."""

    rule = "shapleycam"
    terms = weights_times


class RandomCAM(BaseCAM):
    """Rule ``random``: the same weights at every call, for every image; NumPy's generator is left alone."""

    rule = "random"
    terms = weights_times


class EigenGradCAM(BaseCAM):
    """Rule ``eigen_gradcam``; the component's sign is settled, not left to the linear algebra."""

    rule = "eigen_gradcam"


class SegEigenCAM(BaseCAM):
    """Rule ``seg_eigencam``."""

    rule = "seg_eigencam"


class EigenCAM(BaseCAM):
    """Rule ``eigencam``, centred; the component's sign is settled, not left to the linear algebra."""

    rule = "eigencam"

    @property
    def options(self) -> Mapping[str, Any]:
        """Subtract each channel's mean, as there."""
        return {"centred": True}


class KPCA_CAM(BaseCAM):  # noqa: N801 - theirs
    """Rule ``kpca_cam``; the component's sign is settled by the channels' sum.

    Args:
        model: see `BaseCAM`.
        target_layers: see `BaseCAM`.
        reshape_transform: see `BaseCAM`.
        kernel: ``"sigmoid"`` or ``"rbf"``.
        gamma: of the kernel; None is one divided by the number of channels.
    """

    rule = "kpca_cam"

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module | str],
        reshape_transform: Reshape | None = None,
        kernel: str = "sigmoid",
        gamma: float | None = None,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform)
        self.kernel = kernel
        self.gamma = gamma

    @property
    def options(self) -> Mapping[str, Any]:
        """The kernel."""
        return {"kernel": self.kernel, "gamma": self.gamma}


class FEM(BaseCAM):
    """Rule ``fem``, as in the paper: marked places weighted by the channel's mean.

    There the channel is weighted by its share of marked places, which is another map.

    Args:
        model: see `BaseCAM`.
        target_layers: see `BaseCAM`.
        reshape_transform: see `BaseCAM`.
        k: how many standard deviations above its mean a value is marked.
    """

    rule = "fem"

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module | str],
        reshape_transform: Reshape | None = None,
        k: float = 2,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform)
        self.k = k

    @property
    def options(self) -> Mapping[str, Any]:
        """The number of standard deviations."""
        return {"sigmas": float(self.k)}


class AblationCAM(BaseCAM):
    """Rule ``ablationcam``.

    Args:
        model: see `BaseCAM`.
        target_layers: see `BaseCAM`.
        reshape_transform: see `BaseCAM`.
        ablation_layer: not needed; that library's two for classifiers are accepted.
        batch_size: accepted; memory is bounded without it.
        ratio_channels_to_ablate: must be 1; fewer channels were an experiment there.
    """

    rule = "ablationcam"
    terms = weights_times

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module | str],
        reshape_transform: Reshape | None = None,
        ablation_layer: AblationLayer | None = None,
        batch_size: int = 32,
        ratio_channels_to_ablate: float = 1.0,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform)
        if type(ablation_layer) not in (type(None), AblationLayer, AblationLayerVit):
            raise InputError(
                f"ablation_layer={ablation_layer!r} is not used: channels are set to zero, leave it out"
            )
        if ratio_channels_to_ablate != 1:
            raise InputError(
                f"ratio_channels_to_ablate={ratio_channels_to_ablate} is not supported: every channel is "
                "removed once; leave it out"
            )
        self.batch_size = batch_size
