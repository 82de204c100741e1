"""Scores of one image, as functions of its part of the model's output; a script gives one for each image."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


class ClassifierOutputTarget:
    """The logit of one class."""

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        """Pick the logit."""
        return model_output[..., self.category]


class ClassifierOutputSoftmaxTarget:
    """The probability of one class. No law holds for it: the softmax is not affine."""

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        """Pick the probability."""
        return model_output.softmax(-1)[..., self.category]


class ClassifierOutputReST:
    """The logit of one class plus its log-probability (arXiv 2501.06261)."""

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        """Add the two."""
        both = model_output + F.log_softmax(model_output, -1)
        return both[..., self.category]


class BinaryClassifierOutputTarget:
    """The only logit, for category 1, or its negative, for category 0."""

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        """Turn the sign for category 0."""
        return model_output if self.category == 1 else -model_output


class SoftmaxOutputTarget:
    """All probabilities; what is explained must be one number, so this needs a model with one output."""

    def __call__(self, model_output: Tensor) -> Tensor:
        """Take the probabilities."""
        return model_output.softmax(-1)


class RawScoresOutputTarget:
    """The output as it is, for models with one output."""

    def __call__(self, model_output: Tensor) -> Tensor:
        """Take the output."""
        return model_output


class SemanticSegmentationTarget:
    """The sum of one class's logit over a region of a segmentation output ``(c, h, w)``.

    Args:
        category: the class.
        mask: ``(h, w)``, one in the region and zero outside.
    """

    def __init__(self, category: int, mask: NDArray[np.generic] | Tensor) -> None:
        self.category = category
        self.mask = torch.as_tensor(mask)

    def __call__(self, model_output: Tensor) -> Tensor:
        """Sum over the region."""
        return (model_output[self.category] * self.mask.to(model_output.device)).sum()


class FinerWeightedTarget:
    """A class's logit less those of similar classes, weighted by their probabilities (arXiv 2501.11309).

    Args:
        main_category: the class.
        comparison_categories: the similar ones.
        alpha: how much of a similar class's logit is taken off.
    """

    def __init__(self, main_category: int, comparison_categories: Sequence[int], alpha: float) -> None:
        self.main_category = main_category
        self.comparison_categories = list(comparison_categories)
        self.alpha = alpha

    def __call__(self, model_output: Tensor) -> Tensor:
        """Weigh the gaps to the similar classes."""
        others = model_output[..., self.comparison_categories]
        weights = model_output.softmax(-1)[..., self.comparison_categories]
        gaps = model_output[..., [self.main_category]] - self.alpha * others
        return (weights * gaps).sum(-1) / (weights.sum(-1) + 1e-9)
