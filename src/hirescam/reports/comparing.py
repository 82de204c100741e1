"""One picture is explained by several rules, side by side."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from hirescam import io, pages
from hirescam.errors import RuleError
from hirescam.explainer import Explainer
from hirescam.explanation import Explanation
from hirescam.models import Model
from hirescam.passes.targets import Target
from hirescam.reports.drawing import grey, panel, picture_of
from hirescam.reports.figures import SAME, laws_of, map_of, plain, run_of, verdict_data
from hirescam.reports.wishes import Wish, check_pictures
from hirescam.rulebook.registry import get
from hirescam.wording import printable

_POOLED = (
    "The head averages over places before its linear layer, so the gradient is the same everywhere and "
    "averaging it changes nothing."
)


@dataclass(frozen=True, slots=True)
class CompareReport:
    """A finished comparison."""

    run: pages.Run
    columns: tuple[pages.Column, ...]
    remarks: tuple[str, ...]
    page: Path
    picture: Path
    data: dict[str, Any]


def compare_file(model: Model, path: Path, *, rules: Sequence[str], wish: Wish, out: Path) -> CompareReport:
    """Explain one picture with several rules and write ``compare.html``, ``.png`` and ``.json``.

    A rule that does not apply to the model is reported in its column.

    Raises:
        HirescamError: a rule is unknown, the wish does not fit, or a file cannot be read or written.
    """
    check_pictures(model)
    chosen = [get(rule) for rule in dict.fromkeys(rules)]
    picture = model.crop(io.read_image(path))
    images = model.normalise(picture)[None]
    explainer = Explainer(model.module, layer=wish.layer)
    results = {rule.name: _attempt(explainer, images, rule.name, wish.target) for rule in chosen}
    found = {name: item for name, item in results.items() if isinstance(item, Explanation)}
    if not found:
        raise RuleError(str(next(iter(results.values()))))
    columns = tuple(_column(model, rule.name, rule.summary, results[rule.name]) for rule in chosen)
    first = next(iter(found.values()))
    run = run_of(model, first, wish=replace(wish, rule="hirescam"), measured=None)
    return _write_comparison(run, columns, remarks(found), found, _Shown(path, picture, out, wish))


def remarks(results: dict[str, Explanation]) -> tuple[str, ...]:
    """Say in words which maps are the same, and why."""
    if len(results) < 2:
        return ()
    names = list(results)
    first = results[names[0]]
    gaps = {name: _gap(first.raw, results[name].raw) for name in names[1:]}
    if all(gap <= SAME for gap in gaps.values()):
        largest = pages.error(max(gaps.values()))
        why = _POOLED if first.certificate.same_as_gradcam else "On this picture the rules happen to agree."
        return (
            f"{_listed(names)} give the same map: they differ by at most {largest} of the largest value. "
            f"{why}",
        )
    return tuple(_remark(names[0], name, first, results[name]) for name in names[1:])


@dataclass(frozen=True, slots=True)
class _Shown:
    path: Path
    picture: Image.Image
    out: Path
    wish: Wish


def _attempt(explainer: Explainer, images: Tensor, rule: str, target: Target) -> Explanation | RuleError:
    try:
        return explainer.compare(images, rules=(rule,), target=target)[rule]
    except RuleError as error:
        return error


def _column(model: Model, rule: str, summary: str, result: Explanation | RuleError) -> pages.Column:
    if isinstance(result, RuleError):
        return pages.Column(rule, summary, error=str(result))
    labels = [model.label(index) for index in result.target[0].tolist()]
    maps = [map_of(result, f"{rule}: {label}", target=place) for place, label in enumerate(labels)]
    laws = None if result.laws is None else laws_of(result.laws)
    return pages.Column(rule, summary, tuple(replace(one, laws=None) for one in maps), laws)


def _write_comparison(
    run: pages.Run,
    columns: tuple[pages.Column, ...],
    remarks: tuple[str, ...],
    results: dict[str, Explanation],
    shown: _Shown,
) -> CompareReport:
    name, out = printable(shown.path), shown.out
    page, picture = out / "compare.html", out / "compare.png"
    text = pages.compare_page(run, name, picture=picture_of(shown.picture), columns=columns, remarks=remarks)
    io.write_text(page, text)
    io.write_png(picture, panel(_tiles(columns, results, shown), foot=" ".join(remarks)))
    certificate = next(iter(results.values())).certificate
    data = {
        "model": {"spec": run.model, "origin": run.origin},
        "image": name,
        "layer": run.layer,
        "certificate": verdict_data(certificate),
        "rules": {column.rule: _column_data(column, results.get(column.rule)) for column in columns},
        "remarks": list(remarks),
        "page": printable(page),
        "picture": printable(picture),
    }
    io.write_json(out / "compare.json", data)
    return CompareReport(run, columns, remarks, page, picture, data)


def _tiles(
    columns: Sequence[pages.Column], results: dict[str, Explanation], shown: _Shown
) -> list[tuple[Image.Image, str]]:
    tiles = [(shown.picture, "picture")]
    for column in columns:
        if column.rule in results:
            result, wish = results[column.rule], shown.wish
            drawn = result.overlay([grey(shown.picture)], sign=wish.sign, resample=wish.resample)[0]
            tiles += [(image, one.title) for image, one in zip(drawn, column.maps, strict=True)]
    return tiles


def _column_data(column: pages.Column, result: Explanation | None) -> dict[str, Any]:
    if result is None or column.laws is None:
        return {"error": column.error}
    targets = [
        {"class": index, "title": one.title, "score": one.score, "sum": one.total, "offset": one.offset}
        for index, one in zip(result.target[0].tolist(), column.maps, strict=True)
    ]
    return {**plain(asdict(column.laws)), "targets": targets}


def _gap(first: Tensor, second: Tensor) -> float:
    """The largest difference, as a share of the first map's largest value."""
    return float((first - second).abs().max() / first.abs().max().clamp_min(1e-30))


def _remark(name: str, other: str, first: Explanation, second: Explanation) -> str:
    gap = _gap(first.raw, second.raw)
    if gap <= SAME:
        same = f"{other} gives the same map as {name}"
        why = f" {_POOLED}" if first.certificate.same_as_gradcam else ""
        return f"{same} (largest difference {pages.error(gap)} of the largest value).{why}"
    factor = float((first.raw * second.raw).sum() / (first.raw * first.raw).sum().clamp_min(1e-30))
    if _gap(second.raw, factor * first.raw) <= SAME:
        return (
            f"{other} gives the same picture as {name} in other units: every value is {pages.number(factor)} "
            "times as "
            "large, so it does not add up to the score."
        )
    return f"{other} gives another map than {name}: values differ by up to {gap:.0%} of the largest one."


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
