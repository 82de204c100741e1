"""Any rule as an explanation function of Quantus; the package itself is not needed here."""

from typing import Any

import numpy as np
import torch
from torch import nn

from hirescam.explainer import LayerName
from hirescam.rulebook import Rule
from hirescam.verbs import explain
from hirescam.views import Resample

Array = np.ndarray[Any, np.dtype[Any]]


def quantus_explain(  # noqa: PLR0913 - the first three and the last are Quantus's
    model: nn.Module,
    inputs: Array,
    targets: Array,
    *,
    rule: str | Rule = "hirescam",
    layer: LayerName = None,
    resample: Resample = "bilinear",
    device: str | torch.device | None = None,
) -> Array:
    """Explain a batch in the way that Quantus calls its ``explain_func``.

    The maps are raw: signed, in units of the score, and only resampled to the images, without the scaling
    that some metrics apply themselves.

    Args:
        model: the network, in evaluation mode.
        inputs: ``(b, c, *space)``.
        targets: one class for each image.
        rule: name of a rule, see `hirescam.rules`, or a rule with options of your own.
        layer: name or module; None chooses the strongest guarantee, for each call anew.
        resample: ``"nearest"`` keeps the layer's cells, ``"bilinear"`` is smoother.
        device: where to put the inputs; None is where the model is.

    Returns:
        ``(b, 1, *space)``.

    Example:
        >>> import numpy as np, torch
        >>> from torch import nn
        >>> from hirescam.adapters import quantus_explain
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)).eval()
        >>> x = np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
        >>> quantus_explain(model, x, np.array([1, 7]), rule="gradcam").shape
        (2, 1, 8, 8)
    """
    like = next(model.parameters(), torch.zeros(()))
    images = torch.as_tensor(np.asarray(inputs)).to(device=device or like.device, dtype=like.dtype)
    classes = torch.as_tensor(np.asarray(targets)).reshape(-1).to(torch.int64)
    result = explain(model, images, target=classes.to(images.device), rule=rule, layer=layer)
    found: Array = result.view(resample=resample, scale=None).values.detach().float().cpu().numpy()
    return found
