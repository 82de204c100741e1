"""Networks are built with seeded values or the weights of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hirescam.errors import SpecError
from hirescam.models.references import one_line
from hirescam.networks.weights import fill, load_state_dict

SEED = 0
"""Seeds the values of a network that gets no weights file."""


def seeded(build: Callable[[], Any]) -> Any:
    """Call what draws random numbers, the same each time, and leave the random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        return build()


def with_weights(
    build: Callable[[int | None], nn.Module], weights: Path | None
) -> tuple[nn.Module, int | None]:
    """Build a network, with another number of classes where the weights file has one."""
    module = _random(build, None)
    if weights is None:
        return module, None
    state = load_state_dict(weights)
    classes = _other_classes(module.state_dict(), state)
    module = module if classes is None else _random(build, classes)
    fill(module, state, source=str(weights))
    return module, classes


def _random(build: Callable[[int | None], nn.Module], classes: int | None) -> nn.Module:
    module: nn.Module = seeded(lambda: build(classes))
    return module


def _other_classes(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> int | None:
    """Give the file's number of classes where it is all that differs from the network."""
    differing = [key for key in own if key in state and own[key].shape != state[key].shape]
    changes = {(own[key].shape[:1], state[key].shape[:1]) for key in differing}
    same_rest = all(own[key].shape[1:] == state[key].shape[1:] for key in differing)
    if len(changes) != 1 or not same_rest:
        return None
    (_, found) = changes.pop()
    return int(found[0]) if found else None


def classes_option(count: int | None) -> dict[str, int]:
    """Give the keyword that sets the number of classes."""
    return {} if count is None else {"num_classes": count}


def origin_of(weights: Path | None) -> str:
    """Say where the weights of a network that comes without its own are from."""
    return file_origin(weights) or f"random weights, seed {SEED}"


def file_origin(weights: Path | None) -> str | None:
    """Say which file the weights are from, if from one."""
    return None if weights is None else f"file {Path(weights).name}"


def import_extra(module: str) -> Any:
    """Import a package of the extra ``vision``.

    Raises:
        SpecError: It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise SpecError(
            f"spec: {package!r} cannot be imported ({one_line(error)}); "
            'install it with `pip install "hirescam[vision]"`'
        ) from error
