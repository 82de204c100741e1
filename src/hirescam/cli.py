"""The command line: words come in; tables, verdicts and files go out."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from math import prod
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from torch import Tensor

import hirescam
from hirescam import demo as demonstration
from hirescam import io, models, pages, reports
from hirescam.certificate import Certificate, Guarantee
from hirescam.errors import HirescamError
from hirescam.explainer import Explainer
from hirescam.models import FORMS, Model
from hirescam.onnx_file import export as write_onnx
from hirescam.reports import Wish
from hirescam.rulebook.registry import get
from hirescam.selection import Layer
from hirescam.theory import relations

OK, SOME_FAILED, FAILED, NOT_FAITHFUL, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit statuses."""

_MOST_LAYERS = 25
_COMPARED = ("hirescam", "gradcam")
_MOST_PICTURES = 20
_MOST_BREAKS = 1
_PIPE_WIDTH = 160
_SEED = 0
_TONES = {"exact": "green", "conditional": "green", "local": "yellow", "none": "red"}

app = typer.Typer(
    name="hirescam",
    help="Show what a convolutional network looked at, and prove whether the picture can be trusted.",
    epilog="Start with `hirescam demo`. `hirescam COMMAND --help` shows the options, and examples.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Signs(StrEnum):
    """Values of ``--sign``."""

    BOTH = "both"
    POSITIVE = "positive"
    NEGATIVE = "negative"


class Resamples(StrEnum):
    """Values of ``--resample``."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"


Spec = Annotated[str, typer.Option("--model", "-m", metavar="SPEC", help=f"Which network: {FORMS}.")]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Trained weights: .safetensors or a state dict. Without them: random weights."
    ),
]
Labels = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Class names: one per line, or a .json list or dict.")
]
LayerName = Annotated[
    str | None,
    typer.Option("--layer", metavar="NAME", help="The layer; by default the one with the best guarantee."),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        "-t",
        metavar="CLASS",
        help="Class number or name; repeat for several. Default: the predicted class.",
    ),
]
Size = Annotated[
    int | None, typer.Option(metavar="PIXELS", min=1, help="Side of the network's input, instead of its own.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")]
Sample = Annotated[
    Path | None,
    typer.Option(
        "--image", metavar="FILE", help="A real picture to run the network on, instead of random numbers."
    ),
]
Sign = Annotated[Signs, typer.Option(help="Which contributions to draw.")]
Resample = Annotated[Resamples, typer.Option(help="How to draw them: nearest shows cells.")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after ``hirescam``; None takes those of the process.

    Returns:
        The exit status: 0 done; 1 some pictures failed; 2 an error; 3 ``certify`` found less than exact or
        conditional; 130 interrupted.
    """
    words, debug = _arranged(sys.argv[1:] if arguments is None else arguments)
    try:
        status = typer.main.get_command(app).main(args=words, prog_name="hirescam", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SOME_FAILED
    except Exception as error:
        if debug:
            traceback.print_exc()
        _say(_described(error))
        return FAILED
    _say("interrupted" if status == INTERRUPTED else "")
    return status if isinstance(status, int) else OK


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"hirescam {hirescam.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback behind an error.")] = False,
) -> None:
    """Show what a convolutional network looked at, and prove whether the picture can be trusted."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write.")] = Path("hirescam-demo"),
    as_json: AsJson = False,
) -> None:
    """Explain three real networks, write pictures and a page, print the figures. Takes under a minute.

    Example: `hirescam demo --out demo`
    """
    with _progress("computing", demonstration.STEPS) as advance:
        report = demonstration.run(out, progress=advance)
    if as_json:
        _print_json(report.data)
        return
    console = _console()
    table = _table(*report.table.header, show_lines=True)
    for row in report.table.rows:
        table.add_row(*map(Text, row))
    console.print(table)
    _write(console, f"Look at {reports.printable(report.page)}")


@app.command()
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
) -> int:
    """Explain pictures: an overlay and the raw map of each, and one page for all of them.

    Writes index.html, results.json, overlays/ and maps/ into DIR. A file that cannot be read is reported and
    does not lose the others; the exit status is then 1.

    Example: `hirescam explain cat.jpg --model lite0 --top 3`

    Example: `hirescam explain photos/ --model torchvision:resnet50 --weights resnet50.pth --target "tabby"`
    """
    loaded = models.resolve(model, weights=weights, labels=labels, image_size=size)
    wish = Wish(
        reports.target_of(loaded, target or (), top), layer, get(rule).name, sign.value, resample.value, batch
    )
    paths = reports.find_pictures(images, out)
    with _progress("explaining", len(paths)) as advance:
        report = reports.explain_files(
            loaded, paths, wish=wish, out=out, progress=advance, complain=lambda failure: _say(failure.error)
        )
    if as_json:
        _print_json(report.data)
    elif report.run and report.page:
        _print_explained(report.run, report.page, report)
    return _status(report)


@app.command()
def compare(  # noqa: PLR0913
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A picture file.")],
    model: Spec,
    rules: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME...", help="The methods, separated by spaces or commas.", show_default="all"
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
    wish = Wish(
        reports.target_of(loaded, target or (), None),
        layer,
        sign=sign.value,
        resample=resample.value,
    )
    names = _split(rules) or list(_COMPARED)
    report = reports.compare_file(loaded, image, rules=names, wish=wish, out=out)
    if as_json:
        _print_json(report.data)
    else:
        _print_compared(report)


@app.command()
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
    batch, source = _inputs(loaded, image)
    found = relations(loaded.module, batch, layer=layer)
    if as_json:
        rows = [asdict(row) for row in found.rows]
        _print_json({**_about(loaded, source, found.certificate), "methods": rows})
        return
    console = _console()
    table = _table("method", "× HiResCAM", "differs by", "complete", "location law", "theory")
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
    _print_verdict(console, loaded, source, certificate=found.certificate)


@app.command()
def export(  # noqa: PLR0913
    model: Spec,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write, such as model.onnx.")],
    weights: Weights = None,
    labels: Labels = None,
    layer: LayerName = None,
    top: Annotated[int, typer.Option(metavar="K", min=1, help="Explain the K highest classes.")] = 5,
    image: Sample = None,
    size: Size = None,
    as_json: AsJson = False,
) -> None:
    """Write a network with an exact head and its maps as one ONNX graph, checked in ONNX Runtime.

    The graph gives logits, the highest classes, their maps in units of the logit, and how far each map and
    its offset are from the logit. A network whose head is not exact is refused with the reason.

    Example: `hirescam export --model lite0 --out lite0.onnx`
    """
    loaded = models.resolve(model, weights=weights, labels=labels, image_size=size)
    batch, source = _inputs(loaded, image)
    written = write_onnx(loaded.module, batch, out, top=top, layer=layer, labels=loaded.labels)
    if as_json:
        about = _about(loaded, source, written.certificate)
        _print_json({**about, "path": str(written.path), "top": top, "difference": written.difference})
        return
    console = _console()
    _print_verdict(console, loaded, source, certificate=written.certificate)
    gap = pages.error(written.difference)
    _write(
        console, f"Wrote {out}: maps of the {top} highest classes, in ONNX Runtime within {gap} of PyTorch's."
    )


@app.command()
def layers(
    model: Spec,
    weights: Weights = None,
    image: Sample = None,
    size: Size = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also layers without a grid or with a bypass.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the places where a network can be explained, with the guarantee of each.

    The one that is chosen by itself is marked with an arrow; its verdict comes last.

    Example: `hirescam layers --model torchvision:densenet121`
    """
    loaded = models.resolve(model, weights=weights, image_size=size)
    inputs, source = _inputs(loaded, image)
    explainer = Explainer(loaded.module)
    found, certificate = explainer.layers(inputs), explainer.certify(inputs)
    if as_json:
        _print_json(_about(loaded, source, certificate) | {"layers": [_layer_data(one) for one in found]})
        return
    shown = found if everything else _shortlist(found)
    console = _console()
    console.print(_layer_table(shown))
    _write(console, _left_out(len(shown), len(found)))
    _print_verdict(console, loaded, source, certificate=certificate)


