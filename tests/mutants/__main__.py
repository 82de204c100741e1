"""Change a module in one place at a time and list the changes that its tests do not notice.

python -m mutants                                 every module that has tests
python -m mutants proof/grade passes/watch        some modules
python -m mutants proof/ops --most 30 --seed 1    at most 30 changes of each module, drawn at random
"""

import argparse
import importlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
import torch  # before the processes that are forked from this one

from mutants import TESTS
from mutants.changes import difference, mutants

ROOT = Path(__file__).parents[2]
FAILS = "  not mutated, its tests fail as it is"
FATES = {0: "survived", None: "timed out"}
COLUMNS = ("killed", "survived", "timed out")


def main() -> None:
    """Examine modules in a copy of the package, which is gone afterwards."""
    parser = argparse.ArgumentParser(prog="python -m mutants", description=__doc__)
    parser.formatter_class = argparse.RawTextHelpFormatter
    parser.add_argument("modules", nargs="*", metavar="MODULE", default=list(TESTS), help=", ".join(TESTS))
    parser.add_argument("--most", type=int, help="changes of each module, drawn at random; all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw; 0")
    found = parser.parse_args()
    if unknown := set(found.modules) - set(TESTS):
        parser.error(f"no such module: {', '.join(sorted(unknown))}; there are {', '.join(TESTS)}")
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the copy goes away then, too
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(
            ROOT / "src", folder, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
        )
        sys.path.insert(0, folder)
        # The same examples every time, and for the processes that tests start, the same package.
        os.environ |= {"CI": "1", "PYTHONPATH": f"{folder}:{ROOT / 'tests'}", "PYTHONDONTWRITEBYTECODE": "1"}
        os.environ.pop("HIRESCAM_TEST_WHEEL", None)
        rows = [examine(name, Path(folder), found.most, found.seed) for name in found.modules]
    print()
    print(f"{'module':20}{'mutants':>9}" + "".join(f"{fate:>11}" for fate in COLUMNS) + f"{'s':>7}")
    print(*filter(None, rows), sep="\n")
    sys.exit(any(FAILS in row for row in rows))


def examine(module: str, folder: Path, most: int | None, seed: int) -> str:
    """Print a module's survivors and return its row of the table; nothing where it has no tests."""
    tests = [str(path) for name in TESTS[module] if (path := ROOT / "tests" / name).exists()]
    if not tests:
        print(f"{module} has no tests of its own", flush=True)
        return ""
    path, start = folder / "hirescam" / f"{module}.py", time.monotonic()
    source = path.read_text("utf-8")
    if status(module, tests, folder, None) != 0:
        return f"{module:20}{FAILS}: {' '.join(tests)}"
    limit = 20 + 4 * (time.monotonic() - start)
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
        compiled.unlink()  # else taken for that of a mutant as long and as old
    found = mutants(source)
    chosen = random.Random(seed).sample(found, min(most or len(found), len(found)))
    fates: Counter[str] = Counter()
    for mutant in chosen:
        path.write_text(mutant, "utf-8")
        fate = FATES.get(status(module, tests, folder, limit), "killed")
        fates[fate] += 1
        if fate in ("survived", "timed out"):
            print(f"{fate}  src/hirescam/{module}.py:{difference(source, mutant)}", flush=True)
    path.write_text(source, "utf-8")
    of = f"{len(chosen)}/{len(found)}"
    counts = "".join(f"{fates[fate]:11}" for fate in COLUMNS)
    row = f"{module:20}{of:>9}{counts}{time.monotonic() - start:7.0f}"
    print(f"== {row}", flush=True)
    return row


def status(module: str, tests: list[str], folder: Path, limit: float | None) -> int | None:
    """The exit status of the tests, in a process of their own; none where they took longer than the limit."""
    process = multiprocessing.get_context("fork").Process(target=attempt, args=(module, tests, folder, limit))
    process.start()
    try:
        process.join(limit)
        return process.exitcode
    finally:
        if process.exitcode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.join()


def attempt(module: str, tests: list[str], folder: Path, limit: float | None) -> None:
    """Run the tests in this process, and end it with their status."""
    os.setsid()
    sys.dont_write_bytecode = limit is not None
    for stream in (1, 2) if limit else ():
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    found = importlib.import_module(f"hirescam.{module.replace('/', '.')}")
    assert Path(found.__file__).is_relative_to(folder), f"{found.__file__} is not the copy"
    os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), *tests]))


if __name__ == "__main__":
    main()
