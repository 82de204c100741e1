"""The constant Jacobian of an exact head: maps for one class or a thousand without a backward pass.

For an exact head J[c, k, s] = ∂score_c/∂A[k, s] is a constant of the model, so that

    raw[b, c, s] = Σ_k J[c, k, s] · A[b, k, s]

is a matrix product for each location (one for all of them where J does not vary over space). J is taken
class by class, when a class is first asked for, from the head's graph of the pass that certified it; the
classes that it was certified on are known from the start.

Every class that is learnt is held against what the model itself answered to probes, and every result checks
itself: Σ_s raw + offset must give the logit that the same forward pass produced.
"""

import threading
from dataclasses import dataclass

import torch
from torch import Tensor

from hirescam.passes import targets
from hirescam.passes.head import chunks
from hirescam.passes.layout import Layout
from hirescam.passes.outputs import check_finite
from hirescam.passes.precision import products_are_rounded
from hirescam.passes.targets import Target
from hirescam.passes.trace import Pass, Trace, widen
from hirescam.proof.laws import rounding_of, tolerance_of
from hirescam.proof.probes import Answers, wrong_class
from hirescam.rulebook.gradient import constant_over_space

MOST_BYTES = 768 * 2**20
_CLASSES_TOGETHER = 64


@dataclass(frozen=True, eq=False)
class Maps:
    """What a closed-form pass gives: raw maps, scores, class indices, logits."""

    raw: Tensor
    score: Tensor
    index: Tensor
    logits: Tensor
    layout: Layout


@dataclass(frozen=True)
class Doubt:
    """Why the closed form has no answer.

    Attributes:
        images: numbers of the images whose scores the Jacobian does not account for; none where it is not
            about images.
        label: a class whose gradient is not what the model does.
    """

    images: tuple[int, ...] = ()
    label: int | None = None

    def __str__(self) -> str:
        """The reason, as certificates give it."""
        if self.label is not None:
            return f"the gradient of class {self.label} is not what the model does"
        return f"it does not account for the score of images[{self.images[0]}]"


