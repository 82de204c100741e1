"""Write the table of docs/zoo.md: networks of many families, and what is true of their maps.

PYTHONPATH=src:tests python docs/_zoo.py                  all of them, which takes a quarter of an hour
PYTHONPATH=src:tests python docs/_zoo.py transformers     those whose names begin so, and the ones by hand
"""

import sys
import warnings
from pathlib import Path

from hirescam import HirescamError
from zoo.checks import Row, row_of
from zoo.networks import BY_HAND, every

PAGE = Path(__file__).parent / "zoo.md"
HEAD = (
    "| network | layer | guarantee | map | on | known by | measurement | sum | event |\n"
    "|---|---|---|---|---|---|---|---:|---:|\n"
)


def main() -> None:
    """Explain every network and write its row."""
    lines, refused = [], []
    wanted = tuple(sys.argv[1:])
    for entry in every():
        if wanted and entry not in BY_HAND and not entry.name.startswith(wanted):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                lines.append(line(row_of(entry)))
            except HirescamError as error:
                refused.append(f"| {entry.name} | {error} |\n")
        print(lines[-1] if not refused or entry.name not in refused[-1] else refused[-1], end="", flush=True)
    before = PAGE.read_text("utf-8").split("<!-- table -->")[0]
    tables = HEAD + "".join(lines)
    if refused:
        tables += "\nWithout a map:\n\n| network | what is said |\n|---|---|\n" + "".join(refused)
    PAGE.write_text(f"{before}<!-- table -->\n\n{tables}", "utf-8")


def line(row: Row) -> str:
    """One row of the table."""
    tokens = f" behind {row.prefix}" if row.prefix else ""
    total = "" if row.error is None else f"{row.error:.0e}"
    cells = (
        row.name, f"`{row.layer}`", row.guarantee, " × ".join(map(str, row.grid)) + tokens,
        " × ".join(map(str, row.image_size)), row.known, row.measurement, total, f"{row.place:g}",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |\n"


if __name__ == "__main__":
    main()
