"""What is guaranteed about HiResCAM at one layer of one model: structure, bypass and probes.

The structure is read from the graph of a real forward pass (`hirescam.proof.graph`); the probes run the
head on other activations. Where they disagree, the weaker verdict stands and the certificate says why.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor, nn

from hirescam.passes.borrow import Call
from hirescam.passes.cut import Request, run_from
from hirescam.passes.targets import logits_of
from hirescam.passes.trace import Pass, Trace, forward
from hirescam.proof.graph import Graph, Sighting
from hirescam.proof.laws import SAMPLED_CELLS, Laws, measure, probe, tolerance_of
from hirescam.proof.ops import Kind, Op
from hirescam.rulebook.gradient import constant_over_space
from hirescam.rulebook.gradient import hirescam as hirescam_rule

_TINY = 1e-30
_SELECTION = frozenset({"gather", "select", "index", "reshape", "unsqueeze", "squeeze", "slice", "expand"})


class Guarantee(StrEnum):
    """How much of a HiResCAM map can be trusted, strongest first."""

    EXACT = "exact"
    CONDITIONAL = "conditional"
    LOCAL = "local"
    NONE = "none"

    @property
    def rank(self) -> int:
        """0 for the strongest."""
        return list(Guarantee).index(self)


@dataclass(frozen=True)
class Certificate:
    """What is guaranteed about ``hirescam`` at one layer of one model, with the reason.

    Attributes:
        guarantee: `Guarantee.EXACT`, ``CONDITIONAL``, ``LOCAL`` or ``NONE``.
        layer: name of the layer.
        head: names of the ops between the layer and the score, in order.
        breaks: the ops that break exactness, with the module that they belong to; ``()`` when exact.
        bypass: True if the score also depends on the image around the layer.
        completeness_error: |score − score(A = 0) − Σ raw| / |score − score(A = 0)|.
        location_error: max over some cells of |score − score(A without s) − raw[s]| / max |raw|.
        same_as_gradcam: True where averaging the gradient over space changes nothing.
        positions: how many locations can get credit at all.
        locations: how many locations there are.
        reason: why the guarantee is what it is, in one sentence.
        advice: what to do to get a stronger guarantee, or ``""``.
    """

    guarantee: Guarantee
    layer: str
    head: tuple[str, ...]
    breaks: tuple[str, ...]
    bypass: bool
    completeness_error: float
    location_error: float
    same_as_gradcam: bool
    positions: int
    locations: int
    reason: str
    advice: str

    @property
    def single_token(self) -> bool:
        """Whether one location gets all the credit."""
        return self.positions == 1 < self.locations

    def __str__(self) -> str:
        return " ".join(part for part in self._sentences() if part)

    def _sentences(self) -> list[str]:
        same = {
            True: "Grad-CAM gives the same map here, because the head treats all locations alike.",
            False: "Grad-CAM gives another map here.",
        }[self.same_as_gradcam]
        token = (
            f"Only {self.positions} of {self.locations} positions can get credit: the head reads "
            "a single token, so the map says nothing about places in the image."
            if self.single_token
            else ""
        )
        return [
            f"{self.guarantee.upper()} at layer {self.layer!r}: {_MEANING[self.guarantee]}",
            self.reason,
            token,
            same if self.guarantee in (Guarantee.EXACT, Guarantee.CONDITIONAL) else "",
            f"Measured: completeness error {self.completeness_error:.1e}, location error "
            f"{self.location_error:.1e}.",
            self.advice,
        ]


_MEANING = {
    Guarantee.EXACT: "the map adds up to the score less a constant of the model, and each value is what "
    "the score loses when that location of the layer is removed.",
    Guarantee.CONDITIONAL: "with the normalisers' divisors held at this image's values, the map adds up "
    "to the score less a constant of the model, and each value is what the score loses when that "
    "location is removed.",
    Guarantee.LOCAL: "each value is the first-order effect of that location only; removing the location "
    "may change the score by another amount.",
    Guarantee.NONE: "nothing is guaranteed about the map; it is a picture of gradients.",
}


@dataclass(frozen=True, eq=False)
class Certified:
    """A certificate, the pass that it was made on, and the trace of that pass."""

    certificate: Certificate
    finished: Pass
    traced: Trace


def grade(graph: Graph, sighting: Sighting) -> tuple[Guarantee, tuple[Op, ...]]:
    """Judge a tap by structure alone: the guarantee, and the ops that break exactness.

    A bypass is no op: around it the guarantee is NONE whatever the ops are, and none are listed.
    """
    if not graph.is_cut(sighting):
        return Guarantee.NONE, ()
    breaks = breaking(graph.head(sighting))
    kinds = {op.kind for op in breaks}
    if Kind.OTHER in kinds or len(kinds) > 1:
        return Guarantee.NONE, breaks
    if kinds == {Kind.NORMALISING}:
        return Guarantee.CONDITIONAL, breaks
    return (Guarantee.LOCAL if kinds else Guarantee.EXACT), breaks


def breaking(head: tuple[Op, ...]) -> tuple[Op, ...]:
    """The ops that are not affine."""
    return tuple(op for op in head if op.kind is not Kind.AFFINE)


def bypassed(model: nn.Module, call: Call, request: Request, traced: Trace) -> bool:
    """Run another image with this layer's activations: does the score change?"""
    images = call.images
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(images.shape, generator=generator).to(images)
    scale = images.float().std().to(images) if images.numel() > 1 else 1.0
    other = images.flip(-1) + scale * noise
    output = run_from(model, call.replace(other), request, traced.output)
    logits = logits_of(output, request.output, images.shape[0])
    largest = traced.logits.abs().max().clamp_min(_TINY)
    return float((logits - traced.logits).abs().max() / largest) > tolerance_of(logits.dtype)


