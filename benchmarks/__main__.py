"""Run tables, each in a process of its own, and then the summary.

python -m benchmarks                                       everything
python -m benchmarks one_image memory                      some tables
python -m benchmarks one_image --rounds 3 --out elsewhere  what follows goes to every table
"""

import argparse
import os
import subprocess
import sys
import time

from benchmarks import TABLES
from benchmarks.options import add, read


def main() -> None:
    """Run the tables that were asked for; a table that fails does not lose the others."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawTextHelpFormatter
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(TABLES))
    add(parser)
    found = parser.parse_args()
    options = read(found)
    unknown = set(found.tables) - set(TABLES)
    if unknown:
        parser.error(f"no such table: {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    where = ["--out", str(options.out)]
    words = [*options.words, *where]
    failed = [table for table in found.tables or TABLES if not _done(table, words, options.threads)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    # After some tables only, those that the summary needs may not be there yet; it says so.
    if not _done("summary", where, options.threads) and not found.tables:
        sys.exit("failed: summary")


def _done(module: str, words: list[str], threads: int) -> bool:
    """Run one module and say whether it succeeded."""
    print(f"== {module}", flush=True)
    start = time.monotonic()
    # Set before torch loads, so that every library in the process agrees on it.
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", f"benchmarks.{module}", *words]
    status = subprocess.run(command, env=environment, check=False).returncode
    print(f"-- {module}: {time.monotonic() - start:.0f} s", flush=True)
    return status == 0


if __name__ == "__main__":
    main()
