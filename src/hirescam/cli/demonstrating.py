"""``hirescam demo``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from hirescam.cli.console import new_table, open_console, print_json, progress, write
from hirescam.cli.later import demo as demonstration
from hirescam.cli.options import AsJson
from hirescam.wording import printable


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write.")] = Path("hirescam-demo"),
    as_json: AsJson = False,
) -> None:
    """Explain three real networks, write pictures and a page, print the figures. Takes under a minute.

    Example: `hirescam demo --out demo`
    """
    with progress("computing", demonstration.STEPS) as advance:
        report = demonstration.run(out, progress=advance)
    if as_json:
        print_json(report.data)
        return
    console = open_console()
    table = new_table(*report.table.header, show_lines=True)
    for row in report.table.rows:
        table.add_row(*map(Text, row))
    console.print(table)
    write(console, f"Look at {printable(report.page)}")