class ClosedForm:
    """Computes HiResCAM maps of one exact head; keeps its Jacobian up to a bound of memory.

    Args:
        finished: the pass that certified the head.
        traced: the trace of its scores, which are of one class for each image.
        answers: what the model said when its layer was replaced; every class is held against them.
        most_bytes: keep no more of J than this; classes that do not fit are left to the gradient path.
    """

    def __init__(
        self, finished: Pass, traced: Trace, answers: Answers, *, most_bytes: int = MOST_BYTES
    ) -> None:
        self._pass, self._answers = finished, answers
        self._classes = finished.logits.shape[1]
        self._size = finished.activations.flatten(2).shape[1:]  # (k, s)
        self._offset = torch.zeros(0)
        self._rows: Tensor | None = None  # (c, k) where pooled, else (s, c, k): known ones first, in order
        self._known: dict[int, int] = {}
        self._pooled = True  # until a class is met whose J is not the same at every location
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        if self._most_rows:
            self._learn([int(traced.index[0, 0])], traced.gradients[0, :1])

    def maps(self, leaf: Tensor, logits: Tensor, target: Target) -> Maps | Doubt | None:
        """Explain one forward pass.

        Args:
            leaf: the layer's output, in its own shape.
            logits: what the same pass returned.
            target: what is explained.

        Returns:
            The maps; or a doubt, where the Jacobian does not reproduce this pass's logits (weights were
            changed, a module was swapped, another branch was taken) or a class has a wrong gradient; or None
            where more classes are asked for than the bound of memory allows.
        """
        check_finite(logits)
        bound = targets.bind(target, logits)
        layout = self._pass.layout
        activations = widen(layout.read(leaf)).flatten(2)
        if activations.shape[1:] != self._size:
            return Doubt(tuple(range(len(logits))))
        found = self._rows_for(bound.index)
        if found is None or isinstance(found, Doubt):
            return found
        rows, places, offset = found
        with torch.autocast(leaf.device.type, enabled=False):  # sums stay in full precision
            flat = self._multiply(rows, places, activations).to(activations.dtype)
        score = widen(bound.score(logits))
        strangers = _not_reproduced(flat, offset[places], score, self._pass.precision)
        if strangers:
            return Doubt(strangers)
        raw = flat.unflatten(2, layout.space)
        return Maps(raw, score, bound.index, logits, layout)

    def _multiply(self, rows: Tensor, places: Tensor, activations: Tensor) -> Tensor:
        """From activations ``(b, k, s)`` to maps ``(b, t, s)``; ``places`` are rows ``(b, t)``."""
        if products_are_rounded(rows):
            rows, activations = rows.double(), activations.double()
        shared = len(places) == 1 or bool((places == places[0]).all())
        if rows.ndim == 2:
            chosen = _take(rows, places[0], 0) if shared else rows[places]
            return torch.matmul(chosen, activations)
        by_location = activations.permute(2, 1, 0)
        if shared:
            return torch.bmm(_take(rows, places[0], 1), by_location).permute(2, 1, 0)
        chosen = rows[:, places].permute(1, 2, 0, 3)  # (b, t, s, k)
        return torch.einsum("btsk,bks->bts", chosen, activations)

    def _rows_for(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor] | Doubt | None:
        every = index.shape[1] >= self._classes
        labels = list(range(self._classes)) if every else index.flatten().tolist()
        wanted = sorted(set(labels))
        with self._lock:
            missing = [label for label in wanted if label not in self._known]
            for part in chunks(len(missing), _CLASSES_TOGETHER):
                if len(self._known) + len(missing) - part.start > self._most_rows:
                    return None
                jacobian = self._pass.jacobian(missing[part])
                wrong = wrong_class(self._answers, jacobian, missing[part], self._pass)
                if wrong is not None:
                    return Doubt(label=wrong)
                self._learn(missing[part], jacobian)
            if any(label not in self._known for label in wanted):
                return None
            if missing and len(self._known) == self._classes:
                self._sort()
            if self._rows is None:
                return None
            rows, offset = self._rows.narrow(self._axis, 0, len(self._known)), self._offset
            if len(wanted) == 1:
                place = self._known[labels[0]]
                return rows.narrow(self._axis, place, 1), torch.zeros_like(index), offset[place : place + 1]
            if len(self._known) == self._classes:
                return rows, index, offset
            order = [self._known[label] for label in labels]
        return rows, torch.tensor(order, device=index.device).reshape(index.shape), offset

    @property
    def _most_rows(self) -> int:
        row = self._pass.activations[0].nbytes // (self._pass.layout.locations if self._pooled else 1)
        return self._most_bytes // max(1, row)

    def _learn(self, classes: list[int], jacobian: Tensor) -> None:
        """Keep the Jacobian ``(m, k, *space)`` of some classes, where it fits."""
        if self._pooled and not constant_over_space(jacobian.unsqueeze(0)):
            self._pooled = False
            if len(self._known) + len(classes) > self._most_rows:  # there was room for more of them pooled
                self._rows, self._known, self._offset = None, {}, torch.zeros(0)
            elif self._rows is not None:
                self._rows = self._rows.repeat(self._pass.layout.locations, 1, 1)
        if len(self._known) + len(classes) > self._most_rows:
            return
        jacobian = jacobian.flatten(2)
        offset = self._answers.of("nothing")[0, classes]
        self._keep(jacobian.mean(2) if self._pooled else jacobian.permute(2, 0, 1))
        self._offset = torch.cat([self._offset.to(offset), offset])
        for label in classes:
            self._known[label] = len(self._known)

    def _keep(self, rows: Tensor) -> None:
        """Add rows after the known ones; what there is room for doubles, so that few are moved often."""
        old, known, more = self._rows, len(self._known), rows.shape[self._axis]
        if old is None or known + more > old.shape[self._axis]:
            shape = list(rows.shape)
            shape[self._axis] = max(known + more, min(2 * known, self._classes, self._most_rows))
            self._rows = rows.new_empty(shape)
            if old is not None:
                self._rows.narrow(self._axis, 0, known).copy_(old.narrow(self._axis, 0, known))
        assert self._rows is not None
        self._rows.narrow(self._axis, known, more).copy_(rows)

    def _sort(self) -> None:
        """Once all classes are known, keep them in their own order, so that none need be looked up."""
        assert self._rows is not None
        order = torch.tensor([self._known[label] for label in range(self._classes)], device=self._rows.device)
        self._rows, self._offset = _take(self._rows, order, self._axis), self._offset[order]
        self._known = {label: label for label in range(self._classes)}

    @property
    def _axis(self) -> int:
        """The axis of the rows on which the classes are."""
        return 0 if self._pooled else 1


def _take(rows: Tensor, places: Tensor, axis: int) -> Tensor:
    """Rows by number, without a copy where all are wanted in order."""
    count = rows.shape[axis]
    in_order = len(places) == count and (count == 1 or bool((places.diff() == 1).all()))
    return rows if in_order else rows.index_select(axis, places)


def _not_reproduced(flat: Tensor, offset: Tensor, score: Tensor, precision: torch.dtype) -> tuple[int, ...]:
    """Numbers of the images whose maps ``(b, t, s)`` and offsets do not add up to their scores ``(b, t)``.

    The error is held against what the map accounts for, so that a large offset hides nothing.
    """
    total = flat.sum(2)
    wrong = (total + offset - score).abs()
    explained = (score - offset).abs()
    allowed = tolerance_of(precision) * torch.maximum(total.abs(), explained)
    if bool((wrong <= allowed).all()):
        return ()
    allowed = allowed + rounding_of(precision) * (flat.abs().sum(2) + offset.abs() + score.abs())
    return tuple(torch.nonzero((~(wrong <= allowed)).any(1)).flatten().tolist())
