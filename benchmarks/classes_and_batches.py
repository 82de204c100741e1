"""What do many classes, and many images, cost next to the bare forward pass?

    python benchmarks/classes_and_batches.py

Our maps are checked against the gradient path before they are timed; peers are timed where they can do the
work in one call.
"""

import warnings
from collections.abc import Callable

import torch
from networks import LAYERS, build, images
from timing import paired, table
from torch import Tensor, nn

import hirescam

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from captum.attr import LayerGradientXActivation

TOLERANCE = 1e-4
CASES = [
    ("resnet50", 1, 5),
    ("resnet50", 1, 1000),
    ("flatten", 1, 1),
    ("flatten", 1, 5),
    ("flatten", 1, 1000),
    ("vgg16", 1, 5),
    ("resnet50", 16, 1),
    ("densenet121", 1, 1),
    ("efficientnet_b0", 1, 1),
    ("r3d_18", 1, 1),
]


def main() -> None:
    """Print one table for each case."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, random weights\n")
    for name, batch, classes in CASES:
        title = f"{name}, {batch} image(s), {classes} class(es)"
        print(table(title, measure(build(name), name, batch=batch, classes=classes)), flush=True)


def measure(model: nn.Module, name: str, *, batch: int, classes: int) -> list:
    """Time one case."""
    x = images(name, batch)
    explainer = hirescam.Explainer(model, layer=LAYERS[name])
    wanted = hirescam.AllClasses() if classes == 1000 else hirescam.Classes(*range(classes))
    check(explainer, x, min(classes, 5))

    def bare() -> Tensor:
        with torch.inference_mode():
            return model(x)

    variants: dict[str, Callable[[], object]] = {
        "bare forward": bare,
        "hirescam": lambda: explainer(x, target=wanted),
    }
    if not LAYERS[name].endswith("()") and classes <= 5:
        peer = LayerGradientXActivation(model, model.get_submodule(LAYERS[name]))
        variants["captum, a loop over classes"] = lambda: [
            peer.attribute(x, target=index).sum(1) for index in range(classes)
        ]
    rounds = 7 if batch > 1 or classes == 1000 else 11
    return paired(variants, rounds=rounds)


def check(explainer: hirescam.Explainer, x: Tensor, classes: int) -> None:
    """Our map of a few classes against the gradient path, which a function of the output always takes."""
    got = explainer(x, target=hirescam.Classes(*range(classes))).raw
    expected = explainer(x, target=lambda output: output[:, :classes]).raw
    error = float((got - expected).abs().max() / expected.abs().max())
    if error > TOLERANCE:
        raise SystemExit(f"the maps differ by {error:.1e} of the largest value: nothing to time")


if __name__ == "__main__":
    main()