@app.command()
def certify(
    model: Spec,
    layer: LayerName = None,
    weights: Weights = None,
    image: Sample = None,
    size: Size = None,
    as_json: AsJson = False,
) -> int:
    """Say what is guaranteed at a layer, and why. Exit status 0 for exact or conditional, 3 otherwise.

    Example: `hirescam certify --model timm:convnext_tiny`

    Example: `hirescam certify --model torchvision:vgg16 --layer features.28`
    """
    loaded = models.resolve(model, weights=weights, image_size=size)
    inputs, source = _inputs(loaded, image)
    certificate = Explainer(loaded.module, layer=layer).certify(inputs)
    if as_json:
        _print_json(_about(loaded, source, certificate))
    else:
        _print_verdict(_console(), loaded, source, certificate=certificate)
    faithful = certificate.guarantee in (Guarantee.EXACT, Guarantee.CONDITIONAL)
    return OK if faithful else NOT_FAITHFUL


@app.command()
def rules(as_json: AsJson = False) -> None:
    """List the methods.

    Example: `hirescam rules --json`
    """
    found = list(hirescam.rules().values())
    if as_json:
        keys = ("name", "summary", "needs", "exact_for", "complete_for", "local_for", "options", "cite")
        _print_json({rule.name: {key: getattr(rule, key) for key in keys} for rule in found})
        return
    table = _table("rule", "what it does", "needs", "laws hold for heads that are", "source")
    for rule in found:
        table.add_row(rule.name, rule.summary, str(rule.needs), rule.exact_for or "none", rule.cite)
    _console().print(table)


