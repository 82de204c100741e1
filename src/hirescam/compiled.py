"""The part of a forward pass that an exact head needs, layer output and logits, through ``torch.compile``.

The network is exported at the layer, and compiled with its weights frozen into the code, which is where most
of the gain comes from on CPUs. Frozen weights cannot follow the network, so `Compiled.fresh` tells whether
the network is still the one that was compiled; a stale one must not be used.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor import config as inductor

from hirescam.borrow import Call, parts, version_of
from hirescam.cut import Request, look
from hirescam.errors import ModelError
from hirescam.laws import tolerance_of
from hirescam.trace import Pass


class LayerAndLogits(nn.Module):
    """A network that returns the layer's output and the logits; the network in it is the caller's own."""

    def __init__(self, model: nn.Module, request: Request) -> None:
        super().__init__()
        self.model, self.request = model, request

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """From images ``(b, c, *space)`` to the layer's output in its own shape and the logits ``(b, c)``."""
        call = Call(images, None, tuple(images.shape))
        return look(self.model, call, self.request, inference=False)


class Compiled:
    """A compiled network that gives the layer's output and the logits of any batch of one image size.

    Args:
        finished: the eager pass that certified the head; the compiled network must reproduce it.

    Raises:
        ModelError: the network cannot be exported or compiled, or behaves differently when it is.
    """

    def __init__(self, finished: Pass) -> None:
        self._model = finished.model
        self._identity, self._probes = _identity(finished.model), _Probes(finished.model)
        self._run = _compile(finished)
        leaf, logits = self(finished.call.images)
        for name, got, expected in (
            ("the layer's output", leaf, finished.leaf), ("the logits", logits, finished.logits)
        ):  # fmt: skip
            gap = (got - expected).detach().abs().max() / expected.detach().abs().max().clamp_min(1e-30)
            if got.shape != expected.shape or not gap <= tolerance_of(expected.dtype):
                raise ModelError(
                    f"the compiled network differs from the original in {name} by {float(gap):.1e} of the "
                    "largest value (it draws random numbers, or branches on values): explain it without "
                    "compile()"
                )

    @property
    def fresh(self) -> bool:
        """Whether the network is as it was when it was compiled.

        Seen are other modules, other parameters and buffers, changes of them in place, and changes through
        ``.data`` that reach the first, middle or last value of one.
        """
        return self._identity == _identity(self._model) and self._probes.same

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network; the results are the caller's to keep."""
        with torch.inference_mode():
            leaf, logits = self._run(images)
        return leaf.clone(), logits.clone()


def trace_program(
    module: nn.Module, images: Tensor, *, any_size: bool = False
) -> tuple[torch.export.ExportedProgram, Tensor]:
    """Trace a network for any batch size, and where wanted any image size.

    Returns:
        The program, and the images that it was traced on (at least two, so that the batch stays open).

    Raises:
        ModelError: it branches on values, draws shapes from them, or does what cannot be traced.
    """
    images = images.detach()
    example = images if len(images) > 1 else images.repeat(2, *[1] * (images.ndim - 1))
    dimensions: dict[int, Any] = {0: torch.export.Dim("batch")}
    if any_size:
        dimensions |= dict.fromkeys(range(2, images.ndim), torch.export.Dim.DYNAMIC)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, (example,), dynamic_shapes=(dimensions,), strict=False)
    except Exception as error:
        raise ModelError(
            f"the network cannot be traced for any batch size: {_reason(error)}. It has to be explained "
            "as it is, in eager PyTorch"
        ) from error
    return program, example


def _compile(finished: Pass) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    module = LayerAndLogits(finished.model, finished.request).eval()
    program, example = trace_program(module, finished.call.images)
    frozen = finished.leaf.dtype is not torch.float64  # whose weights have no packed layout on CPUs
    try:
        with warnings.catch_warnings(), inductor.patch(freezing=frozen):
            warnings.simplefilter("ignore")
            run: Callable[[Tensor], tuple[Tensor, Tensor]] = torch.compile(program.module())
            with torch.inference_mode():
                # One image is compiled apart from several; both while the setting is on.
                for images in (example, example[:1]):
                    run(images)
    except Exception as error:
        raise ModelError(
            f"torch.compile failed: {_reason(error)}. On a CPU it needs a C++ compiler; explain the network "
            "without compile()"
        ) from error
    return run


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Every parameter and floating-point buffer, some perhaps twice."""
    for module in parts(model):
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and tensor.is_floating_point():
                yield tensor


def _identity(model: nn.Module) -> list[tuple[int, ...]]:
    """Which modules and tensors there are, where their values lie, and how often they were written to."""
    modules = [(id(module),) for module in parts(model)]
    return modules + [(id(tensor), tensor.data_ptr(), version_of(tensor)) for tensor in _tensors(model)]


class _Probes:
    """Views of the first, the middle and the last value of every tensor, and what they were."""

    def __init__(self, model: nn.Module) -> None:
        self._views: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for tensor in _tensors(model):
            plain = tensor.detach()
            places = {tuple(int(share * (size - 1)) for size in plain.shape) for share in (0, 0.5, 1)}
            found = self._views.setdefault((plain.device, plain.dtype), [])
            found += [plain[place] for place in places] if plain.numel() else []
        self._before = self._read()

    @property
    def same(self) -> bool:
        """Whether the values are what they were."""
        return all(map(torch.equal, self._before, self._read()))

    def _read(self) -> list[Tensor]:
        return [torch.stack(views) for views in self._views.values() if views]
