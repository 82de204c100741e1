"""An evaluation goes to disk: every value, every figure, and one page."""

import csv
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

from hirescam import io
from hirescam.errors import InputError
from hirescam.evaluation.choices import ChosenMetric
from hirescam.evaluation.contenders import Contender
from hirescam.evaluation.page import evaluation_page
from hirescam.evaluation.result import Evaluation, record
from hirescam.evaluation.runner import Job
from hirescam.evaluation.store import Store
from hirescam.reports import printable

PAGE, SUMMARY, FIGURES = "index.html", "summary.json", "summary.csv"
VALUES, COLUMNAR = "values.csv", "values.parquet"

_COLUMNS = ("sample", "picture", "wanted", "class", "label", "predicted", "score", "probability")
_MEASURED = ("rule", "kind", "metric", "value", "error")

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that single values are read from.

    Attributes:
        store: holds the values.
        contenders: what was compared.
        metrics: what was measured.
        jobs: by key, in order, the samples.
        facts: by key, what is known about them.
    """

    store: Store
    contenders: Sequence[Contender]
    metrics: Sequence[ChosenMetric]
    jobs: Mapping[str, Job]
    facts: Mapping[str, Mapping[str, Any]]


def write_evaluation(found: Evaluation, out: Path) -> None:
    """Write ``index.html``, ``summary.json`` and ``summary.csv``.

    Raises:
        InputError: the folder cannot be written to.
    """
    io.write_text(out / PAGE, evaluation_page(found))
    io.write_json(out / SUMMARY, found.data())
    text = StringIO()
    rows = [record(row) for row in found.rows]
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["kind"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    io.write_text(out / FIGURES, text.getvalue())


def write_values(measured: Measured, out: Path) -> None:
    """Write ``values.csv`` and, where pyarrow is installed, ``values.parquet``: a line for each single value.

    A metric that gives a curve for each sample has its values as a list in the Parquet file, and an empty
    cell in the other.

    Raises:
        InputError: the folder cannot be written to.
    """
    _replace(out / VALUES, lambda draft: _write_csv(measured, draft))
    if find_spec("pyarrow") is not None:
        _replace(out / COLUMNAR, lambda draft: _write_parquet(measured, draft))


def _write_csv(measured: Measured, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*_COLUMNS, *_MEASURED], lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        for part in _parts(measured):
            writer.writerows(part)


def _write_parquet(measured: Measured, path: Path) -> None:
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    kinds = {"class": arrow.int64(), "predicted": arrow.int64(), "score": arrow.float64()}
    kinds |= {"probability": arrow.float64(), "value": arrow.float64(), "curve": arrow.list_(arrow.float64())}
    names = [*_COLUMNS, *_MEASURED, "curve"]
    schema = arrow.schema([(name, kinds.get(name, arrow.string())) for name in names])
    with parquet.ParquetWriter(path, schema) as writer:
        for part in _parts(measured):
            if part:
                writer.write_table(arrow.Table.from_pylist(part, schema=schema))


def _parts(measured: Measured) -> Iterator[list[Record]]:
    """Yield the lines of one metric and one rule at a time."""
    known = {key: _known(job, measured.facts[key]) for key, job in measured.jobs.items()}
    for chosen in measured.metrics:
        for contender in measured.contenders:
            if contender.measures(chosen.metric):
                yield _part(measured.store, contender, chosen, known)


def _part(
    store: Store, contender: Contender, chosen: ChosenMetric, known: Mapping[str, Record]
) -> list[Record]:
    keys, values = store.values(contender.label, chosen.label, list(known))
    found = dict(zip(keys, values.tolist(), strict=True))
    errors = store.errors(contender.label, chosen.label, list(known))
    about = {"rule": contender.label, "kind": chosen.metric.kind.value, "metric": chosen.label}
    return [
        {**fact, **about, **_value(found.get(key)), "error": errors.get(key, "")}
        for key, fact in known.items()
        if key in found or key in errors
    ]


def _value(value: Any) -> Record:
    return (
        {"value": None, "curve": _flat(value)} if isinstance(value, list) else {"value": value, "curve": None}
    )


def _flat(values: list[Any]) -> list[float]:
    return [one for value in values for one in (_flat(value) if isinstance(value, list) else [value])]


def _known(job: Job, fact: Mapping[str, Any]) -> Record:
    return {
        "sample": printable(job.sample.name),
        "picture": printable(job.sample.path),
        "wanted": job.sample.wanted or "",
        "class": fact["target"],
        **{name: fact[name] for name in ("label", "predicted", "score", "probability")},
    }


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file whole or not at all, a part at a time."""
    draft = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        write(draft)
        os.replace(draft, path)
    except OSError as error:
        raise InputError(f"out: cannot write {str(path)!r} ({error.strerror or error})") from None
    finally:
        draft.unlink(missing_ok=True)
