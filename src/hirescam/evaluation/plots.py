"""A figure and its interval as a mark on a line: inline SVG, with the same line for all rules of a metric."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hirescam.evaluation.summary import Row

WIDTH, HEIGHT = 260, 22
_MARGIN = 7


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to places on the line.

    Attributes:
        low: value at the left end.
        high: value at the right end.
    """

    low: float
    high: float

    def at(self, value: float) -> float:
        """Give the place of a value; what lies outside sticks to the end."""
        share = (value - self.low) / (self.high - self.low)
        return round(_MARGIN + min(max(share, 0), 1) * (WIDTH - 2 * _MARGIN), 1)


@dataclass(frozen=True, slots=True)
class Mark:
    """Where to draw one row.

    Attributes:
        low: left end of the interval.
        value: the figure.
        high: right end of the interval.
        zero: place of the value 0, if it is on the line.
    """

    low: float
    value: float
    high: float
    zero: float | None


def scale_of(rows: Sequence[Row]) -> Scale | None:
    """Find a line that holds all figures and intervals; None if there is no figure.

    It starts at the least possible value where that costs less than half of the line.
    """
    ends = [end for row in rows for end in (row.estimate.low, row.estimate.value, row.estimate.high)]
    ends = [end for end in ends if math.isfinite(end)]
    if not ends:
        return None
    low, high = min(ends), max(ends)
    least, most = rows[0].bounds
    if math.isfinite(least) and low - least <= high - low:
        low = least
    if math.isfinite(most) and most - high <= high - low:
        high = most
    slack = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    return Scale(max(low - slack, least), min(high + slack, most)) if low == high else Scale(low, high)


def mark_of(row: Row, scale: Scale) -> Mark | None:
    """Place one row on the line; None if it has no figure."""
    found = row.estimate
    if not math.isfinite(found.value):
        return None
    low, high = (end if math.isfinite(end) else found.value for end in (found.low, found.high))
    zero = scale.at(0) if scale.low <= 0 <= scale.high else None
    return Mark(scale.at(low), scale.at(found.value), scale.at(high), zero)
