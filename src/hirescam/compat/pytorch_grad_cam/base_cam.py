"""The call that all classes share, and the steps after the raw map."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from hirescam.compat.pytorch_grad_cam import maps
from hirescam.compat.pytorch_grad_cam.utils.image import Array, scale_cam_image
from hirescam.compat.pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from hirescam.errors import InputError, LayerError, TargetError
from hirescam.explainer import Explainer
from hirescam.explanation import Explanation
from hirescam.passes.borrow import as_call, check_model, unwrap
from hirescam.passes.cut import Site, look
from hirescam.passes.layout import given
from hirescam.passes.taps import Place, find
from hirescam.passes.targets import Target, is_class_target
from hirescam.rulebook import Rule, get

ImageTarget = Callable[[Tensor], object]
"""From one image's part of the model's output to its score."""

_FACTORS = (0.9, 1.0, 1.1)


class BaseCAM:
    """Computes maps of one method, with the steps of pytorch-grad-cam after it.

    Args:
        model: any network in evaluation mode; it is not changed. (That library calls ``eval()`` itself.)
        target_layers: modules of the model, or names of layers.
        reshape_transform: from a layer's output to ``(b, k, rows, columns)``, for tokens.

    Attributes:
        outputs: the model's logits of the last call.
        batch_size: accepted because scripts set it; memory is bounded without it.
    """

    rule: ClassVar[str]
    terms: ClassVar[maps.Terms | None] = None

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module | str],
        reshape_transform: maps.Reshape | None = None,
    ) -> None:
        if not target_layers:
            raise InputError("target_layers is empty: name at least one layer, see hirescam.layers")
        self.model = model
        self.target_layers = target_layers
        self.reshape_transform = reshape_transform
        self.outputs: Tensor | None = None
        self.batch_size = 32
        self._explainers: dict[int, Explainer] = {}

    @property
    def device(self) -> torch.device | None:
        """Where the model's first parameter is; None for a model without parameters."""
        first = next(self.model.parameters(), None)
        return None if first is None else first.device

    @property
    def options(self) -> Mapping[str, Any]:
        """Options of the rule."""
        return {}

    def __call__(
        self,
        input_tensor: Tensor,
        targets: Sequence[ImageTarget] | None = None,
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
    ) -> Array:
        """Compute one map for each image: float32 ``(b, *space of the images)``, from 0 to 1.

        Args:
            input_tensor: the images ``(b, c, *space)``.
            targets: one for each image; None is the predicted class of each.
            aug_smooth: average over six versions of the images: mirrored or not, times 0.9, 1 and 1.1.
            eigen_smooth: first principal component of the channels instead of their sum. Like every step
                after the raw map it voids HiResCAM's laws.

        Raises:
            HirescamError: the model is in training mode, there is not one target for each image, or
                something else that the message says.
        """
        if aug_smooth:
            return self._augmented(input_tensor, targets, eigen_smooth)
        return self.forward(input_tensor, targets, eigen_smooth)

    def forward(
        self, input_tensor: Tensor, targets: Sequence[ImageTarget] | None, eigen_smooth: bool = False
    ) -> Array:
        """Compute the maps of the images as they are."""
        images = input_tensor.detach().to(device=self.device)
        target, rule = as_target(targets, len(images)), self._configured(eigen_smooth)
        size = tuple(reversed(images.shape[2:]))
        scaled = []
        for index in range(len(self.target_layers)):
            result = self._explainer(index, images, target)(images, target=target, rule=rule)
            self.outputs = result.logits
            scaled.append(scale_cam_image(positive(self._raw(result)), size))
        return over_layers(scaled)

    def _augmented(
        self, input_tensor: Tensor, targets: Sequence[ImageTarget] | None, eigen_smooth: bool
    ) -> Array:
        plain = [self.forward(input_tensor * factor, targets, eigen_smooth) for factor in _FACTORS]
        mirrored = input_tensor.flip(-1)
        turned = [self.forward(mirrored * factor, targets, eigen_smooth)[..., ::-1] for factor in _FACTORS]
        mean: Array = np.mean(np.stack([*plain, *turned]), axis=0)
        return mean

    def _configured(self, eigen_smooth: bool) -> Rule:
        rule = get(self.rule).configure(self.options)
        function, terms = rule.function, type(self).terms
        if eigen_smooth and terms is not None:
            function = maps.smoothed(function, terms)
        if self.reshape_transform is not None:
            function = maps.after(self.reshape_transform, function)
        if function is rule.function:
            return rule
        return replace(rule, name=f"{rule.name}, reshaped or smoothed", function=function)

    def _explainer(self, index: int, images: Tensor, target: Target) -> Explainer:
        """One for each layer; what it knows of a target that is a function is not kept."""
        if index not in self._explainers:
            layer = self.target_layers[index]
            self._explainers[index] = Explainer(self.model, layer=layer, grid=self._grid(layer, images))
        kept = self._explainers[index]
        if is_class_target(target):
            return kept
        layer = self.target_layers[index]
        return Explainer(self.model, layer=layer, grid=self._grid(layer, images))

    def _grid(self, layer: nn.Module | str, images: Tensor) -> tuple[int, ...] | None:
        """The grid that the transform lays the layer's output on, where it cannot be seen."""
        if self.reshape_transform is None:
            return None
        model = unwrap(self.model)
        check_model(model)
        output, _ = look(Site(model, Place(find(model, layer))), as_call(images))
        grid = tuple(self.reshape_transform(output).shape[2:])
        try:
            given(tuple(output.shape), grid, images.ndim - 2)
        except LayerError:  # it leaves some out, or makes new ones
            return None
        return grid

    def _raw(self, result: Explanation) -> Array:
        raw = result.on_grid if self.reshape_transform is None else result.raw
        found: Array = raw[:, 0].detach().cpu().numpy()
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to release: no hook was left on the model; errors of the block go on."""


def positive(cam: Array) -> Array:
    """Set what takes from the score to zero."""
    return np.maximum(cam, 0)


def over_layers(scaled: Sequence[Array]) -> Array:
    """Mean over the layers, stretched from 0 to 1 again."""
    mean: Array = np.mean(positive(np.stack(scaled)), axis=0)
    return scale_cam_image(mean)


def as_target(targets: Any, batch: int) -> Target:
    """Turn one target for each image into a target of hirescam.

    Raises:
        TargetError: they are not as many as the images.
    """
    if targets is None:
        return None
    if not isinstance(targets, Sequence) or not all(map(callable, targets)):
        raise TargetError(
            f"targets={targets!r} must be a list with one target for each image, such as "
            "[ClassifierOutputTarget(281)]"
        )
    if len(targets) != batch:
        raise TargetError(f"targets has {len(targets)} entries for {batch} image(s): give one for each image")
    if all(type(target) is ClassifierOutputTarget for target in targets):  # a subclass may differ
        return [int(target.category) for target in targets if isinstance(target, ClassifierOutputTarget)]
    return lambda output: torch.stack([_score(*pair) for pair in zip(targets, output, strict=True)])


def _score(target: ImageTarget, output: Tensor) -> Tensor:
    value = target(output)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise TargetError(
            f"{type(target).__name__} gave {getattr(value, 'shape', value)} for an output of shape "
            f"{tuple(output.shape)}, expected one number: name a class, or sum up"
        )
    return value.reshape(())
