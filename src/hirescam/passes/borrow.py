"""Lend a model for one call: check its state on the way in, leave everything as it was on the way out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from hirescam.errors import HirescamError, InputError, ModelError
from hirescam.passes.input_axes import USUAL, InputAxes, usual_axes

Inputs = Tensor | tuple[Any, ...] | dict[str, Any]
"""What a model is called with: one tensor, positional arguments, or keyword arguments."""


def unwrap(model: nn.Module) -> nn.Module:
    """Return the eager network inside DataParallel, DDP and ``torch.compile`` wrappers."""
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model must be a torch.nn.Module, got {type(model).__name__}: pass the network itself"
        )
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(model, parallel) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, parallel) else model._orig_mod  # type: ignore[assignment]
    return model


def check_model(model: nn.Module) -> None:
    """Raise unless every part of the model is in evaluation mode and written in Python."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            "model is a TorchScript module, whose inner calls cannot be observed: "
            "pass the original Python network"
        )
    for module in parts(model):
        if any(is_lazy(tensor) for tensor in module._parameters.values() if tensor is not None):
            raise ModelError(
                f"model has a {type(module).__name__} whose weights are not there yet: run it once on an "
                "image, then explain it"
            )
    training = [module for module in parts(model) if module.training]
    for module in training:
        exported = "eval" in vars(module)  # torch.export's modules refuse eval(), and have no mode any more
        if not exported and (module is model or _minds_training(module)):
            name = next(name for name, other in model.named_modules() if other is module)
            where = f"its part {name!r}" if name else "the model"
            raise ModelError(
                f"model must be in evaluation mode, but {where} is in training mode: call "
                "model.eval() first (it is not done for you, because another thread may be training)"
            )


def parts(model: nn.Module) -> list[nn.Module]:
    """The model and all its parts, some perhaps twice; several times faster than ``model.modules()``."""
    found = [model]
    for module in found:  # which grows meanwhile
        if module._modules:
            found += [part for part in module._modules.values() if part is not None]
    return found


def version_of(tensor: Tensor) -> int:
    """How often a tensor was written to; 0 for inference tensors, which keep no count."""
    return 0 if tensor.is_inference() else tensor._version


def first_not_finite(batch: Tensor) -> int | None:
    """Number of the first row of a batch with a value that is NaN or infinite; None where there is none.

    A sum is finite only if all that went in is, and cheap; only where it is not are the values looked at.
    """
    plain = batch.detach()
    if isfinite(float(plain.sum())):
        return None
    bad = (~torch.isfinite(plain)).flatten(1).any(1).nonzero()
    return int(bad[0]) if len(bad) else None


def _minds_training(module: nn.Module) -> bool:
    """Whether the training flag may change what the module computes (torch's containers do not care)."""
    mindful = (
        nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.RReLU, nn.MultiheadAttention,
        nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.RNNBase,
    )  # fmt: skip
    return isinstance(module, mindful) or not type(module).__module__.startswith("torch.")


@contextmanager
def session(*, grad: bool) -> Iterator[None]:
    """Set the grad mode for one call, outside inference mode, and restore it.

    Casts that autocast keeps from earlier passes are dropped: nobody saw them being made.
    """
    torch.clear_autocast_cache()
    with torch.inference_mode(False), torch.set_grad_enabled(grad):
        yield


@contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """Let compiled parts of the model run as plain Python, so that observers see into them."""
    if any(part._compiled_call_impl or "_orig_mod" in part._modules for part in parts(model)):
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield


