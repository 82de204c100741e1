"""An explainer, its model and what was done to it; images and other inputs of a call."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

import hirescam
from fuzz.asking import TARGETS, Ask, column
from fuzz.grammar import Model, Program


class Raised:
    """A function of the output whose behaviour can be changed."""

    def __init__(self) -> None:
        self.power = 1

    def __call__(self, logits: Tensor) -> Tensor:
        return logits[:, 0] if self.power == 1 else logits[:, 0] ** self.power


@dataclass(eq=False)
class Session:
    """One explainer, its model, and what was done to it so far."""

    program: Program
    model: Model = field(init=False)
    explainer: hirescam.Explainer = field(init=False)
    target: Raised = field(init=False)
    hooks: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model, self.target = self.program.build(), Raised()
        self.explainer = hirescam.Explainer(self.model, layer=self.program.layer)

    @property
    def dtype(self) -> torch.dtype:
        """The model's, now."""
        return next(self.model.parameters()).dtype

    def images(self, which: str) -> Tensor:
        """Images like those of the program, or not."""
        return IMAGES[which](self.program).to(self.dtype)

    def ask(self, target: str) -> Ask:
        """A target by name."""
        if target != "object":
            return TARGETS[target]
        return Ask(lambda batch: self.target, None, lambda base: lambda logits: column(self.target(logits)))

    @property
    def weights(self) -> list[nn.Parameter]:
        """Those of the head."""
        return [*self.model.steps.parameters()] or [*self.model.layer.parameters()]


IMAGES: dict[str, Callable[[Program], Tensor]] = {
    "same": lambda program: program.images(),
    "others": lambda program: program.images(seed=2) * 2 + 0.5,
    "alone": lambda program: program.images()[:1],
    "more": lambda program: torch.cat([program.images(), program.images(seed=3), program.images() * 20]),
    "bright": lambda program: program.images() * 8,
    "larger": lambda program: program.images().repeat_interleave(2, -1),
}


@dataclass(frozen=True)
class Inputs:
    """A call of the model with its other inputs."""

    extra: Tensor | None = None
    refine: bool = False

    def __call__(self, model: nn.Module, images: Tensor) -> Tensor:
        return model(images, extra=self.extra, refine=self.refine)

    def alone(self, number: int) -> "Inputs":
        """The same for one image."""
        return self if self.extra is None else replace(self, extra=self.extra[number : number + 1])

    def named(self, images: Tensor) -> Any:
        """As it is handed to an explainer."""
        if self.extra is None and not self.refine:
            return images
        given = {"image": images, "refine": self.refine}
        return given if self.extra is None else given | {"extra": self.extra}

    @property
    def elsewhere(self) -> "Inputs | None":
        """With another second input."""
        return None if self.extra is None else replace(self, extra=2 * self.extra + 1)


def inputs_of(which: str, images: Tensor) -> Inputs:
    """The other inputs by name."""
    extra = torch.linspace(0.5, 1.5, len(images), dtype=images.dtype)[:, None]
    return {"none": Inputs(), "extra": Inputs(extra), "refine": Inputs(refine=True)}[which]
