"""``hirescam explain``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from hirescam.cli.console import about_model, new_table, open_console, print_json, progress, say, write
from hirescam.cli.later import models, pages, reports, rulebook
from hirescam.cli.options import (
    AsJson,
    Labels,
    LayerName,
    Resample,
    Resamples,
    Sign,
    Signs,
    Size,
    Spec,
    Targets,
    Weights,
)
from hirescam.cli.status import FAILED, NOT_FAITHFUL, OK, SOME_FAILED
from hirescam.errors import InputError
from hirescam.wording import printable

_MOST_PICTURES = 20


def explain(  # noqa: PLR0913
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Picture files, or folders of them.")],
    model: Spec,
    weights: Weights = None,
    labels: Labels = None,
    layer: LayerName = None,
    rule: Annotated[str, typer.Option(metavar="NAME", help="The method; see hirescam rules.")] = "hirescam",
    target: Targets = None,
    top: Annotated[
        int | None, typer.Option(metavar="K", min=1, help="Explain the K highest classes.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write.")] = Path("hirescam-out"),
    size: Size = None,
    as_json: AsJson = False,
    sign: Sign = Signs.BOTH,
    resample: Resample = Resamples.BILINEAR,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Pictures per pass of the network.")] = 16,
    audit: Annotated[
        float,
        typer.Option(
            metavar="RATE",
            min=0,
            max=1,
            help="Check this share of the maps, 0 to 1, by removing a location in the network itself.",
        ),
    ] = 0.0,
) -> int:
    """Explain pictures: an overlay and the raw map of each, and one page for all of them.

    Writes index.html, results.json, overlays/ and maps/ into DIR. A file that cannot be read is reported and
    does not lose the others; the exit status is then 1. An audit that fails takes the guarantee back for the
    whole run; the exit status is then 3.

    Example: `hirescam explain cat.jpg --model lite0 --top 3`

    Example: `hirescam explain photos/ --model torchvision:resnet50 --weights resnet50.pth --target "tabby"`

    Example: `hirescam explain photos/ --model lite0 --audit 0.01`

    Example: `hirescam explain photos/ --model lite0.onnx` with a file that `hirescam export` wrote
    """
    paths = reports.find_pictures(images, out)
    name = rulebook.get(rule).name

    def wish_for(loaded: models.Described) -> reports.Wish:
        classes = reports.target_of(loaded, target or (), top)
        return reports.Wish(classes, layer, name, sign.value, resample.value, batch, audit)

    def complain(failure: pages.Failure) -> None:
        say(failure.error)

    if model.endswith(models.SUFFIX):
        _refuse(weights=weights, size=size)
        exported = models.resolve_exported(Path(model), labels)
        with progress("explaining", len(paths)) as advance:
            report = reports.explain_exported(
                exported, paths, wish=wish_for(exported), out=out, progress=advance, complain=complain
            )
    else:
        loaded = models.resolve(model, weights=weights, labels=labels, image_size=size)
        with progress("explaining", len(paths)) as advance:
            report = reports.explain_files(
                loaded, paths, wish=wish_for(loaded), out=out, progress=advance, complain=complain
            )
    for sentence in report.run.failed_audits if report.run else ():
        say(sentence)
    if as_json:
        print_json(report.data)
    elif report.run and report.page:
        _print_explained(report.run, report.page, report)
    return _status(report)


def _refuse(*, weights: Path | None, size: int | None) -> None:
    for option, value in (("--weights", weights), ("--size", size)):
        if value is not None:
            raise InputError(
                f"{option} does not go with an exported network, which has its own: leave it out"
            )


def _status(report: reports.ExplainReport) -> int:
    if report.run and report.run.failed_audits:
        return NOT_FAITHFUL
    if not report.failures:
        return OK
    return SOME_FAILED if report.done else FAILED


def _print_explained(run: pages.Run, page: Path, report: reports.ExplainReport) -> None:
    console = open_console()
    console.print(_explained_table(report.done[:_MOST_PICTURES]))
    more = len(report.done) - _MOST_PICTURES
    own = "" if run.rule == "hirescam" else f"That verdict is about hirescam. {_measured(run)}"
    rest = f"... and {more} more, see results.json" if more > 0 else ""
    audit = run.audit and f"Audit: {run.audit}."
    write(console, rest, run.verdict, own, audit, about_model(run), f"Look at {printable(page)}")


def _explained_table(done: Sequence[reports.Done]) -> Table:
    table = new_table("picture", "class", "score", "map", "offset")
    for one in done:
        for place, found in enumerate(one.item.maps):
            figures = (pages.number(found.score), pages.signed(found.total), pages.signed(found.offset))
            table.add_row(Text("" if place else one.item.name), Text(found.title), *figures)
    return table


def _measured(run: pages.Run) -> str:
    completeness, location = run.measured.completeness_error, run.measured.location_error
    return (
        f"Measured for {run.rule}: completeness error {pages.error(completeness)}, location error "
        f"{pages.error(location)}."
    )
