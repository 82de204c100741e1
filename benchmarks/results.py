"""What a table is, how it is written, and under which conditions it was measured."""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.options import Options, add, read

_PACKAGES = ("hirescam", "torch", "torchvision", "grad-cam", "captum", "torchcam")

Row = dict[str, Any]
"""What stands under each column: text, a number, or a dict that says what kind of figure it is."""


@dataclass(frozen=True)
class Table:
    """One table: rows with the same columns, and what else was found."""

    rows: list[Row]
    packages: tuple[str, ...] = ()


def run(module: str, make: Callable[[Options], Table]) -> None:
    """Measure one table with the options of the command line, write it, and print it."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks {Path(module).stem}")
    add(parser)
    options = read(parser.parse_args())
    torch.set_num_threads(options.threads)
    before, start = _busy(), time.monotonic()
    table = make(options)
    spent = {"others": _others(before), "seconds": round(time.monotonic() - start)}
    data = {
        "table": Path(module).stem,
        "conditions": conditions(module, options, table.packages) | spent,
        "rows": table.rows,
    }
    print(write(data, options.out))


def name_of(table: str) -> str:
    """Name of a table's files, without a suffix."""
    return table.replace("_", "-")


def write(data: dict[str, Any], folder: Path) -> str:
    """Write JSON and Markdown, and return the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / name_of(data["table"])
    text = markdown(data)
    stem.with_suffix(".json").write_text(
        json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    return text


def markdown(data: dict[str, Any]) -> str:
    """A Markdown table, and a line with the conditions."""
    columns = list(data["rows"][0])
    lines = [_line(columns), "|" + "---|" * len(columns)]
    lines += [_line([cell_text(row[column]) for column in columns]) for row in data["rows"]]
    return "\n".join([*lines, "", conditions_text(data["conditions"]), ""])


def milliseconds(cell: dict[str, float]) -> dict[str, float]:
    """Of a timed cell, only the time."""
    return {"milliseconds": cell["milliseconds"]}


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def cell_text(cell: Any) -> str:
    """How one figure is written."""
    if cell is None:
        return "–"
    if not isinstance(cell, dict):
        return str(cell)
    if "ratio" in cell:
        spread = f" ({cell['low']:.2f} to {cell['high']:.2f})" if cell["low"] != cell["high"] else ""
        return f"{cell['ratio']:.2f}{spread}"
    kept = f" ({_short(cell['kept'] / 1e6)} kept)" if cell.get("kept") else ""
    (kind, value), *_ = cell.items()
    return _WRITTEN[kind](value) + kept


def _short(value: float) -> str:
    """Three digits, and all of those before the point."""
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


_WRITTEN: dict[str, Callable[[float], str]] = {
    "milliseconds": _short,
    "seconds": "{:.1f}".format,
    "bytes": lambda value: _short(value / 1e6),
    "difference": lambda value: f"{value:.0e}" if value else "0",
    "share": "{:.3f}".format,
}
"""How a figure is written, by its kind."""


def conditions(module: str, options: Options, packages: Iterable[str] = ()) -> dict[str, Any]:
    """Machine, versions, date and command."""
    return {
        "command": command(module, options),
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in (*_PACKAGES, *packages)},
    }


def command(module: str, options: Options) -> str:
    """What to type for the same figures."""
    return " ".join(["python -m benchmarks", Path(module).stem, *options.words])


def conditions_text(found: dict[str, Any]) -> str:
    """One line for readers."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    others = found.get("others")
    threads = f"{found['threads']} thread{'s' if found['threads'] != 1 else ''}"
    busy = "" if others is None else f" Other processes used {others:.0%} of the machine meanwhile."
    return (
        f"*{found['cpu']}, {found['cores']} cores, {threads}, {found['system']}; "
        f"Python {found['python']}, {versions}; {found['date']}.{busy}* `{found['command']}`"
    )


def cpu() -> str:
    """The processor by name, family and model, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    known = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = known.get("model name", platform.machine())
    return f"{name} (family {known.get('cpu family', '?')}, model {known.get('model', '?')})"


def _busy() -> tuple[float, float, float] | None:
    """Seconds that all cores were busy, that this process was, and that there were."""
    try:
        first = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]
    except OSError:
        return None
    ticks = [int(word) / os.sysconf("SC_CLK_TCK") for word in first]
    own = sum(os.times()[:4])
    return sum(ticks) - ticks[3] - ticks[4], own, sum(ticks)


def _others(before: tuple[float, float, float] | None) -> float | None:
    """Share of the machine that other processes took since then."""
    now = _busy()
    if before is None or now is None:
        return None
    busy, own, total = (b - a for a, b in zip(before, now, strict=True))
    return round(max(0.0, (busy - own) / max(total, 1e-9)), 3)
