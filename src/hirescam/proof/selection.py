"""Grade every tap of a model by structure, and choose one."""

from dataclasses import dataclass

from torch import nn

from hirescam.errors import LayerError
from hirescam.passes.borrow import Call
from hirescam.passes.layout import Layout, infer
from hirescam.passes.taps import Tap
from hirescam.proof.certificate import Guarantee, grade
from hirescam.proof.graph import Graph, Sighting
from hirescam.proof.ops import Op


@dataclass(frozen=True)
class Layer:
    """One tap of a model, as `hirescam.layers` reports it.

    Attributes:
        name: how to ask for it: ``layer4``; ``relu()`` for a call of ``relu`` in the model's own forward.
        shape: shape of its output, batch first.
        space: its location axes; ``()`` where it has none.
        guarantee: what structure alone promises; `hirescam.certify` also probes.
        breaks: the ops after it that break exactness, nearest the layer first.
        bypass: whether the score also depends on the image around it.
        chosen: whether it is the one that is chosen automatically.
    """

    name: str
    shape: tuple[int, ...]
    space: tuple[int, ...]
    guarantee: Guarantee
    breaks: tuple[str, ...]
    bypass: bool
    chosen: bool = False


@dataclass(frozen=True)
class Candidate:
    """A sighting with its grade."""

    sighting: Sighting
    layout: Layout | None
    guarantee: Guarantee
    breaks: tuple[Op, ...]
    bypass: bool

    @property
    def preference(self) -> tuple[int, bool, int, int]:
        """Strongest guarantee, no bypass, fewest breaking ops, nearest the input.

        Cuts lie on one chain from the image to the score. All that a later one knows has come through the
        earlier one, so the earliest has the finest grid that means anything: a finer one after it is the
        same map, resampled.
        """
        return (self.guarantee.rank, self.bypass, len(self.breaks), self.sighting.time)


def candidates(graph: Graph, call: Call, grid: tuple[int, ...] | None) -> list[Candidate]:
    """Grade every value once, under the outermost name that it has."""
    image = tuple(call.images.shape[2:])
    found = []
    for sighting in _outermost(graph):
        guarantee, breaks = grade(graph, sighting)
        found.append(
            Candidate(
                sighting,
                _layout(sighting, image, grid),
                guarantee,
                breaks,
                not graph.is_cut(sighting),
            )
        )
    return found


def choose(found: list[Candidate], model: nn.Module) -> Candidate:
    """Take the best candidate with at least two locations.

    Raises:
        LayerError: no tap has a grid of locations.
    """
    eligible = [item for item in found if item.layout is not None and item.layout.locations > 1]
    if not eligible:
        raise LayerError(
            f"no layer of this {type(model).__name__} has a grid of at least two locations: if its "
            "tokens lie on a grid that cannot be seen from their number, say so with "
            "Explainer(model, grid=(rows, columns))"
        )
    return min(eligible, key=lambda item: item.preference)


def listing(graph: Graph, found: list[Candidate], chosen: Candidate | None) -> list[Layer]:
    """Describe all candidates in the order in which they ran."""
    return [
        Layer(
            name=graph.name(item.sighting.tap).name,
            shape=item.sighting.shape,
            space=item.layout.space if item.layout else (),
            guarantee=item.guarantee,
            breaks=tuple(map(str, item.breaks)),
            bypass=item.bypass,
            chosen=item is chosen,
        )
        for item in found
    ]


def _outermost(graph: Graph) -> list[Sighting]:
    best: dict[object, Sighting] = {}
    for seen in graph.sightings:
        known = best.get(seen.value)
        if known is None or _depth(seen.tap) < _depth(known.tap):
            best[seen.value] = seen
    return sorted(best.values(), key=lambda seen: seen.time)


def _depth(tap: Tap) -> tuple[int, bool]:
    """Modules before calls, then the fewest path components."""
    return (tap.module.count(".") + 1 if tap.module else 0) + bool(tap.function), bool(tap.function)


def _layout(sighting: Sighting, image: tuple[int, ...], grid: tuple[int, ...] | None) -> Layout | None:
    try:
        return infer(sighting.shape, image, grid=grid)
    except LayerError:
        return None
