"""The store: what goes in comes out, whole or not at all, and only for the same configuration."""

import math
import sqlite3

import pytest
import torch

from hirescam.errors import InputError
from hirescam.evaluation.store import Entry, Store

CONFIG = {"weights": "abc", "layer": "x"}


def entry(sample, value, *, metric="m", error=""):
    return Entry(sample, "r", metric, None if value is None else torch.tensor(value), error)


def test_values_come_back_as_they_were(tmp_path):
    store = Store(tmp_path / "new/values.sqlite", CONFIG)
    store.write({"a": {"label": "Katze 🐈"}}, [entry("a", 1 / 3), entry("b", math.nan), entry("c", math.inf)])
    store.write({}, [entry("a", [[1.0, math.nan]], metric="curve"), entry("d", None, error="broke")])
    store.close()
    again = Store(tmp_path / "new/values.sqlite", CONFIG)
    assert again.facts(["a", "b"]) == {"a": {"label": "Katze 🐈"}}
    keys, values = again.values("r", "m", ["c", "b", "a", "d", "e"])
    assert keys == ["c", "b", "a"]
    assert values.dtype == torch.float64
    assert values[0] == math.inf
    assert values[1].isnan()
    assert values[2] == torch.tensor(1 / 3).double()
    assert again.values("r", "curve", ["a"])[1].shape == (1, 1, 2)
    assert again.values("r", "none", ["a"])[1].shape == (0,)
    assert again.errors("r", "m", ["a", "d"]) == {"d": "broke"}
    assert again.missing("r", "m", ["a", "d"])
    assert not again.missing("r", "m", ["a", "b"])
    assert again.changes == ()


def test_a_value_takes_the_place_of_an_error():
    store = Store(None, CONFIG)
    store.write({}, [entry("a", None, error="broke")])
    store.write({}, [entry("a", 2.0)])
    assert not store.errors("r", "m", ["a"])
    assert store.values("r", "m", ["a"])[1].tolist() == [2.0]


def test_more_samples_than_a_query_can_name():
    store, keys = Store(None, CONFIG), [f"s{number}" for number in range(1200)]
    store.write({key: {} for key in keys}, [entry(key, float(place)) for place, key in enumerate(keys)])
    found, values = store.values("r", "m", keys[::-1])
    assert found == keys[::-1]
    assert values.tolist() == [float(number) for number in range(1199, -1, -1)]
    assert len(store.facts(keys)) == 1200


def test_another_configuration_starts_anew_and_says_what_differs(tmp_path):
    path = tmp_path / "values.sqlite"
    first = Store(path, CONFIG)
    first.write({}, [entry("a", 1.0)])
    first.close()
    other = Store(path, CONFIG | {"layer": "y"})
    assert other.changes == ("layer",)
    assert other.missing("r", "m", ["a"])
    other.close()
    back = Store(path, CONFIG)
    assert back.changes == ()
    assert not back.missing("r", "m", ["a"])


def test_a_batch_is_written_whole_or_not_at_all():
    store = Store(None, CONFIG)

    def broken():
        yield entry("a", 1.0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.write({"a": {}}, broken())
    assert store.missing("r", "m", ["a"])
    assert store.facts(["a"]) == {}


def test_a_file_of_another_kind_is_an_error(tmp_path):
    path = tmp_path / "values.sqlite"
    path.write_text("this is not a data base, whatever its name says")
    with pytest.raises(InputError, match=r"values.sqlite.* cannot be used \(file is not a database\)"):
        Store(path, CONFIG)
    path.unlink()
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE runs (other TEXT)")
    with pytest.raises(InputError, match="cannot be used"):
        Store(path, CONFIG)
