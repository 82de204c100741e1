"""Networks that a function or an attribute of the user's own module gives."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import ModuleType

from torch import nn

from hirescam.errors import HirescamError, SpecError
from hirescam.models.building import origin_of, seeded
from hirescam.models.model import FROM_FACTORY, Model, other_model, picture_model
from hirescam.models.preprocessing import SIDE, Preset, sized
from hirescam.models.references import did_you_mean, one_line, unknown
from hirescam.networks.weights import load_into
from hirescam.wording import FORMS

_GREY_MEAN, _GREY_STD = 0.449, 0.226
_SPACE = {1: (1024,), 2: (SIDE, SIDE), 3: (16, 112, 112)}
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def from_factory(spec: str, weights: Path | None, image_size: int | None) -> Model:
    """Import a module and call the factory in it that a reference names."""
    place, colon, attribute = spec.rpartition(":")
    if not colon or not place or not attribute:
        raise unknown(spec)
    found = _attribute(_imported(place, spec), attribute, spec)
    made = _called(found, spec)
    model = made if isinstance(made, Model) else _wrapped(made, spec, image_size)
    if weights is None:
        return model
    load_into(model.module, weights)
    return replace(model, origin=origin_of(weights))


def _imported(place: str, spec: str) -> ModuleType:
    try:
        return _from_file(Path(place)) if place.endswith(".py") else _from_package(place)
    except FileNotFoundError as error:
        raise SpecError(
            f"spec: {spec!r} names the file {place!r}, which does not exist; check the path"
        ) from error
    except (Exception, SystemExit) as error:
        raise _not_imported(place, spec, error) from error


def _from_package(place: str) -> ModuleType:
    with _importable(Path.cwd()):
        return import_module(place)


def _from_file(path: Path) -> ModuleType:
    path = path.resolve(strict=True)
    name = f"_hirescam_spec_{path.stem}_{abs(hash(path)):x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _importable(path.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def _not_imported(place: str, spec: str, error: BaseException) -> SpecError:
    missing = isinstance(error, ModuleNotFoundError) and error.name in (place, place.split(".")[0])
    if not missing:
        return SpecError(
            f"spec: {place!r} could not be imported ({type(error).__name__}: {one_line(error)}); "
            "make it importable by itself first"
        )
    close = difflib.get_close_matches(place, ("torchvision", "timm"), n=1)
    hint = f"did you mean {close[0] + ':' + spec.rpartition(':')[2]!r}?" if close else ""
    return SpecError(
        f"spec: there is no module {place!r} for {spec!r}; "
        f"{hint or f'expected {FORMS}, run from the folder that holds the module'}"
    )


def _attribute(module: ModuleType, attribute: str, spec: str) -> object:
    try:
        found: object = attrgetter(attribute)(module)
    except AttributeError:
        names = [name for name in vars(module) if not name.startswith("_")]
        raise SpecError(
            f"spec: {spec!r} names {attribute!r}, which the module does not have; "
            f"{did_you_mean(attribute, names)}"
        ) from None
    return found


def _called(found: object, spec: str) -> object:
    if isinstance(found, (nn.Module, Model)):
        return found
    if not callable(found):
        raise _not_a_factory(spec, found)
    _check_takes_nothing(found, spec)
    try:
        made: object = seeded(found)
    except HirescamError:
        raise
    except Exception as error:
        raise SpecError(
            f"spec: the factory {spec!r} failed ({type(error).__name__}: {one_line(error)}); "
            "call it by itself to find out why"
        ) from error
    return made


def _check_takes_nothing(factory: Callable[..., object], spec: str) -> None:
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise SpecError(
            f"spec: the factory {spec!r} needs arguments ({error}); wrap it in a function that takes none"
        ) from None
    except ValueError:
        return  # built-in callables have no signature to look at


def _wrapped(made: object, spec: str, image_size: int | None) -> Model:
    if not isinstance(made, nn.Module):
        raise _not_a_factory(spec, made)
    shape = _guessed_shape(made, image_size)
    if len(shape) != 3 or shape[0] not in (1, 3):
        return other_model(made, spec, shape, None, FROM_FACTORY)
    preset = sized(Preset(), (shape[1], shape[2]))
    if shape[0] == 1:
        preset = preset._replace(mean=(_GREY_MEAN,), std=(_GREY_STD,))
    return picture_model(made, spec, preset, None, FROM_FACTORY)


def _guessed_shape(module: nn.Module, image_size: int | None) -> tuple[int, ...]:
    """Read channels and axes off the first convolution, which tells most about the input."""
    found = (part for part in module.modules() if isinstance(part, _CONVOLUTIONS))
    first = next(found, None)
    channels, axes = (first.in_channels, len(first.kernel_size)) if first else (3, 2)
    space = (image_size,) * axes if image_size else _SPACE[axes]
    return (channels, *space)


def _not_a_factory(spec: str, found: object) -> SpecError:
    return SpecError(
        f"spec: {spec!r} gives a value of type {type(found).__name__}, expected an nn.Module or a "
        "hirescam.models.Model; name a function that takes no arguments and returns one"
    )
