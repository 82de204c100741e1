"""Channels last in memory, of the images or of images and network: what do forward pass and maps cost?"""

import copy

import torch

from benchmarks.networks import build, images
from benchmarks.options import Options
from benchmarks.results import Row, Table, milliseconds, run
from benchmarks.timing import paired
from benchmarks.variants import BARE, OURS, bare, check, definition, one_class_each, ours

NAMES = ("resnet18", "resnet50", "densenet121", "efficientnet_b0", "flatten")
SECONDS = 8
IMAGES, BOTH = "images", "images and network"


def make(options: Options) -> Table:
    """One row for each network."""
    return Table([row(name, options.rounds) for name in options.chosen(NAMES)])


def row(name: str, rounds: int | None) -> Row:
    """Check and time one network; the maps must not depend on the layout."""
    model, x, index = build(name), images(name, 1), one_class_each(1)
    last = x.contiguous(memory_format=torch.channels_last)
    both = copy.deepcopy(model).to(memory_format=torch.channels_last)
    expected = definition(model, name, x, index)
    variants = {BARE: bare(model, x), OURS: ours(model, name, x, index)}
    for label, network in ((IMAGES, model), (BOTH, both)):
        variants[f"{BARE}, {label}"] = bare(network, last)
        variants[f"{OURS}, {label}"] = ours(network, name, last, index)
    errors = [check(OURS, name, work(), expected) for label, work in variants.items() if OURS in label]
    found = paired(variants, seconds=SECONDS, rounds=rounds)
    return {
        "network": name,
        "bare forward, ms": milliseconds(found.cell(BARE)),
        **{label: found.cell(label) for label in variants if label != BARE},
        "difference": {"difference": max(errors)},
    }


if __name__ == "__main__":
    run(__file__, make)
