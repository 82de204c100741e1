"""Values by run, sample, rule and metric in one SQLite file, so that a run that was broken off goes on.

A run is known by a digest of everything that its values depend on. Values of other runs stay in the file.
Each batch is written whole or not at all.
"""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from hirescam.errors import InputError

_BLOCK = 500
_OF_METRIC = "FROM entries WHERE run = ? AND rule = ? AND metric = ?"

T = TypeVar("T")

_TABLES = """
CREATE TABLE IF NOT EXISTS runs (run TEXT PRIMARY KEY, config TEXT NOT NULL, place INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS facts (
  run TEXT, sample TEXT, fact TEXT NOT NULL, PRIMARY KEY (run, sample)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entries (
  run TEXT, rule TEXT, metric TEXT, sample TEXT, shape TEXT NOT NULL, value BLOB, error TEXT NOT NULL,
  PRIMARY KEY (run, rule, metric, sample)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One value, or why there is none.

    Attributes:
        sample: key of the sample.
        rule: label of the rule.
        metric: label of the metric.
        value: of any shape, float64; None where there is an error.
        error: in words, or ``""``.
    """

    sample: str
    rule: str
    metric: str
    value: Tensor | None
    error: str = ""


class Store:
    """The values of one run.

    Args:
        path: the file; None keeps everything in memory.
        config: everything that values depend on, as plain data.

    Raises:
        InputError: the file cannot be used.
    """

    def __init__(self, path: Path | None, config: Mapping[str, Any]) -> None:
        self.path = path
        text = json.dumps(config, sort_keys=True, ensure_ascii=False)
        self.run = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        self._base = self._guarded(self._opened)
        self.changes = self._guarded(lambda: self._differences(config))
        self._guarded(lambda: self._begin(text))

    def facts(self, samples: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Give what is known about samples, by key, for those about which something is."""
        found = self._of("SELECT sample, fact FROM facts WHERE run = ?", samples, self.run)
        return {sample: json.loads(fact) for sample, fact in found}

    def missing(self, rule: str, metric: str, samples: Sequence[str]) -> bool:
        """Tell whether one of a few samples has no value."""
        query = f"SELECT sample {_OF_METRIC} AND error = ''"
        return len(self._of(query, samples, self.run, rule, metric)) < len(set(samples))

    def write(self, facts: Mapping[str, Mapping[str, Any]], entries: Iterable[Entry]) -> None:
        """Add a batch, in place of what was there for the same samples, rules and metrics."""

        def insert() -> None:
            with self._base:
                said = [(self.run, key, json.dumps(fact)) for key, fact in facts.items()]
                self._base.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", said)
                rows = [(self.run, *_row(entry)) for entry in entries]
                self._base.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

        self._guarded(insert)

    def values(self, rule: str, metric: str, samples: Sequence[str]) -> tuple[list[str], Tensor]:
        """Give the keys that have a value, in the order asked for, and their values ``(n, ...)``."""
        query = f"SELECT sample, shape, value {_OF_METRIC} AND error = ''"
        rows = self._of(query, samples, self.run, rule, metric)
        found = {sample: _value(shape, value) for sample, shape, value in rows}
        keys = [key for key in samples if key in found]
        return keys, torch.stack([found[key] for key in keys]) if keys else torch.zeros(
            0, dtype=torch.float64
        )

    def errors(self, rule: str, metric: str, samples: Sequence[str]) -> dict[str, str]:
        """Give the errors by sample."""
        query = f"SELECT sample, error {_OF_METRIC} AND error != ''"
        return dict(self._of(query, samples, self.run, rule, metric))

    def close(self) -> None:
        """Let go of the file."""
        self._base.close()

    def _of(self, query: str, samples: Sequence[str], *values: str) -> list[Any]:
        """Run a query on some samples only, a block of them at a time."""
        rows: list[Any] = []
        for start in range(0, len(samples), _BLOCK):
            block = samples[start : start + _BLOCK]
            whole = f"{query} AND sample IN ({', '.join('?' * len(block))})"
            rows += self._guarded(partial(self._fetched, whole, (*values, *block)))
        return rows

    def _fetched(self, query: str, values: tuple[str, ...]) -> list[Any]:
        return self._base.execute(query, values).fetchall()

    def _opened(self) -> sqlite3.Connection:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        base = sqlite3.connect(":memory:" if self.path is None else self.path)
        base.executescript(_TABLES)
        return base

    def _differences(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Name what differs from the last run, if that is another one and this one is new."""
        rows = self._base.execute("SELECT run, config FROM runs ORDER BY place").fetchall()
        if not rows or self.run in {run for run, _ in rows}:
            return ()
        last = json.loads(rows[-1][1])
        return tuple(sorted(key for key in config.keys() | last.keys() if config.get(key) != last.get(key)))

    def _begin(self, text: str) -> None:
        with self._base:
            place = "(SELECT COALESCE(MAX(place), 0) + 1 FROM runs)"
            self._base.execute(f"INSERT OR REPLACE INTO runs VALUES (?, ?, {place})", (self.run, text))

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (sqlite3.Error, OSError, ValueError) as error:
            raise InputError(
                f"out: {str(self.path)!r} cannot be used ({error}); choose another folder or remove it"
            ) from None


def _row(entry: Entry) -> tuple[str, str, str, str, bytes | None, str]:
    if entry.value is None:
        return entry.rule, entry.metric, entry.sample, "", None, entry.error
    plain = entry.value.detach().cpu().double()
    shape = ",".join(map(str, plain.shape))
    return entry.rule, entry.metric, entry.sample, shape, plain.contiguous().numpy().tobytes(), entry.error


def _value(shape: str, value: bytes) -> Tensor:
    sides = [int(side) for side in shape.split(",") if side]
    return torch.from_numpy(np.frombuffer(value, dtype=np.float64).copy()).reshape(sides)
