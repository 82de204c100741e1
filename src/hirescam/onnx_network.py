"""An exported network: images in, explanations out, by ONNX Runtime alone."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hirescam.errors import InputError, ModelError, TargetError
from hirescam.explanation import Explanation, certificate_from
from hirescam.onnx_file import FORMAT, INPUT, OUTPUTS, import_runtime
from hirescam.passes.borrow import as_call
from hirescam.passes.input_axes import USUAL, InputAxes
from hirescam.passes.targets import Target, TopK, bind, is_indexed
from hirescam.proof.certificate import Certificate

_TOLERANCE = 1e-3
_DIGEST_BYTES = 2**20


class ExportedNetwork:
    """A file that `hirescam.export` wrote, run in ONNX Runtime.

    Calling it explains a batch. Each map is checked: it and its offset must give the logit of the same run.

    Attributes:
        path: the file.
        certificate: of the head, as it was when it was exported.
        top: how many classes of each image the file explains.
        labels: the name of each class, if known.
        preprocessing: how pictures are prepared, if known, as it was given to `hirescam.export`.
        input_shape: shape of one image; None for an axis that is open.
        weights: SHA-256 of the file.

    Args:
        path: the file.
        providers: execution providers of ONNX Runtime, in order of preference.

    Raises:
        InputError: there is no such file, it was not written by `hirescam.export`, or a package is missing.

    Example:
        >>> import tempfile, torch, hirescam
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)).eval()
        >>> images = torch.rand(2, 3, 8, 8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     written = hirescam.export(model, images, f"{folder}/model.onnx")
        ...     result = hirescam.ExportedNetwork(written.path)(images)
        >>> result.raw.shape, str(result.certificate.guarantee)
        (torch.Size([2, 1, 6, 6]), 'exact')
    """

    def __init__(self, path: str | Path, *, providers: Sequence[str] = ("CPUExecutionProvider",)) -> None:
        runtime = import_runtime()
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"path={str(path)!r} is not a file: give one that hirescam.export wrote")
        try:
            self._session = runtime.InferenceSession(str(path), providers=list(providers))
        except Exception as error:
            raise self._strange(_one_line(error)) from error
        entries = self._session.get_modelmeta().custom_metadata_map
        if entries.get("hirescam.format") != FORMAT:
            raise self._strange(f"its metadata has no hirescam.format={FORMAT}")
        try:
            self._read(entries)
        except (ValueError, KeyError, TypeError) as error:
            raise self._strange(f"its metadata cannot be read: {_one_line(error)}") from error

    def __call__(self, images: Tensor, *, target: Target = None) -> Explanation:
        """Explain a batch.

        Args:
            images: float32 tensor ``(b, c, *space)``, or as the network takes them, preprocessed.
            target: None is the predicted class of each image; `TopK` and classes are possible as far as the
                file explains them, that is the ``top`` highest of each image.

        Raises:
            InputError: the images do not fit the file.
            TargetError: the target is not a class, there is no such class, or more are wanted than ``top``.
            ModelError: a class is asked for that is not among the ``top`` highest of an image; or a map and
                its offset do not give the logit.
        """
        if not is_indexed(target):
            raise TargetError(
                f"target={target!r} is not a class: an exported network explains classes only; explain the "
                "PyTorch network"
            )
        if isinstance(target, TopK) and target.k > self.top:
            raise TargetError(
                f"TopK({target.k}): {self.path.name} explains the {self.top} highest classes: ask for no "
                "more, or export the network with a larger top"
            )
        call = as_call(images, self._axes)
        logits, classes, maps, residual = self._run(call.own)
        self._check(maps, residual, logits.gather(1, classes))
        index = bind(TopK(1) if target is None else target, logits).index
        rows = self._rows(index, classes)
        raw = maps.take_along_dim(rows.reshape(*rows.shape, *[1] * (maps.ndim - 2)), dim=1)
        prefix = int(self._layout["prefix"])
        return Explanation(
            raw=raw,
            score=logits.gather(1, index),
            target=index,
            logits=logits,
            layer=self.certificate.layer,
            rule="hirescam",
            certificate=self.certificate,
            image_size=(*self._layout.get("beyond", ()), *call.space),
            axes=call.axes.letters,
            grid=tuple(self._layout["grid"]) if prefix else tuple(raw.shape[2:]),
            prefix=prefix,
            places=tuple(spot and (spot[0], spot[1]) for spot in self._layout.get("places", ())),
            model=self.path.name,
            weights=self.weights,
        )

    def _read(self, entries: Mapping[str, str]) -> None:
        self.certificate: Certificate = certificate_from(json.loads(entries["hirescam.certificate"]))
        self.top = int(entries["hirescam.top"])
        labels = json.loads(entries["hirescam.labels"])
        self.labels: tuple[str, ...] | None = None if labels is None else tuple(labels)
        self.preprocessing: dict[str, Any] | None = json.loads(entries["hirescam.preprocessing"])
        self._layout: dict[str, Any] = json.loads(entries["hirescam.layout"])
        letters = json.loads(entries.get("hirescam.axes", "null"))
        self._axes = InputAxes(letters) if letters is not None and letters not in USUAL.values() else None
        _, *shape = self._session.get_inputs()[0].shape
        self.input_shape = tuple(size if isinstance(size, int) else None for size in shape)
        self.weights = _digest(self.path)

    def _run(self, images: Tensor) -> list[Tensor]:
        plain = images.detach().cpu()
        if plain.dtype != torch.float32:
            raise InputError(f"images must be float32 for an exported network, got {plain.dtype}")
        fits = len(self.input_shape) == plain.ndim - 1 and all(
            wanted in (None, given) for wanted, given in zip(self.input_shape, plain.shape[1:], strict=True)
        )
        if not fits:
            raise InputError(
                f"images have shape {tuple(images.shape)}, and {self.path.name} takes (b, "
                f"{', '.join(str(size or 'any') for size in self.input_shape)}): resize them, or export the "
                "network for this size"
            )
        found = self._session.run(list(OUTPUTS), {INPUT: plain.numpy()})
        return [torch.from_numpy(value).to(images.device) for value in found]

    def _check(self, maps: Tensor, residual: Tensor, score: Tensor) -> None:
        size = maps.flatten(2).abs().sum(2) + score.abs()
        if not bool((residual.abs() <= _TOLERANCE * size).all()):
            raise ModelError(
                f"{self.path.name} gave a map that, with its offset, is {float(residual.abs().max()):.1e} "
                "away from the logit: the runtime computes in low precision, or the file is damaged"
            )

    def _rows(self, index: Tensor, classes: Tensor) -> Tensor:
        """Where among the explained classes ``(b, top)`` the wanted ones ``(b, t)`` are."""
        same = index.unsqueeze(2) == classes.unsqueeze(1)
        missing = (~same.any(2)).nonzero()
        if len(missing):
            image, place = missing[0].tolist()
            raise ModelError(
                f"target names class {int(index[image, place])}, which is not among the {self.top} highest "
                f"of images[{image}]: {self.path.name} explains only those; explain the PyTorch network, or "
                "export it with a larger top"
            )
        return same.int().argmax(2)

    def _strange(self, reason: str) -> InputError:
        return InputError(
            f"path={str(self.path)!r} is not a file that hirescam.export wrote ({reason}): export the "
            "network with this version of hirescam"
        )


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_DIGEST_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
