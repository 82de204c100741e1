"""What is settled about a model before it is explained: the layer, its certificate, the closed form.

Settled at the first call for each kind of image and score, and kept while the model and the other inputs stay
what they were.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from hirescam.closed_form import ClosedForm, Doubt
from hirescam.compiled import Compiled
from hirescam.errors import InputError, LayerError, ModelError
from hirescam.passes.borrow import Call, check_model, several
from hirescam.passes.cut import Site
from hirescam.passes.input_axes import InputAxes
from hirescam.passes.keys import equal, key_of, others_of
from hirescam.passes.outputs import OutputSelector
from hirescam.passes.randomness import same_random_numbers
from hirescam.passes.restore import Place, restored, unchanged
from hirescam.passes.state import Ends, State
from hirescam.passes.taps import Tap
from hirescam.passes.targets import (
    Region,
    Target,
    classes_in,
    first_class,
    is_class_target,
    is_indexed,
)
from hirescam.passes.trace import Pass
from hirescam.proof import judging, selection
from hirescam.proof.certificate import Certificate, weakened
from hirescam.proof.grade import Guarantee
from hirescam.proof.graph import Graph, Sighting, grade_of_pass, read
from hirescam.proof.judging import Certified
from hirescam.proof.placing import Placed, Places
from hirescam.proof.probes import Answers, wrong_class, wrong_target
from hirescam.proof.selection import Candidate, Layer

CERTIFIED_IMAGES = 2
"""So many images are certified on, the first ones unless others gave a reason."""
_MOST_PLANS = 16
_MOST_RENEWALS = 3  # in a row; weights that change at every call, as in training, are not worth caching
_MOST_DOUBTED = 3  # so many layers are tried when probes contradict what their graphs look like


@dataclass(eq=False)
class Plan:
    """How images of one kind are explained, and what was found out on the way.

    Attributes:
        site: the layer and how to read the output.
        certificate: what is guaranteed there.
        finished: the pass that it was made on.
        answers: what the model answered then.
        axes: what the axes of the images are.
        others: the inputs beside the images that it was made with.
        closed_form: the head's constant Jacobian; None where there is none.
        compiled: the compiled model, where that was asked for.
        ends: some values of the head's weights, whose changes need not show in sums.
        checked: classes and targets whose gradients were held against the model's answers.
        batches: sizes of batches in which an image was found to score as it does alone.
    """

    site: Site
    certificate: Certificate
    finished: Pass
    answers: Answers | None
    axes: InputAxes
    others: tuple[object, ...]
    closed_form: ClosedForm | None = None
    compiled: Compiled | None = None
    ends: Ends | None = None
    checked: set[object] = field(default_factory=set)
    batches: set[int] = field(default_factory=set)

    def fresh(self, call: Call) -> bool:
        """Whether what is kept is true of a call, given that the model is what it was."""
        stale = self.compiled is not None and not self.compiled.fresh
        changed = self.ends is not None and not self.ends.same
        return not stale and not changed and equal(self.others, others_of(call))

    def weaken(self, doubt: str) -> None:
        """Take the guarantee back."""
        self.certificate = weakened(self.certificate, doubt)
        self.closed_form = self.compiled = None


class Planner:
    """Settles how a model is explained, once for each kind of image and score; shared by threads.

    Args:
        model: the eager model.
        tap: the wanted layer; None is the best.
        output: how to find the logits.
        grid: how locations lie on the image, where that cannot be seen.
        axes_given: whether the caller says what the axes of the images are.
        progress: told (done, total) while a rule runs the model or its head many times.
    """

    def __init__(
        self,
        model: nn.Module,
        tap: Tap | None,
        output: OutputSelector,
        grid: tuple[int, ...] | None,
        progress: Callable[[int, int], None] | None,
        *,
        axes_given: bool = False,
    ) -> None:
        self._axes_given = axes_given
        self._model, self.tap, self.output, self.grid, self.progress = model, tap, output, grid, progress
        self.plans: dict[object, Plan] = {}
        self.state: State | None = None
        self._places: list[Place] = []
        self._renewed = 0
        self.compiling = False
        self._which: dict[object, list[int]] = {}
        self._lock = threading.RLock()

    def compile(self) -> None:
        """Compile the model for every plan from now on."""
        with self._lock:
            self.compiling = True
            self.plans.clear()

    def look(self) -> None:
        """Forget what is not true of the model any more.

        Raises:
            ModelError: it is in training mode, or not written in Python.
        """
        with self._lock:
            self._look()

    @contextmanager
    def giving_back(self) -> Iterator[None]:
        """Run the model in this block, and put back what its own passes are known to write to."""
        with self._lock:
            places = list(self._places)
        with restored(places), same_random_numbers():
            yield

    def which(self, found: list[Call], target: Target) -> Call:
        """Which of several inputs is explained: the one that alone goes through the wanted layer.

        Raises:
            InputError: no layer is named, or more than one input goes through it.
        """
        key = tuple((call.key, call.given) for call in found)
        with self._lock:
            if self.tap is not None and key not in self._which:
                self._which[key] = [n for n, call in enumerate(found) if self._reaches(call, target)]
            numbers = self._which.get(key, [])
        if len(numbers) != 1:
            raise InputError(several(found))
        return found[numbers[0]]

    def _reaches(self, call: Call, target: Target) -> bool:
        assert self.tap is not None
        try:
            with unchanged(self._model), same_random_numbers():
                return bool(self.graph(call, target).sighting(self.tap))
        except ModelError:  # the score does not depend on it
            return False

    def plan(self, call: Call, target: Target) -> Plan:
        """The plan for images and scores like these."""
        key = key_of(call, target)
        with self._lock:
            plan = self.plans.pop(key, None)
            if plan is None or not plan.fresh(call):
                plan = self._make(call, target)
            self.plans[key] = plan  # the last used comes last
            while len(self.plans) > _MOST_PLANS:
                self.plans.pop(next(iter(self.plans)))
            return plan

    def again(self, call: Call, target: Target) -> Plan:
        """Make a new plan for these very images: what was kept is not true of them."""
        with self._lock:
            plan = self.plans[key_of(call, target)] = self._make(call, target)
            return plan

    def resolve(self, plan: Plan, doubt: Doubt, call: Call, target: Target) -> Plan:
        """Another plan, after the closed form of one had a doubt: about those images, or that class."""
        if doubt.label is not None:
            return self.again(call, doubt.label)
        images = list(doubt.images[:CERTIFIED_IMAGES])
        whole = _of_images(target, len(call.images), images)
        try:
            made = self.again(call.select(images), whole)
        except ModelError:  # made for one size of batch
            plan.weaken(f"it does not account for the score of images[{images[0]}]")
            return plan
        with self._lock:
            self.plans[key_of(call, target)] = made
        return made

    def doubtful(self, plan: Plan, finished: Pass) -> Target:
        """Hold the gradients of a pass against what the model answered once.

        Returns:
            A class or a target whose gradient is another; None where there is none, or nothing was promised.
        """
        answers, label = plan.answers, None
        if plan.certificate.guarantee is Guarantee.NONE or answers is None:
            return None
        target = finished.wish.target
        named = classes_in(target, finished.bound.index)
        if named is not None:
            wanted = set(named) - plan.checked
            classes = sorted(wanted)
            if classes:
                label = wrong_class(answers, plan.finished.jacobian(classes), classes, plan.finished)
            plan.checked |= wanted
            return label if label is not None and self._contradicted(plan, label) else None
        if is_class_target(target) and not isinstance(target, Region) and target not in plan.checked:
            plan.checked.add(target)
            return target if wrong_target(answers, plan.finished, target) else None
        return None

    def _contradicted(self, plan: Plan, label: int) -> bool:
        """Whether a suspicious class, asked about by itself and with smaller steps, stays suspicious."""
        made, guarantee = plan.finished, plan.certificate.guarantee
        if guarantee is not Guarantee.LOCAL:
            return True
        own = judging.certify_site(
            made.site, made.call, label, grade_of_pass(made), made.logits.detach()
        ).certificate
        return own.guarantee.rank > guarantee.rank

    def layers(self, call: Call, target: Target, settled: Certificate | None = None) -> list[Layer]:
        """Grade every tap, ask the model about those that look affine, and mark the one that is chosen.

        That is the one which was settled on, after every class of the target was asked about; without one,
        the first on which structure and probes agree.
        """
        call, target = _sample(call, target)
        with unchanged(self._model), same_random_numbers():
            call, graph = self._labelled(call, target)
            places = Places(self._model, call, self.grid)
            found = selection.candidates(graph, places)
            tried: list[tuple[Candidate, Certificate]] = []
            impossible: dict[int, LayerError] = {}
            for item in selection.ranked(found, self._model, graph):
                if not item.grade.affine and len(tried) >= _MOST_DOUBTED:
                    break
                try:
                    tried.append(
                        (item, self._certify(graph, item.sighting, places, call, target).certificate)
                    )
                except LayerError as error:  # what it returns is not what the model goes on with
                    impossible[id(item)] = error
        if not tried:
            raise next(iter(impossible.values()))
        found = selection.readable(found, places)
        agreed = [item for item, verdict in tried if verdict.guarantee is item.grade.guarantee]
        found = [item for item in found if id(item) not in impossible]
        chosen = (agreed or [item for item, _ in tried])[0]
        if settled is not None:
            named = (item for item in found if graph.place(item.sighting).tap.name == settled.layer)
            chosen = next(named, chosen)
            tried.append((chosen, settled))
        return selection.listing(graph, found, chosen, tried)

    def graph(self, call: Call, target: Target) -> Graph:
        """Read the graph of one forward pass."""
        with unchanged(self._model) as places:
            graph = read(self._state(), call, self.output, target)
        self._written_to(places)
        return graph

    def _labelled(self, call: Call, target: Target) -> tuple[Call, Graph]:
        """The call with what operations take for the channels of its images, and the graph of a pass.

        Raises:
            InputError: the caller says that other axes are channels.
        """
        graph = self.graph(call, target)
        axes = graph.contradicted
        if axes is None:
            return call, graph
        if self._axes_given:
            taken = f"axis {axes.letters.index('c')}" if "c" in axes.letters else "none of their axes"
            raise InputError(
                f"axes={call.axes.letters!r} does not fit this {type(self._model).__name__}: for images of "
                f"shape {call.given} its first layer takes {taken} for channels, as with "
                f"axes={axes.letters!r}"
            )
        call = replace(call, axes=axes)
        return call, self.graph(call, target)

    def _state(self) -> State:
        if self.state is None:
            self.state = State(self._model, self._places)
        return self.state

    def _look(self) -> None:
        if self.state is not None and self.state.same:
            self._renewed = 0
            return
        check_model(self._model)
        steady = self.state is None or self._renewed < _MOST_RENEWALS or not self.state.only_values
        self.state = State(self._model, self._places)
        self._renewed += 1
        if steady:
            self.plans.clear()
            self._which.clear()
        for plan in self.plans.values():
            plan.closed_form = plan.compiled = plan.ends = None

    def _make(self, call: Call, target: Target) -> Plan:
        with unchanged(self._model) as places, same_random_numbers():
            plan = self._certified_plan(call, target)
        self._written_to(places)
        return plan

    def _written_to(self, places: list[Place]) -> None:
        """Note what the model's own passes write to: it is put back, and no change of the model."""
        new = [place for place in places if place not in self._places]
        if new:
            self._places += new
            self.state = State(self._model, self._places)

    def _certified_plan(self, call: Call, target: Target) -> Plan:
        others = others_of(call)
        call, target = _sample(call, target)
        call, graph = self._labelled(call, target)
        certified = self._settled(graph, call, target)
        certificate, finished = certified.certificate, certified.finished
        plan = Plan(
            finished.site, certificate, finished, certified.answers, call.axes, others,
            batches={1, len(call.images)},
        )  # fmt: skip
        if is_indexed(target):
            plan.checked |= set(finished.bound.index.unique().tolist())
        one_head = certificate.offset != "of this image"  # the head that the Jacobian is of, for every image
        exact = certificate.guarantee is Guarantee.EXACT and is_indexed(target) and one_head
        if exact and certified.answers is not None:
            plan.closed_form = ClosedForm(finished, certified.traced, certified.answers)
            head = finished.cut.head
            plan.ends = Ends(head.constants if head.replayable else self._state().tensors)
        if self.compiling and is_indexed(target):
            plan.compiled = _compiled(finished, certificate)
        return plan

    def _settled(self, graph: Graph, call: Call, target: Target) -> Certified:
        """Certify the wanted layer, or the best; where probes contradict its graph, the next best.

        The first whose probes agree stands; where none does, the first of all.
        """
        places = Places(self._model, call, self.grid)
        if self.tap is not None:
            return self._certify(graph, self._sighting(graph, self.tap), places, call, target)
        first: Certified | LayerError | None = None
        found = selection.candidates(graph, places)
        tried = 0
        for candidate in selection.ranked(found, self._model, graph):
            if tried >= _MOST_DOUBTED and not candidate.grade.affine:
                break
            try:
                certified = self._certify(graph, candidate.sighting, places, call, target)
            except LayerError as error:  # what it returns is not what the model goes on with
                first = first or error
                continue
            tried += 1
            if certified.certificate.guarantee is candidate.grade.guarantee:
                return _advised(certified, found)
            first = certified if first is None or isinstance(first, LayerError) else first
        if isinstance(first, LayerError):
            raise first
        assert first is not None
        return _advised(first, found)

    def _certify(
        self, graph: Graph, sighting: Sighting, places: Places, call: Call, target: Target
    ) -> Certified:
        places.measure([sighting])
        placed = places.of(sighting)
        if placed.layout is None:
            raise LayerError(
                _no_map(graph.place(sighting).tap.name, sighting.shape, placed, len(call.images))
            )
        site = Site(
            self._model, graph.place(sighting), self.output, self.progress, self._state(), placed.layout,
            placed.how,
        )  # fmt: skip
        with self.giving_back():
            return judging.certify_site(site, call, target, graph.grade(sighting), graph.logits)

    def _sighting(self, graph: Graph, tap: Tap) -> Sighting:
        seen = graph.sighting(tap)
        if not seen:
            raise LayerError(
                f"layer={tap.name!r} is not on the way from the image to the score (not called in "
                "this forward pass, or its output is not a map that the score depends on): see "
                "hirescam.layers(model, images)"
            )
        if len(seen) > 1:
            names = ", ".join(repr(item.tap.name) for item in seen[:8])
            raise LayerError(
                f"layer={tap.name!r} is called {len(seen)} times in one forward pass: say which "
                f"call, one of {names}"
            )
        return selection.in_time(graph, seen[0])


