"""What does one map of one image cost, next to the bare forward pass?

    python benchmarks/one_image.py [resnet18 resnet50 ...]

Every variant is checked for equality with captum's gradient x activation before it is timed.
"""

import sys
import warnings

import torch
from timing import paired, table
from torch import Tensor, nn

import hirescam

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torchvision
    from captum.attr import LayerGradientXActivation

LAYERS = {"resnet18": "layer4", "resnet50": "layer4", "efficientnet_b0": "features", "vgg16": "features"}
TARGET = 7
TOLERANCE = 1e-4


def main(names: list[str]) -> None:
    """Print one table for each network."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, 224 × 224, random weights\n")
    for name in names or list(LAYERS):
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, weights=None).eval()
        print(table(name, measure(model, LAYERS[name], torch.randn(1, 3, 224, 224))))


def measure(model: nn.Module, layer: str, images: Tensor) -> list:
    """Time the bare forward pass, our explainer, and captum on the same tensors."""
    explainer = hirescam.Explainer(model, layer=layer)
    peer = LayerGradientXActivation(model, model.get_submodule(layer))

    def bare() -> Tensor:
        with torch.inference_mode():
            return model(images)

    def ours() -> Tensor:
        return explainer(images, target=TARGET).raw[:, 0]

    def one_class(output: Tensor) -> Tensor:
        return output[:, TARGET]

    def head_only() -> Tensor:
        # A function of the output never takes the closed form: one forward pass, a backward pass of the head.
        return explainer(images, target=one_class).raw[:, 0]

    def captum() -> Tensor:
        return peer.attribute(images, target=TARGET).sum(1)

    expected = captum().detach()
    for map_of in (ours, head_only):
        error = float((map_of() - expected).abs().max() / expected.abs().max())
        if error > TOLERANCE:
            raise SystemExit(f"the maps differ by {error:.1e} of the largest value: nothing to time")
    closed = explainer.certify(images).guarantee == "exact"
    names = ("hirescam, closed form" if closed else "hirescam", "hirescam, head-only gradient")
    return paired({"bare forward": bare, names[0]: ours, names[1]: head_only, "captum": captum})


if __name__ == "__main__":
    main(sys.argv[1:])
