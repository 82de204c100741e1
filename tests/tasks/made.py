"""Each task is made once for all tests."""

from functools import cache

from hirescam import tasks
from hirescam.tasks import Task


@cache
def make(name: str, seed: int = 0) -> Task:
    return getattr(tasks, name)(seed)
