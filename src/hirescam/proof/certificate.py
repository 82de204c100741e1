"""What is guaranteed about HiResCAM at one layer of one model, in words that a person can read."""

from dataclasses import dataclass, replace

from hirescam.proof.grade import Grade, Guarantee
from hirescam.proof.ops import Op

_SELECTION = frozenset({"gather", "select", "index", "reshape", "unsqueeze", "squeeze", "slice", "expand"})


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
        offset: what the offset is a constant of, as far as it was shown: ``"of the model"``, ``"for these
            other inputs"``, ``"of this image"``.
        precision: the arithmetic that limits the errors, such as ``"float32"``; ``""`` where it does not.
        geometry: how it is known which axes of the layer's output are locations, and where on the image
            they lie: ``"operations"`` of the model showed it, it was ``"measured"`` with noise, or
            ``"given"`` as a grid.
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
    offset: str = "of this image"
    precision: str = ""
    geometry: str = "operations"

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
            f"{self.guarantee.upper()} at layer {self.layer!r}: {_MEANING[self.guarantee]}".replace(
                "a constant", f"a constant {self.offset}"
            ),
            self.reason,
            token,
            same if self.guarantee in (Guarantee.EXACT, Guarantee.CONDITIONAL) else "",
            f"Measured: completeness error {self.completeness_error:.1e}, location error "
            f"{self.location_error:.1e}" + (f" (limited by {self.precision})." if self.precision else "."),
            _HOW.get(self.geometry, ""),
            self.advice,
        ]


_MEANING = {
    Guarantee.EXACT: "the map adds up to the score less a constant, and each value is what the score loses "
    "when that location of the layer is removed.",
    Guarantee.CONDITIONAL: "with the normalisers' divisors held at this image's values, the map adds up to "
    "the score less a constant, and each value is what the score loses when that location is removed.",
    Guarantee.LOCAL: "each value is the first-order effect of that location only; removing the location "
    "may change the score by another amount.",
    Guarantee.NONE: "nothing is guaranteed about the map; it is a picture of gradients.",
}
_LOOKS = {
    Guarantee.EXACT: "affine",
    Guarantee.CONDITIONAL: "affine with its divisors held",
    Guarantee.LOCAL: "piecewise linear",
    Guarantee.NONE: "like nothing in particular",
}
_HOW = {
    "measured": "Which of its axes are locations, and where they lie, was measured with noise: the model's "
    "operations do not show it.",
    "given": "How its locations lie was given with grid=.",
}
_STEADY = "Advice: make the head deterministic and free of detach() and branches on values."


@dataclass(frozen=True)
class Verdict:
    """What a certificate is worded from.

    Attributes:
        graded: what structure says.
        bypass: whether structure or probes found a way around the layer.
        doubt: why the probes contradict the structure, or ``""``.
        offset: what the offset is: ``"of the model"``, ``"for these other inputs"`` or ``"of this image"``.
    """

    graded: Grade
    bypass: bool
    doubt: str
    offset: str

    @property
    def guarantee(self) -> Guarantee:
        """What stands."""
        return Guarantee.NONE if self.doubt else self.graded.guarantee


def weakened(certificate: Certificate, doubt: str) -> Certificate:
    """The certificate after something was found that contradicts it."""
    return replace(
        certificate,
        guarantee=Guarantee.NONE,
        reason=f"Its graph looks {_LOOKS[certificate.guarantee]}, but {doubt}; the weaker verdict stands.",
        advice=_STEADY,
    )


def reason_of(verdict: Verdict) -> str:
    """Why the guarantee is what it is, in one sentence."""
    named = _listed(verdict.graded.breaks)
    if verdict.doubt:
        looks = _LOOKS[verdict.graded.guarantee]
        if verdict.graded.guarantee is Guarantee.NONE:
            return f"Between it and the score: {named}; and {verdict.doubt}."
        return f"Its graph looks {looks}, but {verdict.doubt}; the weaker verdict stands."
    if verdict.guarantee is Guarantee.EXACT:
        read = " and ".join(verdict.graded.read)
        also = f" and what Python reads of it before, by {read}" if read else ""
        return f"Every operation after it is affine, and the image reaches the score only through it{also}."
    if verdict.guarantee is Guarantee.CONDITIONAL:
        return f"Every operation after it is affine but {named}, affine once the divisor is held."
    if verdict.bypass:
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


def advice_of(verdict: Verdict, single_token: bool) -> str:
    """What to do to get a stronger guarantee, or ``""``."""
    guarantee = verdict.guarantee
    if verdict.doubt:
        return _STEADY
    if single_token:
        return (
            "Advice: read the tokens by mean pooling instead of one class token (in timm: "
            "global_pool='avg'), or name a layer before the last attention and take its map as a hint."
        )
    if guarantee in (Guarantee.EXACT, Guarantee.CONDITIONAL):
        return ""
    if _ends_in_probabilities(verdict.graded.head):
        return (
            "Advice: explain the logits, not probabilities: select them with output=..., or leave out the "
            "last softmax or sigmoid."
        )
    if verdict.bypass:
        return "Advice: choose a layer after the paths have joined; hirescam.layers() lists them."
    if guarantee is Guarantee.LOCAL:
        return (
            "Advice: for exact maps end the network in one fully connected layer, with or without "
            "pooling before it; with this one, check what a location is worth by removing it."
        )
    return "Advice: choose a layer nearer to the score; hirescam.layers() lists every one with its grade."
