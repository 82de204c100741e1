"""The theory, run on a model: which methods coincide, which obey the laws, and the theorem that says so."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hirescam.errors import RuleError
from hirescam.explainer import Explainer, LayerName
from hirescam.passes.borrow import Inputs
from hirescam.passes.outputs import OutputSelector
from hirescam.passes.targets import Target
from hirescam.passes.trace import Trace
from hirescam.proof.certificate import Certificate
from hirescam.proof.grade import Guarantee
from hirescam.proof.laws import Laws, measure, tolerance_of
from hirescam.rulebook.registry import Rule, get
from hirescam.rulebook.registry import rules as all_rules

_IG_STEPS = 16


@dataclass(frozen=True)
class Relation:
    """How one method's map relates to HiResCAM's on the same pass.

    Attributes:
        method: a rule, or a reference computed from the head itself.
        factor: the number c for which c · HiResCAM is nearest to the map.
        difference: largest |map − c · HiResCAM| relative to the largest value of the map.
        same: whether the map is a multiple of HiResCAM's, to the precision of the arithmetic.
        laws: both laws measured on the map.
        theorem: what theory says about it on this head; ``""`` where it says nothing.
    """

    method: str
    factor: float
    difference: float
    same: bool
    laws: Laws
    theorem: str


@dataclass(frozen=True)
class Relations:
    """The table for one model and layer; ``str()`` of it is Markdown."""

    certificate: Certificate
    rows: tuple[Relation, ...]

    def __getitem__(self, method: str) -> Relation:
        return next(row for row in self.rows if row.method == method)

    def __str__(self) -> str:
        lines = [
            f"Head of layer {self.certificate.layer!r}: {self.certificate.guarantee}.",
            "",
            "| method | multiple of HiResCAM | factor | difference | complete | location law | theory |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            laws = row.laws
            lines.append(
                f"| {row.method} | {_yes(row.same)} | {row.factor:.4g} | {row.difference:.1e} "
                f"| {_yes(laws.complete)} ({laws.completeness_error:.1e}) "
                f"| {_yes(laws.local)} ({laws.location_error:.1e}) | {row.theorem} |"
            )
        return "\n".join(lines)


def relations(
    model: nn.Module,
    images: Inputs,
    *,
    rules: Iterable[str | Rule] | None = None,
    target: Target = None,
    layer: LayerName = None,
    output: OutputSelector = None,
) -> Relations:
    """Compute how methods relate on this model, and name the theorem behind each coincidence.

    Besides the rules, four references are computed from the head alone: the exact ablation of every
    location, gradient × input of the features, integrated gradients from zero along a straight line, and
    Shapley values of the locations (estimated from random orderings, removed = zero).

    Args:
        model: a network in evaluation mode.
        images: a few images.
        rules: names of rules; None takes every rule that needs one backward pass.
        target: what is explained.
        layer: the layer; None takes the best.
        output: how to find the logits.
    """
    explainer = Explainer(model, layer=layer, output=output)
    chosen = [get(rule) for rule in rules] if rules is not None else _cheap()
    trace = explainer.trace(images, target=target)
    certificate = explainer.certify(images, target=target)
    maps: dict[str, Tensor] = {}
    for rule in chosen:
        found = _apply(rule, trace)
        if found is not None:
            maps[rule.name] = found
    for name, reference in _REFERENCES.items():
        if trace.head_replayed:
            maps[name] = reference(trace)
    base = get("hirescam").function(trace)
    return Relations(
        certificate, tuple(_relate(name, raw, base, trace, certificate) for name, raw in maps.items())
    )


def _cheap() -> list[Rule]:
    return [rule for rule in all_rules().values() if str(rule.needs) == "gradients"]


def _apply(rule: Rule, trace: Trace) -> Tensor | None:
    """A rule's map, or None where it is not defined for this head (CAM without pooling)."""
    try:
        return rule.function(trace)
    except RuleError:
        return None


def _relate(name: str, raw: Tensor, base: Tensor, trace: Trace, certificate: Certificate) -> Relation:
    size = float((base * base).sum())
    factor = float((raw * base).sum()) / size if size else 0.0
    largest = float(raw.abs().max())
    difference = float((raw - factor * base).abs().max()) / largest if largest else 0.0
    same = difference <= tolerance_of(trace.precision)
    return Relation(name, factor, difference, same, measure(trace, raw), theorem(name, certificate))


def theorem(method: str, certificate: Certificate) -> str:
    """What theory says of a method on a head like this; proofs are in the documentation."""
    pooled = certificate.guarantee is Guarantee.EXACT and certificate.same_as_gradcam
    if pooled and method in _POOLED:
        return _POOLED[method]
    if certificate.guarantee in (Guarantee.EXACT, Guarantee.CONDITIONAL) and method in _AFFINE:
        return _AFFINE[method]
    if certificate.guarantee is Guarantee.LOCAL and method in _LOCAL:
        return _LOCAL[method]
    return ""


_POOLED = {
    "gradcam": "P1: the gradient is the same at all locations, so averaging it changes nothing",
    "cam": "P2: a class weight is the sum of the gradient, so CAM is HiResCAM times the number of locations",
    "xgradcam": "P3: with a constant gradient its weighted mean is that gradient",
}
_AFFINE = {
    "hirescam": "A1: complete, and each value is what its location is worth",
    "ablation": "A1: on an affine head what a location is worth is gradient times activation",
    "gradient × input": "A2: HiResCAM is gradient times input of the features, summed over channels",
    "integrated gradients": "A3: the gradient is constant on the path, so its mean is itself",
    "shapley values": "A4: removing a location costs the same in every ordering",
    "xgradcam": "A5: complete on every affine head, but the location law fails in general",
}
_LOCAL = {
    "hirescam": "L1: the directional derivative along each location's activations",
    "gradient × input": "L1: the same formula",
    "integrated gradients": "L2: complete in the limit of many steps, an average over linear pieces",
    "shapley values": "L3: complete, but an average over orderings",
}


def gradient_times_input(trace: Trace) -> Tensor:
    """Gradient × input of the features, one product at a time, summed over channels."""
    products = trace.regrade(trace.activations) * trace.activations.unsqueeze(1)
    return products.sum(2)


def integrated_gradients(trace: Trace) -> Tensor:
    """Mean gradient on the straight line from zero (midpoints) times activations, summed over channels."""
    points = (torch.arange(_IG_STEPS) + 0.5) / _IG_STEPS
    gradients = torch.stack([trace.regrade(trace.activations * float(point)) for point in points])
    return (gradients.mean(0) * trace.activations.unsqueeze(1)).sum(2)


_REFERENCES: dict[str, Callable[[Trace], Tensor]] = {
    "ablation": get("removal").function,
    "gradient × input": gradient_times_input,
    "integrated gradients": integrated_gradients,
    "shapley values": get("shapley").function,
}


def _yes(value: bool) -> str:
    return "yes" if value else "no"
