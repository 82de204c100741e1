"""A reference such as ``torchvision:resnet50`` comes in; a network ready to be explained goes out.

With the network come the two halves of its preprocessing, its labels and the shape of its input.
Nothing is ever downloaded.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hirescam.errors import HirescamError, InputError, SpecError
from hirescam.networks import crepe, lite0
from hirescam.networks.weights import fill, load_into, load_state_dict

SEED = 0
"""Seeds the values of a network that gets no weights file."""
BUILTIN = ("lite0", "crepe")
"""References to the package's own networks."""
FORMS = "lite0, crepe, torchvision:NAME, timm:NAME, package.module:factory or file.py:factory"
"""What a reference may look like, for messages and help texts."""
FROM_FACTORY = "as made by the factory"

_VIDEO_FRAMES = 16
_SIDE = 224
_GREY_MEAN, _GREY_STD = 0.449, 0.226
_SPACE = {1: (1024,), 2: (_SIDE, _SIDE), 3: (16, 112, 112)}
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_UNSUITED = {
    "detection": "it gives boxes, not class scores",
    "segmentation": "it gives a score per class and pixel; explain it from Python with Region",
    "optical_flow": "it gives a flow field, not class scores",
    "quantization": "quantised numbers have no gradient; use the plain network of the same name",
}

Crop = Callable[[Image.Image], Image.Image]
Normalise = Callable[[Image.Image], Tensor]


@dataclass(frozen=True, slots=True)
class Model:
    """A network and what is needed to feed it and to name its answers.

    A factory may return one of these to say everything about its network.

    Attributes:
        module: The network, in evaluation mode.
        name: The reference that it came from.
        crop: The geometric half of the preprocessing: a picture to the picture that is seen.
        normalise: The numeric half: a cropped picture to a ``(c, h, w)`` float32 tensor.
        labels: The name of each class, if known.
        input_shape: Shape of one input, without the batch axis.
        origin: Where the weights come from, in words.
    """

    module: nn.Module
    name: str
    crop: Crop
    normalise: Normalise
    labels: tuple[str, ...] | None
    input_shape: tuple[int, ...]
    origin: str = FROM_FACTORY

    def preprocess(self, image: Image.Image) -> Tensor:
        """Turn an RGB picture into a ``(c, h, w)`` float32 tensor."""
        return self.normalise(self.crop(image))

    def label(self, index: int) -> str:
        """Name a class: its label where there is one, ``class 7`` elsewhere."""
        labels = self.labels or ()
        return labels[index] if 0 <= index < len(labels) else f"class {index}"


class Preset(NamedTuple):
    """How pictures are brought to the size and the range of a network's training.

    Attributes:
        size: Sides of the crop, ``(height, width)`` in pixels.
        resize: Sides that the picture must cover before the crop is cut from its centre.
        mean: What is subtracted from each channel of a picture in [0, 1].
        std: What the difference is divided by.
        resample: ``bilinear``, ``bicubic``, ``lanczos`` or ``nearest``.
        squash: Let the picture change its proportions to fit ``resize``.
    """

    size: tuple[int, int] = (_SIDE, _SIDE)
    resize: tuple[int, int] = (256, 256)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resample: str = "bilinear"
    squash: bool = False


def resolve(
    spec: str,
    *,
    weights: Path | None = None,
    labels: Path | None = None,
    image_size: int | None = None,
) -> Model:
    """Build the network that a reference names.

    Networks of torchvision and timm get random weights, the same in every run, unless ``weights``
    is given; where that file has another number of classes, so has the network. Neither the
    random state nor any other global setting is left changed. A network that a module keeps as an
    attribute is put into evaluation mode.

    Args:
        spec: ``lite0``, ``crepe``, ``torchvision:NAME``, ``timm:NAME``,
            ``package.module:factory`` or ``file.py:factory``. A factory takes no arguments and
            returns an ``nn.Module`` or a ``Model``; it may also be an ``nn.Module``.
        weights: A ``.safetensors`` file or a state dict.
        labels: A text file with one label per line, or JSON: a list, or a dict by class index.
        image_size: Side in pixels of the input, instead of the network's own.

    Raises:
        SpecError: The reference cannot be resolved, or names a network that does not classify.
        WeightsError: The weights cannot be loaded, or do not fit.
        InputError: The labels cannot be read, or ``image_size`` is not positive.
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"image_size: got {image_size!r}, expected at least 1; leave it out or 224")
    names = None if labels is None else read_labels(labels)
    model = _built(spec, weights, image_size)
    model.module.eval()
    return model if names is None else replace(model, labels=names)


def read_labels(path: Path) -> tuple[str, ...]:
    """Read the names of classes from a text or JSON file.

    Args:
        path: One label per line; or, where the name ends in ``.json``, a list of labels or a dict
            from class index to label.

    Raises:
        InputError: The file is missing, empty, or of another form.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        names = _json_labels(json.loads(text)) if Path(path).suffix == ".json" else _lines(text)
    except (OSError, ValueError) as error:
        raise _bad_labels(path, str(error)) from error
    if not names or not all(isinstance(name, str) for name in names):
        raise _bad_labels(path, "no labels, or labels that are not strings")
    return tuple(names)


