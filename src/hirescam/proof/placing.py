"""Where the locations of a tap lie, and how that is known: given, by operations, or measured."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from hirescam.errors import HirescamError, LayerError
from hirescam.passes.borrow import Call
from hirescam.passes.laying import laid
from hirescam.passes.layout import Layout, given
from hirescam.passes.parts import Axes, Role
from hirescam.proof.fingerprint import fingerprint
from hirescam.proof.graph import Sighting
from hirescam.proof.measuring import measured

_MOST_MEASURED = 12
_MOST_KEPT = 256
_kept: OrderedDict[Hashable, Axes | None] = OrderedDict()


@dataclass(frozen=True)
class Placed:
    """How to read a tap's output.

    Attributes:
        layout: None where its output is no map of locations, or nothing is known.
        how: ``given``, ``operations`` or ``measured``.
        why: why it is no map; ``""`` where that is not known.
    """

    layout: Layout | None
    how: str = ""
    why: str = ""

    @property
    def unknown(self) -> bool:
        """Whether operations do not show what its axes are."""
        return self.layout is None and not self.why

    @property
    def is_map(self) -> bool:
        """Whether it is a map of at least two locations, and not the inside of an attention."""
        layout = self.layout
        return layout is not None and layout.locations > 1 and layout.channel_axes <= 1 and not layout.asked


class Places:
    """Where the locations of the taps of one model lie, for images like those of a call.

    Args:
        model: the eager model.
        call: the inputs.
        grid: how the caller says that locations are arranged; it goes before everything else.
    """

    def __init__(self, model: nn.Module, call: Call, grid: tuple[int, ...] | None) -> None:
        self._model, self._call, self._grid = model, call, grid
        self._measured: dict[int, Placed] = {}

    def of(self, sighting: Sighting) -> Placed:
        """As the caller says, as operations showed, or as it was measured before."""
        if self._grid is not None:
            return self._as_given(sighting, self._grid)
        return self._measured.get(id(sighting)) or self._read(sighting.axes, "operations")

    def measure(self, sightings: Sequence[Sighting]) -> None:
        """Measure what operations do not show, for a few taps at once; kept for each architecture."""
        wanted = [seen for seen in sightings if self.of(seen).unknown][:_MOST_MEASURED]
        keys: list[Hashable] = [(self._architecture, seen.tap, seen.shape) for seen in wanted]
        known = {key: _kept[key] for key in keys if key in _kept}
        missing = [(key, seen.tap) for key, seen in zip(keys, wanted, strict=True) if key not in known]
        if missing:
            found = measured(self._model, self._call, [tap for _, tap in missing])
            known.update(zip((key for key, _ in missing), found, strict=True))
        for key, seen in zip(keys, wanted, strict=True):
            self._measured[id(seen)] = self._read(known[key] or seen.axes, "measured")
        _kept.update(known)
        while len(_kept) > _MOST_KEPT:
            _kept.popitem(last=False)

    def _read(self, axes: Axes, how: str) -> Placed:
        try:
            layout = laid(axes, len(self._call.space))
        except LayerError as error:
            return Placed(None, how, str(error))
        return Placed(layout, how)

    def _as_given(self, sighting: Sighting, grid: tuple[int, ...]) -> Placed:
        known = self._read(sighting.axes, "operations")
        if known.why:  # a grid does not say in which order locations are, or which are there twice
            return known
        if known.layout is not None and known.layout.grid == grid:
            return known
        if known.layout is not None and known.layout.index:
            text = " × ".join(map(str, known.layout.grid))
            return Placed(None, "given", f"operations show locations of {text}, in an order of their own")
        if sighting.shape[0] != len(self._call.images):
            return Placed(None, "given", "its first axis is not the images of the batch, or not those alone")
        own = [i for i, axis in enumerate(sighting.axes) if axis and {p.role for p in axis} == {Role.CHANNEL}]
        try:
            layout = given(sighting.shape, grid, len(self._call.space), tuple(own))
        except LayerError as error:
            return Placed(None, "given", str(error))
        return Placed(layout, "given")

    @cached_property
    def _architecture(self) -> Hashable:
        """What a measurement depends on; weights are drawn anew, so they do not matter."""
        call = self._call
        try:
            computed: object = fingerprint(self._model, call)
        except (HirescamError, RuntimeError, TypeError, ValueError):
            computed = object()  # what cannot be watched is like nothing else, and measured each time
        parts = tuple((name, type(module)) for name, module in self._model.named_modules())
        return computed, parts, call.axes, call.key
