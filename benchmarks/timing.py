"""Paired timing: variants take turns in one process, and each is compared with the bare forward pass."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """Median ratio to the first variant, with the middle half of the ratios, and the median time."""

    name: str
    ratio: float
    low: float
    high: float
    milliseconds: float


def paired(variants: Mapping[str, Work], *, rounds: int = 15, warm: int = 2, seed: int = 0) -> list[Row]:
    """Run all variants in every round, in shuffled order, and take ratios round by round."""
    order, shuffle = list(variants), random.Random(seed).shuffle
    reference = order[0]
    for name in order * warm:
        variants[name]()
    seconds: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            start = time.perf_counter()
            variants[name]()
            seconds[name].append(time.perf_counter() - start)
    return [_row(name, seconds[name], seconds[reference]) for name in variants]


def _row(name: str, mine: list[float], bare: list[float]) -> Row:
    ratios = sorted(a / b for a, b in zip(mine, bare, strict=True))
    quarter = len(ratios) // 4
    return Row(
        name, statistics.median(ratios), ratios[quarter], ratios[-1 - quarter], statistics.median(mine) * 1e3
    )


def table(title: str, rows: list[Row]) -> str:
    """A Markdown table."""
    lines = [f"### {title}", "", "| variant | × bare forward | middle half | ms |", "|---|---|---|---|"]
    lines += [
        f"| {row.name} | {row.ratio:.2f} | {row.low:.2f} to {row.high:.2f} | {row.milliseconds:.1f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"
