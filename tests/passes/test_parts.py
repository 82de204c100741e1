"""Parts of axes, and entries of them in an order of their own."""

from hypothesis import given
from hypothesis import strategies as st

from hirescam.passes.parts import Axis, Part, Role, channels, is_places, ordered, places_of, size_of, unknown

ROWS, COLUMNS = Part(Role.PLACE, 4, 0, 2.0, 1.0), Part(Role.PLACE, 3, 1)
TOKENS = (ROWS, COLUMNS)


def positions(axis: Axis) -> list[tuple[float, ...] | None]:
    """Where every entry of an axis lies; None has no place."""
    found: list[tuple[float, ...] | None] = [()]
    for part in axis:
        own = (
            [None if i < 0 else positions(part.inner)[i] for i in part.order]
            if part.inner
            else [(part.first + part.step * i,) for i in range(part.size)]
        )
        found = [None if a is None or b is None else a + b for a in found for b in own]
    return found


def test_sizes() -> None:
    assert (size_of(TOKENS), size_of(()), size_of(unknown(7)), size_of(channels(5))) == (12, 1, 7, 5)


@given(st.lists(st.integers(-1, 11), min_size=1, max_size=20))
def test_entries_in_an_order_of_their_own_lie_where_they_lay(order: list[int]) -> None:
    where = positions(TOKENS)
    axis = ordered(TOKENS, order)
    assert size_of(axis) == len(order)
    assert positions(axis) == [None if i < 0 else where[i] for i in order]
    again = ordered(axis, range(len(order) - 1, -1, -1))
    assert positions(again) == positions(axis)[::-1]


@given(st.integers(0, 3), st.integers(-2, 2), st.integers(1, 4))
def test_entries_at_equal_distances_are_plain_places(start: int, step: int, count: int) -> None:
    order = [start + step * i for i in range(count)]
    if any(not 0 <= i < 4 for i in order) or (step == 0 and count > 1):
        return
    axis = ordered((ROWS,), order)
    assert not any(part.inner for part in axis)
    assert positions(axis) == [positions((ROWS,))[i] for i in order]


def test_what_is_no_place_has_no_order() -> None:
    assert ordered(TOKENS, range(12)) == TOKENS
    assert ordered(channels(5), [1, 3]) == channels(2)
    assert ordered(channels(5), [1, -1]) == unknown(2)
    assert ordered(unknown(5), [1, 3]) == unknown(2)
    assert ordered((ROWS,), [2, 2]) == unknown(2)


def test_all_places() -> None:
    behind = ordered(TOKENS, [-1, *range(12)])
    assert list(places_of(((Part(Role.BATCH, 2),), behind, channels(4)))) == [ROWS, COLUMNS]
    assert is_places(TOKENS)
    assert not is_places(behind)
    assert not is_places(())
    assert not is_places((*TOKENS, *channels(2)))