# --- words ---------------------------------------------------------------------------------------


def _arranged(words: Sequence[str]) -> tuple[list[str], bool]:
    """Take ``--debug`` from anywhere, and let ``--rules a b c`` stand for ``--rules a --rules b ...``."""
    words = list(words)
    end = words.index("--") if "--" in words else len(words)
    debug = "--debug" in words[:end]
    head = [word for word in words[:end] if word != "--debug"]
    spread = head[:1] == ["compare"]
    return (_spread(head, "--rules") if spread else head) + words[end:], debug


def _spread(words: Sequence[str], option: str) -> list[str]:
    result: list[str] = []
    values = 0
    for word in words:
        if values and not _is_rule(word):
            values = 0
        result += [option, word] if values > 1 else [word]
        values = 1 if word == option else values + bool(values)
    return result


def _is_rule(word: str) -> bool:
    """A word after ``--rules`` is a rule unless it is an option or looks like a file."""
    return word.replace(",", "_").isidentifier() and not Path(word).exists()


def _split(words: Sequence[str] | None) -> list[str]:
    return [name for word in words or () for name in word.split(",") if name]


def _described(error: Exception) -> str:
    usage: Callable[[], str] | None = getattr(error, "format_message", None)
    if usage:
        complaint = usage()
        return complaint and f"{complaint} (see 'hirescam --help', or --help after the command)"
    if isinstance(error, HirescamError):
        return str(error)
    return f"unexpected {type(error).__name__}: {error} (repeat with --debug to see where)"


def _say(message: str) -> None:
    """Print one line on stderr; nothing for an empty message, as after help."""
    line = reports.printable(" ".join(message.split()))
    if line:
        print(f"hirescam: {line}", file=sys.stderr)


def _status(report: reports.ExplainReport) -> int:
    if not report.failures:
        return OK
    return SOME_FAILED if report.done else FAILED


# --- inputs --------------------------------------------------------------------------------------


def _inputs(model: Model, image: Path | None) -> tuple[Tensor, str]:
    """Run on a picture, or on numbers that are the same each time; and say on what."""
    if image is not None:
        return model.preprocess(io.read_image(image))[None], f"the picture {reports.printable(image)}"
    generator = torch.Generator().manual_seed(_SEED)
    shape = (1, *model.input_shape)
    return torch.randn(shape, generator=generator), f"random numbers of shape {shape}, seed {_SEED}"


@contextmanager
def _progress(what: str, total: int) -> Iterator[Any]:
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


# --- output --------------------------------------------------------------------------------------


def _console() -> Console:
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=_PIPE_WIDTH)


def _table(*header: str, show_lines: bool = False) -> Table:
    return Table(*header, box=SIMPLE_HEAD, show_edge=False, pad_edge=False, show_lines=show_lines)


def _write(console: Console, *texts: str | Text) -> None:
    """Print a blank line, then each text that is not empty; through a pipe, each stays one line."""
    console.print()
    for text in filter(None, texts):
        console.print(text, soft_wrap=not console.is_terminal)


def _print_json(data: Any) -> None:
    print(json.dumps(reports.plain(data), indent=2, ensure_ascii=False))


