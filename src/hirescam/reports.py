"""Picture files and a model come in; overlays, arrays, figures and pages on disk go out."""

import base64
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import hirescam
from hirescam import io, pages
from hirescam.certificate import Certificate, Laws
from hirescam.errors import HirescamError, ImageFileError, InputError, ModelError, RuleError, TargetError
from hirescam.explainer import Explainer
from hirescam.explanation import Explanation, hash_weights
from hirescam.models import Model
from hirescam.rulebook.registry import get
from hirescam.targets import Classes, Target, TopK
from hirescam.views import Resample, Sign

INLINE_PICTURES = 100
"""Up to so many pictures are part of the page; more become files beside it."""
MEASURED_PICTURES = 20
"""Up to so many pictures get the laws measured on each of their maps."""

SAME = 1e-3
"""Maps that differ by less than this share of their largest value are called the same."""

_POOLED = (
    "The head averages over places before its linear layer, so the gradient is the same everywhere and "
    "averaging it changes nothing."
)
_MOST_NAME_BYTES = 100
_TILE = 420
_PAPER, _INK, _SOFT = (255, 255, 255), (29, 29, 31), (98, 98, 95)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be explained, and how it is shown.

    Attributes:
        target: the classes.
        layer: name of a layer; None for the best.
        rule: name of a rule.
        sign: which values are drawn.
        resample: how they are drawn.
        batch: how many pictures go through the model at once.
    """

    target: Target = None
    layer: str | None = None
    rule: str = "hirescam"
    sign: Sign = "both"
    resample: Resample = "bilinear"
    batch: int = 16


@dataclass(frozen=True, slots=True)
class Job:
    """One picture, from its file to the network's input."""

    path: Path
    name: str
    picture: Image.Image
    tensor: Tensor


@dataclass(frozen=True, slots=True)
class Done:
    """What was found on one picture, and where it was written."""

    item: pages.Item
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ExplainReport:
    """A finished run.

    Attributes:
        run: what is true of all pictures; None when none could be explained.
        done: the pictures that were explained.
        failures: the files that were not.
        page: the page; None when none could be explained.
        data: everything above as plain data.
    """

    run: pages.Run | None
    done: tuple[Done, ...]
    failures: tuple[pages.Failure, ...]
    page: Path | None
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CompareReport:
    """A finished comparison."""

    run: pages.Run
    columns: tuple[pages.Column, ...]
    remarks: tuple[str, ...]
    page: Path
    picture: Path
    data: dict[str, Any]


def explain_files(
    model: Model,
    paths: Sequence[Path],
    *,
    wish: Wish,
    out: Path,
    progress: Callable[[], None] = lambda: None,
    complain: Callable[[pages.Failure], None] = lambda failure: None,
) -> ExplainReport:
    """Explain picture files and write overlays, arrays, ``results.json`` and ``index.html``.

    A file that cannot be explained is reported and does not lose the others. At any moment only one batch
    of pictures is held.

    Args:
        model: the network with its preprocessing.
        paths: picture files.
        wish: what to explain.
        out: the folder; files of other names in it are left alone.
        progress: called after each picture.
        complain: called for each file that could not be explained.

    Raises:
        HirescamError: the wish does not fit the model, or the folder cannot be written to.
    """
    check_pictures(model)
    check_writable(out)
    session = _Session(model, wish, out, len(paths), complain)
    done = []
    for one in session.explained(paths):
        done.extend(one)
        progress()
    return session.finish(tuple(done))


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


def run_of(model: Model, result: Explanation, *, wish: Wish, measured: Laws | None) -> pages.Run:
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
    )


def picture_of(image: Image.Image, *, pixelated: bool = False) -> pages.Picture:
    """Put a picture into a data URI."""
    kind = "PNG" if pixelated else "JPEG"
    content = base64.b64encode(_encoded(image, kind)).decode()
    return pages.Picture(f"data:image/{kind.lower()};base64,{content}", image.width, image.height, pixelated)


def grey(picture: Image.Image) -> Image.Image:
    """Take the colour out of a picture, so that red and blue are the map's alone."""
    return picture.convert("L").convert("RGB")


def laws_of(laws: Laws) -> pages.Measured:
    """Take over what was measured on a map."""
    return pages.Measured(laws.completeness_error, laws.location_error, laws.complete, laws.local)


