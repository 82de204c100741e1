"""Judge one layer of one model: structure, bypass and probes.

The structure is read from the graph of a real forward pass and from the pass that is cut at the layer
(`hirescam.proof.graph`); the probes are answered by the model itself (`hirescam.proof.probes`). Where they
disagree, the weaker verdict stands and the certificate says why.
"""

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hirescam.errors import HirescamError
from hirescam.passes.borrow import Call, session
from hirescam.passes.cut import Site
from hirescam.passes.precision import is_half, precision_of
from hirescam.passes.targets import Finer, Target, is_class_target, is_indexed
from hirescam.passes.trace import Pass, Trace, Wish, forward
from hirescam.proof.certificate import Certificate, Verdict, advice_of, reason_of
from hirescam.proof.grade import Grade, Guarantee
from hirescam.proof.graph import grade_of_pass
from hirescam.proof.laws import Laws, tolerance_of
from hirescam.proof.probes import Answers, Findings, ask, find
from hirescam.rulebook.gradient import constant_over_space
from hirescam.rulebook.gradient import hirescam as hirescam_rule

_TINY = 1e-30
_RANDOM = "the model gives different outputs for the same images (it draws random numbers?)"
_ROUNDED = 1e-4  # an error that an affine head owes to its arithmetic, or to what the arithmetic hides
_DOUBLE_BYTES = 2 * 2**30  # so much of weights in float64 is not made for a measurement


@dataclass(frozen=True, eq=False)
class Certified:
    """A certificate, the pass that it was made on with its trace, and what the model answered."""

    certificate: Certificate
    finished: Pass
    traced: Trace
    answers: Answers | None


def certify_site(site: Site, call: Call, target: Target, graded: Grade, logits: Tensor) -> Certified:
    """Judge one layer by structure and probes; the weaker verdict stands and says why.

    Args:
        site: the layer.
        call: a few images.
        target: what is explained.
        graded: what the whole graph says about the layer.
        logits: what the model gave for these images in another pass.
    """
    wish = Wish(target, hold=graded.guarantee is Guarantee.CONDITIONAL)
    finished, graded = _confirmed(site, call, wish, graded)
    traced = finished.trace()
    answers, findings, doubt = _asked(finished, traced, graded)
    if not _same(logits, traced.logits):
        bypass, doubt = graded.bypass, _RANDOM
    else:
        bypass = graded.bypass or (findings is not None and findings.bypass)
    laws, precision = findings.laws if findings else _UNKNOWN, ""
    if _is_vague(finished, graded, laws, doubt):
        laws, precision, doubt = _in_double(finished, graded, laws, doubt)
    verdict = Verdict(graded, bypass, doubt, _constant(finished, graded, target))
    certificate = _written(verdict, finished, traced, laws, precision)
    return Certified(certificate, finished, traced, answers)


def _written(verdict: Verdict, finished: Pass, traced: Trace, laws: Laws, precision: str) -> Certificate:
    connected = finished.connected(traced.gradients)
    positions, locations = int(connected.sum()), connected.numel()
    return Certificate(
        guarantee=verdict.guarantee,
        layer=finished.site.tap.name,
        head=tuple(op.name for op in verdict.graded.head),
        breaks=tuple(map(str, verdict.graded.breaks)),
        bypass=verdict.bypass,
        completeness_error=laws.completeness_error,
        location_error=laws.location_error,
        same_as_gradcam=constant_over_space(traced.gradients),
        positions=positions,
        locations=locations,
        reason=reason_of(verdict),
        advice=advice_of(verdict, positions == 1 < locations),
        offset=verdict.offset,
        precision=precision,
        geometry=finished.site.geometry,
    )


def _confirmed(site: Site, call: Call, wish: Wish, graded: Grade) -> tuple[Pass, Grade]:
    """A pass that is cut at the layer, and the weaker of two grades: of the whole graph, and of this pass.

    Constants that were made before the layer look as if they came around it; then the pass is watched from
    its start.
    """
    finished = forward(site, call, wish)
    if graded.guarantee is Guarantee.NONE:
        return finished, graded
    if not upheld(finished, graded.guarantee):
        watched = replace(site, place=replace(site.place, all=True))
        finished = forward(watched, call, wish)
    if not upheld(finished, graded.guarantee):
        graded = replace(grade_of_pass(finished), read=graded.read)
        graded = replace(graded, guarantee=Guarantee.NONE) if wish.hold else graded
    return finished, graded