def _print_verdict(console: Console, model: Model, source: str, *, certificate: Certificate) -> None:
    guarantee = certificate.guarantee
    verdict = Text(str(certificate))
    verdict.stylize(f"bold {_TONES[guarantee]}", 0, len(guarantee))
    _write(console, verdict, f"Model: {model.name}, {model.origin}. Input: {source}.")


def _print_explained(run: pages.Run, page: Path, report: reports.ExplainReport) -> None:
    console = _console()
    console.print(_explained_table(report.done[:_MOST_PICTURES]))
    more = len(report.done) - _MOST_PICTURES
    own = "" if run.rule == "hirescam" else f"That verdict is about hirescam. {_measured(run)}"
    rest = f"... and {more} more, see results.json" if more > 0 else ""
    _write(console, rest, run.verdict, own, _about_model(run), f"Look at {reports.printable(page)}")


def _explained_table(done: Sequence[reports.Done]) -> Table:
    table = _table("picture", "class", "score", "map", "offset")
    for one in done:
        for place, found in enumerate(one.item.maps):
            figures = (pages.number(found.score), pages.signed(found.total), pages.signed(found.offset))
            table.add_row(Text("" if place else one.item.name), Text(found.title), *figures)
    return table


def _print_compared(report: reports.CompareReport) -> None:
    console = _console()
    table = _table("rule", "adds up", "error", "each cell is what removing it costs", "error")
    for column in report.columns:
        table.add_row(column.rule, *_law_cells(column))
    console.print(table)
    missing = [f"{column.rule} has no map: {column.error}" for column in report.columns if column.error]
    _write(console, *missing, *report.remarks)
    _write(console, report.run.verdict, _about_model(report.run), f"Look at {reports.printable(report.page)}")


def _law_cells(column: pages.Column) -> tuple[str, ...]:
    laws = column.laws
    if laws is None:
        return ("-",) * 4
    answers = ("yes" if laws.complete else "no", "yes" if laws.local else "no")
    return answers[0], pages.error(laws.completeness_error), answers[1], pages.error(laws.location_error)


def _measured(run: pages.Run) -> str:
    completeness, location = run.measured.completeness_error, run.measured.location_error
    return (
        f"Measured for {run.rule}: completeness error {pages.error(completeness)}, location error "
        f"{pages.error(location)}."
    )


def _about_model(run: pages.Run) -> str:
    caution = " Random weights: the class names mean nothing." if run.untrained else ""
    return f"Model: {run.model}, {run.origin}.{caution}"


def _shortlist(found: Sequence[Layer]) -> list[Layer]:
    """Cut taps with a grid; the last ones if there are many, and always the chosen one."""
    useful = [one for one in found if one.chosen or (prod(one.space) > 1 and not one.bypass)]
    late = useful[-_MOST_LAYERS:]
    return [one for one in useful if one.chosen or one in late][-_MOST_LAYERS - 1 :]


def _left_out(shown: int, total: int) -> str:
    return (
        f"{total - shown} more that run earlier, have no grid or are bypassed: --all" if shown < total else ""
    )


def _layer_table(found: Sequence[Layer]) -> Table:
    table = _table("", "layer", "shape", "grid", "guarantee", "broken by")
    for one in found:
        mark = Text("→" if one.chosen else "", style="bold")
        verdict = Text(str(one.guarantee), style=_TONES[one.guarantee])
        table.add_row(mark, Text(one.name), _times(one.shape), _times(one.space), verdict, Text(_broken(one)))
    return table


def _times(sides: Sequence[int]) -> str:
    return "×".join(map(str, sides)) or "-"


def _broken(one: Layer) -> str:
    if one.bypass:
        return "the image also takes another way"
    more = len(one.breaks) - _MOST_BREAKS
    return ", ".join(one.breaks[:_MOST_BREAKS]) + (f" and {more} more" if more > 0 else "")


def _layer_data(one: Layer) -> dict[str, Any]:
    return {
        "name": one.name,
        "shape": list(one.shape),
        "grid": list(one.space),
        "guarantee": str(one.guarantee),
        "breaks": list(one.breaks),
        "bypass": one.bypass,
        "chosen": one.chosen,
    }


def _about(model: Model, source: str, certificate: Certificate) -> dict[str, Any]:
    return {
        "model": {"spec": model.name, "origin": model.origin},
        "input": source,
        "certificate": reports.verdict_data(certificate),
    }
