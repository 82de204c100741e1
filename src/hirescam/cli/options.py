"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hirescam.wording import FORMS


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
