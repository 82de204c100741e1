"""Read the autograd graph of one forward pass: op kinds, taps, cuts.

`read` runs the model once with the graph recorded (but nothing saved for a backward pass, so it needs no
more memory than a bare forward pass) and returns every tap with the ops between it and the score.
`grade_of_pass` reads the head of a pass that was cut at its layer.

A tap is a *cut* if every path from the score to the image goes through it.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks

from hirescam.errors import ModelError
from hirescam.passes import taps, targets
from hirescam.passes.borrow import Call, eager, session
from hirescam.passes.cut import watch_of
from hirescam.passes.geometry import Geometry
from hirescam.passes.input_axes import InputAxes
from hirescam.passes.outputs import OutputSelector, logits_of
from hirescam.passes.parts import Axes
from hirescam.passes.provenance import Event, tensors_in
from hirescam.passes.state import State
from hirescam.passes.taps import Place, Tap
from hirescam.passes.targets import Target
from hirescam.passes.trace import Pass
from hirescam.passes.watch import Origin, Watch, mutates, target_of
from hirescam.proof.grade import Grade, grade
from hirescam.proof.ops import Kind, Op, kind_of, readable

Value = tuple[Node, int]
"""One output of one node: what a tensor is in the graph."""


def value_of(tensor: Tensor) -> Value | None:
    """The value that a tensor holds now (in-place ops give it another one later)."""
    return None if tensor.grad_fn is None else (tensor.grad_fn, tensor.output_nr)


def _whole_base(tensor: Tensor) -> Value | None:
    """The value that a tensor shows in another shape, where it is a view of all of it."""
    base = tensor._base
    return value_of(base) if base is not None and base.numel() == tensor.numel() else None


@dataclass(frozen=True)
class Sighting:
    """A tap as one forward pass showed it.

    ``base`` is what the tensor is another view of, where it is one: after a write in place the graph goes on
    from there. ``time`` is when the value was first seen, under whatever name; ``axes`` are what its axes
    are, as far as operations showed it. ``late`` tells that something was made of the value before it was
    returned under this name, so that putting another in its place here comes too late.
    """

    tap: Tap
    value: Value
    base: Value | None
    shape: tuple[int, ...]
    axes: Axes
    time: int
    place: Place
    late: bool


@dataclass(frozen=True)
class Graph:
    """What one forward pass showed.

    ``contradicted`` is what the axes of the images are, where operations show something else than was
    said. ``ops`` lists the ops from the score backwards. ``cuts`` maps the value of every cut to how
    many of them lie after it.
    """

    sightings: tuple[Sighting, ...]
    ops: tuple[Op, ...]
    cuts: dict[Value, int]
    events: tuple[Event, ...]
    logits: Tensor
    calls: dict[tuple[str, str | None], int]
    contradicted: InputAxes | None
    _reached: frozenset[Value] = field(repr=False)
    _head_of: Callable[[Value], tuple[Op, ...]] = field(repr=False)

    def grade(self, sighting: Sighting, *, listed: bool = True) -> Grade:
        """Judge a tap by what ran after it.

        Args:
            sighting: the tap.
            listed: list what runs after it even if it is not a cut, which takes a search.
        """
        count = self.cuts.get(sighting.value)
        if count is None and sighting.base is not None:
            count = self.cuts.get(sighting.base)
        if count is None and not listed:
            return grade((), bypass=True)
        ops = self.ops[:count] if count is not None else self._head_of(sighting.value)
        later = [event for event in self.events if event.time > sighting.time]
        read = {event.name: None for event in self.events if event.read and event.time < sighting.time}
        graded = grade((*reversed(ops), *map(_hidden, later)), bypass=count is None)
        return replace(graded, read=tuple(read))

    def reaches(self, sighting: Sighting) -> bool:
        """Whether the score was made of a tap's output."""
        return sighting.value in self._reached or sighting.base in self._reached

    def place(self, sighting: Sighting) -> Place:
        """Where to find a tap in another pass; without a number where it was called just once."""
        tap = sighting.tap
        once = self.calls.get((tap.module, tap.function), 0) <= 1
        return replace(sighting.place, tap=Tap(tap.module, tap.function, None if once else tap.number))

    def sighting(self, tap: Tap) -> list[Sighting]:
        """All sightings that a name stands for."""
        return [
            seen
            for seen in self.sightings
            if (seen.tap.module, seen.tap.function) == (tap.module, tap.function)
            and tap.number in (None, seen.tap.number)
        ]


def read(state: State, call: Call, output: OutputSelector, target: Target) -> Graph:
    """Run the model once and read what it did.

    Args:
        state: the eager model, in evaluation mode, as it is.
        call: its inputs.
        output: how to find the logits in what it returns.
        target: what is explained.

    Raises:
        ModelError: the scores do not depend on the image in a way that autograd can see.
    """
    model = state.model
    with session(grad=True), eager(model):
        shown = call.replace(call.images.detach().clone().requires_grad_().clone())
        image = shown.own
        reader = _Reader(watch_of(state, call, output, target), image, call.axes)
        with reader.observe(model):
            logits = logits_of(shown.run(model), output, len(call.images))
            watched = targets.called(target, logits) if callable(target) else None
        score = targets.bind(target, logits).score(logits) if watched is None else targets.two_axes(watched)
        if score.grad_fn is None or not reader.watch.provenance.on_tape(score):
            raise ModelError(
                "the model's output does not depend on images in a way that autograd can follow: its "
                "forward detaches it, runs in inference_mode, or uses an op without a gradient"
                + reader.reason(logits)
            )
        reader.watch.finish(logits if watched is None else watched)
        start, end = value_of(score), value_of(image)
        assert start is not None
        assert end is not None
        ops, cuts, reached, head_of = _walk(start, end, reader.watch)
    return Graph(
        tuple(reader.sightings), ops, cuts, tuple(reader.watch.events), logits.detach(),
        dict(reader.watch.counts._seen), reader.geometry.contradicted, reached, head_of,
    )  # fmt: skip