def certified_laws(certificate: Certificate) -> pages.Measured:
    """Take over what was measured for a certificate."""
    holds = certificate.guarantee in (hirescam.Guarantee.EXACT, hirescam.Guarantee.CONDITIONAL)
    errors = certificate.completeness_error, certificate.location_error
    return pages.Measured(*errors, complete=holds or errors[0] < SAME, local=holds or errors[1] < SAME)


def field_of(result: Explanation) -> str:
    """Say which pixels the middle cell can see, or why that is not known."""
    try:
        return str(result.receptive_field())
    except HirescamError as error:
        return f"It has seen all the pixels in its receptive field ({error})."


def class_index(model: Model, word: str) -> int:
    """Find a class by its number or its name.

    Raises:
        TargetError: the model has no such name, or several.
    """
    if re.fullmatch(r"[+-]?\d+", word.strip()):
        return int(word)
    if model.labels is None:
        raise TargetError(
            f"target={word!r}: {model.name} has no class names; give a number, or names with --labels"
        )
    wanted = _plain_label(word)
    found = [index for index, label in enumerate(model.labels) if _plain_label(label) == wanted]
    if len(found) == 1:
        return found[0]
    if found:
        raise TargetError(
            f"target={word!r} names the classes {', '.join(map(str, found))}: give one of the numbers"
        )
    close = get_close_matches(wanted, [_plain_label(label) for label in model.labels], n=3)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "give its number"
    raise TargetError(f"target={word!r} is no class of {model.name}: {hint}")


def target_of(model: Model, words: Sequence[str], top: int | None) -> Target:
    """Read what the command line says about classes.

    Raises:
        TargetError: both forms at once, or a class that does not exist.
    """
    if words and top is not None:
        raise TargetError("target: got both --target and --top; leave one of them out")
    if words:
        return Classes(*dict.fromkeys(class_index(model, word) for word in words))
    return None if top is None else TopK(top)


def check_pictures(model: Model) -> None:
    """Refuse a model that does not take pictures.

    Raises:
        InputError: the model takes signals, volumes or videos.
    """
    if len(model.input_shape) != 3:
        raise InputError(
            f"model={model.name!r} takes inputs of shape {model.input_shape}, and this command reads "
            "pictures "
            "(PNG, JPEG, TIFF, WebP ...): explain tensors from Python with hirescam.explain(model, tensor); "
            "'hirescam layers' and 'hirescam certify' work with any model"
        )


def check_writable(out: Path) -> None:
    """Create a folder and try to write into it.

    Raises:
        InputError: that is not possible.
    """
    trial = out / ".hirescam-trial"
    io.write_bytes(trial, b"")
    trial.unlink(missing_ok=True)


def printable(path: Path | str) -> str:
    """Write a path so that any terminal, page and JSON file can hold it."""
    text = os.fsencode(path).decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def find_pictures(given: Sequence[Path], out: Path) -> list[Path]:
    """List picture files as `hirescam.io.find_images` does, without what an earlier run wrote into ``out``.

    Raises:
        HirescamError: there are none.
    """
    found, own, named = io.find_images(given), out.resolve(), set(given)
    kept = [path for path in found if path in named or own not in path.resolve().parents]
    if not kept:
        raise ImageFileError(
            f"all pictures found lie in {str(out)!r}, where this run writes: name other files"
        )
    return kept


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Name the output of each picture after its file, so that no two collide on any file system."""
    taken: set[str] = set()
    return [_claim(path, taken) for path in paths]


def plain(value: Any) -> Any:
    """Make data fit for JSON: figures that are not finite become None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def verdict_data(certificate: Certificate) -> dict[str, Any]:
    """A certificate as plain data, with its words."""
    data = {**asdict(certificate), "guarantee": str(certificate.guarantee), "verdict": str(certificate)}
    return dict(plain(data))


