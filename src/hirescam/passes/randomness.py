"""Random numbers: every generator that a model may draw from is given back as it was."""

import pickle
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

GetState = Callable[[], Any]
SetState = Callable[[Any], Any]


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Give the generators that all share back as they are: torch's, Python's, and NumPy's if it is loaded."""
    shared: list[tuple[GetState, SetState]] = [
        (torch.get_rng_state, torch.set_rng_state),
        (random.getstate, random.setstate),
    ]
    if torch.cuda.is_initialized():
        shared.append((torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all))
    if "numpy.random" in sys.modules:
        numpy = sys.modules["numpy.random"]
        shared.append((numpy.get_state, numpy.set_state))
    kept = [(get(), put) for get, put in shared]
    try:
        yield
    finally:
        for state, put in kept:
            put(state)


def access(item: object) -> tuple[GetState, SetState] | None:
    """How to read and set the state of a random number generator; None for anything else."""
    if isinstance(item, torch.Generator):
        return item.get_state, item.set_state
    if isinstance(item, random.Random):
        return item.getstate, item.setstate
    numpy = sys.modules.get("numpy.random")
    if numpy is not None and isinstance(item, numpy.RandomState):
        return item.get_state, item.set_state
    if numpy is not None and isinstance(item, numpy.Generator):
        bits = item.bit_generator
        return lambda: bits.state, lambda state: setattr(bits, "state", state)
    return None


def same(one: object, other: object) -> bool:
    """Whether two states, tensors or nested tuples and dicts of numbers and arrays, are the same."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return pickle.dumps(one) == pickle.dumps(other)
