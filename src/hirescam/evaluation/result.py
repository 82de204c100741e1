"""The frozen result of an evaluation, as a text, a data frame and plain data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hirescam.errors import InputError
from hirescam.evaluation.summary import PLAUSIBILITY, Row
from hirescam.evaluation.tables import text_of
from hirescam.metrics import Kind
from hirescam.pages import Failure
from hirescam.proof.certificate import Certificate
from hirescam.reports import plain, verdict_data

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class About:
    """What was evaluated, and how.

    Attributes:
        model: its reference.
        origin: where its weights come from.
        certificate: what is guaranteed about ``hirescam`` at the layer.
        data: what the data are called.
        samples: how many pairs of picture and class were measured.
        pictures: how many pictures they are on.
        size: sides of the network's input.
        options: everything else that was asked for.
    """

    model: str
    origin: str
    certificate: Certificate
    data: str
    samples: int
    pictures: int
    size: tuple[int, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        about: what was evaluated.
        rows: one for each metric and rule: faithfulness first, localisation last.
        left_out: how many samples were left out, by reason.
        failures: the samples that could not be read, and why.
        notes: what has to be known to read the rows.
    """

    about: About
    rows: tuple[Row, ...]
    left_out: Mapping[str, int]
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]

    def table(self, *, width: int = 120) -> str:
        """Write all figures as text; localisation stands under what it says and does not say.

        Args:
            width: in characters.
        """
        return text_of(self.rows, width=width)

    def frame(self) -> "pd.DataFrame":
        """Give all figures as a data frame, one line for each metric and rule.

        The column ``says`` has the words *plausibility, not faithfulness* wherever that is so.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise InputError(
                'frame() needs the package "pandas", which is not installed: pip install "hirescam[metrics]"'
            ) from error
        return pd.DataFrame([record(row) for row in self.rows])

    def data(self) -> dict[str, Any]:
        """Give everything as plain data; figures that are not finite are None."""
        about = self.about
        located = any(row.kind is Kind.LOCALISATION for row in self.rows)
        return {
            "model": {"spec": about.model, "origin": about.origin},
            "data": about.data,
            "samples": about.samples,
            "pictures": about.pictures,
            "input_size": list(about.size),
            "options": plain(dict(about.options)),
            "certificate": verdict_data(about.certificate),
            "left_out": dict(self.left_out),
            "failures": [{"sample": one.name, "error": one.error} for one in self.failures],
            "notes": [*self.notes, *([PLAUSIBILITY] if located else [])],
            "rows": [plain(record(row)) for row in self.rows],
        }


def record(row: Row) -> dict[str, Any]:
    """Give one row as flat plain data."""
    found, gap = row.estimate, row.difference
    nothing = {"value": None, "low": None, "high": None}
    difference = nothing if gap is None else asdict(gap)
    return {
        "kind": row.kind.value,
        "says": row.says,
        "metric": row.metric,
        "rule": row.rule,
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "confidence": found.confidence,
        "samples": found.count,
        "undefined": found.undefined,
        "failed": row.failed,
        "error": row.error,
        "better": row.better,
        "units": row.units,
        "difference": difference["value"],
        "difference_low": difference["low"],
        "difference_high": difference["high"],
    }
