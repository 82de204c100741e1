"""Compiled and exported: logits and maps of the top five classes, next to the eager forward pass alone."""

import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnxruntime
import openvino
import torch
from torch import Tensor, nn

import hirescam
from benchmarks.networks import NETWORKS, build, images
from benchmarks.options import Options
from benchmarks.results import Row, Table, milliseconds, run
from benchmarks.timing import paired
from benchmarks.variants import BARE, TOLERANCE, WrongMapsError, bare

TOP = 5
BATCHES = {"resnet50": (1, 16), "efficientnet_b0": (1,), "flatten": (1,), "lite0": (1,), "toy": (1, 3)}
NAMES = ("resnet50", "efficientnet_b0", "flatten", "lite0")
SECONDS = 6
SETTLE = 0.2
"""ONNX Runtime's threads go on spinning for about a tenth of a second, and slow what comes next."""

Answer = tuple[Tensor, Tensor, Tensor]
"""Logits ``(b, c)``, classes ``(b, t)``, maps ``(b, t, *space)``."""


@dataclass(frozen=True)
class Engine:
    """A function from images to an answer, and the seconds that it took to make."""

    run: Callable[[Tensor], Answer]
    seconds: float


def make(options: Options) -> Table:
    """One row for each network, batch and engine."""
    rows = [row for name in options.chosen(NAMES) for row in rows_of(name, options)]
    return Table(rows, packages=("onnx", "onnxruntime", "openvino"))


def rows_of(name: str, options: Options) -> list[Row]:
    """Set the engines up once, check and time them at every batch size."""
    model = build(name)
    engines = {"eager": eager(model, name), "torch.compile": compiled(model, name)}
    engines |= exported(model, name, options.threads)
    rows = [row for batch in BATCHES[name] for row in _rows(model, name, engines, batch, options.rounds)]
    gc.collect()
    return rows


def _rows(
    model: nn.Module, name: str, engines: dict[str, Engine], batch: int, rounds: int | None
) -> list[Row]:
    x, expected = images(name, batch), hirescam.Explainer(model, layer=NETWORKS[name].layer)
    errors = {label: check(f"{name}, {label}", one.run(x), x, expected) for label, one in engines.items()}
    # One engine at a time next to the forward pass, so that the threads of the others sleep.
    forward = bare(model, x)
    found = {
        label: paired(
            {BARE: forward, label: partial(engine.run, x)}, seconds=SECONDS, rounds=rounds, settle=SETTLE
        )
        for label, engine in engines.items()
    }
    return [
        {
            "network": name,
            "batch": batch,
            "engine": label,
            "× eager forward": found[label].cell(label),
            "ms": milliseconds(found[label].cell(label)),
            "set-up, s": {"seconds": engine.seconds},
            "difference": {"difference": errors[label]},
        }
        for label, engine in engines.items()
    ]


def eager(model: nn.Module, name: str) -> Engine:
    """The explainer as it is."""
    return _explained(hirescam.Explainer(model, layer=NETWORKS[name].layer), name)


def compiled(model: nn.Module, name: str) -> Engine:
    """The explainer through torch.compile; made at the first call, which also certifies."""
    return _explained(hirescam.Explainer(model, layer=NETWORKS[name].layer).compile(), name)


def _explained(explainer: hirescam.Explainer, name: str) -> Engine:
    def run(x: Tensor) -> Answer:
        result = explainer(x, target=hirescam.TopK(TOP))
        return result.logits, result.target, result.raw

    start = time.perf_counter()
    run(images(name, 1))
    return Engine(run, time.perf_counter() - start)


def exported(model: nn.Module, name: str, threads: int) -> dict[str, Engine]:
    """One ONNX file in two runtimes; the seconds are those of the export, its check and the loading."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "maps.onnx"
        start = time.perf_counter()
        hirescam.export(model, images(name, 1), path, top=TOP, layer=NETWORKS[name].layer)
        exporting = time.perf_counter() - start
        makers = {"ONNX Runtime": onnx_runtime, "OpenVINO": open_vino}
        return {label: _loaded(maker, path, threads, exporting) for label, maker in makers.items()}


def _loaded(maker: Callable[[Path, int], Callable], path: Path, threads: int, before: float) -> Engine:
    start = time.perf_counter()
    run = maker(path, threads)
    return Engine(run, before + time.perf_counter() - start)


def onnx_runtime(path: Path, threads: int) -> Callable[[Tensor], Answer]:
    """ONNX Runtime on as many threads as torch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> Answer:
        logits, classes, maps, _ = map(torch.from_numpy, session.run(None, {"images": x.numpy()}))
        return logits, classes, maps

    return run


def open_vino(path: Path, threads: int) -> Callable[[Tensor], Answer]:
    """OpenVINO in float32: on some processors it takes bfloat16 unless told."""
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    model = openvino.Core().compile_model(str(path), "CPU", settings)

    def run(x: Tensor) -> Answer:
        found = model({"images": x.numpy()})
        return tuple(torch.from_numpy(found[name].copy()) for name in ("logits", "classes", "maps"))

    return run


def check(what: str, answer: Answer, x: Tensor, explainer: hirescam.Explainer) -> float:
    """The largest difference from the eager maps of the same classes, relative to the largest value.

    Raises:
        WrongMapsError: logits, classes or maps are not those of the eager network.
    """
    logits, classes, maps = answer
    expected = explainer(x, target=classes.to(torch.int64))
    best = explainer(x, target=hirescam.TopK(TOP)).target
    if not torch.equal(classes.sort(1).values, best.sort(1).values):
        raise WrongMapsError(f"{what}: the top classes are others")
    errors = [
        float((got - right).abs().max() / right.abs().max())
        for got, right in ((logits, expected.logits), (maps, expected.raw))
    ]
    if not max(errors) <= TOLERANCE:
        raise WrongMapsError(
            f"{what}: logits and maps differ by {errors[0]:.1e} and {errors[1]:.1e} of the largest"
        )
    return errors[1]


if __name__ == "__main__":
    run(__file__, make)
