"""One ONNX graph out of an exact head: image in; logits, classes, their maps and the residual out.

There is no backward pass in it: the Jacobian of the head is a constant, and a map is a product of matrices.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hirescam.compiled import trace_program
from hirescam.errors import InputError, LayerError, ModelError
from hirescam.explainer import Explainer, LayerName
from hirescam.passes.borrow import Call
from hirescam.passes.cut import look
from hirescam.passes.input_axes import InputAxes
from hirescam.passes.outputs import OutputSelector
from hirescam.passes.targets import TopK
from hirescam.passes.trace import Pass, widen
from hirescam.proof.certificate import Certificate
from hirescam.proof.grade import Guarantee

FORMAT = "hirescam-onnx-1"
INPUT = "images"
OUTPUTS = ("logits", "classes", "maps", "residual")
_JACOBIAN_PART = 64
_TOLERANCE = 1e-3
_MOST_PROTOBUF_BYTES = 1_900_000_000


@dataclass(frozen=True)
class Exported:
    """What was written, and how far it is from PyTorch.

    Attributes:
        path: the ONNX file.
        certificate: of the head that was exported.
        top: how many classes the graph explains.
        any_size: whether other image sizes are allowed.
        difference: largest |map in ONNX Runtime − map in PyTorch| relative to the largest value.
    """

    path: Path
    certificate: Certificate
    top: int
    any_size: bool
    difference: float


class MapsModule(nn.Module):
    """A network that returns its logits, its top classes, their HiResCAM maps and the residual.

    Built for export; the model in it is the caller's own.
    """

    def __init__(self, finished: Pass, jacobian: Tensor, offset: Tensor, top: int) -> None:
        super().__init__()
        self.site, self.layout, self.axes = finished.site, finished.layout, finished.call.axes
        self.model, self.top = finished.site.model, top
        self.pooled = jacobian.ndim == 2
        self.register_buffer("jacobian", jacobian)  # (c, k) where pooled, else (c, s, k)
        self.register_buffer("offset", offset)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """From images, in the model's own order of axes, to logits, classes, maps and residual."""
        call = Call(images, None, tuple(images.shape), self.axes)
        leaf, logits = look(self.site, call, inference=False)
        activations = widen(self.layout.read(leaf))
        space = activations.shape[2:]
        flat = activations.flatten(2)
        scores, classes = logits.topk(self.top, dim=1)
        chosen = self.jacobian[classes]  # type: ignore[index]
        if self.pooled:
            # Weights are kept for one location; pooling divides by how many there are.
            maps = torch.matmul(chosen / flat.shape[2], flat)
        else:
            maps = (chosen * flat.transpose(1, 2).unsqueeze(1)).sum(3)
        residual = maps.sum(2) + self.offset[classes] - scores  # type: ignore[index]
        return logits, classes, maps.unflatten(2, space), residual


def export(  # noqa: PLR0913 - what to export, where, and how to read the model
    model: nn.Module,
    images: Tensor,
    path: str | Path,
    *,
    top: int = 5,
    any_size: bool = False,
    layer: LayerName = None,
    output: OutputSelector = None,
    axes: str | None = None,
    labels: tuple[str, ...] | None = None,
    preprocessing: Mapping[str, object] | None = None,
) -> Exported:
    """Write a network with an exact head and its maps as one ONNX graph, and check it in ONNX Runtime.

    The graph takes ``images`` and gives ``logits (b, c)``, ``classes (b, top)``, ``maps (b, top, *space)``
    in units of the logit, and ``residual (b, top)``, how far each map and its offset are from the logit. The
    batch is dynamic, and the image size too where that is asked for and possible. The certificate and the
    labels are in the file's metadata.

    Args:
        model: a network in evaluation mode.
        images: one or two typical images ``(b, c, *space)``, or as ``axes`` says.
        path: where to write, usually ending in ``.onnx``.
        top: how many classes to explain.
        any_size: also leave the image size open. Works where the head is global average pooling and one
            linear layer; tracing a network for all sizes can take many minutes.
        layer: the layer; None takes the best.
        output: how to find the logits.
        axes: what the axes of the images are where they are others, such as ``"bhwc"``, with the batch first.
        labels: names of the classes.
        preprocessing: how pictures become images, kept in the file for whoever runs it. Written by
            ``hirescam export``, which knows it, and read by ``hirescam explain``.

    Raises:
        ModelError: the head is not exact (the message gives the reason), or the written graph disagrees.
        InputError: a package is missing, or ``top`` does not fit.
    """
    runtime = import_runtime()
    for writer in ("onnx", "onnxscript"):
        _import(writer)
    explainer = Explainer(model, layer=layer, output=output, axes=axes)
    certificate = explainer.certify(images)
    if certificate.guarantee is not Guarantee.EXACT:
        raise ModelError(
            f"only exact heads can be exported, and layer {certificate.layer!r} is "
            f"{certificate.guarantee}: {certificate.reason} {certificate.advice}".strip()
        )
    module = _maps_module(explainer, images, certificate, top)
    if any_size and not (module.pooled and _any_size(images, module)):
        raise ModelError("the head of this network depends on the image size: export it without any_size")
    path = Path(path)
    _write(module, images, path, any_size)
    about: dict[str, object] = {
        "labels": list(labels) if labels else None,
        "top": top,
        "layout": asdict(module.layout),
        "axes": module.axes.letters,
    }
    about |= {"certificate": asdict(certificate), "preprocessing": preprocessing}
    _describe(path, about)
    difference = _difference(runtime, path, explainer, images, top)
    if difference > _TOLERANCE:
        path.unlink()
        raise ModelError(
            f"the exported graph's maps differ from PyTorch's by {difference:.1e} of the largest value: the "
            "network behaves differently when traced; explain it in PyTorch"
        )
    return Exported(path, certificate, top, any_size, difference)


