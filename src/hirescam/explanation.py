"""The frozen result of an explanation: raw maps, scores, certificate; views, overlays, saving."""

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hirescam import overlays, views
from hirescam.audits import Audit
from hirescam.errors import InputError, ModelError
from hirescam.passes.input_axes import InputAxes
from hirescam.passes.state import Ends, State
from hirescam.proof.certificate import Certificate
from hirescam.proof.grade import Guarantee
from hirescam.proof.laws import Laws
from hirescam.receptive_field import ReceptiveField
from hirescam.views import Places, Resample, Scale, Sign, View

_ARRAYS = ("raw", "score", "target", "logits")


class Weights:
    """The weights of a model as they are when this is made, for their hash.

    Hashing reads every weight, so it is put off until somebody asks; if the weights were changed by then,
    there is none.
    """

    def __init__(self, model: nn.Module, state: State) -> None:
        self._model, self._state, self._ends = model, state, Ends(state.tensors)
        self._sha256 = ""

    @property
    def sha256(self) -> str:
        """Hash of these weights; ``""`` where they were changed before it was asked for."""
        if not self._sha256 and self._state.same and self._ends.same:
            self._sha256 = hash_weights(self._model)
        return self._sha256


@dataclass(frozen=True, eq=False)
class Origin:
    """The live model behind a result; a loaded result has none."""

    weights: Weights
    receptive_field: Callable[[tuple[int, ...] | None], ReceptiveField]


@dataclass(frozen=True)
class Geometry:
    """Where the locations of a map lie on the image.

    Attributes:
        how: how that is known: ``"operations"`` of the model showed it, it was ``"measured"``, or
            ``"given"``.
        grid: how many cells there are along each axis.
        image_size: how many pixels; an axis that the network made itself, such as frequencies, comes first.
        axes: what the axes of the images are, one letter each.
        places: for each axis where the first cell lies and how far the next one is; None where they lie
            evenly.
    """

    how: str
    grid: tuple[int, ...]
    image_size: tuple[int, ...]
    axes: str
    places: Places

    @property
    def centres(self) -> tuple[tuple[float, ...], ...]:
        """For each axis where every cell lies, the centre of the first pixel being 0."""
        spots = self.places or (None,) * len(self.grid)
        even = ((n, size / n) for n, size in zip(self.grid, self.image_size, strict=True))
        known = (spot or ((step - 1) / 2, step) for spot, (_, step) in zip(spots, even, strict=True))
        return tuple(
            tuple(first + step * i for i in range(n))
            for (first, step), n in zip(known, self.grid, strict=True)
        )

    def __str__(self) -> str:
        cells = " × ".join(map(str, self.grid))
        return f"{cells} cells on {' × '.join(map(str, self.image_size))} ({self.axes}), {_KNOWN[self.how]}"


_KNOWN = {"operations": "as the model's operations show", "measured": "measured", "given": "as given"}


