"""Grade every tap of a model by structure, and choose one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from torch import nn

from hirescam.errors import LayerError
from hirescam.passes.taps import Tap
from hirescam.proof.certificate import Certificate
from hirescam.proof.grade import Grade, Guarantee
from hirescam.proof.graph import Graph, Sighting
from hirescam.proof.placing import Placed, Places


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
        input: which of several inputs goes through it; None where there is one.
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
    input: int | str | None = None


@dataclass(frozen=True)
class Candidate:
    """A sighting with its grade, and how to read it."""

    sighting: Sighting
    placed: Placed
    grade: Grade

    @property
    def may_be_map(self) -> bool:
        """Whether nobody knows yet that it is no map, and the score depends on the image through it alone."""
        several = sum(size > 1 for size in self.sighting.shape[1:]) > 1
        return self.placed.unknown and several and not self.grade.bypass

    def may_be_given(self, count: int) -> bool:
        """Whether the caller may say how its locations lie, in a pass of so many images."""
        return self.may_be_map and self.sighting.shape[0] == count

    @property
    def preference(self) -> tuple[int, bool, int, int]:
        """Strongest guarantee, no bypass, fewest breaking ops, nearest the input.

        Cuts lie on one chain from the image to the score. All that a later one knows has come through the
        earlier one, so the earliest has the finest grid that means anything: a finer one after it is the
        same map, resampled.
        """
        graded = self.grade
        return (graded.guarantee.rank, graded.bypass, len(graded.breaks), self.sighting.time)


def candidates(graph: Graph, places: Places) -> list[Candidate]:
    """Grade every value once, under the outermost name that it has.

    Where operations do not show what the axes of a candidate are, and its guarantee is stronger than that of
    all whose axes they show, it is measured.
    """
    found = [
        Candidate(sighting, places.of(sighting), graph.grade(sighting, listed=False))
        for sighting in _outermost(graph)
        if graph.reaches(sighting)
    ]
    found.sort(key=lambda item: item.preference)
    best = next((item.grade.guarantee.rank for item in found if item.placed.is_map), inf)
    better = [item for item in found if item.grade.guarantee.rank < best]
    unknown = [item for item in better if item.may_be_map]
    if unknown:
        places.measure([item.sighting for item in unknown])
        found = [replace(item, placed=places.of(item.sighting)) for item in found]
    return sorted(found, key=lambda item: item.sighting.time)


def readable(found: list[Candidate], places: Places) -> list[Candidate]:
    """Those of them whose locations are known; what operations do not show is measured."""
    places.measure([item.sighting for item in found if item.may_be_map])
    placed = [
        item if item.placed.layout is not None else replace(item, placed=places.of(item.sighting))
        for item in found
    ]
    return [item for item in placed if item.placed.layout is not None]


def ranked(found: list[Candidate], model: nn.Module, graph: Graph) -> list[Candidate]:
    """The candidates with at least two locations, the best first.

    Raises:
        LayerError: no tap has a grid of locations.
    """
    eligible = [item for item in found if item.placed.is_map]
    if not eligible:
        raise LayerError(f"no layer of this {type(model).__name__} {_why_none(found, graph)}")
    return sorted(eligible, key=lambda item: item.preference)


def _why_none(found: list[Candidate], graph: Graph) -> str:
    if any(op.name == _REENTRANT for op in graph.ops):
        return (
            "can be tapped: a part of it runs in torch.utils.checkpoint with use_reentrant=True, where it "
            "cannot be observed; use use_reentrant=False, which computes the same"
        )
    unknown = next((item.sighting for item in found if item.may_be_given(len(graph.logits))), None)
    if unknown is not None:
        return (
            f"is known to be a map of at least two locations. Which axes of {unknown.tap.name!r}, of shape "
            f"{unknown.shape}, are locations, neither the operations before it nor a measurement show: if "
            "its positions lie on a grid, say so with Explainer(model, grid=(rows, columns))"
        )
    return (
        "is a map of at least two locations that the score depends on: see hirescam.layers(model, images) "
        "for the outputs there are, and their shapes"
    )


_REENTRANT = "CheckpointFunction"


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
        space=item.placed.layout.space if item.placed.layout else (),
        guarantee=certificate.guarantee if certificate else graded.guarantee,
        breaks=certificate.breaks if certificate else tuple(map(str, graded.breaks)),
        bypass=certificate.bypass if certificate else graded.bypass,
        chosen=chosen,
        probed=certificate is not None,
    )


def in_time(graph: Graph, wanted: Sighting) -> Sighting:
    """The same value under a name that it had before anything was made of it."""
    if not wanted.late:
        return wanted
    known = [seen for seen in graph.sightings if seen.value == wanted.value and not seen.late]
    return min(known, key=lambda seen: _depth(seen.tap), default=wanted)


def _outermost(graph: Graph) -> list[Sighting]:
    best: dict[object, Sighting] = {}
    for seen in graph.sightings:
        known = best.get(seen.value)
        if known is None or (seen.late, _depth(seen.tap)) < (known.late, _depth(known.tap)):
            best[seen.value] = seen
    return sorted(best.values(), key=lambda seen: seen.time)


def _depth(tap: Tap) -> tuple[int, bool]:
    """Modules before calls, then the fewest path components."""
    return (tap.module.count(".") + 1 if tap.module else 0) + bool(tap.function), bool(tap.function)
