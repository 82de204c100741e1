"""How much memory does a map take above the loaded model, next to the bare forward pass?

    python benchmarks/memory.py

Every variant runs in a process of its own; the figure is the growth of the peak resident memory.
"""

import resource
import subprocess
import sys

import torch
from networks import LAYERS, build, images

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
    """Print how far the peak rises above the loaded model in the second and later calls."""
    model, x = build(name), images(name, batch)
    if variant == "hirescam":
        explainer = hirescam.Explainer(model, layer=LAYERS[name])
        explainer(x[:1])
    before = _peak()
    for _ in range(3):
        if variant == "bare forward":
            with torch.inference_mode():
                model(x)
        elif variant == "hirescam":
            explainer(x)
        else:
            from captum.attr import LayerGradientXActivation

            LayerGradientXActivation(model, model.get_submodule(LAYERS[name])).attribute(x, target=1)
    print(_peak() - before)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        one(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    else:
        main()
