"""How much is done, also while a slow rule runs the network many times."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with how much is done and how much there is to do."""


class Meter:
    """Counts pairs of sample and contender, and says so; what was said is never taken back.

    Args:
        progress: to be told.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._total = self._done = self._shown = self._weight = 0

    def begin(self, total: int) -> None:
        """Say how much there is to do."""
        self._total = total

    def expect(self, weight: int) -> None:
        """Say how much the next step is."""
        self._weight = weight

    def within(self, done: int, total: int) -> None:
        """Say how much of the next step is done; this is what an explainer reports to."""
        if self._total and total:
            self._say(self._done + self._weight * done // total)

    def reach(self, done: int) -> None:
        """Say how much is done in all."""
        self._done = done
        self._say(done)

    def step(self) -> None:
        """Say that the step is done."""
        self.reach(self._done + self._weight)

    def _say(self, done: int) -> None:
        if done > self._shown:
            self._shown = min(done, self._total)
            self._progress(self._shown, self._total)
