"""What a function of tensors is, found by trying it; and what the table says of the graph that it leaves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node, saved_tensors_hooks
from torch.utils import _pytree as pytree

from hirescam.proof.ops import Kind, kind_of, native_name

# (scale of X, scale of Y, α) of an affine combination α X + (1 − α) Y
MIXTURES = ((1, 1, 0.3), (1, 0.05, -0.7), (100, 1, 0.4), (0.01, 3, 2.0))
SCALES = (0.3, 2.0, 30.0) * 3  # of the points at which a function is looked at
POINTS = len(SCALES)
NEAR, FAR = 1e-4, 1e6
MOST = 0.75  # of the points may show what is true almost everywhere: few lie beside a kink


@dataclass(frozen=True)
class Bound:
    """A function of some of its tensors, while the others stay as they are."""

    function: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    dependent: tuple[int, ...]

    def __call__(self, values: Sequence[Tensor]) -> Any:
        """What the function returns."""
        given = list(self.inputs)
        for slot, value in zip(self.dependent, values, strict=True):
            given[slot] = value
        return self.function(*given)

    def flat(self, values: Sequence[Tensor]) -> Tensor:
        """All float results as one real vector."""
        return flat(self(values))

    def random(self, scale: float = 1.0) -> list[Tensor]:
        return [torch.randn_like(self.inputs[slot]) * scale for slot in self.dependent]

    def slope(self, point: Sequence[Tensor], along: Sequence[Tensor], weights: Tensor) -> float:
        """weights · J along, with the Jacobian J of autograd at the point."""
        leaves = [value.clone().requires_grad_() for value in point]
        total = (weights * self.flat([leaf.clone() for leaf in leaves])).sum()
        gradients = torch.autograd.grad(total, leaves, allow_unused=True)
        pairs = zip(gradients, along, strict=True)
        return sum(float((g.conj() * d).real.sum()) for g, d in pairs if g is not None)


def flat(output: Any) -> Tensor:
    parts = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and _is_float(leaf)]
    wide = [torch.view_as_real(part.to(torch.complex128).resolve_conj()).reshape(-1) for part in parts]
    return torch.cat(wide)


def subsets(count: int) -> list[tuple[int, ...]]:
    """All non-empty sets of inputs."""
    return [chosen for size in range(1, count + 1) for chosen in combinations(range(count), size)]


def truth(bound: Bound, tolerance: float = 1e-9) -> Kind:
    """Affine, piecewise linear or other; a gradient that is not the slope makes it other."""
    if affinity_error(bound) <= tolerance:
        return Kind.AFFINE if _gradient_is_slope(bound, 1.0, max(1e-6, tolerance), points=2) else Kind.OTHER
    return Kind.PIECEWISE if _is_piecewise(bound, tolerance) else Kind.OTHER


def affinity_error(bound: Bound) -> float:
    """|f(αX + (1−α)Y) − αf(X) − (1−α)f(Y)| relative to the largest of the values."""
    worst = 0.0
    for first, second, share in MIXTURES:
        X, Y = bound.random(first), bound.random(second)
        mixed = [share * x + (1 - share) * y for x, y in zip(X, Y, strict=True)]
        with torch.no_grad():
            values = [bound.flat(given) for given in (mixed, X, Y)]
        if len({value.shape for value in values}) > 1:
            return float("inf")
        gap = (values[0] - share * values[1] - (1 - share) * values[2]).abs().max()
        largest = torch.stack(values).abs().max().clamp_min(1e-30)
        worst = max(worst, float(gap / largest))
    return worst


def _gradient_is_slope(bound: Bound, step: float, tolerance: float, points: int = POINTS) -> bool:
    good = 0
    for scale in SCALES[:points]:
        X, D = bound.random(scale), bound.random()
        below, above = ([x + sign * step * d for x, d in zip(X, D, strict=True)] for sign in (-1, 1))
        with torch.no_grad():
            low, high = bound.flat(below), bound.flat(above)
        weights = torch.randn_like(low)
        rise = float((weights * (high - low)).sum()) / (2 * step)
        good += abs(bound.slope(X, D, weights) - rise) <= tolerance * max(1.0, abs(rise))
    return good >= MOST * points


def _is_piecewise(bound: Bound, tolerance: float) -> bool:
    """Finitely many affine pieces, not all flat, on each of which the gradient is the slope."""
    alike = straight = 0
    for scale in SCALES:
        X, D = bound.random(scale), bound.random()

        def at(t: float, X: list[Tensor] = X, D: list[Tensor] = D) -> list[Tensor]:
            return [x + t * d for x, d in zip(X, D, strict=True)]

        weights = torch.randn_like(bound.flat(X))
        here, there = bound.slope(X, D, weights), bound.slope(at(NEAR), D, weights)
        alike += abs(here - there) <= 10 * tolerance * max(1.0, abs(here))
        with torch.no_grad():
            far = [bound.flat(at(t * FAR)) for t in (1.0, 1.3, 1.6)]
        bend = (far[0] - 2 * far[1] + far[2]).abs().max()
        straight += bool(bend <= 10 * tolerance * far[1].abs().max().clamp_min(1.0))
    holds = min(alike, straight) >= MOST * POINTS and _rises_somewhere(bound)
    return holds and _gradient_is_slope(bound, 1e-6, max(1e-5, tolerance))


def _rises_somewhere(bound: Bound) -> bool:
    """Whether the gradient is not zero everywhere, as it is where a function rounds."""
    ones = torch.ones(len(bound.flat(bound.random())))
    return any(bound.slope(bound.random(scale), bound.random(), ones) for scale in (*SCALES, 300.0) * 8)


@dataclass(frozen=True)
class Met:
    """A node as it was judged: its name in the table, the inputs that depend, the call and the kind."""

    name: str
    dependent: tuple[int, ...]
    edges: int
    call: str
    kind: Kind


def claimed(bound: Bound, call: str = "", *, held: bool = False) -> tuple[Kind, set[Met]]:
    """The weakest kind that the table gives to a node between the inputs and the result.

    Like the pass that reads a network, this keeps none of the tensors that nodes save.
    """
    leaves = [bound.inputs[slot].clone().requires_grad_() for slot in bound.dependent]
    starts = [leaf.clone() for leaf in leaves]
    ends = {start.grad_fn for start in starts}
    with saved_tensors_hooks(lambda tensor: None, _refuse):
        outputs = [leaf for leaf in pytree.tree_leaves(bound(starts)) if isinstance(leaf, Tensor)]
    if any(_is_float(output) and output.grad_fn is None for output in outputs):
        return Kind.OTHER, set()  # what a graph does not show cannot be judged by it
    met = set()
    for node, dependent in _nodes(outputs, ends):
        inner = getattr(node, "_wrapped_node", node)
        kind = kind_of(node, dependent, call, held=held)
        edges = sum(parent is not None for parent, _ in inner.next_functions)
        met.add(Met(native_name(inner) or node.name(), dependent, edges, call, kind))
    return max((one.kind for one in met), default=Kind.AFFINE), met


def _refuse(saved: None) -> Tensor:
    raise AssertionError("a saved tensor was read")


def _nodes(outputs: list[Tensor], ends: set[Node | None]) -> list[tuple[Node, tuple[int, ...]]]:
    """The nodes that depend on the ends, each with the inputs that do."""
    depends: dict[Node, bool] = {end: True for end in ends if end is not None}

    def visit(node: Node | None) -> bool:
        if node is None:
            return False
        if node not in depends:
            found = [visit(parent) for parent, _ in node.next_functions]  # all of them, whatever the first is
            depends[node] = any(found)
        return depends[node]

    for output in outputs:
        visit(output.grad_fn)
    return [
        (node, tuple(slot for slot, (parent, _) in enumerate(node.next_functions) if visit(parent)))
        for node, found in list(depends.items())
        if found and node not in ends
    ]


def _is_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
