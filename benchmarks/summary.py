"""What was aimed at and what was measured, from the tables' JSON.

python -m benchmarks.summary [--out DIR]
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.networks import NETWORKS
from benchmarks.options import RESULTS
from benchmarks.results import Row, cell_text, write

_SAME = ("cpu", "cores", "threads", "system", "python")
TABLES = ("one_image", "classes", "batches", "memory", "engines")
"""Those that it is made of."""
PEERS = ("grad-cam", "captum", "torchcam")


@dataclass(frozen=True)
class Aim:
    """One thing that was aimed at.

    Attributes:
        work: what is done.
        limit: what the figure may be at most.
        table: where it was measured.
        column: the figure.
        among: which rows count.
    """

    work: str
    limit: float
    table: str
    column: str
    among: Callable[[Row], bool]


def exact(row: Row) -> bool:
    """Whether the network's head is affine."""
    return NETWORKS[row["network"]].exact


def _case(**wanted: object) -> Callable[[Row], bool]:
    return lambda row: all(row[key] == value for key, value in wanted.items())


def _engine(name: str, *, demo: bool) -> Callable[[Row], bool]:
    return lambda row: row["engine"] == name and (row["network"] == "lite0") is demo


BARE_RATIO = "× eager forward"
ONE, MANY, FLAT = "one image, one class", "one image, all 1000 classes", "2048 × 7 × 7 flatten head"
AIMS = (
    Aim(f"{ONE}, exact head", 1.03, "one_image", "hirescam", exact),
    Aim("one image, 5 classes, exact head", 1.05, "classes", "hirescam", _case(classes=5, head="exact")),
    Aim(f"{MANY}, pooled head", 1.1, "classes", "hirescam", _case(classes=1000, network="resnet50")),
    Aim(f"{MANY}, {FLAT}", 1.5, "classes", "hirescam", _case(classes=1000, network="flatten")),
    Aim(f"{ONE}, vgg16", 1.1, "one_image", "hirescam", _case(network="vgg16")),
    Aim("a batch, one class each, exact head", 1.05, "batches", "hirescam", exact),
    *(
        Aim(f"{name}: logits and top-5 maps", 0.75, "engines", BARE_RATIO, _engine(name, demo=False))
        for name in ("torch.compile", "ONNX Runtime", "OpenVINO")
    ),
    *(
        Aim(f"{name}: the demo's network", 1.0, "engines", BARE_RATIO, _engine(name, demo=True))
        for name in ("ONNX Runtime", "OpenVINO")
    ),
    Aim("peak memory ÷ (bare forward + maps), exact head", 1.05, "memory", "hirescam ÷ (bare + maps)", exact),
)
"""The aims, each as a ratio to the bare eager forward pass where nothing else is said."""


def rows(tables: dict[str, list[Row]]) -> Iterator[Row]:
    """One row for each aim that has figures."""
    for aim in AIMS:
        found = [row for row in tables[aim.table] if aim.among(row)]
        if found:
            yield _row(aim, found)


def _row(aim: Aim, found: list[Row]) -> Row:
    worst = max(found, key=lambda row: _value(row[aim.column]))
    value = _value(worst[aim.column])
    best = min(_value(row[aim.column]) for row in found)
    return {
        "work": aim.work,
        "at most": f"{aim.limit:g}",
        "measured": span(best, value),
        "the worst": f"{worst['network']}: {cell_text(worst[aim.column])}",
        "verdict": "met" if value <= aim.limit else f"missed by {value - aim.limit:.2g}",
        **{peer: _peer(found, peer, aim) for peer in PEERS},
    }


def _peer(found: list[Row], peer: str, aim: Aim) -> str | None:
    if aim.table == "memory":
        cells = [(row[f"{peer}, MB"], row["bare forward, MB"], row["maps, MB"]) for row in found]
        values = [mine["bytes"] / (bare["bytes"] + maps["bytes"]) for mine, bare, maps in cells if mine]
    else:
        values = [_value(row[peer]) for row in found if row.get(peer)]
    return span(min(values), max(values)) if values else None


def _value(cell: dict[str, float]) -> float:
    return cell["ratio"] if "ratio" in cell else cell["share"]


def span(low: float, high: float) -> str:
    """From the smallest to the largest."""
    texts = f"{low:.2f}", f"{high:.2f}"
    return texts[0] if texts[0] == texts[1] else " to ".join(texts)


def summary(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The summary's data, from the data of the tables.

    Raises:
        SystemExit: the tables were measured under different conditions.
    """
    conditions = [data["conditions"] for data in found.values()]
    for key in _SAME:
        values = {str(one[key]) for one in conditions}
        if len(values) > 1:
            raise SystemExit(f"the tables differ in {key} ({', '.join(sorted(values))}): run them together")
    others = [one["others"] for one in conditions if one["others"] is not None]
    versions = {name: number for one in conditions for name, number in one["versions"].items()}
    return {
        "table": "summary",
        "conditions": conditions[0]
        | {
            "command": "python -m benchmarks",
            "date": max(one["date"] for one in conditions),
            "others": max(others, default=None),
            "versions": versions,
        },
        "rows": list(rows({name: data["rows"] for name, data in found.items()})),
    }


def main() -> None:
    """Read the tables, write the summary, print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.summary")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the tables are")
    print(collect(parser.parse_args().out))


def collect(folder: Path) -> str:
    """Write the summary of the tables of one folder, and return its Markdown.

    Raises:
        SystemExit: a table is missing.
    """
    found = {}
    for table in TABLES:
        path = folder / f"{table.replace('_', '-')}.json"
        if not path.exists():
            raise SystemExit(f"no summary: {path.name} is missing; python -m benchmarks {table} makes it")
        found[table] = json.loads(path.read_text(encoding="utf-8"))
    return write(summary(found), folder)


if __name__ == "__main__":
    main()
