"""Judge many random heads and sequences of calls; exit status 1 when anything that was said is false.

python -m fuzz                                        ten thousand heads, a thousand sequences
python -m fuzz --heads 500 --seed 3 --out found.json  fewer, other ones, and a report
"""

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

import hirescam
from fuzz.report import run


def main(words: list[str] | None = None) -> int:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--heads", type=int, default=10_000, help="how many heads")
    parser.add_argument("--sequences", type=int, help="how many sequences; a tenth of the heads if not given")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other heads")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--examples", type=int, default=4, help="failures of each kind that are made smaller")
    parser.add_argument("--out", type=Path, help="where to write a report as JSON")
    found = parser.parse_args(words)
    console = Console()
    console.print(f"hirescam from {Path(hirescam.__file__).parent}", highlight=False, soft_wrap=True)
    report = run(
        found.heads,
        found.heads // 10 if found.sequences is None else found.sequences,
        seed=found.seed,
        processes=found.processes,
        examples=found.examples,
        console=console,
    )
    report.show(console)
    if found.out is not None:
        report.save(found.out)
    return 1 if report.false else 0


if __name__ == "__main__":
    sys.exit(main())