def certify_tap(
    model: nn.Module, call: Call, request: Request, graph: Graph, sighting: Sighting
) -> Certified:
    """Judge one tap by structure and probes."""
    guarantee, _ = grade(graph, sighting)
    head = graph.head(sighting)
    breaks = breaking(head)
    hold = guarantee is Guarantee.CONDITIONAL
    request = replace(request, hold=hold, differentiable=False, progress=None)
    finished = forward(model, call, request)
    traced = finished.trace()
    raw = hirescam_rule(traced)
    affine = guarantee.rank <= Guarantee.CONDITIONAL.rank
    laws, affinity = probe(traced, raw) if affine else (measure(traced, raw, most_cells=SAMPLED_CELLS), 0.0)
    structural = not graph.is_cut(sighting)
    bypass = structural or bypassed(model, call, request, traced)
    doubt = _doubt(graph, traced, laws, affinity, bypass and not structural) if affine else ""
    if doubt:
        guarantee = Guarantee.NONE
    names = tuple(str(op) for op in breaks)
    connected = finished.connected(traced.gradients)
    positions, locations = int(connected.sum()), connected.numel()
    advice = _advice(guarantee, head, bypass, positions == 1 < locations, doubt)
    certificate = Certificate(
        guarantee=guarantee,
        layer=request.tap.name,
        head=tuple(op.name for op in head),
        breaks=names,
        bypass=bypass,
        completeness_error=laws.completeness_error,
        location_error=laws.location_error,
        same_as_gradcam=constant_over_space(traced.gradients),
        positions=positions,
        locations=locations,
        reason=_reason(guarantee, breaks, bypass, doubt),
        advice=advice,
    )
    return Certified(certificate, finished, traced)


def _doubt(graph: Graph, traced: Trace, laws: Laws, affinity: float, hidden_bypass: bool) -> str:
    """Why the probes contradict a structure that looks exact, or ``""``."""
    tolerance = tolerance_of(traced.logits.dtype)
    if not _same(graph.logits, traced.logits, tolerance):
        return "the model gives different outputs for the same images (it draws random numbers?)"
    if hidden_bypass:
        return "the score changes with the image although this layer's output is held"
    if not affinity <= tolerance:
        return f"a probe finds the head not affine (error {affinity:.1e}) although its graph is"
    if not laws.hold:
        worst = max(laws.completeness_error, laws.location_error)
        return f"the laws fail when they are measured (error {worst:.1e})"
    return ""


def _same(first: Tensor, second: Tensor, tolerance: float) -> bool:
    scale = first.abs().max().clamp_min(_TINY)
    return bool((first - second).abs().max() <= tolerance * scale)


def _reason(guarantee: Guarantee, breaks: tuple[Op, ...], bypass: bool, doubt: str) -> str:
    if doubt:
        return f"Its graph looks affine, but {doubt}; the weaker verdict stands."
    named = _listed(breaks)
    if guarantee is Guarantee.EXACT:
        return "Every operation after it is affine, and the image reaches the score only through it."
    if guarantee is Guarantee.CONDITIONAL:
        return f"Every operation after it is affine but {named}, affine once the divisor is held."
    if bypass:
        return "The score also depends on the image around this layer (a shortcut or a second path)."
    return f"Between it and the score: {named}."


def _listed(breaks: tuple[Op, ...], most: int = 4) -> str:
    names = list(dict.fromkeys(str(op) for op in breaks))
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _ends_in_probabilities(head: tuple[Op, ...]) -> bool:
    """Whether a softmax or sigmoid is the last thing that the model does to its scores."""
    ends = [op.name for op in head if op.name not in _SELECTION]
    return bool(ends) and ends[-1] in ("softmax", "log_softmax", "sigmoid", "log_sigmoid")


def _advice(guarantee: Guarantee, head: tuple[Op, ...], bypass: bool, single_token: bool, doubt: str) -> str:
    if doubt:
        return "Advice: make the head deterministic and free of detach() and branches on values."
    if single_token:
        return (
            "Advice: read the tokens by mean pooling instead of one class token (in timm: "
            "global_pool='avg'), or name a layer before the last attention and take its map as a hint."
        )
    if guarantee in (Guarantee.EXACT, Guarantee.CONDITIONAL):
        return ""
    if _ends_in_probabilities(head):
        return (
            "Advice: explain the logits, not probabilities: select them with output=..., or leave out the "
            "last softmax or sigmoid."
        )
    if bypass:
        return "Advice: choose a layer after the paths have joined; hirescam.layers() lists them."
    if guarantee is Guarantee.LOCAL:
        return (
            "Advice: for exact maps end the network in one fully connected layer, with or without "
            "pooling before it; with this one, check what a location is worth by removing it."
        )
    return "Advice: choose a layer nearer to the score; hirescam.layers() lists every one with its grade."
