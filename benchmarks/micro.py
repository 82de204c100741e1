"""The parts of an explanation alone, by pytest-benchmark.

As a table: ``python -m benchmarks micro``. With all that pytest-benchmark can do, such as comparing two runs:
``pytest benchmarks/micro.py -o addopts= --benchmark-autosave``.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hirescam
from benchmarks.networks import NETWORKS, build, images
from benchmarks.options import Options
from benchmarks.results import Row, Table, run
from benchmarks.timing import Work
from benchmarks.variants import bare, same_classes
from hirescam.closed_form import ClosedForm
from hirescam.proof.laws import measure
from hirescam.proof.probes import ask
from hirescam.rulebook.gradient import hirescam as hirescam_rule


def forward(name: str) -> Work:
    """The bare forward pass, for comparison."""
    return bare(build(name), images(name, 1))


def product(name: str, count: int) -> Work:
    """The maps of some classes from the Jacobian and the layer's output."""
    explainer, x = _explainer(name), images(name, 1)
    seen = explainer.certified_pass(x)
    traced = seen.trace()
    closed = ClosedForm(seen, traced, ask(seen, traced, hirescam_rule(traced), affine=True))
    leaf, logits, index = seen.leaf.detach(), seen.logits.detach(), same_classes(1, count)
    return lambda: closed.maps(leaf, logits, index)


def gradient(name: str, count: int) -> Work:
    """The backward pass of the head for some classes at once."""
    seen = _explainer(name).certified_pass(images(name, 1))
    classes = same_classes(1, count)[0].tolist()
    return lambda: seen.jacobian(classes)


def laws(name: str) -> Work:
    """Both laws, measured on one map."""
    explainer, x = _explainer(name), images(name, 1)
    trace, raw = explainer.trace(x), explainer(x).raw
    return lambda: measure(trace, raw)


def graph(name: str) -> Work:
    """The forward pass with its graph recorded, the walk through it, and the grade of every layer."""
    explainer, x = _explainer(name), images(name, 1)
    return lambda: explainer.layers(x)


def _explainer(name: str) -> hirescam.Explainer:
    return hirescam.Explainer(build(name), layer=NETWORKS[name].layer)


PARTS: dict[tuple[str, str], tuple[Callable[..., Work], tuple[int, ...]]] = {
    ("bare forward", "resnet50"): (forward, ()),
    ("bare forward", "flatten"): (forward, ()),
    ("bare forward", "vgg16"): (forward, ()),
    ("bare forward", "densenet121"): (forward, ()),
    ("closed form, 1 class", "resnet50"): (product, (1,)),
    ("closed form, 1000 classes", "resnet50"): (product, (1000,)),
    ("closed form, 1 class", "flatten"): (product, (1,)),
    ("closed form, 1000 classes", "flatten"): (product, (1000,)),
    ("head gradient, 1 class", "flatten"): (gradient, (1,)),
    ("head gradient, 1 class", "vgg16"): (gradient, (1,)),
    ("head gradient, 20 classes", "vgg16"): (gradient, (20,)),
    ("laws measured", "resnet50"): (laws, ()),
    ("laws measured", "flatten"): (laws, ()),
    ("laws measured", "vgg16"): (laws, ()),
    ("graph read, layers graded", "resnet50"): (graph, ()),
    ("graph read, layers graded", "densenet121"): (graph, ()),
}
"""What is timed, on which network: a function that prepares it, and how many classes."""


@pytest.mark.parametrize("part", PARTS, ids=", ".join)
def test_part(part: tuple[str, str], benchmark: Callable[[Work], object]) -> None:
    prepare, counts = PARTS[part]
    benchmark(prepare(part[1], *counts))


def make(options: Options) -> Table:
    """One row for each part, from a run of pytest-benchmark in this process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "micro.json"
        words = [__file__, "-q", "--override-ini=addopts=", "--override-ini=filterwarnings="]
        words += ["-p", "no:cacheprovider", "--benchmark-quiet", f"--benchmark-json={path}"]
        words += [f"--benchmark-min-rounds={options.rounds or 7}", "--benchmark-max-time=1.5"]
        if options.networks:
            words += ["-k", " or ".join(options.networks)]
        if status := pytest.main(words):
            raise SystemExit(int(status))
        found = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
    return Table([row(entry) for entry in found], packages=("pytest-benchmark",))


def row(entry: dict[str, Any]) -> Row:
    """One row from what pytest-benchmark found."""
    part, network = entry["params"]["part"]
    stats = entry["stats"]
    return {
        "part": part,
        "network": network,
        "ms": {"milliseconds": stats["median"] * 1e3},
        "middle half, from": {"milliseconds": stats["q1"] * 1e3},
        "to": {"milliseconds": stats["q3"] * 1e3},
        "rounds": stats["rounds"],
    }


if __name__ == "__main__":
    run(__file__, make)
