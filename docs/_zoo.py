"""Write the table of docs/zoo.md: networks of many families, and what is true of their maps.

PYTHONPATH=src:tests python docs/_zoo.py                  all of them, which takes half an hour on two cores
PYTHONPATH=src:tests python docs/_zoo.py transformers     those whose names begin so, and the ones by hand
"""

import os
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from hirescam import HirescamError
from hirescam.proof.grade import Guarantee
from zoo.checks import Row, row_of
from zoo.networks import BY_HAND, every

PAGE = Path(__file__).parent / "zoo.md"
COLUMNS = "network", "layer", "guarantee", "map", "on", "known by", "measurement", "sum", "single", "event"
NUMBERS = 3


def main() -> None:
    """Explain every network and write its row."""
    wanted = tuple(sys.argv[1:])
    names = [one.name for one in every() if not wanted or one in BY_HAND or one.name.startswith(wanted)]
    lines, refused = [], []
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for found, text in pool.map(examined, names):
            (lines if found else refused).append(text)
            print(text, end="", flush=True)
    before = PAGE.read_text("utf-8").split("<!-- table -->")[0]
    tables = f"{counts(lines)}\n\n" + head(*COLUMNS, numbers=NUMBERS) + "".join(lines)
    if refused:
        tables += "\nWithout a map:\n\n" + head("network", "what is said") + "".join(refused)
    PAGE.write_text(f"{before}<!-- table -->\n\n{tables}", "utf-8")


def counts(lines: list[str]) -> str:
    """A sentence that sums the table up."""

    def count(column: str, value: str) -> int:
        return sum(line.split(" | ")[COLUMNS.index(column)] == value for line in lines)

    guarantees = ", ".join(f"{count('guarantee', each)} {each}" for each in Guarantee)
    return (
        f"{len(lines)} networks: {guarantees}. {count('known by', 'operations')} are known by operations, "
        f"{count('known by', 'measured')} measured; of the others a measurement agrees on "
        f"{count('measurement', 'agrees')}, does not know {count('measurement', 'unknown')}, and differs on "
        f"{count('measurement', 'differs')}."
    )


def examined(name: str) -> tuple[bool, str]:
    """Whether there is a map, and the row of the network's table."""
    torch.set_num_threads(1)
    entry = next(one for one in every() if one.name == name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return True, line(row_of(entry))
        except HirescamError as error:
            return False, f"| {name} | {error} |\n"


def head(*columns: str, numbers: int = 0) -> str:
    """The first two lines of a table, whose last columns are numbers."""
    marks = ["---"] * (len(columns) - numbers) + ["---:"] * numbers
    return f"| {' | '.join(columns)} |\n|{'|'.join(marks)}|\n"


def line(row: Row) -> str:
    """One row of the table."""
    tokens = f" behind {row.prefix}" if row.prefix else ""
    total, single = ("" if found is None else f"{found:.0e}" for found in (row.error, row.apart))
    wrong = f" ({row.audited})" if row.audited else ""
    cells = (
        row.name, f"`{row.layer}`", row.guarantee + wrong, " × ".join(map(str, row.grid)) + tokens,
        " × ".join(map(str, row.image_size)), row.known, row.measurement, total, single, f"{row.place:g}",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |\n"


if __name__ == "__main__":
    main()
