"""Starting: a fresh process imports the library, or prints help, next to one that imports torch."""

import subprocess
import sys

from benchmarks.options import Options
from benchmarks.results import Row, Table, milliseconds, run
from benchmarks.timing import Rounds, Work, paired

ALONE, TORCH = "python alone", "import torch"
STATEMENTS = ("import hirescam", "from hirescam import *")
"""The first loads nothing; the second all public names, and so everything that an explanation needs."""
COMMANDS = ("hirescam --help", "hirescam explain --help", "hirescam evaluate --help", "hirescam --version")
ROUNDS = 11
_COMMAND = "import sys; from hirescam.cli import main; sys.exit(main())"


def make(options: Options) -> Table:
    """One row for each statement and command."""
    works = {TORCH: statement(TORCH), ALONE: statement("pass")}
    works |= {code: statement(code) for code in STATEMENTS}
    works |= {words: command(words) for words in COMMANDS}
    # A statement is timed with torch already there, too: what it costs beyond torch.
    works |= {_after(code): statement(_after(code)) for code in STATEMENTS}
    found = paired(works, seconds=0, rounds=options.rounds or ROUNDS)
    return Table([row(name, found) for name in (ALONE, TORCH, *STATEMENTS, *COMMANDS)])


def statement(code: str) -> Work:
    """Run Python code in a fresh process."""
    return lambda: _done(code)


def command(words: str) -> Work:
    """Run a command of hirescam in a fresh process."""
    return lambda: _done(_COMMAND, *words.split()[1:])


def row(name: str, found: Rounds) -> Row:
    """What one of them takes, and a statement beyond torch."""
    return {
        "what": name,
        "ms": milliseconds(found.cell(name)),
        "÷ importing torch": found.cell(name),
        "beyond torch ÷ importing torch": found.less(_after(name), TORCH) if name in STATEMENTS else None,
        "at most": "0.2 beyond torch" if name in STATEMENTS else "1 s" if name in COMMANDS else None,
    }


def _after(code: str) -> str:
    return f"{TORCH}; {code}"


def _done(*words: str) -> None:
    subprocess.run([sys.executable, "-c", *words], stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    run(__file__, make)
