"""``hirescam evaluate``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from rich.text import Text

from hirescam.cli.console import TONES, open_console, print_json, say, share_done, write
from hirescam.cli.later import evaluation, models
from hirescam.cli.options import AsJson, Labels, LayerName, Size, Spec, Weights
from hirescam.cli.status import OK, SOME_FAILED
from hirescam.cli.words import split_names
from hirescam.wording import DEFAULT_METRICS, DEFAULT_RULES, printable

_VOC = "voc:"
_MOST_FAILURES = 10


class Targets(StrEnum):
    """Values of ``--target``."""

    LABELLED = "labelled"
    PREDICTED = "predicted"


class Truths(StrEnum):
    """Values of ``--truth``."""

    MASKS = "masks"
    BOXES = "boxes"


def evaluate(  # noqa: PLR0913
    model: Spec,
    data: Annotated[
        str, typer.Option(metavar="FOLDER|voc:PATH", help="A folder of pictures, or PASCAL VOC.")
    ],
    rules: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME...",
            help="Methods, with options as in shapley:samples=16. All are compared with the first.",
            show_default=" ".join(DEFAULT_RULES),
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME...",
            help="Metrics with options as in pointing_game:tolerance=9, kinds of metrics, or all.",
            show_default=" ".join(DEFAULT_METRICS),
        ),
    ] = None,
    weights: Weights = None,
    labels: Labels = None,
    layer: LayerName = None,
    size: Size = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="The list of pictures, for voc:PATH.")] = "val",
    target: Annotated[
        Targets | None,
        typer.Option(
            help="Explain the class of the data, or what the network predicts.",
            show_default="labelled for voc:PATH, predicted for a folder",
        ),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help='Classes of the network by class of the data: {"cat": [281, 282]}.'
        ),
    ] = None,
    truth: Annotated[
        Truths | None,
        typer.Option(help="Where objects are, for voc:PATH.", show_default="masks if every sample has one"),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Show the network the whole picture, squeezed, not its own crop.")
    ] = False,
    multilabel: Annotated[
        bool, typer.Option("--multilabel", help="Classes do not exclude each other: sigmoid, not softmax.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Measure N samples, drawn at random.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of that draw and of the intervals.")] = 0,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Samples per pass of the network.")] = 16,
    confidence: Annotated[float, typer.Option(metavar="SHARE", help="Of the intervals.")] = 0.95,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write.")] = Path("hirescam-evaluation"),
    as_json: AsJson = False,
) -> int:
    """Measure methods on data: faithfulness, perturbation, sanity, shape, localisation.

    Writes index.html, summary.json, summary.csv, values.csv and values.parquet into DIR. A run that was
    broken off goes on where it was; one with more samples, rules or metrics adds to what is there. A sample
    that cannot be measured does not lose the others; the exit status is then 1.

    Localisation is plausibility, not faithfulness: see docs/evaluate.md.

    Example: `hirescam evaluate --model lite0 --data photos/ --rules hirescam gradcam --metrics faithfulness`

    Example: `hirescam evaluate --model lite0 --data voc:VOCdevkit --split val --metrics all --limit 100`
    """
    loaded = models.resolve(model, weights=weights, labels=labels, image_size=size)
    settings = evaluation.Settings(
        layer=layer,
        batch=batch,
        limit=limit,
        seed=seed,
        confidence=confidence,
        whole=whole,
        multilabel=multilabel or None,
        classes=evaluation.read_classes(classes) if classes else {},
    )
    samples = _data(data, split, target, truth)
    try:
        with share_done("evaluating") as done:
            found = evaluation.evaluate(
                loaded,
                samples,
                rules=split_names(rules) or DEFAULT_RULES,
                metrics=split_names(metrics) or DEFAULT_METRICS,
                settings=settings,
                out=out,
                progress=done,
            )
    except KeyboardInterrupt:
        say(f"what was measured is kept in {printable(out)}: the same command goes on from there")
        raise
    for failure in found.failures[:_MOST_FAILURES]:
        say(failure.error)
    if as_json:
        print_json(found.data() | {"page": printable(out / evaluation.PAGE)})
    else:
        _print_found(found, out)
    return SOME_FAILED if found.failures or any(row.failed for row in found.rows) else OK


def _data(data: str, split: str, target: Targets | None, truth: Truths | None) -> evaluation.Data:
    if not data.startswith(_VOC):
        return evaluation.folder_data(Path(data), labelled=target is Targets.LABELLED)
    how = cast(Literal["masks", "boxes"] | None, truth and truth.value)
    path = Path(data.removeprefix(_VOC))
    return evaluation.voc_data(path, split=split, labelled=target is not Targets.PREDICTED, truth=how)


def _print_found(found: evaluation.Evaluation, out: Path) -> None:
    console = open_console()
    for table in evaluation.tables_of(found.rows):
        console.print(table)
    about = found.about
    verdict = Text(str(about.certificate))
    guarantee = about.certificate.guarantee
    verdict.stylize(f"bold {TONES[guarantee]}", 0, len(guarantee))
    left_out = [f"Left out, {count}: {reason}." for reason, count in found.left_out.items()]
    said = (
        f"{about.samples} samples on {about.pictures} pictures of {about.data}; model {about.model}, "
        f"{about.origin}; {about.options['confidence']:.0%} intervals."
    )
    write(console, said, *left_out, *_failed(found), *found.notes)
    write(console, verdict, f"Look at {printable(out / evaluation.PAGE)}")


def _failed(found: evaluation.Evaluation) -> list[str]:
    reasons = {row.error: row for row in found.rows if row.error}
    return [f"{row.metric} of {row.rule} failed for {row.failed}: {error}" for error, row in reasons.items()]
