"""Results come in; the parts of pages and of JSON files go out."""

import math
from dataclasses import asdict, replace
from typing import Any

from hirescam import pages
from hirescam.errors import HirescamError
from hirescam.explanation import Explanation
from hirescam.models import Described
from hirescam.proof.certificate import Certificate
from hirescam.proof.grade import Guarantee
from hirescam.proof.laws import Laws
from hirescam.reports.wishes import Wish

SAME = 1e-3
"""Maps that differ by less than this share of their largest value are called the same."""


def run_of(model: Described, result: Explanation, *, wish: Wish, measured: Laws | None) -> pages.Run:
    """Collect what is said once for all pictures."""
    return pages.Run(
        model=model.name,
        origin=model.origin,
        layer=result.layer,
        rule=wish.rule,
        guarantee=str(result.certificate.guarantee),
        verdict=str(result.certificate),
        measured=laws_of(measured) if measured else certified_laws(result.certificate),
        measured_on="the first picture" if measured else "the first pictures",
        field=field_of(result),
        sign=wish.sign,
        smooth=wish.resample == "bilinear",
    )


def with_verdict(run: pages.Run, certificate: Certificate, laws: Laws | None) -> pages.Run:
    """Replace the verdict; errors that were measured for the certificate are judged by the new one."""
    measured = run.measured if laws else certified_laws(certificate)
    return replace(run, guarantee=str(certificate.guarantee), verdict=str(certificate), measured=measured)


def map_of(
    result: Explanation, title: str, *, image: int = 0, target: int = 0, note: str = "", blind: float = 1.0
) -> pages.Map:
    """Take one map out of a result, as rows of numbers; a signal's map is a single row."""
    grid = result.on_grid[image, target].detach().double().cpu()
    rows = grid[None] if grid.ndim == 1 else grid
    return pages.Map(
        title=title,
        score=float(result.score[image, target]),
        rows=tuple(tuple(row) for row in rows.tolist()),
        note=note,
        blind=blind,
        laws=laws_of(result.laws) if result.laws else None,
        box=_box_of(result),
    )


def _box_of(result: Explanation) -> tuple[float, float, float, float]:
    """Where the cells of a map lie on its picture: top, left, height and width as shares of it."""
    spans = [
        ((centres[0] + 0.5) / size - share / 2, share * len(centres))
        for centres, size in zip(result.geometry.centres, result.image_size, strict=True)
        for share in [(centres[1] - centres[0] if len(centres) > 1 else size) / size]
    ]
    top, left = spans if len(spans) == 2 else ((0.0, 1.0), spans[0])
    return tuple(round(value, 5) + 0.0 for value in (top[0], left[0], top[1], left[1]))  # type: ignore[return-value]


def laws_of(laws: Laws) -> pages.Measured:
    """Take over what was measured on a map."""
    return pages.Measured(laws.completeness_error, laws.location_error, laws.complete, laws.local)


def certified_laws(certificate: Certificate) -> pages.Measured:
    """Take over what was measured for a certificate."""
    holds = certificate.guarantee in (Guarantee.EXACT, Guarantee.CONDITIONAL)
    errors = certificate.completeness_error, certificate.location_error
    return pages.Measured(*errors, complete=holds or errors[0] < SAME, local=holds or errors[1] < SAME)


def field_of(result: Explanation) -> str:
    """Say which pixels the middle cell can see, or why that is not known."""
    try:
        return str(result.receptive_field())
    except HirescamError as error:
        return f"It has seen all the pixels in its receptive field ({error})."


def only(result: Explanation, row: int) -> Explanation:
    """Take the part of a result that is about one image; audits of several are not about this one."""
    part = slice(row, row + 1)
    return replace(
        result,
        raw=result.raw[part],
        score=result.score[part],
        target=result.target[part],
        logits=result.logits[part],
        audit=result.audit if len(result.raw) == 1 else None,
    )


def verdict_data(certificate: Certificate) -> dict[str, Any]:
    """A certificate as plain data, with its words."""
    data = {**asdict(certificate), "guarantee": str(certificate.guarantee), "verdict": str(certificate)}
    return dict(plain(data))


def plain(value: Any) -> Any:
    """Make data fit for JSON: figures that are not finite become None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
