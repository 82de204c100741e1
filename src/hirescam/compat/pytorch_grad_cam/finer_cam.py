"""Finer-CAM: any method, with a target that takes off the scores of similar classes."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from hirescam.compat.pytorch_grad_cam.base_cam import BaseCAM, ImageTarget
from hirescam.compat.pytorch_grad_cam.maps import Reshape
from hirescam.compat.pytorch_grad_cam.methods import GradCAM
from hirescam.compat.pytorch_grad_cam.utils.image import Array
from hirescam.compat.pytorch_grad_cam.utils.model_targets import FinerWeightedTarget
from hirescam.passes.borrow import check_model, session

_COMPARED = (1, 2, 3)


class FinerCAM:
    """Shows what tells a class from those most like it (arXiv 2501.11309).

    Args:
        model: any classifier in evaluation mode.
        target_layers: modules of the model, or names of layers.
        reshape_transform: for tokens.
        base_method: the class that computes the map.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module | str],
        reshape_transform: Reshape | None = None,
        base_method: type[BaseCAM] = GradCAM,
    ) -> None:
        self.base_cam = base_method(model, target_layers, reshape_transform)

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """See `forward`."""
        return self.forward(*args, **kwargs)

    def forward(
        self,
        input_tensor: Tensor,
        targets: Sequence[ImageTarget] | None = None,
        eigen_smooth: bool = False,
        alpha: float = 1,
        comparison_categories: Sequence[int] | None = None,
        target_idx: int | None = None,
    ) -> Array:
        """Compute one map for each image.

        Args:
            input_tensor: the images.
            targets: one for each image; None compares a class with similar ones.
            eigen_smooth: first principal component of the channels instead of their sum.
            alpha: how much of a similar class's score is taken off.
            comparison_categories: which of the classes to compare with, by rank of similarity: 1 is the
                most similar. None takes the first three.
            target_idx: the class; None is the predicted one of each image.
        """
        if targets is None:
            ranks = _COMPARED if comparison_categories is None else comparison_categories
            targets = self._similar(input_tensor, alpha, ranks, target_idx)
        return self.base_cam(input_tensor, targets, eigen_smooth=eigen_smooth)

    def _similar(
        self, images: Tensor, alpha: float, ranks: Sequence[int], target: int | None
    ) -> list[ImageTarget]:
        """Rank the classes of each image by how near their logits are to the target's."""
        model = self.base_cam.model
        check_model(model)
        with session(grad=False):
            logits: Tensor = model(images.to(self.base_cam.device))
        score = logits.amax(1, keepdim=True) if target is None else logits[:, [target]]
        order = torch.argsort((logits - score).abs(), dim=1, stable=True)
        kept = [rank for rank in ranks if rank < logits.shape[1]]
        return [FinerWeightedTarget(int(row[0]), row[kept].tolist(), alpha) for row in order]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to release."""