def crop_picture(image: Image.Image, *, preset: Preset) -> Image.Image:
    """Resize a picture until it covers ``preset.resize`` and cut ``preset.size`` from its centre.

    Both happen in one step, so a very long picture needs no more memory than its crop.

    Args:
        image: Any picture that Pillow can resize.
        preset: Sizes and resampling.
    """
    height, width = preset.size
    whole = _covering(image.size, preset)
    left, top = round((whole[0] - width) / 2), round((whole[1] - height) / 2)
    across, down = image.width / whole[0], image.height / whole[1]
    box = (left * across, top * down, (left + width) * across, (top + height) * down)
    resample = Image.Resampling[preset.resample.upper()]
    return image.resize((width, height), resample, box=_inside(box, image.size))


def normalise_picture(image: Image.Image, *, preset: Preset) -> Tensor:
    """Turn a picture into a ``(c, h, w)`` float32 tensor: (value / 255 - mean) / std.

    Args:
        image: A picture; it is converted to grey where ``preset.mean`` has one entry, else to RGB.
        preset: Mean and standard deviation of each channel.
    """
    values = np.array(image.convert("RGB" if len(preset.mean) == 3 else "L"), dtype=np.float32)
    pixels = torch.from_numpy(np.atleast_3d(values)).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(value).reshape(-1, 1, 1) for value in (preset.mean, preset.std))
    return ((pixels - mean) / std).contiguous()


def _built(spec: str, weights: Path | None, image_size: int | None) -> Model:
    prefix, _, name = spec.partition(":")
    if spec == "lite0":
        return _lite0(weights, image_size)
    if spec == "crepe":
        return _crepe(weights)
    if prefix == "torchvision" and name:
        return _torchvision(name, weights, image_size)
    if prefix == "timm" and name:
        return _timm(name, weights, image_size)
    return _custom(spec, weights, image_size)


# --- networks of the package --------------------------------------------------------------------


def _lite0(weights: Path | None, image_size: int | None) -> Model:
    side = image_size or lite0.SIDE
    preset = _sized(Preset(mean=(lite0.MEAN,) * 3, std=(lite0.STD,) * 3, resample="bicubic"), (side, side))
    origin = _file_origin(weights) or f"package {lite0.DISTRIBUTION}"
    return _picture_model(lite0.load(weights), "lite0", preset, _imagenet_labels(), origin)


def _crepe(weights: Path | None) -> Model:
    origin = _file_origin(weights) or f"package {crepe.DISTRIBUTION}"
    labels = tuple(f"{crepe.bin_to_hertz(index):.1f} Hz" for index in range(crepe.BINS))
    return _other_model(crepe.load(weights), "crepe", (1, crepe.FRAME), labels, origin)


# --- torchvision --------------------------------------------------------------------------------


def _torchvision(name: str, weights: Path | None, image_size: int | None) -> Model:
    models = _extra("torchvision.models")
    kind = _torchvision_kind(models, name)
    published = next(iter(models.get_model_weights(name)))
    options = _torchvision_options(name, image_size)
    module, own_classes = _with_weights(
        lambda classes: models.get_model(name, weights=None, **options, **_classes(classes)),
        weights,
    )
    labels = None if own_classes else tuple(published.meta["categories"])
    spec, origin = f"torchvision:{name}", _origin(weights)
    preset = _torchvision_preset(published.transforms())
    side = image_size or getattr(module, "image_size", None) or preset.size[0]
    if kind == "video":
        shape = (3, _VIDEO_FRAMES, side, side)
        return _other_model(module, spec, shape, labels, origin)
    return _picture_model(module, spec, _sized(preset, (side, side)), labels, origin)


def _torchvision_kind(models: Any, name: str) -> str:
    known = models.list_models()
    if name not in known:
        raise SpecError(f"spec: torchvision has no network {name!r}; {_did_you_mean(name, known)}")
    kind = str(models.get_model_builder(name).__module__).split(".")[2]
    if kind in _UNSUITED:
        raise SpecError(
            f"spec: 'torchvision:{name}' cannot be explained as a classifier: {_UNSUITED[kind]}; "
            "choose a classification network, such as torchvision:resnet50"
        )
    return kind


