"""Refine-CAM: the product of the maps of several layers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from hirescam.compat.pytorch_grad_cam.base_cam import BaseCAM, ImageTarget
from hirescam.compat.pytorch_grad_cam.maps import Reshape
from hirescam.compat.pytorch_grad_cam.methods import GradCAMPlusPlus
from hirescam.compat.pytorch_grad_cam.utils.image import Array, scale_cam_image


class RefineCAM:
    """Multiplies the maps of several layers (arXiv 2605.14641).

    Args:
        model: any network in evaluation mode.
        target_layers: modules of the model, or names of layers.
        reshape_transform: for tokens.
        base_method: the class that computes each map.
        kwargs: more arguments of that class.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module | str],
        reshape_transform: Reshape | None = None,
        base_method: type[BaseCAM] = GradCAMPlusPlus,
        **kwargs: Any,
    ) -> None:
        self.base_cam_per_layer = [
            base_method(model, [layer], reshape_transform, **kwargs) for layer in target_layers
        ]

    def __call__(
        self,
        input_tensor: Tensor,
        targets: Sequence[ImageTarget] | None = None,
        eigen_smooth: bool = False,
    ) -> Array:
        """Compute one map for each image.

        Args:
            input_tensor: the images.
            targets: one for each image; None is the predicted class of each.
            eigen_smooth: first principal component of the channels instead of their sum. (That library
                augments the images instead.)
        """
        each = [cam(input_tensor, targets, eigen_smooth=eigen_smooth) for cam in self.base_cam_per_layer]
        product: Array = np.prod(np.stack(each), axis=0)
        return scale_cam_image(product)
