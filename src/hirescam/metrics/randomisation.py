"""Networks that lose what they learnt, one layer after another, from the output to the input."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from difflib import get_close_matches
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from hirescam.errors import InputError, MetricError
from hirescam.passes.borrow import session

Mode = Literal["cascading", "independent"]
"""``"cascading"``: layers lose what they learnt one after another and do not get it back.
``"independent"``: one layer at a time, all others as they were trained."""


def learnt_layers(model: nn.Module) -> list[str]:
    """Name the layers that can lose something, the last one first.

    A layer is a module that holds parameters itself, or running statistics that it can reset. The order is
    that in which the modules were registered, reversed, which for most networks leads from the output to
    the input.
    """
    return [name for name, module in model.named_modules() if _has_learnt(module)][::-1]


def randomised(
    model: nn.Module,
    *,
    mode: Mode = "cascading",
    layers: int | Sequence[str] | None = None,
    seed: int = 0,
) -> Iterator[tuple[str, nn.Module]]:
    """Yield copies of a network that has lost what more and more of its layers had learnt.

    A layer gets the values of a new one: what its ``reset_parameters`` draws. Parameters that this does not
    reach (modules without it, weights behind a reparametrisation) are drawn from a normal distribution
    around zero with their own root mean square. Every layer has a seed of its own, so that layers of
    one shape differ, and it is the same in both modes and whatever ``layers`` is.

    Layers with normalisation are layers like others: their scale and shift go back to one and zero, and
    running statistics to mean zero and variance one, as those were learnt too. In the end nothing of the
    training is left. (The reference code of arXiv 1810.03292 keeps running statistics.) Buffers
    that a module does not reset, such as a frozen batch norm's, stay.

    The model itself is not touched, nor is the global random state left changed.

    Args:
        model: the network; it is copied once.
        mode: see `Mode`.
        layers: which ones, in this order; None is all of `learnt_layers`, one by one, and a number cuts them
            into that many groups of neighbours. The name of a block stands for all layers in it, and ``""``
            for the whole network.
        seed: of all that is drawn.

    Yields:
        The name of what was lost last (``"first … last"`` for a group) and the network, always the same
        object: use it before asking for the next.

    Raises:
        InputError: the mode or a layer is unknown, or there is nothing to lose.
        MetricError: the network cannot be copied.
    """
    if mode not in ("cascading", "independent"):
        raise InputError(f"mode={mode!r} is unknown: use 'cascading' or 'independent'")
    copy = _copied(model)
    seeds = _seeds(copy, seed)
    for name, members in _stages(copy, layers).items():
        kept = [(value, value.detach().clone()) for module in members for value in _state(module)]
        for module in members:
            _forget(module, seeds[module])
        yield name, copy
        if mode == "independent":
            with session(grad=False):
                for value, before in kept:
                    value.copy_(before)


def _has_learnt(module: nn.Module) -> bool:
    held = any(True for _ in module.parameters(recurse=False))
    return held or (hasattr(module, "reset_parameters") and any(True for _ in module.buffers(recurse=False)))


def _copied(model: nn.Module) -> nn.Module:
    try:
        with session(grad=False):
            return deepcopy(model)
    except (RuntimeError, TypeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise MetricError(
            f"model cannot be copied, and its layers are never randomised in place: {reason}"
        ) from error


def _seeds(model: nn.Module, seed: int) -> dict[nn.Module, int]:
    layers = [module for module in model.modules() if _has_learnt(module)]
    if not layers:
        raise InputError("model has no parameters: there is nothing that it could lose")
    drawn = torch.randint(2**62, (len(layers),), generator=torch.Generator().manual_seed(seed))
    return dict(zip(layers, drawn.tolist(), strict=True))


def _stages(model: nn.Module, layers: int | Sequence[str] | None) -> dict[str, list[nn.Module]]:
    """The modules that are randomised together, by what the stage is called."""
    if layers is None or isinstance(layers, int):
        return _groups(model, layers)
    if not layers or isinstance(layers, str):
        raise InputError(f"layers={layers!r} must be a sequence of names, such as ('fc', 'layer4')")
    return {name: _within(model, name) for name in layers}


def _groups(model: nn.Module, count: int | None) -> dict[str, list[nn.Module]]:
    names = learnt_layers(model)
    count = len(names) if count is None else min(count, len(names))
    if count < 1:
        raise InputError(
            f"layers={count} must be at least one group, names, or None for every layer by itself"
        )
    ends = [len(names) * end // count for end in range(count + 1)]
    parts = [names[start:end] for start, end in pairwise(ends)]
    return {" … ".join(dict.fromkeys((part[0], part[-1]))): _modules(model, part) for part in parts}


def _modules(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    return [model.get_submodule(name) for name in names]


def _within(model: nn.Module, name: str) -> list[nn.Module]:
    modules = dict(model.named_modules(remove_duplicate=False))
    if name not in modules:
        close = get_close_matches(name, modules, n=1)
        hint = f": did you mean {close[0]!r}?" if close else ""
        raise InputError(f"layers has {name!r}, which is no module of the model{hint}")
    members = [module for module in modules[name].modules() if _has_learnt(module)]
    if not members:
        raise InputError(f"layers has {name!r}, which has no parameters: there is nothing that it could lose")
    return members


def _state(module: nn.Module) -> list[Tensor]:
    """What the module itself holds."""
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _forget(module: nn.Module, seed: int) -> None:
    """Give a module the values of a new one, drawn on the CPU so that they are the same on every device."""
    with session(grad=False), torch.random.fork_rng(devices=[]):
        new = deepcopy(module).cpu()
        torch.default_generator.manual_seed(seed)
        _reset(new)
        for value, drawn in zip(_state(module), _state(new), strict=True):
            value.copy_(drawn)


def _reset(module: nn.Module) -> None:
    before = [value.clone() for value in module.parameters(recurse=False)]
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
    for old, value in zip(before, module.parameters(recurse=False), strict=True):
        # A constant that stays is a new layer's, such as the zeros of a bias.
        if torch.equal(old, value) and (reset is None or bool((value != value.flatten()[0]).any())):
            value.normal_(std=float(old.double().square().mean().sqrt()))