def _torchvision_options(name: str, image_size: int | None) -> dict[str, Any]:
    if name in ("googlenet", "inception_v3"):
        return {"init_weights": True}
    if image_size and name.startswith("vit_"):
        return {"image_size": image_size}
    if image_size and name.startswith("maxvit_"):
        return {"input_size": (image_size, image_size)}
    return {}


def _torchvision_preset(transforms: Any) -> Preset:
    return Preset(
        size=_pair(transforms.crop_size),
        resize=_pair(transforms.resize_size),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        resample=transforms.interpolation.value,
    )


# --- timm ---------------------------------------------------------------------------------------


def _timm(name: str, weights: Path | None, image_size: int | None) -> Model:
    timm = _extra("timm")
    if not timm.is_model(name):
        raise SpecError(f"spec: timm has no network {name!r}; {_did_you_mean(name, timm.list_models())}")
    options = _timm_options(timm, name, image_size)
    module, _ = _with_weights(
        lambda classes: _timm_network(timm, name, {**options, **_classes(classes)}), weights
    )
    preset = _timm_preset(_extra("timm.data").resolve_model_data_config(module))
    if image_size:
        preset = _sized(preset, (image_size, image_size))
    labels = _imagenet_labels() if module.num_classes == lite0.CLASSES else None
    return _picture_model(module, f"timm:{name}", preset, labels, _origin(weights))


def _timm_options(timm: Any, name: str, image_size: int | None) -> dict[str, Any]:
    config = timm.get_pretrained_cfg(name)
    fixed = config is not None and config.fixed_input_size
    return {"img_size": image_size} if image_size and fixed else {}


def _timm_network(timm: Any, name: str, options: Mapping[str, Any]) -> nn.Module:
    try:
        module: nn.Module = timm.create_model(name, pretrained=False, **options)
    except (RuntimeError, TypeError, ValueError) as error:
        raise SpecError(
            f"spec: timm could not build {name!r} ({_one_line(error)}); check the name and its tag"
        ) from error
    if not getattr(module, "num_classes", 0):
        raise SpecError(
            f"spec: 'timm:{name}' has no classifier (num_classes is 0), so there is no score; "
            "choose a network with classes, or write a factory that adds a head"
        )
    return module


def _timm_preset(config: Mapping[str, Any]) -> Preset:
    size = (int(config["input_size"][1]), int(config["input_size"][2]))
    resample = config["interpolation"]
    return Preset(
        size=size,
        resize=(int(size[0] / config["crop_pct"]), int(size[1] / config["crop_pct"])),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        resample=resample if resample in ("bilinear", "lanczos", "nearest") else "bicubic",
        squash=config["crop_mode"] == "squash",
    )


# --- factories ----------------------------------------------------------------------------------


def _custom(spec: str, weights: Path | None, image_size: int | None) -> Model:
    place, colon, attribute = spec.rpartition(":")
    if not colon or not place or not attribute:
        raise _unknown(spec)
    found = _attribute(_imported(place, spec), attribute, spec)
    made = _called(found, spec)
    model = made if isinstance(made, Model) else _wrapped(made, spec, image_size)
    if weights is None:
        return model
    load_into(model.module, weights)
    return replace(model, origin=_origin(weights))


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
            f"spec: {place!r} could not be imported ({type(error).__name__}: {_one_line(error)}); "
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
            f"{_did_you_mean(attribute, names)}"
        ) from None
    return found


