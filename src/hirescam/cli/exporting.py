"""``hirescam export``."""

from pathlib import Path
from typing import Annotated

import typer

import hirescam
from hirescam.cli.console import open_console, print_json, print_verdict, write
from hirescam.cli.inputs import about_run, one_input
from hirescam.cli.later import models, pages
from hirescam.cli.options import AsJson, Labels, LayerName, Sample, Size, Spec, Weights


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
    batch, source = one_input(loaded, image)
    prepared = loaded.preset and loaded.preset._asdict()
    written = hirescam.export(
        loaded.module, batch, out, top=top, layer=layer, labels=loaded.labels, preprocessing=prepared
    )
    if as_json:
        about = about_run(loaded, source, written.certificate)
        print_json({**about, "path": str(written.path), "top": top, "difference": written.difference})
        return
    console = open_console()
    print_verdict(console, loaded, source, certificate=written.certificate)
    gap = pages.error(written.difference)
    write(
        console, f"Wrote {out}: maps of the {top} highest classes, in ONNX Runtime within {gap} of PyTorch's."
    )
