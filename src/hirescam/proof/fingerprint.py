"""What a network computes, whatever its weights: with one fingerprint, values lie in the same places."""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree

from hirescam.passes import taps
from hirescam.passes.borrow import Call, eager, session
from hirescam.passes.state import storages_of


def fingerprint(model: nn.Module, call: Call) -> str:
    """Digest the operations of one forward pass.

    Their names, their plain arguments and the shapes of their tensors are part of it, and the values of every
    tensor that is neither the image, nor a weight, nor made from those by an operation: an order in a buffer
    moves things as much as `flip` does.

    Args:
        model: the eager model; it runs once.
        call: the inputs.
    """
    digest = _Digest()
    for _, tensor in weights(model):
        digest.know(tensor)
    digest.know(call.own)
    with (
        session(grad=False),
        eager(model),
        taps.Modes(_plain, digest.operation) as modes,
    ):
        modes.start_operations()
        call.run(model)
    return digest.text


def weights(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters, and the statistics of batch norms."""
    statistics = ("running_mean", "running_var")
    buffers = [(name, tensor) for name, tensor in model.named_buffers() if name.endswith(statistics)]
    return [*model.named_parameters(), *buffers]


class _Digest:
    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._known: dict[int, StorageWeakRef] = {}

    @property
    def text(self) -> str:
        return self._hash.hexdigest()

    def know(self, tensor: Tensor) -> None:
        """From here on a tensor's values are not looked at."""
        self._known.update(storages_of(tensor))

    def operation(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._add(str(op))
        for leaf in pytree.tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self._add(f"{leaf.dtype}{tuple(leaf.shape)}")
                self._look_at(leaf)
            elif not isinstance(leaf, torch.Generator):
                self._add(repr(leaf))
        result = op(*args, **kwargs)
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.know(leaf)
        return result

    def _look_at(self, tensor: Tensor) -> None:
        if all(number in self._known for number, _ in storages_of(tensor)):
            return
        plain = tensor.detach().resolve_conj().resolve_neg()
        dense = plain if plain.layout is torch.strided else plain.to_dense()
        self._hash.update(dense.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
        self.know(tensor)

    def _add(self, text: str) -> None:
        self._hash.update(text.encode() + b"\0")


def _plain(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)
