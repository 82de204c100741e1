"""Networks of many families: the right axes, the sum, single locations, and the place of an event."""

from math import prod

import pytest

from zoo.checks import row_of
from zoo.networks import BY_HAND, Entry, every

NOT_WHERE_IT_WAS: dict[str, str] = {}
"""Networks whose layer answers an event elsewhere, and why."""


@pytest.mark.parametrize("entry", BY_HAND, ids=lambda entry: entry.name)
def test_networks_by_hand(entry: Entry) -> None:
    check(entry)


OTHERS = [one for one in every() if one not in BY_HAND and prod(one.shape) <= 3 * 96 * 96]
"""Those that take about a second each; docs/_zoo.py runs the others too."""


@pytest.mark.slow
@pytest.mark.parametrize("entry", OTHERS, ids=lambda entry: entry.name)
def test_networks_of_others(entry: Entry) -> None:
    package = entry.name.split(":")[0]
    pytest.importorskip({"MONAI": "monai"}.get(package, package))
    check(entry)


def check(entry: Entry) -> None:
    row = row_of(entry)
    assert len(row.grid) == len(row.image_size) == len(entry.axes)
    assert row.image_size[-len(entry.space) :] == entry.space
    assert row.error is None or row.error < 1e-6
    assert row.apart is None or row.apart < 1e-6
    assert row.audited == ""
    assert row.place <= 1.5 or entry.name in NOT_WHERE_IT_WAS
    assert row.measurement != "differs"
