"""Three trained networks are explained; pictures, one page and a table of computed figures come out."""

from hirescam.demo.experiments import (
    MOSAIC,
    PHOTOS,
    PITCH,
    Digits,
    Photos,
    Pitch,
    explain_digits,
    explain_photos,
    explain_pitch,
)
from hirescam.demo.panels import mosaic_panel
from hirescam.demo.running import STEPS, DemoReport, check_installed, run

__all__ = [
    "MOSAIC",
    "PHOTOS",
    "PITCH",
    "STEPS",
    "DemoReport",
    "Digits",
    "Photos",
    "Pitch",
    "check_installed",
    "explain_digits",
    "explain_photos",
    "explain_pitch",
    "mosaic_panel",
    "run",
]
