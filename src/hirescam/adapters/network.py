"""A stand-in for the model that other libraries may hook into: the same weights in modules of its own."""

import copy
import warnings
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor, nn

from hirescam.errors import InputError, ModelError
from hirescam.passes.head import batched
from hirescam.passes.outputs import OutputSelector, logits_of
from hirescam.passes.targets import Scorer


class Scores(nn.Module):
    """A network whose output is ``(n, scores)``, of which other libraries explain one column for each image.

    The columns are the classes. With ``score``, which is settled for ``batch`` images, they are its scores of
    every one of these images: a row that stems from image i has what was asked in the columns of i.
    """

    def __init__(
        self, network: nn.Module, output: OutputSelector, batch: int, score: Scorer | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.output = output
        self._batch = batch
        self._score = score
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Score ``n`` images, which may be more than were asked for."""
        logits = logits_of(self.network(images), self.output, len(images))
        score = self._score
        if score is None:
            return logits
        return batched(lambda row: score(row.expand(self._batch, *row.shape)).flatten(), logits)


def twin(model: nn.Module) -> nn.Module:
    """Copy the modules and share the tensors; nothing in the copy works in place.

    Raises:
        ModelError: the model cannot be copied.
    """
    shared = {id(tensor): tensor for module in model.modules() for tensor in _tensors(module)}
    try:
        copied = copy.deepcopy(model, shared)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{type(model).__name__} cannot be copied, so that nothing would be left on it ({error}): "
            "use a rule of hirescam.rules(), which need no copy"
        ) from error
    for module in copied.modules():
        if getattr(module, "inplace", False) is True:
            setattr(module, "inplace", False)  # noqa: B010 - typed as a tensor or a module
    return copied


def _tensors(module: nn.Module) -> list[Tensor]:
    own = [*vars(module).values(), *module._parameters.values(), *module._buffers.values()]
    return [item for item in own if isinstance(item, torch.Tensor)]


def package(name: str, method: str) -> ModuleType:
    """Import a package that need not be there.

    Raises:
        InputError: it is not.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module(name)
    except ImportError as error:
        raise InputError(
            f"method={method!r} needs {name.split('.')[0]}, which is not installed: run "
            "pip install 'hirescam[adapters]'"
        ) from error
