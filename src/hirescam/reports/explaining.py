"""Picture files are explained; overlays, arrays, figures and one page are written."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from PIL import Image
from torch import Tensor

from hirescam import io, pages
from hirescam.errors import HirescamError, InputError, ModelError
from hirescam.explainer import Explainer
from hirescam.explanation import Explanation, hash_weights
from hirescam.models import Described, ExportedModel, Model
from hirescam.proof.certificate import Certificate
from hirescam.reports.auditing import RunAudits
from hirescam.reports.drawing import encoded, grey, picture_of
from hirescam.reports.figures import map_of, only, plain, run_of, verdict_data, with_verdict
from hirescam.reports.files import check_writable, unique_names
from hirescam.reports.wishes import Wish, check_pictures
from hirescam.wording import printable

INLINE_PICTURES = 100
"""Up to so many pictures are part of the page; more become files beside it."""
MEASURED_PICTURES = 20
"""Up to so many pictures get the laws measured on each of their maps."""


@dataclass(frozen=True, slots=True)
class Method:
    """What makes the maps of images ``(b, c, h, w)``, so many together, and the hash of its weights."""

    explain: Callable[[Tensor], Explanation]
    weights: Callable[[], str]
    together: int


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
    of pictures is held. For a few pictures the laws are measured on each map. The verdict on the run is the
    weakest on any of its pictures; an audit that fails takes the guarantee back for all of them.

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
    if wish.audit and wish.rule != "hirescam":
        raise InputError(
            f"audit={wish.audit:g} checks maps of the rule 'hirescam', and these are of {wish.rule!r}: leave "
            "out --audit or --rule"
        )
    explainer = Explainer(model.module, layer=wish.layer, audit=wish.audit)
    few = len(paths) <= MEASURED_PICTURES

    def explain(images: Tensor) -> Explanation:
        if few:
            return explainer.compare(images, rules=(wish.rule,), target=wish.target)[wish.rule]
        return explainer(images, target=wish.target, rule=wish.rule)

    method = Method(explain, lambda: hash_weights(model.module), together=1 if few else wish.batch)
    session = _Session(model, wish, out, method, len(paths), complain)
    return _explained(session, paths, progress)


def explain_exported(
    model: ExportedModel,
    paths: Sequence[Path],
    *,
    wish: Wish,
    out: Path,
    progress: Callable[[], None] = lambda: None,
    complain: Callable[[pages.Failure], None] = lambda failure: None,
) -> ExplainReport:
    """Explain picture files with a network that ``hirescam export`` wrote; all else as `explain_files`.

    Raises:
        HirescamError: the wish asks for a layer or a rule (the file has one of each) or for audits, or as
            `explain_files`.
    """
    if wish.layer is not None or wish.rule != "hirescam":
        raise InputError(
            f"model={model.name!r} is an exported network, with the rule 'hirescam' at layer "
            f"{model.network.certificate.layer!r}: leave out --layer and --rule, or name the PyTorch network"
        )
    if wish.audit:
        raise InputError(
            f"model={model.name!r} is an exported network, in which no location can be removed: leave out "
            "--audit, or name the PyTorch network"
        )

    def explain(images: Tensor) -> Explanation:
        return model.network(images, target=wish.target)

    method = Method(explain, lambda: model.network.weights, together=wish.batch)
    session = _Session(model, wish, out, method, len(paths), complain)
    return _explained(session, paths, progress)


def _explained(session: "_Session", paths: Sequence[Path], progress: Callable[[], None]) -> ExplainReport:
    check_pictures(session.model)
    check_writable(session.out)
    done = []
    for one in session.explained(paths):
        done.extend(one)
        progress()
    return session.finish(tuple(done))


class _Session:
    """One run of ``explain_files``: what stays the same from batch to batch."""

    def __init__(
        self,
        model: Described,
        wish: Wish,
        out: Path,
        method: Method,
        count: int,
        complain: Callable[[pages.Failure], None],
    ) -> None:
        self.model, self.wish, self.out, self.method = model, wish, out, method
        self.inline = count <= INLINE_PICTURES
        self.complain = complain
        self.failures: list[pages.Failure] = []
        self.run: pages.Run | None = None
        self.certificate: Certificate | None = None
        self.weights = ""
        self.audits = RunAudits()

    def explained(self, paths: Sequence[Path]) -> Iterator[list[Done]]:
        """Yield a list for each file: what was explained since the file before."""
        jobs: list[Job] = []
        for left, (path, name) in enumerate(zip(paths, unique_names(paths), strict=True), 1 - len(paths)):
            job = self._read(path, name)
            finished: list[Done] = []
            if job and jobs and job.tensor.shape != jobs[0].tensor.shape:
                finished, jobs = self._batch(jobs), []
            jobs += [job] if job else []
            if jobs and (len(jobs) >= self.method.together or left == 0):
                finished, jobs = finished + self._batch(jobs), []
            yield finished

    def finish(self, done: tuple[Done, ...]) -> ExplainReport:
        """Write the page and the figures of the whole run."""
        page = self.out / "index.html" if self.run else None
        if self.run and page:
            self.run = replace(self.run, audit=self.audits.words, failed_audits=self.audits.failures)
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
            result = self.method.explain(torch.stack([job.tensor for job in jobs]))
        except ModelError as error:
            if len(jobs) > 1:
                return [done for job in jobs for done in self._batch([job])]
            self._fail(jobs[0].path, error)
            return []
        result = self.audits.take(result, [printable(job.path) for job in jobs])
        self._describe(result)
        pictures = [grey(job.picture) for job in jobs]
        overlays = result.overlay(pictures, sign=self.wish.sign, resample=self.wish.resample)
        return [self._write(job, only(result, row), overlays[row]) for row, job in enumerate(jobs)]

    def _describe(self, result: Explanation) -> None:
        """At the first batch, say what is true of all; and again where a later one has a weaker verdict."""
        certificate = result.certificate
        if self.run is None or self.certificate is None:
            self.weights = self.method.weights()
            self.run = run_of(self.model, result, wish=self.wish, measured=result.laws)
        elif certificate.guarantee.rank > self.certificate.guarantee.rank:
            self.run = with_verdict(self.run, certificate, result.laws)
        else:
            return
        self.certificate = certificate

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
            _, manifest = result.save(self.out / "maps" / f"{job.name}.npz")
        except OSError as error:
            raise InputError(
                f"path: cannot write {str(self.out / 'maps')!r} ({error.strerror or error}); choose a place "
                "that "
                "can be written to with --out"
            ) from error
        self.audits.wrote(manifest)

    def _picture(self, job: Job) -> pages.Picture:
        if self.inline:
            return picture_of(job.picture)
        name = f"pictures/{job.name}.jpg"
        io.write_bytes(self.out / name, encoded(job.picture, "JPEG"))
        return pages.Picture(quote(name), job.picture.width, job.picture.height)

    def _data(self, done: tuple[Done, ...], page: Path | None) -> dict[str, Any]:
        return {
            "model": {"spec": self.model.name, "origin": self.model.origin},
            "rule": self.wish.rule,
            "layer": self.run.layer if self.run else None,
            "certificate": verdict_data(self.certificate) if self.certificate else None,
            "audit": self.audits.data,
            "receptive_field": self.run.field if self.run else None,
            "images": [one.record for one in done],
            "failed": [{"path": one.name, "error": one.error} for one in self.failures],
            "page": page and printable(page),
        }


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
