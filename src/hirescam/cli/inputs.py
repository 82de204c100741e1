"""What a network is run on when a command needs only one input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hirescam
from hirescam.cli.later import io, models, reports, torch
from hirescam.wording import printable

_SEED = 0


def one_input(model: models.Model, image: Path | None) -> tuple[torch.Tensor, str]:
    """Run on a picture, or on numbers that are the same each time; and say on what."""
    if image is not None:
        return model.preprocess(io.read_image(image))[None], f"the picture {printable(image)}"
    generator = torch.Generator().manual_seed(_SEED)
    shape = (1, *model.input_shape)
    return torch.randn(shape, generator=generator), f"random numbers of shape {shape}, seed {_SEED}"


def about_run(model: models.Model, source: str, certificate: hirescam.Certificate) -> dict[str, Any]:
    """A certificate as plain data, with the model and the input that it is about."""
    return {
        "model": {"spec": model.name, "origin": model.origin},
        "input": source,
        "certificate": reports.verdict_data(certificate),
    }
