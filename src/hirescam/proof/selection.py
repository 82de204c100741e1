"""Grade every tap of a model by structure, and choose one."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from hirescam.errors import LayerError
from hirescam.passes.borrow import Call
from hirescam.passes.geometry import laid
from hirescam.passes.layout import Layout, infer
from hirescam.passes.taps import Tap
from hirescam.proof.certificate import Certificate
from hirescam.proof.grade import Grade, Guarantee
from hirescam.proof.graph import Graph, Sighting


@dataclass(frozen=True)
class Layer:
    """One tap of a model, as `hirescam.layers` reports it.

    Attributes:
        name: how to ask for it: ``layer4``; ``relu()`` for a call of ``relu`` in the model's own forward.
        shape: shape of its output, batch first.
        space: its location axes; ``()`` where it has none.
        guarantee: what is guaranteed there.
        breaks: the ops after it that break exactness, nearest the layer first.
        bypass: whether the score also depends on the image around it.
        chosen: whether it is the one that is chosen automatically.
        probed: whether the model was asked too, as `hirescam.certify` does; where it was not (it is, wherever
            the ops after a layer look affine), the guarantee is what structure allows at most.
    """

    name: str
    shape: tuple[int, ...]
    space: tuple[int, ...]
    guarantee: Guarantee
    breaks: tuple[str, ...]
    bypass: bool
    chosen: bool = False
    probed: bool = False


@dataclass(frozen=True)
class Candidate:
    """A sighting with its grade."""

    sighting: Sighting
    layout: Layout | None
    grade: Grade

    @property
    def preference(self) -> tuple[int, bool, int, int]:
        """Strongest guarantee, no bypass, fewest breaking ops, nearest the input.

        Cuts lie on one chain from the image to the score. All that a later one knows has come through the
        earlier one, so the earliest has the finest grid that means anything: a finer one after it is the
        same map, resampled.
        """
        graded = self.grade
        return (graded.guarantee.rank, graded.bypass, len(graded.breaks), self.sighting.time)


def candidates(graph: Graph, call: Call, grid: tuple[int, ...] | None) -> list[Candidate]:
    """Grade every value once, under the outermost name that it has."""
    image = tuple(call.images.shape[2:])
    return [
        Candidate(sighting, _layout(sighting, image, grid), graph.grade(sighting, listed=False))
        for sighting in _outermost(graph)
    ]


def ranked(found: list[Candidate], model: nn.Module) -> list[Candidate]:
    """The candidates with at least two locations, the best first.

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
    return sorted(eligible, key=lambda item: item.preference)


def listing(
    graph: Graph,
    found: list[Candidate],
    chosen: Candidate | None,
    verdicts: Sequence[tuple[Candidate, Certificate]] = (),
) -> list[Layer]:
    """Describe all candidates in the order in which they ran; verdicts override what structure says."""
    certified = {id(candidate): certificate for candidate, certificate in verdicts}
    return [_layer(graph, item, certified.get(id(item)), chosen=item is chosen) for item in found]


def _layer(graph: Graph, item: Candidate, certificate: Certificate | None, *, chosen: bool) -> Layer:
    graded = item.grade
    return Layer(
        name=graph.place(item.sighting).tap.name,
        shape=item.sighting.shape,
        space=item.layout.space if item.layout else (),
        guarantee=certificate.guarantee if certificate else graded.guarantee,
        breaks=certificate.breaks if certificate else tuple(map(str, graded.breaks)),
        bypass=certificate.bypass if certificate else graded.bypass,
        chosen=chosen,
        probed=certificate is not None,
    )


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


def layout_of(sighting: Sighting, image: tuple[int, ...], grid: tuple[int, ...] | None) -> Layout | None:
    """How to read a layer's output: as the caller says, as operations showed, or else by its shape.

    Raises:
        LayerError: the caller's grid does not fit, or what operations showed is no map.
    """
    known = laid(sighting.axes, len(image)) if grid is None else None
    return infer(sighting.shape, image, grid=grid) if known is None else known


def _layout(sighting: Sighting, image: tuple[int, ...], grid: tuple[int, ...] | None) -> Layout | None:
    try:
        return layout_of(sighting, image, grid)
    except LayerError:
        return None
