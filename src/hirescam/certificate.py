"""What is guaranteed about HiResCAM at one layer of one model: structure, bypass and probes.

The structure is read from the graph of a real forward pass (`hirescam.graph`); the probes run the head on
other activations. Where they disagree, the weaker verdict stands and the certificate says why.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor, nn

from hirescam.borrow import Call
from hirescam.cut import Request, run_from
from hirescam.graph import Graph, Sighting
from hirescam.head import chunks
from hirescam.ops import Kind, Op
from hirescam.rulebook.gradient import hirescam as hirescam_rule
from hirescam.rulebook.gradient import over_space
from hirescam.rulebook.registry import Map
from hirescam.targets import logits_of
from hirescam.trace import Pass, Trace, forward

_MOST_CELLS = 64
_TINY = 1e-30
_ROUNDING = 64
_BLOCK_BYTES = 128 * 2**20
_SELECTION = frozenset({"gather", "select", "index", "reshape", "unsqueeze", "squeeze", "slice", "expand"})
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.03}


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
class Laws:
    """The two laws, measured on one map.

    Attributes:
        completeness_error: |score − score(A = 0) − Σ raw| / |score − score(A = 0)|, the largest of the batch.
        location_error: |score − score(A without s) − raw[s]| / max |raw|, the largest over the cells.
        cells: how many cells of each map were checked.
        complete: whether completeness holds to the precision of the arithmetic.
        local: whether the location law does.
    """

    completeness_error: float
    location_error: float
    cells: int
    complete: bool
    local: bool

    @property
    def hold(self) -> bool:
        """Whether both laws hold to the precision of the arithmetic."""
        return self.complete and self.local


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
        location_error: max over cells of |score − score(A without s) − raw[s]| / max |raw|.
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


def measure(trace: Trace, raw: Map, *, most_cells: int = _MOST_CELLS) -> Laws:
    """Measure both laws on a raw map, by running the head on changed activations.

    Args:
        trace: the pass that the map was made from.
        raw: ``(b, t, *space)``.
        most_cells: check at most this many cells, spread evenly over the map.
    """
    locations = trace.activations[0, 0].numel()
    count = min(locations, most_cells)
    cells = torch.linspace(0, locations - 1, count, device=raw.device).round().long()
    score = trace.score.to(raw.dtype)
    empty = trace.rescore(torch.zeros_like(trace.activations).unsqueeze(0)).to(raw.dtype)
    scores = torch.cat([empty, _without(trace, cells).to(raw.dtype)])
    total = score - scores[0]
    missing = (total - raw.flatten(2).sum(-1)).abs()
    lost = (score - scores[1:]).movedim(0, -1)
    wrong = (lost - raw.flatten(2)[:, :, cells]).abs().amax(-1)
    largest = raw.flatten(2).abs().amax(-1)
    tolerance = tolerance_of(trace.logits.dtype)
    rounding = _ROUNDING * torch.finfo(trace.logits.dtype).eps * scores.abs().amax(0)
    return Laws(
        completeness_error=float((missing / total.abs().clamp_min(_TINY)).max()),
        location_error=float((wrong / largest.clamp_min(_TINY)).max()),
        cells=count,
        complete=bool((missing <= tolerance * total.abs() + rounding).all()),
        local=bool((wrong <= tolerance * largest + rounding).all()),
    )


def _without(trace: Trace, cells: Tensor) -> Tensor:
    """Scores ``(n, b, t)`` with each of ``n`` cells set to zero, in blocks under a bound of memory."""
    flat = trace.activations.flatten(2)
    scores = []
    for part in chunks(len(cells), _BLOCK_BYTES // max(1, flat.nbytes)):
        block = cells[part]
        changed = flat.unsqueeze(0).repeat(len(block), 1, 1, 1)
        changed[torch.arange(len(block), device=cells.device), :, :, block] = 0
        scores.append(trace.rescore(changed.reshape(-1, *trace.activations.shape)))
    return torch.cat(scores)


def affinity_error(trace: Trace) -> float:
    """|f(αA₁ + (1−α)A₂) − αf(A₁) − (1−α)f(A₂)| relative to |f(A₁) − f(A₂)|, for random A."""
    activations = trace.activations
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((2, *activations.shape), generator=generator).to(activations)
    scale = activations.std() if activations.numel() > 1 else activations.abs().mean()
    a, b = activations + scale * noise[0], activations.flip(-1) - scale * noise[1]
    alpha = 0.3
    scores = trace.rescore(torch.stack([a, b, alpha * a + (1 - alpha) * b]))
    gap = (scores[2] - alpha * scores[0] - (1 - alpha) * scores[1]).abs()
    size = torch.maximum((scores[0] - scores[1]).abs(), scores.abs().amax(0))
    return float((gap / size.clamp_min(_TINY)).max())


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


def tolerance_of(dtype: torch.dtype) -> float:
    """Relative error that rounding explains when a head is run in this precision."""
    return _TOLERANCE.get(dtype, 1e-3)


def certify_tap(
    model: nn.Module, call: Call, request: Request, graph: Graph, sighting: Sighting
) -> tuple[Certificate, Pass]:
    """Judge one tap by structure and probes; also return the pass that the probes were made on."""
    guarantee, _ = grade(graph, sighting)
    head = graph.head(sighting)
    breaks = breaking(head)
    hold = guarantee is Guarantee.CONDITIONAL
    request = replace(request, hold=hold, differentiable=False, progress=None)
    finished = forward(model, call, request)
    traced = finished.trace()
    raw = hirescam_rule(traced)
    laws = measure(traced, raw)
    structural = not graph.is_cut(sighting)
    bypass = structural or bypassed(model, call, request, traced)
    doubt = "" if guarantee.rank > 1 else _doubt(graph, traced, laws, bypass and not structural)
    if doubt:
        guarantee = Guarantee.NONE
    gradients = traced.gradients
    names = tuple(str(op) for op in breaks)
    connected = finished.connected()
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
        same_as_gradcam=_constant_over_space(gradients),
        positions=positions,
        locations=locations,
        reason=_reason(guarantee, breaks, bypass, doubt),
        advice=advice,
    )
    return certificate, finished


def _doubt(graph: Graph, traced: Trace, laws: Laws, hidden_bypass: bool) -> str:
    """Why the probes contradict a structure that looks exact, or ``""``."""
    tolerance = tolerance_of(traced.logits.dtype)
    if not _same(graph.logits, traced.logits, tolerance):
        return "the model gives different outputs for the same images (it draws random numbers?)"
    if hidden_bypass:
        return "the score changes with the image although this layer's output is held"
    affinity = affinity_error(traced)
    if affinity > tolerance:
        return f"a probe finds the head not affine (error {affinity:.1e}) although its graph is"
    if not laws.hold:
        worst = max(laws.completeness_error, laws.location_error)
        return f"the laws fail when they are measured (error {worst:.1e})"
    return ""


def _same(first: Tensor, second: Tensor, tolerance: float) -> bool:
    scale = first.abs().max().clamp_min(_TINY)
    return bool((first - second).abs().max() <= tolerance * scale)


def _constant_over_space(gradients: Tensor) -> bool:
    spread = (gradients - over_space(gradients)).abs().amax()
    return bool(spread <= 1e-4 * gradients.abs().amax())


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