def _called(found: object, spec: str) -> object:
    if isinstance(found, (nn.Module, Model)):
        return found
    if not callable(found):
        raise _not_a_factory(spec, found)
    _check_takes_nothing(found, spec)
    try:
        made: object = _seeded(found)
    except HirescamError:
        raise
    except Exception as error:
        raise SpecError(
            f"spec: the factory {spec!r} failed ({type(error).__name__}: {_one_line(error)}); "
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
        return _other_model(made, spec, shape, None, FROM_FACTORY)
    preset = _sized(Preset(), (shape[1], shape[2]))
    if shape[0] == 1:
        preset = preset._replace(mean=(_GREY_MEAN,), std=(_GREY_STD,))
    return _picture_model(made, spec, preset, None, FROM_FACTORY)


def _guessed_shape(module: nn.Module, image_size: int | None) -> tuple[int, ...]:
    """Read channels and axes off the first convolution, which tells most about the input."""
    found = (part for part in module.modules() if isinstance(part, _CONVOLUTIONS))
    first = next(found, None)
    channels, axes = (first.in_channels, len(first.kernel_size)) if first else (3, 2)
    space = (image_size,) * axes if image_size else _SPACE[axes]
    return (channels, *space)


# --- parts --------------------------------------------------------------------------------------


def _picture_model(
    module: nn.Module, name: str, preset: Preset, labels: tuple[str, ...] | None, origin: str
) -> Model:
    crop = partial(crop_picture, preset=preset)
    normalise = partial(normalise_picture, preset=preset)
    shape = (len(preset.mean), *preset.size)
    return Model(module, name, crop, normalise, labels, shape, origin)


def _other_model(
    module: nn.Module,
    name: str,
    shape: tuple[int, ...],
    labels: tuple[str, ...] | None,
    origin: str,
) -> Model:
    crop = partial(_no_picture, name=name, shape=shape)
    normalise = partial(_no_tensor, name=name, shape=shape)
    return Model(module, name, crop, normalise, labels, shape, origin)


def _no_picture(image: Image.Image, *, name: str, shape: tuple[int, ...]) -> Image.Image:
    raise InputError(
        f"image: {name!r} takes an input of shape {shape}, not a picture; "
        "call hirescam.explain from Python with a tensor, or return a Model from the factory"
    )


def _no_tensor(image: Image.Image, *, name: str, shape: tuple[int, ...]) -> Tensor:
    return normalise_picture(_no_picture(image, name=name, shape=shape), preset=Preset())


def _sized(preset: Preset, size: tuple[int, int]) -> Preset:
    down, across = (
        max(new, round(new * old_resize / old))
        for new, old_resize, old in zip(size, preset.resize, preset.size, strict=True)
    )
    return preset._replace(size=size, resize=(down, across))


def _pair(sides: list[int]) -> tuple[int, int]:
    return sides[0], sides[-1]


def _covering(size: tuple[int, int], preset: Preset) -> tuple[int, int]:
    width, height = size
    down, across = preset.resize
    if preset.squash:
        return across, down
    if down * width >= across * height:
        return max(across, int(down * width / height)), down
    return across, max(down, int(across * height / width))


def _inside(
    box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    return max(left, 0.0), max(top, 0.0), min(right, size[0]), min(bottom, size[1])


def _seeded(build: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        return build()


def _with_weights(
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
    module: nn.Module = _seeded(lambda: build(classes))
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


def _classes(count: int | None) -> dict[str, int]:
    return {} if count is None else {"num_classes": count}


def _origin(weights: Path | None) -> str:
    return _file_origin(weights) or f"random weights, seed {SEED}"


def _file_origin(weights: Path | None) -> str | None:
    return None if weights is None else f"file {Path(weights).name}"


def _imagenet_labels() -> tuple[str, ...] | None:
    try:
        published = import_module("torchvision.models").ResNet18_Weights.IMAGENET1K_V1
        return tuple(published.meta["categories"])
    except (ImportError, AttributeError, KeyError):
        return None


def _extra(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise SpecError(
            f"spec: {package!r} cannot be imported ({_one_line(error)}); "
            'install it with `pip install "hirescam[vision]"`'
        ) from error


def _json_labels(content: object) -> list[Any]:
    if isinstance(content, dict):
        return [_last(content[str(index)]) for index in range(len(content)) if _has(content, index)]
    if isinstance(content, list):
        return content
    raise ValueError(f"JSON of type {type(content).__name__}")


def _has(content: Mapping[str, object], index: int) -> bool:
    if str(index) in content:
        return True
    raise ValueError(f"no label for class {index}")


def _last(label: object) -> object:
    return label[-1] if isinstance(label, list) and label else label


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


def _bad_labels(path: Path, reason: str) -> InputError:
    return InputError(
        f"labels: {str(path)!r} cannot be used ({reason}); give a UTF-8 text file with one label "
        "per line, or a .json file with a list or a dict by class index"
    )


def _unknown(spec: str) -> SpecError:
    if spec.endswith(".py"):
        return SpecError(
            f"spec: {spec!r} does not say what makes the model; add its name, as in {spec}:build"
        )
    return SpecError(f"spec: {spec!r} is not known; {_known_elsewhere(spec) or f'expected {FORMS}'}")


def _known_elsewhere(spec: str) -> str | None:
    own = difflib.get_close_matches(spec, BUILTIN, n=1)
    if own:
        return f"did you mean {own[0]!r}?"
    if importlib.util.find_spec("torchvision") is None:
        return None
    names = difflib.get_close_matches(spec, import_module("torchvision.models").list_models(), n=1)
    return f"did you mean 'torchvision:{names[0]}'?" if names else None


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return f"known are {', '.join(sorted(known)[:5])} and so on" if known else "it has none"


def _not_a_factory(spec: str, found: object) -> SpecError:
    return SpecError(
        f"spec: {spec!r} gives a value of type {type(found).__name__}, expected an nn.Module or a "
        "hirescam.models.Model; name a function that takes no arguments and returns one"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