def _advised(certified: Certified, found: list[Candidate]) -> Certified:
    """Tell of a layer that promises more, and whose locations nobody knows."""
    certificate, count = certified.certificate, len(certified.finished.logits)
    better = [
        item
        for item in found
        if item.may_be_given(count) and item.grade.guarantee.rank < certificate.guarantee.rank
    ]
    if not better:
        return certified
    best = min(better, key=lambda item: item.preference)
    advice = (
        f"Advice: layer {best.sighting.tap.name!r}, of shape {best.sighting.shape}, is "
        f"{best.grade.guarantee}, but neither operations nor a measurement show how its locations lie: if "
        "they lie on a grid, say so with Explainer(model, grid=(rows, columns))."
    )
    return replace(certified, certificate=replace(certificate, advice=advice))


def _no_map(name: str, shape: tuple[int, ...], placed: Placed, count: int) -> str:
    where, another = (
        f"layer={name!r} gives shape {shape}",
        "choose another layer, see hirescam.layers(model, images)",
    )
    if placed.unknown and shape[0] != count:
        return f"{where}, whose first axis is not the {count} image(s) alone: {another}"
    if placed.unknown:
        return (
            f"{where}, and neither the operations before it nor a measurement show which of its axes are "
            f"locations: {another}, or say how its positions are arranged with Explainer(model, grid=(rows, "
            "columns))"
        )
    return f"{where}, which is no map of locations: {placed.why}; {another}"


def _sample(call: Call, target: Target) -> tuple[Call, Target]:
    """The images that are certified on, and one class of each where the target names classes."""
    if not is_class_target(target) or isinstance(target, Region):
        return call, target
    sample = call.first(CERTIFIED_IMAGES)
    return sample, first_class(target, len(call.images), len(sample.images))


def _compiled(finished: Pass, certificate: Certificate) -> Compiled | None:
    if certificate.guarantee is not Guarantee.EXACT:
        raise ModelError(
            f"compile() needs an exact head, and layer {certificate.layer!r} is {certificate.guarantee}: "
            f"{certificate.reason} Explain it with an Explainer that is not compiled"
        )
    several, half = finished.call.key is not None, torch.is_autocast_enabled(finished.leaf.device.type)
    return None if several or half else Compiled(finished)


def _of_images(target: Target, batch: int, images: list[int]) -> Target:
    """A target of a batch, for some of its images."""
    if isinstance(target, Tensor) and target.ndim and len(target) == batch:
        return target[images]
    return (
        [target[i] for i in images] if isinstance(target, list | tuple) and len(target) == batch else target
    )