def grade_of_pass(finished: Pass) -> Grade:
    """Judge the layer of one pass by what ran after it, in this very pass.

    What comes around the layer was not seen being made, so it shows as an operation that breaks.
    """
    watch = finished.cut.watch
    start = value_of(finished.score)
    assert start is not None
    ops, *_ = _walk(start, finished.cut.entry, watch)
    return grade((*reversed(ops), *map(_hidden, watch.events)), bypass=False)


def _hidden(event: Event) -> Op:
    return Op(event.name, Kind.OTHER, event.module)


class _Reader:
    """Notes what one forward pass does, and every tap."""

    def __init__(self, watch: Watch, image: Tensor, axes: InputAxes) -> None:
        self.watch = watch
        self.watch.follow(image)
        self.geometry = Geometry(
            watch.provenance.depends, lambda: any(event.read for event in watch.provenance.events)
        )
        self.geometry.start(image, axes)
        self.sightings: list[Sighting] = []
        self._first: dict[Value, int] = {}
        self._used: set[Value] = set()
        self._last: Tap | None = None
        self._since: Counter[tuple[str, str | None]] = Counter()

    @contextmanager
    def observe(self, model: nn.Module) -> Iterator[None]:
        modules = [(path, module) for path, module in model.named_modules() if path]
        with (
            saved_tensors_hooks(lambda tensor: None, _refuse),
            taps.module_outputs(modules, self._on_output),
            taps.Modes(self._on_function, self._on_operation) as modes,
        ):
            self.watch.saving_from_here()
            modes.start_functions()
            modes.start_operations()
            yield

    def reason(self, tensor: Tensor) -> str:
        name = self.watch.provenance.name_of(tensor)
        return f" (see {name})" if name.endswith("()") else ""

    def _on_output(self, path: str, output: Any) -> None:
        self._last = self.watch.counts.module(path)
        self._since.clear()
        self._see(self._last, tensors_in(output)[:1], Place(self._last))

    def _on_operation(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = self.watch.operation(op, args, kwargs)
        self.geometry.operation(op, args, kwargs, result)
        return result

    def _on_function(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = taps.function_name(func)
        if self.watch.sets_grad_mode(name, args):
            return None
        tap = self.watch.counts.function(func)
        self._since[tap.module, tap.function] += 1
        args, kwargs = self.watch.plain(args, kwargs)
        taken = {value_of(tensor) for tensor in tensors_in((args, kwargs))} - {None}
        result = self.watch.function(name, func, args, kwargs)
        self.geometry.function(name, args, kwargs, result)
        made = [value_of(tensor) for tensor in tensors_in(result)]
        if any(value not in taken for value in made):
            self._used |= taken  # type: ignore[arg-type]
        changed = tensors_in(target_of(args, kwargs)) if mutates(name, kwargs) else []
        self._see(tap, [*tensors_in(result), *changed][:1], self._place(tap))
        return result

    def _see(self, tap: Tap, outputs: list[Tensor], place: Place) -> None:
        for tensor in outputs:
            value = value_of(tensor) if self.watch.provenance.on_tape(tensor) else None
            if value is not None and tensor.ndim >= 3 and tensor.is_floating_point():
                time = self._first.setdefault(value, self.watch.provenance.tick())
                base = _whole_base(tensor)
                shape, axes = tuple(tensor.shape), self.geometry.of(tensor) or ()
                late = value in self._used
                self.sightings.append(Sighting(tap, value, base, shape, axes, time, place, late))

    def _place(self, tap: Tap) -> Place:
        """A call, after the last module output before it."""
        last = self._last
        if last is None or last.number is None or tap.number is None:
            return Place(tap)
        return Place(tap, last.module, last.number, tap.number - self._since[tap.module, tap.function])


def _refuse(saved: Any) -> Any:
    raise ModelError(
        "the model runs a backward pass inside its forward, which cannot be explained: "
        "explain the part of the model without it"
    )


def _walk(
    start: Value, end: Value, watch: Watch
) -> tuple[tuple[Op, ...], dict[Value, int], frozenset[Value], Callable[[Value], tuple[Op, ...]]]:
    """Sweep from the score to the image.

    In topological order, a value is a cut exactly if it is the only one that has been met and not yet
    visited: every path that has left the score then leads to it.
    """
    inputs = _dependent_inputs(start[0], end[0])
    if start[0] not in inputs:
        raise ModelError("the model's output does not depend on images: its forward ignores or detaches them")
    order = _topological(start, inputs)

    @cache
    def op(node: Node) -> Op:
        origin = watch.origins.get(node, Origin("", ""))
        slots = tuple(slot for slot, _ in inputs[node])
        kind = kind_of(node, slots, origin.function, held=origin.held)
        name = origin.function if kind is Kind.NORMALISING else readable(node, origin.function)
        return Op(name, kind, origin.module)

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

    return tuple(ops), cuts, frozenset(order), head_of


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