@dataclass(frozen=True)
class Call:
    """The arguments of one forward pass, and which of them is the image.

    Attributes:
        inputs: what the model is called with.
        key: None where that is one tensor, else the position or name of the image in it.
        given: the shape of the images as the caller passed them.
        axes: what their axes are.
    """

    inputs: Inputs
    key: int | str | None
    given: tuple[int, ...]
    axes: InputAxes

    @property
    def own(self) -> Tensor:
        """The images as the model gets them."""
        if self.key is None:
            return self.inputs  # type: ignore[return-value]
        return self.inputs[self.key]  # type: ignore[index]

    @property
    def images(self) -> Tensor:
        """The images as ``(b, c, *space)``, whatever the model gets."""
        return self.axes.canonical(self.own)

    @property
    def space(self) -> tuple[int, ...]:
        """The sizes of the images' space axes."""
        return tuple(self.images.shape[2:])

    def replace(self, images: Tensor) -> "Call":
        """Return the same call with other images ``(b, c, *space)``."""
        own = self.axes.own(images)
        if self.key is None:
            return replace(self, inputs=own)
        if isinstance(self.inputs, dict):
            return replace(self, inputs={**self.inputs, self.key: own})  # type: ignore[dict-item]
        items = list(self.inputs)
        items[self.key] = own  # type: ignore[index]
        return replace(self, inputs=tuple(items))

    def others(self) -> list[Tensor]:
        """The tensors beside the images."""
        if self.key is None:
            return []
        items = self.inputs.items() if isinstance(self.inputs, dict) else enumerate(self.inputs)
        return [
            leaf
            for key, item in items
            if key != self.key
            for leaf in pytree.tree_leaves(item)
            if isinstance(leaf, Tensor)
        ]

    def select(self, numbers: list[int]) -> "Call":
        """Return the call for some images alone, where the images are all there is."""
        return self if self.key is not None else self.replace(self.images[numbers])

    def first(self, count: int) -> "Call":
        """Return the call for the first images alone, where the images are all there is."""
        whole = self.key is not None or len(self.images) <= count
        return self if whole else self.replace(self.images[:count])

    def alone(self, number: int) -> "Call":
        """Return the call for one image, with the part of the other inputs that belongs to it.

        What has as many rows as there are images is taken to have one for each.
        """
        count = len(self.images)

        def part(item: Any) -> Any:
            rows = isinstance(item, Tensor) and item.ndim > 0 and len(item) == count
            return item[number : number + 1] if rows else item

        alone = replace(self, inputs=pytree.tree_map(part, self.inputs))
        return alone.replace(self.images[number : number + 1])

    def in_double(self) -> "Call":
        """Return the call with every float tensor in float64."""
        inputs = pytree.tree_map(
            lambda item: item.double() if isinstance(item, Tensor) and item.is_floating_point() else item,
            self.inputs,
        )
        return replace(self, inputs=inputs)

    def run(self, model: nn.Module) -> Any:
        """Call the model; an error inside it is reported with the shapes that went in."""
        try:
            if isinstance(self.inputs, dict):
                return model(**self.inputs)
            return model(*self.inputs) if isinstance(self.inputs, tuple) else model(self.inputs)
        except HirescamError:
            raise
        except Exception as error:
            raise ModelError(self._explain_failure(model, error)) from error

    def _explain_failure(self, model: nn.Module, error: Exception) -> str:
        said = str(error).strip().split("\n")[0]
        usual = isinstance(error, RuntimeError | ValueError | TypeError | IndexError | AssertionError)
        reason = said if usual and said else f"{type(error).__name__} {said}".strip()
        shape, dtype = self.given, str(self.images.dtype).removeprefix("torch.")
        text = f"the model failed on images of shape {shape} ({dtype}): {reason}"
        conv = next((m for m in model.modules() if isinstance(m, _CONVOLUTIONS)), None)
        if conv is not None and len(conv.kernel_size) + 1 == len(shape):
            return f"{text}. It wants a batch (b, c, *space): use images.unsqueeze(0) for one image"
        device, devices = str(self.images.device), {str(value.device) for value in model.parameters()}
        if devices and device not in devices:
            where = " and ".join(sorted(devices))
            return f"{text}. Images on {device}, the model on {where}: use images.to({min(devices)!r})"
        return f"{text}. Check that model(images) runs by itself with these images"


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def as_call(
    images: Inputs | list[Any], axes: InputAxes | None = None, input: int | str | None = None
) -> Call:
    """Check the images and copy what must not be touched.

    Args:
        images: a float tensor ``(b, c, *space)``, or a tuple or mapping of arguments that holds one.
        axes: what its axes are, where they are others.
        input: which of the arguments is the image; None where there is just one that can be it.

    Raises:
        InputError: no batch, no float image, several that could be it, an integer image, or values that are
            not finite.
    """
    found = possible_calls(images, axes, input)
    if len(found) > 1:
        raise InputError(several(found))
    return found[0]