def panel(tiles: Sequence[tuple[Image.Image, str]], *, foot: str = "", width: int = _TILE) -> Image.Image:
    """Set pictures side by side, each with a line below it, and a text under all of them.

    Args:
        tiles: pictures with their captions.
        foot: text, wrapped to the width.
        width: of each tile in pixels.
    """
    gap, size = 18, max(13, width // 22)
    shown = [_scaled(image, width) for image, _ in tiles]
    height = max(image.height for image in shown)
    whole = len(tiles) * (width + gap) + gap
    foot = foot.replace(pages.MINUS, "-")  # Pillow's own font has no true minus sign
    lines = _wrapped(foot, whole - 2 * gap, size)
    canvas = Image.new("RGB", (whole, height + 2 * gap + 2 * size + len(lines) * size * 3 // 2), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, (image, (_, caption)) in enumerate(zip(shown, tiles, strict=True)):
        left = gap + index * (width + gap)
        canvas.paste(image, (left, gap))
        draw.text((left, gap + height + size // 2), caption, fill=_INK, font=_font(size))
    for index, line in enumerate(lines):
        top = height + gap + 5 * size // 2 + index * size * 3 // 2
        draw.text((gap, top), line, fill=_SOFT, font=_font(size))
    return canvas


# --- explain -------------------------------------------------------------------------------------


class _Session:
    """One run of ``explain_files``: what stays the same from batch to batch."""

    def __init__(
        self,
        model: Model,
        wish: Wish,
        out: Path,
        count: int,
        complain: Callable[[pages.Failure], None],
    ) -> None:
        self.model, self.wish, self.out = model, wish, out
        self.inline, self.measures = count <= INLINE_PICTURES, count <= MEASURED_PICTURES
        self.explainer = Explainer(model.module, layer=wish.layer)
        self.complain = complain
        self.failures: list[pages.Failure] = []
        self.run: pages.Run | None = None
        self.certificate: Certificate | None = None
        self.weights = ""

    def explained(self, paths: Sequence[Path]) -> Iterator[list[Done]]:
        """Yield a list for each file: what was explained since the file before."""
        jobs: list[Job] = []
        size = 1 if self.measures else self.wish.batch
        for left, (path, name) in enumerate(zip(paths, unique_names(paths), strict=True), 1 - len(paths)):
            job = self._read(path, name)
            finished: list[Done] = []
            if job and jobs and job.tensor.shape != jobs[0].tensor.shape:
                finished, jobs = self._batch(jobs), []
            jobs += [job] if job else []
            if jobs and (len(jobs) >= size or left == 0):
                finished, jobs = finished + self._batch(jobs), []
            yield finished

    def finish(self, done: tuple[Done, ...]) -> ExplainReport:
        """Write the page and the figures of the whole run."""
        page = self.out / "index.html" if self.run else None
        if self.run and page:
            io.write_text(page, pages.explain_page(self.run, [one.item for one in done], self.failures))
        data = self._data(done, page)
        io.write_json(self.out / "results.json", data)
        return ExplainReport(self.run, done, tuple(self.failures), page, data)

    def _read(self, path: Path, name: str) -> Job | None:
        try:
            picture = self.model.crop(io.read_image(path))
            return Job(path, name, picture, self.model.normalise(picture))
        except HirescamError as error:
            self._fail(path, error)
            return None

    def _fail(self, path: Path, error: Exception) -> None:
        failure = pages.Failure(printable(path), printable(str(error)))
        self.failures.append(failure)
        self.complain(failure)

    def _batch(self, jobs: list[Job]) -> list[Done]:
        try:
            result = self._explain(torch.stack([job.tensor for job in jobs]))
        except ModelError as error:
            if len(jobs) > 1:
                return [done for job in jobs for done in self._batch([job])]
            self._fail(jobs[0].path, error)
            return []
        self._describe(result)
        pictures = [grey(job.picture) for job in jobs]
        overlays = result.overlay(pictures, sign=self.wish.sign, resample=self.wish.resample)
        return [self._write(job, only(result, row), overlays[row]) for row, job in enumerate(jobs)]

    def _explain(self, images: Tensor) -> Explanation:
        rule, target = self.wish.rule, self.wish.target
        if self.measures:
            return self.explainer.compare(images, rules=(rule,), target=target)[rule]
        return self.explainer(images, target=target, rule=rule)

    def _describe(self, result: Explanation) -> None:
        """At the first batch, say what is true of all."""
        if self.run is None:
            self.certificate = result.certificate
            self.weights = hash_weights(self.model.module)
            self.run = run_of(self.model, result, wish=self.wish, measured=result.laws)

    def _write(self, job: Job, result: Explanation, overlays: list[Image.Image]) -> Done:
        result = replace(result, weights=self.weights, origin=None)
        titles = [self.model.label(index) for index in result.target[0].tolist()]
        names = [self._overlay_name(job, index) for index in result.target[0].tolist()]
        for name, overlay in zip(names, overlays, strict=True):
            io.write_png(self.out / name, overlay)
        self._save(job, result)
        maps = tuple(map_of(result, title, target=place) for place, title in enumerate(titles))
        item = pages.Item(printable(job.path), self._picture(job), maps)
        return Done(item, _record(job, result, maps=maps, overlays=names))

    def _overlay_name(self, job: Job, index: int) -> str:
        slug = re.sub(r"[^a-z0-9]+", "-", self.model.label(index).lower()).strip("-")[:40]
        return f"overlays/{job.name}.{index}-{slug}.png"

    def _save(self, job: Job, result: Explanation) -> None:
        try:
            result.save(self.out / "maps" / f"{job.name}.npz")
        except OSError as error:
            raise InputError(
                f"path: cannot write {str(self.out / 'maps')!r} ({error.strerror or error}); choose a place "
                "that "
                "can be written to with --out"
            ) from error

    def _picture(self, job: Job) -> pages.Picture:
        if self.inline:
            return picture_of(job.picture)
        name = f"pictures/{job.name}.jpg"
        io.write_bytes(self.out / name, _encoded(job.picture, "JPEG"))
        return pages.Picture(quote(name), job.picture.width, job.picture.height)

    def _data(self, done: tuple[Done, ...], page: Path | None) -> dict[str, Any]:
        return {
            "model": {"spec": self.model.name, "origin": self.model.origin},
            "rule": self.wish.rule,
            "layer": self.run.layer if self.run else None,
            "certificate": verdict_data(self.certificate) if self.certificate else None,
            "receptive_field": self.run.field if self.run else None,
            "images": [one.record for one in done],
            "failed": [{"path": one.name, "error": one.error} for one in self.failures],
            "page": page and printable(page),
        }


def only(result: Explanation, row: int) -> Explanation:
    """Take the part of a result that is about one image."""
    part = slice(row, row + 1)
    return replace(
        result,
        raw=result.raw[part],
        score=result.score[part],
        target=result.target[part],
        logits=result.logits[part],
    )


def _record(
    job: Job, result: Explanation, *, maps: Sequence[pages.Map], overlays: Sequence[str]
) -> dict[str, Any]:
    targets = [
        {
            "class": index,
            "label": one.title,
            "score": one.score,
            "sum": one.total,
            "offset": one.offset,
            "overlay": name,
        }
        for index, one, name in zip(result.target[0].tolist(), maps, overlays, strict=True)
    ]
    return {
        "path": printable(job.path),
        "targets": targets,
        "arrays": f"maps/{job.name}.npz",
        "manifest": f"maps/{job.name}.json",
        "laws": plain(asdict(result.laws)) if result.laws else None,
    }


# --- compare -------------------------------------------------------------------------------------


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


# --- parts ---------------------------------------------------------------------------------------


def _claim(path: Path, taken: set[str]) -> str:
    stem = _file_name(path.stem)
    name = stem
    if _key(name) in taken and path.parent.name:
        name = _file_name(f"{path.parent.name}_{stem}")
    base, count = name, 1
    while _key(name) in taken:
        count += 1
        name = f"{base}-{count}"
    taken.add(_key(name))
    return name


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _file_name(text: str) -> str:
    """Keep letters, digits and a few signs of any language, within what file systems allow."""
    kept = re.sub(r"[^\w\- ()+,=@]", "_", printable(text)).strip(" _") or "picture"
    return kept.encode()[:_MOST_NAME_BYTES].decode(errors="ignore")


def _plain_label(label: str) -> str:
    return " ".join(label.replace("_", " ").casefold().split())


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _encoded(image: Image.Image, kind: str) -> bytes:
    buffer = BytesIO()
    if kind == "JPEG":
        image.convert("RGB").save(buffer, kind, quality=88)
    else:
        image.save(buffer, kind)
    return buffer.getvalue()


def _scaled(image: Image.Image, width: int) -> Image.Image:
    size = (width, max(1, round(image.height * width / image.width)))
    small = image.width * 4 < width
    return image.convert("RGB").resize(size, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _wrapped(text: str, width: int, size: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _font(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
