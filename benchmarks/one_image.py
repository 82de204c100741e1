"""What does one map of one image cost, next to the bare forward pass?

    python benchmarks/one_image.py [resnet18 resnet50 ...]

Every variant is checked for equality with captum's gradient x activation before it is timed.
"""

import sys
import warnings

import torch
from networks import LAYERS, build, images
from timing import paired, table
from torch import Tensor, nn

import hirescam

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from captum.attr import LayerGradientXActivation

NAMES = ("resnet18", "resnet50", "efficientnet_b0", "vgg16")
TARGET = 7
TOLERANCE = 1e-4


def main(names: list[str]) -> None:
    """Print one table for each network."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, 224 × 224, random weights\n")
    for name in names or NAMES:
        print(table(name, measure(build(name), LAYERS[name], images(name, 1))))


def measure(model: nn.Module, layer: str, x: Tensor) -> list:
    """Time the bare forward pass, our explainer, and captum on the same tensors."""
    explainer = hirescam.Explainer(model, layer=layer)
    peer = LayerGradientXActivation(model, model.get_submodule(layer))

    def bare() -> Tensor:
        with torch.inference_mode():
            return model(x)

    def ours() -> Tensor:
        return explainer(x, target=TARGET).raw[:, 0]

    def one_class(output: Tensor) -> Tensor:
        return output[:, TARGET]

    def head_only() -> Tensor:
        # A function of the output never takes the closed form: one forward pass, a backward pass of the head.
        return explainer(x, target=one_class).raw[:, 0]

    def captum() -> Tensor:
        return peer.attribute(x, target=TARGET).sum(1)

    expected = captum().detach()
    for map_of in (ours, head_only):
        error = float((map_of() - expected).abs().max() / expected.abs().max())
        if error > TOLERANCE:
            raise SystemExit(f"the maps differ by {error:.1e} of the largest value: nothing to time")
    closed = explainer.certify(x).guarantee == "exact"
    names = ("hirescam, closed form" if closed else "hirescam", "hirescam, head-only gradient")
    return paired({"bare forward": bare, names[0]: ours, names[1]: head_only, "captum": captum})


if __name__ == "__main__":
    main(sys.argv[1:])
