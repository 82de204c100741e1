"""Random number generators: those that everyone shares, and those that a model has for itself."""

import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import hirescam
from hirescam.passes.randomness import access, same, same_random_numbers
from toys import FlattenNet, images, ready

SHARED: dict[str, Callable[[], float]] = {
    "torch": lambda: float(torch.rand(())),
    "python": random.random,
    "numpy": lambda: float(np.random.rand()),
}
OWN: dict[str, Callable[[], Any]] = {
    "torch": lambda: torch.Generator().manual_seed(3),
    "python": lambda: random.Random(3),
    "numpy": lambda: np.random.default_rng(3),
    "mersenne": lambda: np.random.Generator(np.random.MT19937(3)),
    "old numpy": lambda: np.random.RandomState(3),
}


def drawn(generator: Any) -> float:
    if isinstance(generator, torch.Generator):
        return float(torch.rand((), generator=generator))
    return float(generator.random() if hasattr(generator, "random") else generator.rand())


@pytest.mark.parametrize("draw", SHARED.values(), ids=SHARED)
def test_shared_generators_are_given_back(draw: Callable[[], float]) -> None:
    with same_random_numbers():
        first = [draw(), draw()]
    assert [draw(), draw()] == first
    with suppress(KeyError), same_random_numbers():
        third = draw()
        raise KeyError
    assert draw() == third


def test_numpy_is_not_loaded_for_it() -> None:
    code = (
        "import sys, torch\n"
        "from hirescam.passes.randomness import access, same_random_numbers\n"
        "for name in [name for name in sys.modules if name.startswith('numpy')]: del sys.modules[name]\n"
        "with same_random_numbers(): torch.rand(1)\n"
        "assert access(object()) is None and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("make", OWN.values(), ids=OWN)
def test_the_state_of_a_generator(make: Callable[[], Any]) -> None:
    generator = make()
    found = access(generator)
    assert found is not None
    read, put = found
    before = read()
    assert same(before, read())
    first = drawn(generator)
    assert not same(before, read())
    put(before)
    assert drawn(generator) == first


@pytest.mark.parametrize("item", [None, 1.5, "state", torch.zeros(2), {}, random, np.random, np.zeros(2)])
def test_nothing_else_is_a_generator(item: object) -> None:
    assert access(item) is None


class Draws(FlattenNet):
    """Draws a number in every pass, and does not need it."""

    def __init__(self, source: Any, within: type | None = None) -> None:
        super().__init__()
        self.source = source if within is None else within((source,))

    def forward(self, x: Tensor) -> Tensor:
        source = self.source if not isinstance(self.source, tuple | list) else self.source[0]
        number = source() if callable(source) else drawn(source)
        return super().forward(x + 0 * number)


@pytest.mark.parametrize("within", [None, list, tuple])
@pytest.mark.parametrize("make", OWN.values(), ids=OWN)
def test_a_models_own_generator_comes_back(make: Callable[[], Any], within: type | None) -> None:
    source, untouched = make(), make()
    explainer = hirescam.Explainer(ready(Draws(source, within)), audit=1.0)
    for x in (images(2), images(3), images(3)):
        for target in (1, 3, lambda out: out[:, 0]):
            explainer(x, target=target)
        explainer(x, rule="ss_cam", target=0)
        explainer.compare(x, rules=["hirescam", "gradcam"])
    explainer.layers(images(2))
    explainer.certify(images(2))
    explainer.trace(images(2))
    assert drawn(source) == drawn(untouched)


@pytest.mark.parametrize("draw", SHARED.values(), ids=SHARED)
def test_shared_generators_are_as_they_were_after_an_explanation(draw: Callable[[], float]) -> None:
    explainer = hirescam.Explainer(ready(Draws(draw)))
    with same_random_numbers():
        expected = draw()
    for x in (images(2), images(3)):
        explainer(x, target=1)
        explainer(x, rule="ss_cam")
    assert draw() == expected
