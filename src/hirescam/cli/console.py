"""What every command prints: tables, JSON, verdicts, progress and complaints."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

import hirescam
from hirescam.cli.later import models, pages, reports
from hirescam.wording import printable

TONES = {"exact": "green", "conditional": "green", "local": "yellow", "none": "red"}
_PIPE_WIDTH = 160


def open_console() -> Console:
    """Open stdout; through a pipe, tables get a fixed width."""
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=_PIPE_WIDTH)


def new_table(*header: str, show_lines: bool = False) -> Table:
    """Start a table in the style of all of them."""
    return Table(*header, box=SIMPLE_HEAD, show_edge=False, pad_edge=False, show_lines=show_lines)


def write(console: Console, *texts: str | Text) -> None:
    """Print a blank line, then each text that is not empty; through a pipe, each stays one line."""
    console.print()
    for text in filter(None, texts):
        console.print(text, soft_wrap=not console.is_terminal)


def print_json(data: Any) -> None:
    """Print data on stdout; figures that are not finite become null."""
    print(json.dumps(reports.plain(data), indent=2, ensure_ascii=False))


def print_verdict(
    console: Console, model: models.Model, source: str, *, certificate: hirescam.Certificate
) -> None:
    """Print a certificate, then which model and which input it is about."""
    guarantee = certificate.guarantee
    verdict = Text(str(certificate))
    verdict.stylize(f"bold {TONES[guarantee]}", 0, len(guarantee))
    write(console, verdict, f"Model: {model.name}, {model.origin}. Input: {source}.")


def about_model(run: pages.Run) -> str:
    """Say which model was used, and whether its class names mean anything."""
    caution = " Random weights: the class names mean nothing." if run.untrained else ""
    return f"Model: {run.model}, {run.origin}.{caution}"


def say(message: str) -> None:
    """Print one line on stderr; nothing for an empty message, as after help."""
    line = printable(" ".join(message.split()))
    if line:
        print(f"hirescam: {line}", file=sys.stderr)


@contextmanager
def share_done(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr where that is a terminal; gives what says how much of how much is done."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def progress(what: str, total: int) -> Iterator[Any]:
    """Show a bar on stderr where that is a terminal; gives what advances it by one."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