@dataclass(frozen=True, eq=False)
class Explanation:
    """Maps for a batch of images and some scores of each.

    Attributes:
        raw: ``(b, t, *space)``, signed, in units of the score, never clipped or rescaled.
        score: ``(b, t)``, the explained scores.
        target: ``(b, t)`` int64 class indices, -1 where a score is not a class's.
        logits: ``(b, c)``, the model's output.
        layer: name of the layer.
        rule: name of the rule.
        certificate: what is guaranteed about ``hirescam`` at this layer.
        image_size: space axes of the images; before them, sizes of axes that the network made itself.
        grid: how the locations lie on the image; differs from ``space`` only where ``prefix`` tokens
            (a class token, registers) come before the grid.
        prefix: how many locations are such tokens.
        laws: the laws measured on these maps, where that was asked for.
        steps: what was done to the maps after the rule; each step voids both laws.
        places: for each axis of the grid where its first cell lies on the image, the centre of the first
            pixel being 0, and how far the next one is; empty, or None for an axis, where cells lie evenly.
        axes: what the axes of the images are, one letter each; ``""`` for ``(b, c, *space)``.
        model: class name of the model.
        audit: what audits of these pictures found; None where none were asked for.
    """

    raw: Tensor
    score: Tensor
    target: Tensor
    logits: Tensor
    layer: str
    rule: str
    certificate: Certificate
    image_size: tuple[int, ...]
    grid: tuple[int, ...]
    prefix: int = 0
    laws: Laws | None = None
    steps: tuple[str, ...] = ()
    places: Places = ()
    axes: str = ""
    model: str = ""
    weights: str = ""
    audit: Audit | None = None
    origin: Origin | None = field(default=None, repr=False)

    @property
    def offset(self) -> Tensor:
        """``(b, t)``: score less the sum of the map, what no location accounts for."""
        return self.score - self.raw.flatten(2).sum(-1)

    @property
    def geometry(self) -> Geometry:
        """Which axes of the layer's output are locations, where each lies, and how that is known."""
        return Geometry(self.certificate.geometry, self.grid, self.image_size, self.axes, self.places)

    @property
    def on_grid(self) -> Tensor:
        """``(b, t, *grid)``: the map without the tokens that have no place in the image."""
        return self.raw[:, :, self.prefix :].unflatten(2, self.grid) if self.prefix else self.raw

    def __repr__(self) -> str:
        return (
            f"Explanation(raw={tuple(self.raw.shape)}, layer={self.layer!r}, rule={self.rule!r}, "
            f"guarantee={str(self.certificate.guarantee)!r})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled or copied: all but the live model, like what `save` writes."""
        weights = self.origin.weights.sha256 if self.origin else self.weights
        return vars(self) | {"weights": weights, "origin": None}

    def view(
        self,
        *,
        size: Sequence[int] | None = None,
        sign: Sign = "both",
        resample: Resample = "bilinear",
        scale: Scale = "each",
    ) -> View:
        """Make a map to look at; the steps are recorded and ``raw`` stays as it is.

        Args:
            size: space axes of the view; None takes those of the images.
            sign: ``"both"``, ``"positive"`` or ``"negative"``.
            resample: ``"nearest"`` shows the cells as they are, ``"bilinear"`` is smoother.
            scale: ``"each"`` divides every map by its largest magnitude, ``"shared"`` all maps by the
                largest of all (comparable), None keeps units of the score.
        """
        size = self.image_size if size is None else tuple(size)
        return views.render(
            self.on_grid, size=size, sign=sign, resample=resample, scale=scale, image_size=self.image_size,
            places=self.places,
        )  # fmt: skip

    def overlay(
        self,
        images: Tensor | Sequence[Image.Image],
        *,
        sign: Sign = "both",
        resample: Resample = "bilinear",
        scale: Scale = "each",
        opacity: float = 0.75,
    ) -> list[list[Image.Image]]:
        """Draw every map over its image.

        Args:
            images: ``b`` pictures, or the images as a tensor (stretched to the range of grey values).
            sign: which contributions to show; positive ones are red, negative ones blue.
            resample: see `view`.
            scale: see `view`.
            opacity: of the strongest contribution, from 0 to 1.

        Returns:
            ``b`` lists of ``t`` pictures. Volumes and clips become a row of slices, signals a strip. Maps of
            a wave in frequency and time are drawn by themselves, low frequencies at the bottom.
        """
        view = views.render(self.on_grid, size=None, sign=sign, resample=resample, scale=scale)
        if isinstance(images, Tensor) and self.axes:
            images = InputAxes(self.axes).canonical(images)
        return overlays.draw(
            view.values, images, resample=resample, opacity=opacity, image_size=self.image_size,
            places=self.places,
        )  # fmt: skip

    def receptive_field(self, cell: tuple[int, ...] | None = None) -> ReceptiveField:
        """Find the box of input pixels that can influence one cell.

        Args:
            cell: index in the grid; None takes the middle one.

        Raises:
            ModelError: this result was loaded from disk, or made by an exported file, and has no network.
        """
        if self.origin is None:
            raise ModelError(
                "receptive_field() needs the PyTorch network, and this result was loaded from disk or made "
                "by an exported file: explain one image with the network"
            )
        return self.origin.receptive_field(cell)

    def manifest(self) -> dict[str, Any]:
        """Everything but the arrays: versions, model and weights, layer, rule, certificate.

        ``weights_sha256`` is the hash of the weights that were explained; ``""`` where they were changed
        after the explanation and before the first manifest.
        """
        return {
            "format": "hirescam-explanation-1",
            "versions": {name: _version(name) for name in ("hirescam", "torch", "numpy")},
            "model": self.model,
            "weights_sha256": self.origin.weights.sha256 if self.origin else self.weights,
            "layer": self.layer,
            "rule": self.rule,
            "image_size": list(self.image_size),
            "grid": list(self.grid),
            "prefix": self.prefix,
            "places": [None if spot is None else list(spot) for spot in self.places],
            "axes": self.axes,
            "target": self.target.tolist(),
            "certificate": asdict(self.certificate),
            "laws": asdict(self.laws) if self.laws else None,
            "steps": list(self.steps),
            "audit": asdict(self.audit) if self.audit else None,
        }

    def save(self, path: str | Path) -> tuple[Path, Path]:
        """Write ``path.npz`` (arrays, no pickle) and ``path.json`` (the manifest).

        Returns:
            The two paths.

        Raises:
            InputError: the place cannot be written to.
        """
        base = _base(path)
        arrays = {name: _numpy(getattr(self, name)) for name in _ARRAYS}
        npz, manifest = base.with_name(base.name + ".npz"), base.with_name(base.name + ".json")
        try:
            base.parent.mkdir(parents=True, exist_ok=True)
            np.savez(npz, allow_pickle=False, **arrays)
            manifest.write_text(json.dumps(self.manifest(), indent=2, ensure_ascii=False) + "\n", "utf-8")
        except OSError as error:
            raise InputError(
                f"path={str(path)!r} cannot be written to ({error.strerror or error}): choose another place"
            ) from None
        return npz, manifest


def load(path: str | Path) -> Explanation:
    """Read what `Explanation.save` wrote.

    Args:
        path: with or without ``.npz`` or ``.json``.

    Raises:
        InputError: a file is missing or not such a file.
    """
    base = _base(path)
    npz, manifest = base.with_name(base.name + ".npz"), base.with_name(base.name + ".json")
    try:
        data = json.loads(manifest.read_text("utf-8"))
        with np.load(npz, allow_pickle=False) as file:
            arrays = {name: torch.from_numpy(file[name]) for name in _ARRAYS}
        certificate = certificate_from(data["certificate"])
        return Explanation(
            raw=arrays["raw"],
            score=arrays["score"],
            target=arrays["target"],
            logits=arrays["logits"],
            layer=data["layer"],
            rule=data["rule"],
            certificate=certificate,
            image_size=tuple(data["image_size"]),
            grid=tuple(data["grid"]),
            prefix=data["prefix"],
            laws=Laws(**data["laws"]) if data["laws"] else None,
            steps=tuple(data["steps"]),
            places=tuple(spot and (float(spot[0]), float(spot[1])) for spot in data.get("places", ())),
            axes=data.get("axes", ""),
            model=data["model"],
            weights=data["weights_sha256"],
            audit=_audit_from(data.get("audit")),
        )
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"path={str(path)!r} does not hold a saved explanation ({error}): expected "
            f"{npz.name} and {manifest.name}, as Explanation.save writes them"
        ) from None


def hash_weights(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of a model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, Tensor):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _audit_from(data: dict[str, Any] | None) -> Audit | None:
    return Audit(**{**data, "failures": tuple(data["failures"])}) if data else None


def certificate_from(data: dict[str, Any]) -> Certificate:
    """Read a certificate that was written as plain data."""
    lists = {name: tuple(data[name]) for name in ("head", "breaks")}
    return Certificate(**{**data, **lists, "guarantee": Guarantee(data["guarantee"])})


def _base(path: str | Path) -> Path:
    path = Path(path)
    return path.with_suffix("") if path.suffix in (".npz", ".json") else path


def _numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    plain = tensor.detach().cpu()
    half = plain.dtype in (torch.bfloat16, torch.float16)
    return (plain.float() if half else plain).numpy()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
