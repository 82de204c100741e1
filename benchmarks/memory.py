"""How much memory does a map take above the loaded model, next to the bare forward pass?

    python benchmarks/memory.py

Every variant runs in a process of its own; the figure is the growth of the peak resident memory.
"""

import resource
import subprocess
import sys
from collections.abc import Callable

import torch
from networks import LAYERS, build, images
from torch import Tensor, nn

import hirescam

CASES = [("resnet18", 16), ("resnet50", 16), ("efficientnet_b0", 16)]
VARIANTS = ("bare forward", "hirescam", "captum")


def main() -> None:
    """Print one table."""
    print("| network, batch | " + " | ".join(VARIANTS) + " |\n|---|" + "---|" * len(VARIANTS))
    for name, batch in CASES:
        cells = [_in_a_process(name, batch, variant) for variant in VARIANTS]
        print(f"| {name}, {batch} | " + " | ".join(f"{cell} MB" for cell in cells) + " |", flush=True)


def _in_a_process(name: str, batch: int, variant: str) -> str:
    words = [sys.executable, __file__, name, str(batch), variant]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def one(name: str, batch: int, variant: str) -> None:
    """Print how far the peak rises when a batch follows a single image, which every variant saw first."""
    model, x = build(name), images(name, batch)
    work = _work(model, name, variant)
    work(x[:1])
    before = _peak()
    for _ in range(3):
        work(x)
    print(_peak() - before)


def _work(model: nn.Module, name: str, variant: str) -> Callable[[Tensor], object]:
    if variant == "hirescam":
        return hirescam.Explainer(model, layer=LAYERS[name])
    if variant == "captum":
        from captum.attr import LayerGradientXActivation

        peer = LayerGradientXActivation(model, model.get_submodule(LAYERS[name]))
        return lambda x: peer.attribute(x, target=1)

    def bare(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return model(x)

    return bare


if __name__ == "__main__":
    if len(sys.argv) > 1:
        one(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    else:
        main()
