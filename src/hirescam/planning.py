"""What is settled about a network before it is explained: the layer, its certificate, the closed form.

Settled at the first call for each kind of image and score, and kept until the network changes.
"""

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hirescam.closed_form import ClosedForm
from hirescam.compiled import Compiled
from hirescam.errors import LayerError, ModelError
from hirescam.passes import targets
from hirescam.passes.borrow import Call
from hirescam.passes.cut import Request
from hirescam.passes.taps import Tap
from hirescam.passes.targets import OutputSelector, Region, Target, first_class, is_class_target, is_indexed
from hirescam.passes.trace import Pass
from hirescam.proof import certificate as certificates
from hirescam.proof import selection
from hirescam.proof.certificate import Certificate, Guarantee
from hirescam.proof.graph import Graph, Sighting, read
from hirescam.proof.selection import Candidate

CERTIFIED_IMAGES = 2
"""So many of the first images are certified on."""
_MOST_PLANS = 16
_MOST_RENEWALS = 3  # in a row; a head that changes at every call, as in training, is not worth caching


@dataclass(frozen=True)
class Plan:
    """How images of one kind are explained.

    Attributes:
        request: the layer and how to read the output; its target is open.
        certificate: what is guaranteed there.
        closed_form: the head's constant Jacobian; None where there is none.
        compiled: the compiled network, where that was asked for.
    """

    request: Request
    certificate: Certificate
    closed_form: ClosedForm | None
    compiled: Compiled | None = None

    @property
    def fresh(self) -> bool:
        """Whether what is kept of the network is still true of it."""
        known = (self.closed_form, self.compiled)
        return all(one.fresh for one in known if one is not None)


class Planner:
    """Settles how a network is explained, once for each kind of image and score; shared by threads.

    Args:
        model: the eager network.
        tap: the wanted layer; None is the best.
        output: how to find the logits.
        grid: how locations lie on the image, where that cannot be seen.
        progress: told (done, total) while a rule runs the network or its head many times.
    """

    def __init__(
        self,
        model: nn.Module,
        tap: Tap | None,
        output: OutputSelector,
        grid: tuple[int, ...] | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._model, self.tap, self.output, self.grid, self.progress = model, tap, output, grid, progress
        self.plans: dict[object, Plan] = {}
        self._renewed: Counter[object] = Counter()
        self._compiling = False
        self._lock = threading.Lock()

    def compile(self) -> None:
        """Compile the network for every plan from now on."""
        with self._lock:
            self._compiling = True
            self.plans.clear()

    def plan(self, call: Call, target: Target) -> Plan:
        """The plan for images and scores like these."""
        return self.plan_and_pass(call, target)[0]

    def plan_and_pass(self, call: Call, target: Target) -> tuple[Plan, Pass | None]:
        """The plan and, where it had to be made on all of these images, the pass that certified it."""
        key, certified = _key(call, target), None
        with self._lock:
            if key not in self.plans:
                self.plans[key], certified = self._make_plan(call, target, key)
            plan = self.plans[key] = self.plans.pop(key)  # the last used comes last
            while len(self.plans) > _MOST_PLANS:
                self.plans.pop(next(iter(self.plans)))
            whole = certified is not None and len(certified.logits) == len(call.images)
            return plan, certified if whole else None

    def renew(self, call: Call, target: Target) -> None:
        """Certify again before the next answer: the head is not what it was."""
        key = _key(call, target)
        with self._lock:
            self.plans.pop(key, None)
            self._renewed[key] += 1

    def answered(self, call: Call, target: Target) -> None:
        """Note that the closed form gave an answer that checked itself."""
        self._renewed.pop(_key(call, target), None)

    def graph(self, call: Call, target: Target) -> Graph:
        """Read the graph of one forward pass."""

        def scores(output: object) -> tuple[Tensor, Tensor]:
            logits = targets.logits_of(output, self.output, call.images.shape[0])
            return logits, targets.bind(target, logits).score(logits)

        return read(self._model, call, scores)

    def candidates(self, graph: Graph, call: Call) -> tuple[list[Candidate], Candidate]:
        """Grade every tap; the second is the one that is chosen where none was named."""
        found = selection.candidates(graph, call, self.grid)
        return found, selection.choose(found, self._model)

    def _make_plan(self, call: Call, target: Target, key: object) -> tuple[Plan, Pass]:
        if is_class_target(target) and not isinstance(target, Region):
            batch, call = len(call.images), call.first(CERTIFIED_IMAGES)
            target = first_class(target, batch, len(call.images))
        graph = self.graph(call, target)
        sighting = self._sighting(graph, call)
        tap = graph.name(sighting.tap)
        request = Request(tap, target, self.output, self.grid, anchor=sighting.anchor, progress=self.progress)
        certified = certificates.certify_tap(self._model, call, request, graph, sighting)
        certificate, finished = certified.certificate, certified.finished
        exact = certificate.guarantee is Guarantee.EXACT and is_indexed(target)
        steady = self._renewed[key] < _MOST_RENEWALS
        closed_form = ClosedForm(finished, certified.traced) if exact and steady else None
        plan = Plan(replace(request, target=None), certificate, closed_form)
        if self._compiling and is_indexed(target):
            plan = replace(plan, compiled=_compiled(finished, certificate) if steady else None)
        return plan, finished

    def _sighting(self, graph: Graph, call: Call) -> Sighting:
        if self.tap is None:
            return self.candidates(graph, call)[1].sighting
        seen = graph.sighting(self.tap)
        if not seen:
            raise LayerError(
                f"layer={self.tap.name!r} is not on the way from the image to the score (not called in "
                "this forward pass, or its output is not a map that the score depends on): see "
                "hirescam.layers(model, images)"
            )
        if len(seen) > 1:
            names = ", ".join(repr(item.tap.name) for item in seen[:8])
            raise LayerError(
                f"layer={self.tap.name!r} is called {len(seen)} times in one forward pass: say which "
                f"call, one of {names}"
            )
        return seen[0]


def _compiled(finished: Pass, certificate: Certificate) -> Compiled | None:
    if certificate.guarantee is not Guarantee.EXACT:
        raise ModelError(
            f"compile() needs an exact head, and layer {certificate.layer!r} is {certificate.guarantee}: "
            f"{certificate.reason} Explain it with an Explainer that is not compiled"
        )
    several, half = finished.call.key is not None, torch.is_autocast_enabled(finished.leaf.device.type)
    return None if several or half else Compiled(finished)


def _key(call: Call, target: Target) -> tuple[object, ...]:
    """What a certificate depends on: the kind of image, of score and of arithmetic."""
    images = call.images
    kind = "class" if is_class_target(target) else target
    half = torch.is_autocast_enabled(images.device.type)
    return (tuple(images.shape[1:]), images.dtype, images.device, half, kind)
