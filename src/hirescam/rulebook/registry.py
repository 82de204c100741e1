"""The registry of rules: it feeds the Python interface, the command line, the docs and the tests."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

from torch import Tensor

from hirescam.errors import RuleError
from hirescam.trace import Trace

Map = Tensor
"""A raw map ``(b, t, *space)``: signed, at the layer's resolution, never clipped or rescaled."""


class Needs(StrEnum):
    """What a rule reads from its trace."""

    GRADIENTS = "gradients"


GRADIENTS = Needs.GRADIENTS


@dataclass(frozen=True)
class Rule:
    """A method and what is known about it.

    Attributes:
        name: key in the registry, choice on the command line, heading in the docs.
        function: the method itself.
        needs: what it reads from the trace.
        cite: key in the bibliography.
        exact_for: heads on which both laws hold for it; ``""`` for none.
        holds: whether it holds the divisors of normalisers on conditional heads.
    """

    name: str
    function: Callable[[Trace], Map]
    needs: Needs
    cite: str
    exact_for: str
    holds: bool

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.function) or "").split("\n")[0]


_RULES: dict[str, Rule] = {}


def rule(
    *, needs: Needs, cite: str, exact_for: str = "", holds: bool = False
) -> Callable[[Callable[[Trace], Map]], Callable[[Trace], Map]]:
    """Register a function under its own name."""

    def register(function: Callable[[Trace], Map]) -> Callable[[Trace], Map]:
        name = function.__name__
        if name in _RULES:
            raise RuleError(f"rule {name!r} is registered already: give the new one another name")
        _RULES[name] = Rule(name, function, needs, cite, exact_for, holds)
        return function

    return register


def rules() -> dict[str, Rule]:
    """Return all rules by name.

    Example:
        >>> import hirescam
        >>> sorted(hirescam.rules())
        ['cam', 'gradcam', 'hirescam']
    """
    return dict(_RULES)


def get(name: str) -> Rule:
    """Return one rule.

    Raises:
        RuleError: there is none of this name.
    """
    if name not in _RULES:
        close = get_close_matches(str(name), _RULES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(_RULES))}"
        raise RuleError(f"rule={name!r} is unknown: {hint}")
    return _RULES[name]