def upheld(finished: Pass, guarantee: Guarantee) -> bool:
    """Whether what was seen in a pass allows a guarantee; divisors that were held are affine."""
    hold = finished.wish.hold and guarantee is Guarantee.CONDITIONAL
    return grade_of_pass(finished).guarantee.rank <= (Guarantee.EXACT if hold else guarantee).rank


_UNKNOWN = Laws(float("nan"), float("nan"), 0, complete=False, local=False)


def _asked(finished: Pass, traced: Trace, graded: Grade) -> tuple[Answers | None, Findings | None, str]:
    """What the model answers, what follows for its map, and why the structure is to be doubted, or ``""``.

    Where anything is doubtful, the questions are asked once more, each by itself.
    """
    wanted = graded.guarantee is not Guarantee.NONE
    try:
        answers, findings = _question(finished, traced, graded, apart=not wanted)
        doubt = next(iter(findings.doubts), "")
        if wanted and doubt:
            answers, findings = _question(finished, traced, graded, apart=True)
            # Kinks are all that small steps with other images can be explained by, once each is asked apart.
            doubt = next(iter(findings.doubts), doubt if graded.affine else "")
    except HirescamError as error:
        reason = str(error).split(": ", 1)[-1]
        return None, None, f"the model does not run when this layer's output is replaced ({reason})"
    return answers, findings, doubt if wanted else ""


def _question(finished: Pass, traced: Trace, graded: Grade, *, apart: bool) -> tuple[Answers, Findings]:
    raw = hirescam_rule(traced)
    answers = ask(finished, traced, raw, affine=graded.affine, apart=apart)
    with session(grad=False):
        return answers, find(answers, finished, traced, raw)


def _is_vague(finished: Pass, graded: Grade, laws: Laws, doubt: str) -> bool:
    """Whether what was measured may be the error of the arithmetic."""
    if graded.affine:
        return not doubt and max(laws.completeness_error, laws.location_error) > _ROUNDED
    return bool(doubt) and is_half(finished.precision)


def _in_double(finished: Pass, graded: Grade, laws: Laws, doubt: str) -> tuple[Laws, str, str]:
    """Measure again in float64; where that cannot be, what was found stands.

    Returns:
        The laws, what limits them, and a doubt.
    """
    limit = _named(finished)
    if finished.precision is torch.float64:
        return laws, limit, doubt
    try:
        double = _double(finished)
        _, findings, found = _asked(double, double.trace(), graded)
    except (HirescamError, RuntimeError, TypeError, ValueError, AttributeError):
        return laws, limit, doubt  # it cannot be copied, or does not run in float64
    return (laws, limit, doubt) if findings is None else (findings.laws, "", found)


def _named(finished: Pass) -> str:
    """The arithmetic of the head, such as ``"float32"``."""
    own, rounds_like = (
        str(dtype).removeprefix("torch.") for dtype in (finished.logits.dtype, finished.precision)
    )
    return own if own == rounds_like else f"{own} with factors rounded like {rounds_like}"


def _double(finished: Pass) -> Pass:
    """The same pass of a copy of the model in float64."""
    model = finished.site.model
    if sum(8 * tensor.numel() for tensor in model.state_dict().values()) > _DOUBLE_BYTES:
        raise ValueError("too large")
    call = finished.call.in_double()
    named = is_indexed(finished.wish.target)
    wish = replace(finished.wish, target=finished.bound.index) if named else finished.wish
    with torch.autocast(finished.leaf.device.type, enabled=False):
        return forward(replace(finished.site, model=copy.deepcopy(model).double()), call, wish)


def _constant(finished: Pass, graded: Grade, target: Target) -> str:
    """What the offset is a constant of, as far as it was shown.

    An affine head without a bypass has one offset, whatever the image, and other images were tried. Divisors
    that are held are those of one image, and functions, and what reads the image in Python, may choose by it.
    """
    chosen = graded.read or not is_class_target(target) or isinstance(target, Finer)
    if graded.guarantee is not Guarantee.EXACT or chosen:
        return "of this image"
    return "for these other inputs" if finished.call.key is not None else "of the model"


def _same(first: Tensor, second: Tensor) -> bool:
    scale = first.abs().max().clamp_min(_TINY)
    return bool((first - second).abs().max() <= tolerance_of(precision_of(first)) * scale)
