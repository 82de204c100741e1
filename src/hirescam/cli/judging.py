"""What is guaranteed where: ``hirescam layers`` and ``certify``."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

import hirescam
from hirescam.cli.console import TONES, new_table, open_console, print_json, print_verdict, write
from hirescam.cli.inputs import about_run, one_input
from hirescam.cli.later import models
from hirescam.cli.options import AsJson, LayerName, Sample, Size, Spec, Weights
from hirescam.cli.status import NOT_FAITHFUL, OK

_MOST_LAYERS = 25
_MOST_BREAKS = 1


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
    inputs, source = one_input(loaded, image)
    explainer = hirescam.Explainer(loaded.module)
    found, certificate = explainer.layers(inputs), explainer.certify(inputs)
    if as_json:
        print_json(about_run(loaded, source, certificate) | {"layers": [_layer_data(one) for one in found]})
        return
    shown = found if everything else _shortlist(found)
    console = open_console()
    console.print(_layer_table(shown))
    write(console, _left_out(len(shown), len(found)))
    print_verdict(console, loaded, source, certificate=certificate)


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
    inputs, source = one_input(loaded, image)
    certificate = hirescam.Explainer(loaded.module, layer=layer).certify(inputs)
    if as_json:
        print_json(about_run(loaded, source, certificate))
    else:
        print_verdict(open_console(), loaded, source, certificate=certificate)
    faithful = certificate.guarantee in (hirescam.Guarantee.EXACT, hirescam.Guarantee.CONDITIONAL)
    return OK if faithful else NOT_FAITHFUL


def _shortlist(found: Sequence[hirescam.Layer]) -> list[hirescam.Layer]:
    """Cut taps with a grid; the last ones if there are many, and always the chosen one."""
    useful = [one for one in found if one.chosen or (prod(one.space) > 1 and not one.bypass)]
    late = useful[-_MOST_LAYERS:]
    return [one for one in useful if one.chosen or one in late][-_MOST_LAYERS - 1 :]


def _left_out(shown: int, total: int) -> str:
    return (
        f"{total - shown} more that run earlier, have no grid or are bypassed: --all" if shown < total else ""
    )


def _layer_table(found: Sequence[hirescam.Layer]) -> Table:
    table = new_table("", "layer", "shape", "grid", "guarantee", "broken by")
    for one in found:
        mark = Text("→" if one.chosen else "", style="bold")
        verdict = Text(str(one.guarantee), style=TONES[one.guarantee])
        table.add_row(mark, Text(one.name), _times(one.shape), _times(one.space), verdict, Text(_broken(one)))
    return table


def _times(sides: Sequence[int]) -> str:
    return "×".join(map(str, sides)) or "-"


def _broken(one: hirescam.Layer) -> str:
    if one.bypass:
        return "the image also takes another way"
    more = len(one.breaks) - _MOST_BREAKS
    return ", ".join(one.breaks[:_MOST_BREAKS]) + (f" and {more} more" if more > 0 else "")


def _layer_data(one: hirescam.Layer) -> dict[str, Any]:
    return {
        "name": one.name,
        "shape": list(one.shape),
        "grid": list(one.space),
        "guarantee": str(one.guarantee),
        "breaks": list(one.breaks),
        "bypass": one.bypass,
        "chosen": one.chosen,
    }
