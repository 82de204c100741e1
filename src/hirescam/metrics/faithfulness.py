"""Does the map say what the model does? Exact questions about raw maps, in the layer's own space.

``effects`` is what the score really loses when a location of the layer is removed, computed by running the
head; where a HiResCAM map is exact, it *is* the effects. Nothing here looks at pixels or needs ground truth.
"""

import torch
from torch import Tensor

from hirescam.metrics.registry import FAITHFULNESS, LOWER, metric


@metric(kind=FAITHFULNESS, better=LOWER, bounds=(0, 1), units="share of cells", cite="draelos2020")
def wrong_sign_rate(raw: Tensor, effects: Tensor, *, level: float = 0.05) -> Tensor:
    """Find how often the map says that a location helps when it hurts, or the other way round.

    Among the cells with |raw| > level · max |raw|: the share with raw · effects < 0.

    Strictly opposite signs: a cell without any effect is counted below the line and never as wrong, so read
    it together with ``dead_hotspot_rate`` and ``unused_mass``. A map of zeros says nothing: NaN.

    Args:
        raw: ``(n, *space)``.
        effects: ``(n, *space)``.
        level: cells below this share of the map's largest magnitude are left out.

    Returns:
        ``(n,)`` in [0, 1]; NaN for a map of zeros.
    """
    raw, effects = raw.double().flatten(1), effects.double().flatten(1)
    noticeable = (raw.abs() > level * raw.abs().amax(1, keepdim=True)) & (raw != 0)
    wrong = (raw * effects < 0) & noticeable
    count = noticeable.sum(1).double()
    return wrong.sum(1) / count.where(count > 0, torch.nan)