def import_runtime() -> Any:
    """Import ONNX Runtime.

    Raises:
        InputError: it is not installed.
    """
    return _import("onnxruntime")


def _import(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f"ONNX files need the package {error.name!r}, which is not installed: "
            'pip install "hirescam[export]"'
        ) from None


def _maps_module(explainer: Explainer, images: Tensor, certificate: Certificate, top: int) -> MapsModule:
    finished = explainer.certified_pass(images)
    if finished.call.axes.letters[0] != "b":
        raise InputError(
            f"axes={finished.call.axes.letters!r}, and an exported network takes the batch first: wrap the "
            "network in one that turns its images"
        )
    count = finished.logits.shape[1]
    if not 1 <= top <= count:
        raise InputError(f"top={top} must be from 1 to {count}, the classes there are")
    pooled = certificate.same_as_gradcam
    parts = []
    for start in range(0, count, _JACOBIAN_PART):
        rows = finished.jacobian(list(range(start, min(count, start + _JACOBIAN_PART)))).flatten(2)
        parts.append(rows.sum(2) if pooled else rows.transpose(1, 2))
    jacobian = torch.cat(parts)
    activations = finished.activations[:1].flatten(2)
    if pooled:
        total = jacobian @ activations[0].mean(1)
    else:
        total = torch.einsum("csk,ks->c", jacobian, activations[0])
    offset = widen(finished.logits.detach()[0]) - total
    return MapsModule(finished, jacobian, offset, top).eval()


def _any_size(images: Tensor, module: MapsModule) -> bool:
    """Whether the head of a larger image is the same one, spread over more locations."""
    axes: InputAxes = module.axes
    larger = axes.own(torch.nn.functional.interpolate(axes.canonical(images), scale_factor=2.0))
    try:
        with torch.no_grad():
            _, _, maps, residual = module(larger)
    except (ModelError, LayerError, RuntimeError):
        return False
    largest = float(maps.flatten(2).abs().sum(2).max())
    return float(residual.abs().max()) <= _TOLERANCE * largest


def _write(module: MapsModule, images: Tensor, path: Path, any_size: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    program, example = trace_program(module, images, open_axes=_space(module.axes) if any_size else ())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            program,
            (example,),
            str(path),
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamo=True,
            external_data=_large(module),
            verbose=False,
        )


def _space(axes: InputAxes) -> list[int]:
    return [i for i, letter in enumerate(axes.letters) if letter not in "bc"]


def _large(module: nn.Module) -> bool:
    """Protobuf holds two gigabytes."""
    return sum(int(tensor.nbytes) for tensor in module.state_dict().values()) > _MOST_PROTOBUF_BYTES


def _describe(path: Path, about: Mapping[str, object]) -> None:
    onnx = _import("onnx")
    file = onnx.load(str(path), load_external_data=False)
    entries = {key: json.dumps(value, ensure_ascii=False) for key, value in about.items()}
    for key, value in {"format": FORMAT, **entries}.items():
        entry = file.metadata_props.add()
        entry.key, entry.value = f"hirescam.{key}", value
    onnx.save(file, str(path))


def _difference(runtime: Any, path: Path, explainer: Explainer, images: Tensor, top: int) -> float:
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    _, classes, maps, _ = session.run(None, {INPUT: images.detach().cpu().numpy()})
    same = torch.from_numpy(classes).to(images.device)
    expected = explainer(images, target=same).raw.cpu()
    if not torch.equal(
        explainer(images, target=TopK(top)).target.cpu().sort(1).values, same.cpu().sort(1).values
    ):
        return float("inf")
    return float((torch.from_numpy(maps) - expected).abs().max() / expected.abs().max())