def possible_calls(
    images: Inputs | list[Any], axes: InputAxes | None = None, input: int | str | None = None
) -> list[Call]:
    """The same, one call for each argument that could be the image."""
    if isinstance(images, Mapping):  # such as the BatchFeature of transformers
        images = dict(images)
    if isinstance(images, list) and images and all(map(_is_picture, images)):
        raise InputError(
            f"images is a list of {len(images)} pictures (c, h, w), as detectors take them: wrap the "
            "detector in a module whose forward(x) calls it with list(x) and returns a row of scores for "
            "each picture, and pass it a batch (b, c, h, w); pictures of different sizes one by one"
        )
    images = tuple(images) if isinstance(images, list) else images
    keys = [None] if isinstance(images, Tensor) else _image_keys(images, axes, input)
    if isinstance(images, Tensor) and input not in (None, 0):
        raise InputError(
            f"input={input!r} names one of several inputs, and images is one tensor: leave it out"
        )
    found = []
    for key in keys:
        image: Tensor = images if key is None else images[key]  # type: ignore[assignment,index]
        _check_image(image, axes)
        call = Call(images, key, tuple(image.shape), axes or usual_axes(image))
        found.append(call.replace(call.images.clone()) if image.is_inference() else call)
    return found


def several(found: list[Call]) -> str:
    """That several inputs could be the image."""
    which = ", ".join(f"{call.key!r} of shape {call.given}" for call in found)
    return (
        f"images has {len(found)} inputs that could be the image ({which}): say which one is explained with "
        f"input={found[0].key!r}, or name a layer that only one of them goes through"
    )


def _image_keys(
    images: Inputs, axes: InputAxes | None, input: int | str | None
) -> Sequence[int | str | None]:
    if not isinstance(images, (tuple, list, dict)):
        raise InputError(
            f"images must be a float tensor (b, c, *space), got {type(images).__name__}: "
            "convert it first, for example torch.from_numpy(array)"
        )
    items: Iterable[tuple[int | str, Any]] = images.items() if isinstance(images, dict) else enumerate(images)
    pairs = dict(items)
    if input is not None:
        if not isinstance(pairs.get(input), Tensor):
            names = ", ".join(repr(key) for key, value in pairs.items() if isinstance(value, Tensor))
            raise InputError(f"input={input!r} is not one of the tensors in images: use one of {names}")
        return [input]
    least, most = (len(axes.letters),) * 2 if axes else _USUAL_AXES
    found = [
        key
        for key, value in pairs.items()
        if isinstance(value, Tensor) and value.is_floating_point() and least <= value.ndim <= most
    ]
    if not found:
        wanted = f"{least} axes {axes.letters!r}" if axes else "at least three axes (b, c, *space)"
        raise InputError(
            f"images has no float tensor with {wanted} among its {len(images)} entries: pass the image as a "
            "float tensor"
        )
    return found


def _is_picture(item: object) -> bool:
    return isinstance(item, Tensor) and item.ndim == 3 and item.is_floating_point()


_USUAL_AXES = min(USUAL), max(USUAL)


def _check_image(image: Tensor, axes: InputAxes | None) -> None:
    shape = tuple(image.shape)
    if not image.is_floating_point():
        raise InputError(
            f"images must be a float tensor, got {image.dtype} of shape {shape}: preprocess it as "
            "in training (scale and normalise)"
        )
    if image.layout is not torch.strided or image.is_nested or image.device.type == "meta":
        kind = "has no values" if image.device.type == "meta" else f"is stored as {image.layout}"
        raise InputError(f"images {kind}, expected a dense tensor (b, c, *space): use images.to_dense()")
    if image.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise InputError(
            f"images must be float16, bfloat16, float32 or float64, got {image.dtype}: convert it"
        )
    if axes is not None and image.ndim != len(axes.letters):
        raise InputError(
            f"images has shape {shape}, and axes={axes.letters!r} names {len(axes.letters)} axes: give one "
            "letter for each"
        )
    if axes is None and image.ndim not in USUAL:
        missing = ": add the missing axes with unsqueeze(0), or say what they are with axes=, such as 'bt'"
        raise InputError(
            f"images must have shape (b, c, *space) with one to three space axes, got {shape}"
            + (missing if image.ndim < min(USUAL) else ": say what they are with axes=, such as 'bntchw'")
        )
    if 0 in shape:
        raise InputError(f"images is empty, its shape is {shape}: pass at least one image")
    bad = first_not_finite(image)
    if bad is not None:
        raise InputError(f"images[{bad}] has values that are NaN or infinite: remove or repair this image")
