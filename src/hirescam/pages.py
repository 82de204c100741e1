"""Plain data comes in, the text of one HTML page that needs no other file or network goes out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

MINUS = "\N{MINUS SIGN}"
_SHARE_FLOOR = 1e-6
_WAVE_WIDTH, _WAVE_HEIGHT = 640, 96


@dataclass(frozen=True, slots=True)
class Measured:
    """Both laws as measured on a map.

    Attributes:
        completeness_error: |score − score(A = 0) − Σ raw|, relative.
        location_error: the worst cell's |loss − value|, relative to the largest value.
        complete: whether completeness holds to rounding.
        local: whether the location law does.
    """

    completeness_error: float
    location_error: float
    complete: bool
    local: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """What the network was shown.

    Attributes:
        source: a data URI, or an address relative to the page.
        width: in pixels.
        height: in pixels.
        pixelated: whether to show the pixels as squares.
    """

    source: str
    width: int
    height: int
    pixelated: bool = False


@dataclass(frozen=True, slots=True)
class Map:
    """One raw map, to be drawn over a picture.

    Attributes:
        title: what it explains, such as the class.
        score: the explained score.
        rows: values by row, signed, in units of the score.
        note: one more line, or ``""``.
        blind: from which share of the width on the head sees nothing; 1 for nowhere.
        laws: the laws measured on this map, if they were.
        box: where the cells lie: top, left, height and width as shares of the picture.
    """

    title: str
    score: float
    rows: tuple[tuple[float, ...], ...]
    note: str = ""
    blind: float = 1.0
    laws: Measured | None = None
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    @property
    def total(self) -> float:
        """Σ raw."""
        return math.fsum(value for row in self.rows for value in row)

    @property
    def offset(self) -> float:
        """What no location accounts for."""
        return self.score - self.total

    @property
    def limit(self) -> float:
        """The largest magnitude, drawn at full strength."""
        return max((abs(value) for row in self.rows for value in row), default=0.0)

    @property
    def shares(self) -> bool:
        """Whether it makes sense to give a value as a share of the score."""
        return self.score > _SHARE_FLOOR

    @property
    def values(self) -> str:
        """All values in reading order, for the page's script."""
        return " ".join(f"{value:.5g}" for row in self.rows for value in row)


@dataclass(frozen=True, slots=True)
class Item:
    """A picture and its maps."""

    name: str
    picture: Picture
    maps: tuple[Map, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that could not be explained, and why."""

    name: str
    error: str


@dataclass(frozen=True, slots=True)
class Run:
    """What is said once for all pictures.

    Attributes:
        model: the reference of the model.
        origin: where its weights come from.
        layer: name of the layer.
        rule: name of the rule.
        guarantee: ``exact``, ``conditional``, ``local`` or ``none``.
        verdict: the certificate in words.
        measured: the laws measured on maps of this rule.
        measured_on: on what, in words.
        field: which pixels a cell can see, in words.
        sign: which values are drawn: ``both``, ``positive`` or ``negative``.
        smooth: whether maps are first drawn smoothly instead of as cells.
        audit: what audits found, in one line; ``""`` where none were asked for.
        failed_audits: a sentence for each that failed, naming the picture.
    """

    model: str
    origin: str
    layer: str
    rule: str
    guarantee: str
    verdict: str
    measured: Measured
    measured_on: str
    field: str
    sign: str = "both"
    smooth: bool = True
    audit: str = ""
    failed_audits: tuple[str, ...] = ()

    @property
    def untrained(self) -> bool:
        """Whether class names mean nothing."""
        return "random weights" in self.origin


@dataclass(frozen=True, slots=True)
class Column:
    """One rule's maps in a comparison, one for each target; or why there are none."""

    rule: str
    summary: str
    maps: tuple[Map, ...] = ()
    laws: Measured | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Bars:
    """Signed values along a signal."""

    title: str
    values: tuple[float, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Wave:
    """A signal and, under it, what each stretch of it got from each rule."""

    samples: tuple[float, ...]
    rows: tuple[Bars, ...]

    @property
    def points(self) -> str:
        """The signal as the points of an SVG polyline."""
        top = max((abs(sample) for sample in self.samples), default=0) or 1
        across, half = _WAVE_WIDTH / max(1, len(self.samples) - 1), _WAVE_HEIGHT / 2
        return " ".join(
            f"{index * across:.1f},{half - sample / top * (half - 3):.1f}"
            for index, sample in enumerate(self.samples)
        )

    @property
    def limit(self) -> float:
        """The largest magnitude of all rows, so that they can be compared."""
        return max((abs(value) for row in self.rows for value in row.values), default=0.0) or 1.0


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the demo's page."""

    title: str
    lead: str
    guarantee: str
    verdict: str
    items: tuple[Item, ...] = ()
    wave: Wave | None = None
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Words and figures, ready to be shown."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def explain_page(run: Run, items: Sequence[Item], failures: Sequence[Failure] = ()) -> str:
    """Write the page of a run of ``hirescam explain``."""
    return render("explain.html.j2", {"run": run, "items": items, "failures": failures})


def compare_page(
    run: Run, name: str, *, picture: Picture, columns: Sequence[Column], remarks: Sequence[str] = ()
) -> str:
    """Write the page that shows several rules side by side on one picture."""
    content = {"run": run, "name": name, "picture": picture, "columns": columns, "remarks": remarks}
    return render("compare.html.j2", content)


def demo_page(table: Table, sections: Sequence[Section]) -> str:
    """Write the page of the demo."""
    return render("demo.html.j2", {"table": table, "sections": sections})


def number(value: float, digits: int = 3) -> str:
    """Write a figure with a few significant digits and a true minus sign."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if value == 0 or 1e-4 <= size < 10.0**digits:
        places = digits - 1 - math.floor(math.log10(size)) if value else 0
        return f"{value:.{max(0, places)}f}".replace("-", MINUS)
    return _power(value, digits - 1) if size < 1 else f"{value:,.0f}".replace("-", MINUS)


def signed(value: float) -> str:
    """Write a figure with its sign."""
    return number(value) if value < 0 else f"+{number(value)}"


def error(value: float) -> str:
    """Write a relative error: a power of ten where it is small, a plain figure where it is not."""
    return _power(value, 0) if 0 < value < 0.01 else number(value, 2)


def _power(value: float, places: int) -> str:
    digits, power = f"{value:.{places}e}".split("e")
    return f"{digits}e{int(power)}".replace("-", MINUS)


def render(template: str, content: dict[str, object]) -> str:
    """Fill one of the templates of this package."""
    return _environment().get_template(template).render(content)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("hirescam"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed, "error": error}
    return environment
