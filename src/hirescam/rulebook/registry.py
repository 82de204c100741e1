"""The registry of rules: it feeds the Python interface, the command line, the docs and the tests."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

from hirescam.errors import RuleError

F = TypeVar("F", bound=Callable[..., Tensor])
Map = Tensor
"""A raw map ``(b, t, *space)``: signed, at the layer's resolution, never clipped or rescaled."""


class Needs(StrEnum):
    """What a rule reads from its trace."""

    GRADIENTS = "gradients"
    ACTIVATIONS = "activations"
    HEAD = "runs of the head"
    NETWORK = "runs of the network"


GRADIENTS, ACTIVATIONS, HEAD, NETWORK = Needs

HEADS = ("", "pooled affine", "affine", "any")
"""Heads for which something can be claimed, each wider than the one before: none; global pooling and one
linear layer; every affine head; every head."""


@dataclass(frozen=True)
class Rule:
    """A method and what is known about it.

    Attributes:
        name: key in the registry, choice on the command line, heading in the docs.
        function: the method itself.
        needs: what it reads from the trace.
        cite: key in the bibliography.
        exact_for: heads on which both laws hold for it, one of `HEADS`; ``""`` for none.
        holds: whether it holds the divisors of normalisers on conditional heads.
        complete_for: heads on which its maps add up to score − score(A = 0); never fewer than `exact_for`.
        local_for: heads on which each value is what the score loses with that location.

    What is claimed is claimed for the default options.
    """

    name: str
    function: Callable[..., Map]
    needs: Needs
    cite: str
    exact_for: str
    holds: bool
    complete_for: str
    local_for: str

    @property
    def is_hirescam(self) -> bool:
        """Whether this is the rule that certificates are about, whatever it is called."""
        return "hirescam" in _RULES and self.function is _RULES["hirescam"].function

    @property
    def options(self) -> dict[str, Any]:
        """The rule's options and their defaults."""
        parameters = list(inspect.signature(self.function).parameters.values())[1:]
        return {parameter.name: parameter.default for parameter in parameters}

    def configure(self, options: Mapping[str, Any]) -> "Rule":
        """Return the same rule with other options.

        Example:
            >>> import hirescam
            >>> hirescam.rules()["hirescam"].options
            {}
        """
        unknown = [name for name in options if name not in self.options]
        if unknown:
            there = ", ".join(self.options) or "none"
            raise RuleError(f"rule={self.name!r} has no option {unknown[0]!r}: its options are {there}")
        return replace(self, function=partial(self.function, **options))

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return self._doc.split("\n")[0]

    @property
    def description(self) -> str:
        """The docstring after its first line: formula, where it is exact, paper, options."""
        return self._doc.partition("\n\n")[2]

    @property
    def _doc(self) -> str:
        function = self.function.func if isinstance(self.function, partial) else self.function
        return inspect.getdoc(function) or ""


_RULES: dict[str, Rule] = {}


def rule(
    *,
    needs: Needs,
    cite: str,
    exact_for: str = "",
    complete_for: str = "",
    local_for: str = "",
    holds: bool = False,
) -> Callable[[F], F]:
    """Register a function under its own name."""

    def register(function: F) -> F:
        name = function.__name__
        if name in _RULES:
            raise RuleError(f"rule {name!r} is registered already: give the new one another name")
        complete, local = (max(claim, exact_for, key=HEADS.index) for claim in (complete_for, local_for))
        _RULES[name] = Rule(name, function, needs, cite, exact_for, holds, complete, local)
        return function

    return register


def rules() -> dict[str, Rule]:
    """Return all rules by name.

    Example:
        >>> import hirescam
        >>> hirescam.rules()["xgradcam"].exact_for, hirescam.rules()["xgradcam"].complete_for
        ('pooled affine', 'affine')
    """
    return dict(_RULES)


def get(name: str | Rule) -> Rule:
    """Return one rule by name; a rule (perhaps with other options) is returned as it is.

    Raises:
        RuleError: there is none of this name.
    """
    if isinstance(name, Rule):
        return name
    if name not in _RULES:
        close = get_close_matches(str(name), _RULES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(_RULES))}"
        raise RuleError(f"rule={name!r} is unknown: {hint}")
    return _RULES[name]
