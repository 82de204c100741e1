"""Rows come in, tables for a terminal go out: a line for each metric, a column for each rule."""

from collections.abc import Sequence
from io import StringIO
from textwrap import fill

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from hirescam import pages
from hirescam.evaluation.summary import PLAUSIBILITY, QUESTIONS, Row
from hirescam.metrics import Kind

ARROWS = {"higher": "↑", "lower": "↓", "neither": "·"}
"""Which direction is better."""

_NARROW = 20


def tables_of(rows: Sequence[Row]) -> list[RenderableType]:
    """Make one table for each kind of metric; the one of localisation cannot be had without its caution."""
    return [
        _table(kind, [row for row in rows if row.kind is kind])
        for kind in dict.fromkeys(row.kind for row in rows)
    ]


def text_of(rows: Sequence[Row], *, width: int) -> str:
    """Write the tables as text."""
    text = StringIO()
    console = Console(file=text, width=width, highlight=False, markup=False, no_color=True)
    for table in tables_of(rows):
        console.print(table)
    return text.getvalue()


def _table(kind: Kind, rows: Sequence[Row]) -> RenderableType:
    rules = list(dict.fromkeys(row.rule for row in rows))
    metrics = list(dict.fromkeys(row.metric for row in rows))
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("metric", no_wrap=True)
    for rule in rules:
        table.add_column(rule, overflow="fold")
    for metric in metrics:
        own = {row.rule: row for row in rows if row.metric == metric}
        most = max(_defined(row) for row in own.values())
        table.add_row(_name(next(iter(own.values())), most), *(_cell(own.get(rule), most) for rule in rules))
    lines: list[RenderableType] = [Text(QUESTIONS[kind], style="bold")]
    if kind is Kind.LOCALISATION:
        lines.append(Text(PLAUSIBILITY))
    return Group(*lines, table, "")


def _name(row: Row, count: int) -> Text:
    name = Text(f"{row.metric} {ARROWS[row.better]}", style="bold")
    about = fill(f"{row.units}, n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{count}", width=max(_NARROW, len(name)))
    return name.append(f"\n{about}", style="not bold dim")


def _cell(row: Row | None, most: int) -> str:
    """Write a figure, its interval under it, and how many samples are missing, if any are."""
    if row is None:
        return ""
    found = row.estimate
    interval = f"{pages.number(found.low, 2)} to {pages.number(found.high, 2)}"
    lines = [pages.number(found.value), interval] if _defined(row) else ["–"]
    if _defined(row) != most:
        lines.append(f"n = {_defined(row)}")
    if found.undefined:
        lines.append(f"{found.undefined} undefined")
    if row.failed:
        lines.append(f"{row.failed} failed")
    return "\n".join(lines)


def _defined(row: Row) -> int:
    return row.estimate.count - row.estimate.undefined
