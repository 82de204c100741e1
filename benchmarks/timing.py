"""Paired timing: variants take turns, and each is compared with the first one round by round."""

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass

Work = Callable[[], object]
Cell = dict[str, float]

_PAUSE = 0.01
"""Seconds between two variants: worker threads of the one before stop spinning and leave the cores free."""
_LEAST, _MOST = 5, 31
_SELDOM_LEAST = 3


@dataclass(frozen=True)
class Rounds:
    """Seconds of every variant in every round; None where a slow variant sat a round out."""

    seconds: dict[str, list[float | None]]
    reference: str

    def cell(self, name: str) -> Cell:
        """Median ratio to the reference with the middle half of the ratios, and the median time."""
        mine = self.seconds[name]
        times = [second for second in mine if second is not None]
        return quartiles(ratios(mine, self.seconds[self.reference])) | {
            "milliseconds": statistics.median(times) * 1e3,
            "rounds": len(times),
        }

    def less(self, name: str, other: str) -> Cell:
        """What one variant takes beyond another of the same round, in units of the reference."""
        beyond = [
            None if a is None or b is None else a - b
            for a, b in zip(self.seconds[name], self.seconds[other], strict=True)
        ]
        return quartiles(ratios(beyond, self.seconds[self.reference]))


def ratios(mine: Sequence[float | None], bare: Sequence[float | None]) -> list[float]:
    """Ratios of the rounds that both took part in."""
    return [a / b for a, b in zip(mine, bare, strict=True) if a is not None and b]


def quartiles(values: list[float]) -> Cell:
    """The median and the middle half."""
    low, middle, high = statistics.quantiles(values * 2 if len(values) == 1 else values, method="inclusive")
    return {"ratio": middle, "low": low, "high": high}


def paired(
    variants: Mapping[str, Work],
    *,
    seconds: float,
    rounds: int | None = None,
    seldom: Set[str] = frozenset(),
    once: Mapping[str, float] | None = None,
    settle: float = 0,
) -> Rounds:
    """Run all variants in every round, in shuffled order.

    How long each takes decides how many rounds there are, and how seldom a variant runs that is much slower
    than the first one.

    Args:
        variants: what to run; the first one is the reference.
        seconds: about how long it may take, where ``rounds`` is not given.
        rounds: how many rounds.
        seldom: variants that need not run more often than in every second round.
        once: seconds of those that are warm already; the others run once before.
        settle: seconds until the worker threads of the one before are asleep; see `timed`.
    """
    names, once = list(variants), dict(once or {})
    once |= {name: timed(variants[name]) for name in names if name not in once}
    every = {name: max(1 + (name in seldom), round(once[name] / (2 * once[names[0]]))) for name in names}
    rounds = rounds or min(_MOST, max(_LEAST, int(seconds / sum(once[name] / every[name] for name in names))))
    every = {name: min(every[name], max(1, (rounds - 1) // (_SELDOM_LEAST - 1))) for name in names}
    shuffle = random.Random(0).shuffle
    found: dict[str, list[float | None]] = {name: [] for name in names}
    order = list(names)
    with _little_garbage():
        for number in range(rounds):
            gc.collect()  # nobody has to clear away what another variant left
            shuffle(order)
            for name in order:
                found[name].append(None if number % every[name] else timed(variants[name], settle))
    return Rounds(found, names[0])


@contextmanager
def _little_garbage() -> Iterator[None]:
    """Let the collector look only at what is made from now on, which takes it no time."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def timed(work: Work, settle: float = 0) -> float:
    """Seconds of one call.

    After a long rest the first call is slow whatever it does: with ``settle`` the second one counts.
    """
    if settle:
        time.sleep(settle)
        work()
    time.sleep(_PAUSE)
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
