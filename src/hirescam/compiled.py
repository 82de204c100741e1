"""The part of a forward pass that an exact head needs, layer output and logits, through ``torch.compile``.

The network is exported at the layer, and compiled with its weights frozen into the code, which is where most
of the gain comes from on CPUs. Frozen weights cannot follow the network, so `Compiled.fresh` tells whether
the network is still the one that was compiled; a stale one must not be used.
"""

import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from hirescam.errors import ModelError
from hirescam.passes.borrow import Call
from hirescam.passes.cut import Site, look
from hirescam.passes.input_axes import InputAxes
from hirescam.passes.precision import precision_of
from hirescam.passes.state import Ends, State
from hirescam.passes.trace import Pass
from hirescam.proof.laws import tolerance_of


class LayerAndLogits(nn.Module):
    """A network that returns the layer's output and the logits; the network in it is the caller's own."""

    def __init__(self, site: Site, axes: InputAxes) -> None:
        super().__init__()
        self.model, self.site, self.axes = site.model, site, axes

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """From images ``(b, c, *space)`` to the layer's output in its own shape and the logits ``(b, c)``."""
        call = Call(self.axes.own(images), None, tuple(images.shape), self.axes)
        return look(self.site, call, inference=False)


class Compiled:
    """A compiled network that gives the layer's output and the logits of any batch of one image size.

    Args:
        finished: the eager pass that certified the head; the compiled network must reproduce it.

    Raises:
        ModelError: the network cannot be exported or compiled, or behaves differently when it is.
    """

    def __init__(self, finished: Pass) -> None:
        self._ends = Ends(State(finished.site.model).tensors)
        self._run = _compile(finished)
        leaf, logits = self(finished.call.images)
        for name, got, expected in (
            ("the layer's output", leaf, finished.leaf), ("the logits", logits, finished.logits)
        ):  # fmt: skip
            gap = (got - expected).detach().abs().max() / expected.detach().abs().max().clamp_min(1e-30)
            if got.shape != expected.shape or not gap <= tolerance_of(precision_of(expected)):
                raise ModelError(
                    f"the compiled network differs from the original in {name} by {float(gap):.1e} of the "
                    "largest value (it draws random numbers, or branches on values): explain it without "
                    "compile()"
                )

    @property
    def fresh(self) -> bool:
        """Whether weights lie where they lay and begin and end as they did when they were frozen.

        What else makes a model another one is for `State` to see.
        """
        return self._ends.same

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network; the results are the caller's to keep."""
        with torch.inference_mode():
            leaf, logits = self._run(images)
        return leaf.clone(), logits.clone()


def trace_program(
    module: nn.Module, images: Tensor, *, open_axes: Sequence[int] = ()
) -> tuple[torch.export.ExportedProgram, Tensor]:
    """Trace a network for any batch size, and where wanted for any size along other axes.

    Returns:
        The program, and the images that it was traced on (at least two, so that the batch stays open).

    Raises:
        ModelError: it branches on values, draws shapes from them, or does what cannot be traced.
    """
    images = images.detach()
    example = images if len(images) > 1 else images.repeat(2, *[1] * (images.ndim - 1))
    # CUDA's kernels count the images of a batch in 16 bits, and a traced program has to say so.
    most = {"max": 2**16 - 1} if images.is_cuda else {}
    dimensions: dict[int, Any] = {0: torch.export.Dim("batch", **most)}
    dimensions |= dict.fromkeys(open_axes, torch.export.Dim.DYNAMIC)
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
    # Importing the compiler takes nearly as long as importing torch; few callers want it.
    from torch._inductor import config as inductor

    module = LayerAndLogits(finished.site, finished.call.axes).eval()
    program, example = trace_program(module, finished.call.images)
    frozen = finished.leaf.dtype is not torch.float64  # whose weights have no packed layout on CPUs
    try:
        with warnings.catch_warnings(), inductor.patch({"freezing": frozen} | _tuning(inductor)):
            warnings.simplefilter("ignore")
            run: Callable[[Tensor], tuple[Tensor, Tensor]]
            run = torch.compile(program.module(), options=_guards())
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


def _tuning(inductor: ModuleType) -> dict[str, Any]:
    """Let the compiler time its own matrix products against the library's; say nothing about it.

    For a single image a large fully connected layer is bound by reading its weights, which the library's
    packed product does at half the speed.
    """
    wanted = {
        "max_autotune_gemm": True,
        "max_autotune_gemm_backends": "ATEN,CPP",
        "autotune_num_choices_displayed": 0,
        "max_autotune_report_choices_stats": False,
    }
    return {name: value for name, value in wanted.items() if hasattr(inductor, name)}


def _guards() -> dict[str, Any]:
    """Check at each call what can change: the images and torch's global settings, not the traced program."""

    def kept(entries: Sequence[Any]) -> list[bool]:
        return [entry.name in ("", "images") or entry.guard_type == "SHAPE_ENV" for entry in entries]

    # The option came together with this function, in torch 2.8.
    known = hasattr(torch.compiler, "skip_guard_on_inbuilt_nn_modules_unsafe")
    return {"guard_filter_fn": kept} if known else {}


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
