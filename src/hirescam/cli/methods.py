"""Commands about several methods: ``hirescam compare``, ``relate``, ``rules`` and ``metrics``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import hirescam
from hirescam.cli.console import about_model, new_table, open_console, print_json, print_verdict, write
from hirescam.cli.inputs import about_run, one_input
from hirescam.cli.later import evaluation, models, pages, reports
from hirescam.cli.later import metrics as measures
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
from hirescam.cli.words import split_names
from hirescam.wording import printable

_COMPARED = ("hirescam", "gradcam")


def compare(  # noqa: PLR0913
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A picture file.")],
    model: Spec,
    rules: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME...",
            help="The methods, separated by spaces or commas.",
            show_default=" ".join(_COMPARED),
        ),
    ] = None,
    weights: Weights = None,
    labels: Labels = None,
    layer: LayerName = None,
    target: Targets = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write.")] = Path("hirescam-out"),
    size: Size = None,
    as_json: AsJson = False,
    sign: Sign = Signs.BOTH,
    resample: Resample = Resamples.BILINEAR,
) -> None:
    """Show several methods side by side on one picture, with both laws measured for each.

    Writes compare.html, compare.png and compare.json into DIR.

    Example: `hirescam compare cat.jpg --model lite0 --rules hirescam gradcam`
    """
    loaded = models.resolve(model, weights=weights, labels=labels, image_size=size)
    wish = reports.Wish(
        reports.target_of(loaded, target or (), None),
        layer,
        sign=sign.value,
        resample=resample.value,
    )
    names = split_names(rules) or list(_COMPARED)
    report = reports.compare_file(loaded, image, rules=names, wish=wish, out=out)
    if as_json:
        print_json(report.data)
    else:
        _print_compared(report)


def relate(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A picture file.")],
    model: Spec,
    weights: Weights = None,
    layer: LayerName = None,
    size: Size = None,
    as_json: AsJson = False,
) -> None:
    """Show which methods coincide on this model, which obey the laws, and the theorem that says so.

    Example: `hirescam relate cat.jpg --model lite0`
    """
    loaded = models.resolve(model, weights=weights, image_size=size)
    batch, source = one_input(loaded, image)
    found = hirescam.relations(loaded.module, batch, layer=layer)
    if as_json:
        rows = [asdict(row) for row in found.rows]
        print_json({**about_run(loaded, source, found.certificate), "methods": rows})
        return
    console = open_console()
    table = new_table("method", "× HiResCAM", "differs by", "complete", "location law", "theory")
    for row in found.rows:
        laws = row.laws
        table.add_row(
            row.method,
            f"{row.factor:.3g}" if row.same else "no",
            pages.error(row.difference),
            f"{'yes' if laws.complete else 'no'} ({pages.error(laws.completeness_error)})",
            f"{'yes' if laws.local else 'no'} ({pages.error(laws.location_error)})",
            row.theorem,
        )
    console.print(table)
    print_verdict(console, loaded, source, certificate=found.certificate)


def rules(as_json: AsJson = False) -> None:
    """List the methods.

    Example: `hirescam rules --json`
    """
    found = list(hirescam.rules().values())
    if as_json:
        keys = ("name", "summary", "needs", "exact_for", "complete_for", "local_for", "options", "cite")
        print_json({rule.name: {key: getattr(rule, key) for key in keys} for rule in found})
        return
    table = new_table("rule", "what it does", "needs", "laws hold for heads that are", "source")
    for rule in found:
        table.add_row(rule.name, rule.summary, str(rule.needs), rule.exact_for or "none", rule.cite)
    open_console().print(table)


def metrics(as_json: AsJson = False) -> None:
    """List the metrics of `hirescam evaluate`.

    Example: `hirescam metrics --json`
    """
    found = sorted(measures.metrics().values(), key=lambda one: evaluation.ORDER.index(one.kind))
    if as_json:
        keys = ("name", "summary", "kind", "better", "bounds", "units", "needs", "options", "cite")
        print_json({one.name: {key: getattr(one, key) for key in keys} for one in found})
        return
    table = new_table("metric", "kind", "what it finds", "better", "from", "to", "units", "source")
    for one in found:
        ends = (pages.number(end) for end in one.bounds)
        table.add_row(one.name, one.kind.value, one.summary, one.better.value, *ends, one.units, one.cite)
    console = open_console()
    console.print(table)
    write(console, evaluation.PLAUSIBILITY)


def _print_compared(report: reports.CompareReport) -> None:
    console = open_console()
    table = new_table("rule", "adds up", "error", "each cell is what removing it costs", "error")
    for column in report.columns:
        table.add_row(column.rule, *_law_cells(column))
    console.print(table)
    missing = [f"{column.rule} has no map: {column.error}" for column in report.columns if column.error]
    write(console, *missing, *report.remarks)
    write(console, report.run.verdict, about_model(report.run), f"Look at {printable(report.page)}")


def _law_cells(column: pages.Column) -> tuple[str, ...]:
    laws = column.laws
    if laws is None:
        return ("-",) * 4
    answers = ("yes" if laws.complete else "no", "yes" if laws.local else "no")
    return answers[0], pages.error(laws.completeness_error), answers[1], pages.error(laws.location_error)
