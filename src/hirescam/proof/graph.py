"""Read the autograd graph of one forward pass: op kinds, taps, cuts.

`read` runs the model once with the graph recorded (but nothing saved for a backward pass, so it needs no
more memory than a bare forward pass) and returns every tap with the ops between it and the score.

A tap is a *cut* if every path from the score to the image goes through it.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks
from torch.utils.weak import WeakIdKeyDictionary

from hirescam.errors import ModelError
from hirescam.passes import taps
from hirescam.passes.borrow import Call, eager, session
from hirescam.passes.head import READS, mutates, tensors_in, without_inference
from hirescam.passes.held import HELD
from hirescam.passes.taps import Anchor, Tap
from hirescam.proof.ops import Kind, Op, kind_of, readable

_SHAPE_ONLY = frozenset(
    """new_zeros new_ones new_full new_empty new_tensor zeros_like ones_like full_like empty_like rand_like
    randn_like randint_like requires_grad_ register_hook retain_grad grad_fn""".split()  # noqa: SIM905
)
Value = tuple[Node, int]
"""One output of one node: what a tensor is in the graph."""


def value_of(tensor: Tensor) -> Value | None:
    """The value that a tensor holds now (in-place ops give it another one later)."""
    return None if tensor.grad_fn is None else (tensor.grad_fn, tensor.output_nr)


@dataclass(frozen=True)
class Sighting:
    """A tap as one forward pass showed it."""

    tap: Tap
    value: Value
    shape: tuple[int, ...]
    time: int
    anchor: Anchor | None = None


@dataclass(frozen=True)
class Hidden:
    """A dependence that the graph does not show: a value read into Python, or a detached tensor."""

    name: str
    module: str
    time: int


@dataclass(frozen=True)
class Origin:
    """Who made a node: the module that was running and the function that it called."""

    module: str
    function: str


@dataclass(frozen=True)
class Graph:
    """What one forward pass showed.

    ``ops`` lists the ops from the score backwards. ``cuts`` maps the value of every cut to how many of them
    lie after it.
    """

    sightings: tuple[Sighting, ...]
    ops: tuple[Op, ...]
    cuts: dict[Value, int]
    hidden: tuple[Hidden, ...]
    logits: Tensor
    calls: dict[tuple[str, str | None], int]
    _head_of: Callable[[Value], tuple[Op, ...]] = field(repr=False)

    def head(self, sighting: Sighting) -> tuple[Op, ...]:
        """The ops between a tap and the score, in the order in which they ran."""
        count = self.cuts.get(sighting.value)
        ops = self.ops[:count] if count is not None else self._head_of(sighting.value)
        return (*reversed(ops), *self.hidden_after(sighting))

    def hidden_after(self, sighting: Sighting) -> tuple[Op, ...]:
        """What happened after the tap and is not in the graph."""
        return tuple(
            Op(f"{event.name}()", Kind.OTHER, event.module)
            for event in self.hidden
            if event.time > sighting.time
        )

    def is_cut(self, sighting: Sighting) -> bool:
        """Whether the score depends on the image only through this tap."""
        return sighting.value in self.cuts

    def name(self, tap: Tap) -> Tap:
        """The tap with its number left out where it was called just once."""
        once = self.calls.get((tap.module, tap.function), 0) <= 1
        return Tap(tap.module, tap.function, None) if once else tap

    def sighting(self, tap: Tap) -> list[Sighting]:
        """All sightings that a name stands for."""
        return [
            seen
            for seen in self.sightings
            if (seen.tap.module, seen.tap.function) == (tap.module, tap.function)
            and tap.number in (None, seen.tap.number)
        ]


Scores = Callable[[Any], tuple[Tensor, Tensor]]
"""From what the model returned to (logits, scores)."""


def read(model: nn.Module, call: Call, scores: Scores) -> Graph:
    """Run the model once and read what it did.

    Args:
        model: the eager network, in evaluation mode.
        call: its inputs.
        scores: gives the logits and the explained scores for what the model returned.

    Raises:
        ModelError: the scores do not depend on the image in a way that autograd can see.
    """
    with session(grad=True), eager(model):
        leaf = call.images.detach().clone().requires_grad_()
        image = leaf.clone()
        watch = _Watch(model, image)
        with watch.observe(model):
            output = call.replace(image).run(model)
        logits, score = scores(output)
        if score.grad_fn is None:
            raise ModelError(
                "the model's output does not depend on images in a way that autograd can follow: its "
                "forward detaches it, runs in inference_mode, or uses an op without a gradient"
                + watch.loose_reason(logits)
            )
        start, end = value_of(score), value_of(image)
        assert start is not None
        assert end is not None
        ops, cuts, head_of = _walk(start, end, watch.origins, watch.normalised)
    return Graph(
        tuple(watch.sightings), ops, cuts, tuple(watch.hidden), logits.detach(),
        dict(watch.counts._seen), head_of,
    )  # fmt: skip


class _Watch:
    """Notes what one forward pass does."""

    def __init__(self, model: nn.Module, image: Tensor) -> None:
        self.counts = taps.Counts(model)
        self.sightings: list[Sighting] = []
        self.hidden: list[Hidden] = []
        self.origins: dict[Node, Origin] = {}
        self.normalised: set[Node] = set()
        self._loose: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._loose[image] = ""
        self._clock = 0
        self._last: Tap | None = None
        self._since: Counter[tuple[str, str | None]] = Counter()
        if image.grad_fn is not None:
            self.origins[image.grad_fn] = Origin("", "images")

    @contextmanager
    def observe(self, model: nn.Module) -> Iterator[None]:
        modules = [(path, module) for path, module in model.named_modules() if path]
        with (
            saved_tensors_hooks(lambda tensor: None, _refuse),
            taps.module_outputs(modules, self._on_output),
            taps.Calls(self._on_call) as calls,
        ):
            calls.start()
            yield

    def loose_reason(self, tensor: Tensor) -> str:
        reason = self._loose.get(tensor, "")
        return f" (see {reason}())" if reason else ""

    def _on_output(self, path: str, output: Any) -> None:
        self._last = self.counts.module(path)
        self._since.clear()
        self._see(self._last, tensors_in(output)[:1])

    def _on_call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = taps.function_name(func)
        if name == "_set_grad_enabled":
            return None
        tap = self.counts.function(func)
        self._since[tap.module, tap.function] += 1
        args, kwargs = without_inference(args, kwargs)
        inputs = [tensor for tensor in tensors_in((args, kwargs)) if tensor in self._loose]
        result = func(*args, **kwargs)
        if inputs and name not in _SHAPE_ONLY:
            changed = [args[0]] if mutates(name, kwargs) and isinstance(args[0], Tensor) else []
            self._follow(tap, name, inputs, [*tensors_in(result), *changed])
        return result

    def _follow(self, tap: Tap, name: str, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        self._clock += 1
        reasons = [self._loose[tensor] for tensor in inputs if self._loose[tensor]]
        if name in READS:
            self.hidden.append(Hidden(name, tap.module, self._clock))
        for tensor in outputs:
            followed = tensor.grad_fn is not None
            if followed and reasons:
                self.hidden.append(Hidden(reasons[0], tap.module, self._clock))
            self._loose[tensor] = "" if followed else (reasons[0] if reasons else name)
            if followed:
                self._attribute(tensor, Origin(tap.module, name))
        self._see(tap, outputs[:1])

    def _attribute(self, tensor: Tensor, origin: Origin) -> None:
        stack = [tensor.grad_fn]
        while stack:
            node = stack.pop()
            if node is None or node in self.origins:
                continue
            self.origins[node] = origin
            if origin.function in HELD:
                self.normalised.add(node)
            stack.extend(parent for parent, _ in node.next_functions)

    def _see(self, tap: Tap, outputs: list[Tensor]) -> None:
        for tensor in outputs:
            value = value_of(tensor) if tensor in self._loose else None
            if value is not None and tensor.ndim >= 3:
                self._clock += 1
                anchor = self._anchor(tap) if tap.function else None
                self.sightings.append(Sighting(tap, value, tuple(tensor.shape), self._clock, anchor))

    def _anchor(self, tap: Tap) -> Anchor | None:
        """The last module output before a call that is being seen."""
        last = self._last
        if last is None or last.number is None or tap.number is None:
            return None
        return Anchor(last.module, last.number, tap.number - self._since[tap.module, tap.function])


def _refuse(saved: Any) -> Any:
    raise ModelError(
        "the model runs a backward pass inside its forward, which cannot be explained: "
        "explain the part of the model without it"
    )


def _walk(
    start: Value, end: Value, origins: dict[Node, Origin], normalised: set[Node]
) -> tuple[tuple[Op, ...], dict[Value, int], Callable[[Value], tuple[Op, ...]]]:
    """Sweep from the score to the image.

    In topological order, a value is a cut exactly if it is the only one that has been met and not yet
    visited: every path that has left the score then leads to it.
    """
    inputs = _dependent_inputs(start[0], end[0])
    if start[0] not in inputs:
        raise ModelError("the model's output does not depend on images: its forward ignores or detaches them")
    order = _topological(start, inputs)

    def op(node: Node) -> Op:
        origin = origins.get(node, Origin("", ""))
        if node in normalised:
            return Op(origin.function, Kind.NORMALISING, origin.module)
        slots = tuple(slot for slot, _ in inputs[node])
        if node.name().endswith("CopySlices"):
            plain = origin.function in ("__setitem__", "copy_")
            return Op(f"{origin.function} on a view", Kind.AFFINE if plain else Kind.OTHER, origin.module)
        return Op(readable(node), kind_of(node, slots), origin.module)

    ops: list[Op] = []
    cuts: dict[Value, int] = {}
    pending: set[Value] = {start}
    visited: set[Node] = {end[0]}
    for value in order:
        if pending == {value}:
            cuts[value] = len(ops)
        pending.discard(value)
        pending.update(parent for _, parent in inputs[value[0]])
        if value[0] not in visited:
            visited.add(value[0])
            _append(ops, op(value[0]))

    def head_of(value: Value) -> tuple[Op, ...]:
        below = _reaching(value, order, inputs) - {value}
        found: list[Op] = []
        for node in dict.fromkeys(other[0] for other in order if other in below):
            _append(found, op(node))
        return tuple(found)

    return tuple(ops), cuts, head_of


def _append(ops: list[Op], op: Op) -> None:
    """Add an op; a normaliser is one op although it may be many nodes."""
    if not (op.kind is Kind.NORMALISING and ops and ops[-1] == op):
        ops.append(op)


def _dependent_inputs(start: Node, end: Node) -> dict[Node, list[tuple[int, Value]]]:
    """For every node that depends on ``end``: which inputs do, and their values."""
    depends: dict[Node, bool] = {end: True}
    stack: list[tuple[Node, bool]] = [(start, False)]
    while stack:
        node, done = stack.pop()
        if done:
            depends[node] = any(depends.get(p, False) for p, _ in node.next_functions if p is not None)
        elif node not in depends:
            depends[node] = False
            stack.append((node, True))
            stack.extend((p, False) for p, _ in node.next_functions if p is not None and p not in depends)
    return {
        node: [
            (slot, (parent, number))
            for slot, (parent, number) in enumerate(node.next_functions)
            if parent is not None and depends.get(parent, False) and node is not end
        ]
        for node, dependent in depends.items()
        if dependent
    }


def _topological(start: Value, inputs: dict[Node, list[tuple[int, Value]]]) -> list[Value]:
    """Order the values so that each comes after everything computed from it."""
    waiting: dict[Value, int] = {}
    seen = {start}
    queue = deque([start])
    while queue:
        for _, parent in inputs[queue.popleft()[0]]:
            waiting[parent] = waiting.get(parent, 0) + 1
            if parent not in seen:
                seen.add(parent)
                queue.append(parent)
    order: list[Value] = []
    ready = [start]
    while ready:
        value = ready.pop()
        order.append(value)
        for _, parent in inputs[value[0]]:
            waiting[parent] -= 1
            if not waiting[parent]:
                ready.append(parent)
    return order


def _reaching(
    value: Value, order: Iterable[Value], inputs: dict[Node, list[tuple[int, Value]]]
) -> set[Value]:
    """All values that are computed from ``value``."""
    found = {value}
    for other in reversed(list(order)):
        if any(parent in found for _, parent in inputs[other[0]]):
            found.add(other)
    return found
